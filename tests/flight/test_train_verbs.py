"""`flocklet fly train` and `fly adapt`: what they write, what they refuse, and that Ctrl-C keeps the best policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.errors import SchemaMismatch
from flocklet.models.base import difference
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.train import bptt
from flocklet.models.flight.train.adapt import adaptation, merge, tensors, vector
from flocklet.models.flight.train.recipes import parameters_of, policy_of


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "start.onnx"
    path.write_bytes(policy_of(bptt.fresh_params(np.random.default_rng(0))).to_onnx())
    return path


def test_training_writes_a_policy_and_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "policy.onnx"
    files = []
    for _ in range(2):
        assert main(["fly", "train", "--updates", "3", "--seed", "5", "--json", "--out", str(out)]) == 0
        files.append(out.read_bytes())
    assert files[0] == files[1], "the same seed gives the same bytes"
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["updates"] == 3
    assert found["steps"] == 3 * 2 * 16 * 80
    policy = Policy.from_onnx(files[0])
    assert policy.sizes == (146, 64, 64, 4)
    assert [kind for _, _, kind in policy.layers] == ["fast_tanh"] * 3


def test_interrupted_training_keeps_the_best_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = bptt.Trainer.update
    best: list[Any] = []

    def update(self: bptt.Trainer, **kwargs: Any) -> bptt.Report:
        if self.done == 2:
            self.best = self.params.copy()
            best.append(self.best)
        if self.done == 3:
            raise KeyboardInterrupt
        return real(self, **kwargs)

    monkeypatch.setattr(bptt.Trainer, "update", update)
    out = tmp_path / "policy.onnx"
    assert main(["fly", "train", "--out", str(out)]) == 0
    assert "stopped after 3 updates" in capsys.readouterr().out
    np.testing.assert_array_equal(parameters_of(Policy.from_onnx(out.read_bytes())), best[0])


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_learning_curve_is_drawn(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / f"curve{suffix}"
    words = ["fly", "train", "--updates", "12", "--out", str(tmp_path / "p.onnx"), "--plot", str(picture)]
    assert main(words) == 0
    assert f"learning curve: {picture}" in capsys.readouterr().out
    data = picture.read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG")
        return
    text = data.decode()
    assert "hover, crazyflie, seed 0" in text
    assert "cost per step over million steps" in text
    assert "survival over million steps" in text
    assert text.count('stroke-width="2"') == 2 * 11, "a line from update to update in each of the two panels"


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (["--plot", "curve.jpg"], "must end in .png or .svg", 2),
        (["--plot", "nowhere/curve.svg"], "no folder", 2),
        (["--vehicle", "nowhere.toml"], "no vehicle 'nowhere.toml'", 3),
        (["--seconds", "-1"], "--seconds is -1", 2),
        (["--updates", "0"], "--updates is 0", 2),
    ],
)
def test_bad_arguments_are_one_line(
    words: list[str], told: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fly", "train", "--out", str(tmp_path / "p.onnx"), *words]) == code
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('base = "crazyflie"\nmass_kg = -0.03\n', "mass"),
        ('base = "crazyflie"\nmass_kg = 0.2\n', "cannot fly"),
        ('base = "crazyflie"\ninertia_kg_m2 = [nan, 1e-5, 1e-5]\n', "finite"),
        ("mass_kg = \n", "no TOML"),
    ],
)
def test_unphysical_vehicles_are_refused(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vehicle = tmp_path / "mine.toml"
    vehicle.write_text(text)
    assert main(["fly", "train", "--vehicle", str(vehicle), "--out", str(tmp_path / "p.onnx")]) == 3
    assert told in capsys.readouterr().err


def test_a_policy_of_another_shape_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(Policy.fresh(np.random.default_rng(0), (146, 32, 4)).to_onnx())
    words = ["fly", "adapt", str(other), "--vehicle", "crazyflie", "--out", str(tmp_path / "p.onnx")]
    assert main(words) != 0
    assert "146-64-64-4" in capsys.readouterr().err


def test_adapting_moves_a_policy_a_little_and_names_its_base(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.onnx"
    words = [
        "fly",
        "adapt",
        str(policy),
        "--vehicle",
        "l2f-2025",
        "--updates",
        "2",
        "--json",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["delta_bytes"] == 55312
    assert 0 < found["delta_norm"] < 1.0
    assert found["base"] != found["version"]


def test_merging_adds_the_mean_of_what_peers_learnt(policy: Path, tmp_path: Path) -> None:
    base = parameters_of(Policy.from_onnx(policy.read_bytes()))
    peers = []
    for i, change in enumerate((0.01, 0.03)):
        peers.append(tmp_path / f"peer{i}.onnx")
        peers[-1].write_bytes(policy_of(base + np.float32(change)).to_onnx())
    out = tmp_path / "merged.onnx"
    words = ["fly", "adapt", str(policy), "--vehicle", "crazyflie", "--updates", "0", "--out", str(out)]
    assert main([*words, "--merge", *map(str, peers)]) == 0
    merged = parameters_of(Policy.from_onnx(out.read_bytes()))
    np.testing.assert_allclose(merged, base + 0.02, atol=1e-6)


def test_deltas_of_policies_lead_from_version_to_version() -> None:
    rng = np.random.default_rng(0)
    first = tensors(bptt.fresh_params(rng))
    second = tensors(bptt.fresh_params(rng))
    np.testing.assert_allclose(vector(merge(first, [difference(second, first)])), vector(second), atol=1e-6)
    with pytest.raises(SchemaMismatch):
        merge(second, [difference(second, first)])
    with pytest.raises(SchemaMismatch):
        vector({"layer1.bias": first["layer1.bias"]})
    assert adaptation("hover", 7).updates == 7
