"""The benchmark against other frameworks, without their environments: what can be checked on every machine."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flocklet.swarm.start import start_model
from flocklet.swarm.tasks.digits import digits_task
from flocklet.swarm.trainers.numpy import Sgd

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch):
    """Import the script and the drivers' model from where they lie."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    import numpy_mlp
    import swarm_peers

    return swarm_peers, numpy_mlp


def test_without_environments_it_skips_and_says_so(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [sys.executable, BENCHMARKS / "swarm_peers.py", "--json", result, "--only", "flwr", "p2pfl"]
    done = subprocess.run(
        [*command, "--parts", "peers", "speed"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "SKIPPED the frameworks" in done.stdout or done.stdout.count("skipped: no environment given") == 6
    assert "gossipy-dfl: skipped: no environment given" in done.stdout
    assert "met" not in done.stdout, "nothing was measured, so nothing was met"
    told = json.loads(result.read_text())
    assert not told.get("cases")
    assert "speed" not in told


def test_every_driver_is_python_and_knows_no_flocklet() -> None:
    drivers = [file for file in (BENCHMARKS / "peers").rglob("*.py") if file.name != "flocklet_digits.py"]
    assert len(drivers) >= 7
    for file in drivers:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [one.name for one in node.names]
                )
                assert not any(name.startswith("flocklet") for name in names), file


def test_others_get_the_same_rows_weights_and_steps(modules, tmp_path: Path) -> None:
    swarm_peers, numpy_mlp = modules
    swarm_peers.write_task(tmp_path / "task.npz", 3)
    theirs, ours = numpy_mlp.load(str(tmp_path / "task.npz")), digits_task(10, 3)
    start = start_model(ours, 3, b"")
    for peer, rows in enumerate(ours.shares):
        x, y = numpy_mlp.share(theirs, peer)
        assert np.array_equal(x, ours.features[rows])
        assert np.array_equal(y, ours.labels[rows])
    weights = numpy_mlp.start(theirs)
    split = ours.model.layout.split(start)
    assert all(
        np.array_equal(one, split[name]) for one, name in zip(weights, ("w0", "b0", "w1", "b1"), strict=True)
    )
    assert numpy_mlp.accuracy(weights, theirs) == pytest.approx(float(ours.accuracy(start[None])[0]))
    sgd = Sgd(lr=0.3, epochs=2, batch=16)
    rows = ours.shares[0]
    plan = rows[sgd.plan(len(rows), np.random.default_rng(5), 0)]
    trained = sgd.train(ours, start[None], [plan], 0)[0]
    other = numpy_mlp.train(weights, *numpy_mlp.share(theirs, 0), np.random.default_rng(5))
    for one, name in zip(other, ("w0", "b0", "w1", "b1"), strict=True):
        np.testing.assert_allclose(one, ours.model.layout.split(trained)[name], atol=1e-4)
    assert not np.allclose(trained, start, atol=1e-2), "training does something"


def test_figures_of_a_run_say_what_the_limit_cut_off(modules) -> None:
    swarm_peers, _ = modules
    rows = [
        {"round": i, "at": 10.0 + 2 * i, "bytes": 1_000_000 * i, "accuracy": 0.9 + 0.02 * i}
        for i in (1, 2, 3)
    ]
    done = swarm_peers.summary({"rounds": rows, "pss_mb": 5.0, "end_s": 100.0, "bytes": 7_000_000})
    assert (done["reached"], done["first_s"], done["round_s"], done["total_s"]) == (True, 12.0, 2.0, 16.0)
    assert (done["round_mb"], done["mb"]) == (1.0, 3.0)
    cut = swarm_peers.summary({"rounds": rows[:1], "pss_mb": 5.0, "end_s": 100.0, "bytes": 7_000_000})
    assert (cut["reached"], cut["round_s"], cut["round_is_bound"], cut["total_s"]) == (
        False,
        88.0,
        True,
        100.0,
    )
    assert cut["mb"] == 7.0, "all that was sent until the limit"
    nothing = swarm_peers.summary({"rounds": [], "pss_mb": 0.0, "end_s": 100.0, "bytes": 7_000_000})
    assert (nothing["rounds"], nothing["first_s"], nothing["accuracy"]) == (0, 100.0, None)


def test_lines_of_user_code_leave_out_what_does_nothing(modules, tmp_path: Path) -> None:
    swarm_peers, _ = modules
    code = tmp_path / "code.py"
    code.write_text(
        '"""Two\n\nlines."""\n\n# a comment\nx = 1\n\n\ndef f():\n    """One line."""\n    return x\n'
    )
    assert swarm_peers.code_lines((str(code),)) == 3
