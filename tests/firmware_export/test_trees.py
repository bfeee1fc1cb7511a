"""Trees: fitted, read from ONNX, written as C, distilled; accepted by return, never by agreement."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.distil import CartPole, distil, mean_return
from flocklet.firmware_export.trees.fit import fit_oblivious
from flocklet.firmware_export.trees.onnx_trees import read_trees
from flocklet.firmware_export.trees.tree_export import export_trees
from flocklet.firmware_export.trees.tree_proof import verify_trees
from flocklet.firmware_export.trees.trees import round_down
from kit.firmware import needs_cc, needs_gcc, needs_unicorn

MAIN = """
#include "t.h"
#include <stdio.h>
int main(void) { float x[t_INPUTS], y[t_ACTIONS];
  while (fread(x, sizeof x, 1, stdin) == 1) { t_eval(x, y); fwrite(y, sizeof y, 1, stdout); } return 0; }
"""


def in_c(trees, x, where):
    export_trees(trees, where, name="t")
    (where / "m.c").write_text(MAIN)
    command = ["cc", "-std=c99", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsanitize=undefined"]
    subprocess.run([*command, "m.c", "t.c", "-o", "m"], cwd=where, check=True, capture_output=True)
    done = subprocess.run([where / "m"], input=x.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<f4").reshape(len(x), trees.n_out)


def balancer(x):
    """Return a linear policy that balances the pole."""
    return (x @ np.array([[0.6], [1.0], [10.0], [2.5]], np.float32)).astype(np.float32)


@needs_cc
def test_fitted_trees_equal_c_on_10000_inputs(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 5)).astype(np.float32)
    y = np.stack([np.sin(2 * x[:, 0]) + x[:, 1], x[:, 2] * x[:, 3]], axis=1)
    trees = fit_oblivious(x, y, trees=40, depth=4)
    residual = y - trees.predict(x)
    assert (residual**2).mean() < 0.35 * y.var()
    probe = rng.normal(size=(10_000, 5)).astype(np.float32)
    probe[::7] = np.round(probe[::7], 1)
    np.testing.assert_array_equal(in_c(trees, probe, tmp_path), trees.predict(probe))


def test_thresholds_are_rounded_down():
    t = np.array([0.1, -0.1, 1.0, 1e-50, 16777217.0])
    r = round_down(t)
    assert (r.astype(np.float64) <= t).all()
    for limit, single in zip(t, r, strict=True):
        for x in (single, np.nextafter(single, np.float32(np.inf))):
            assert (float(x) <= limit) == bool(x <= single)


@needs_cc
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["forest", "tree", "classifier"])
def test_scikit_learn_trees(tmp_path, kind):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = np.stack([x[:, 0] + x[:, 1] ** 2, x[:, 2]], axis=1)
    if kind == "forest":
        model = RandomForestRegressor(8, max_depth=6, random_state=0).fit(x, y[:, 0])
    elif kind == "tree":
        model = DecisionTreeRegressor(max_depth=6, random_state=0).fit(x, y)
    else:
        model = RandomForestClassifier(6, max_depth=5, random_state=0).fit(x, np.digitize(y[:, 0], [0, 1]))
    path = tmp_path / "m.onnx"
    options = {id(model): {"zipmap": False}} if kind == "classifier" else {}
    path.write_bytes(skl2onnx.to_onnx(model, x[:1], options=options).SerializeToString())
    trees = read_trees(path)
    got = trees.predict(x)
    wanted = model.predict_proba(x) if kind == "classifier" else model.predict(x).reshape(len(x), -1)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    np.testing.assert_array_equal(in_c(trees, x, tmp_path / "c"), got)


def test_distilled_policy_is_accepted_by_its_return():
    made = distil(balancer, CartPole(), np.random.default_rng(0), states=4500, episodes=4)
    assert made.teacher_return > 450
    assert made.student_return >= 0.95 * made.teacher_return
    assert made.trees.table_bytes <= 4096
    again = mean_return(made.trees.predict, CartPole(), np.random.default_rng(5), 5)
    assert again > 400


def test_agreement_is_no_excuse():
    with pytest.raises(ExportError, match="the distilled policy returns"):
        distil(balancer, CartPole(), np.random.default_rng(0), states=900, trees=1, depth=1, episodes=4)


@needs_gcc
def test_tables_stay_in_flash(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 4)).astype(np.float32)
    export_trees(fit_oblivious(x, x[:, :1], trees=10, depth=3), tmp_path, name="t")
    flags = [
        "-mthumb",
        "-mcpu=cortex-m4",
        "-mfloat-abi=hard",
        "-mfpu=fpv4-sp-d16",
        "-Os",
        "-fstack-usage",
        "-c",
        "t.c",
    ]
    subprocess.run(["arm-none-eabi-gcc", *flags], cwd=tmp_path, check=True)
    assert int((tmp_path / "t.su").read_text().split()[-2]) <= 128
    sizes = subprocess.run(
        ["arm-none-eabi-size", "t.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    text, data, bss = (int(v) for v in sizes.stdout.splitlines()[1].split()[:3])
    assert (data, bss) == (0, 0) and text <= 4096


@needs_gcc
@needs_unicorn
def test_trees_give_the_same_bits_on_emulated_cores(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)).astype(np.float32)
    trees = fit_oblivious(x, np.sin(3 * x[:, :2]), trees=20, depth=4)
    export_trees(trees, tmp_path, name="t")
    how = {"name": "t", "x": x[:200], "cores": ("cortex-m4", "cortex-m0plus"), "cc": ("gcc",)}
    report = verify_trees(trees, tmp_path, **how)
    ran = [row for row in report.rows if row.engine == "unicorn"]
    assert [row.result for row in ran] == ["equal", "equal"] and report.verified
    assert {row.sha256 for row in ran} == {report.sha256}
    assert ran[0].eval_instructions < 3_000 and max(row.stack_bytes for row in ran) <= 128
    assert [row.result for row in report.rows if row.engine == "qemu"] == ["not run"]
    source = (tmp_path / "t.c").read_text()
    (tmp_path / "t.c").write_text(source.replace("> *t++", ">= *t++").replace("<< d", "<< (3u - d)"))
    assert not verify_trees(trees, tmp_path, **how).verified


@needs_gcc
@needs_unicorn
def test_a_distilled_policy_is_accepted_by_its_flight_and_proved(tmp_path):
    found = distil(balancer, CartPole(), np.random.default_rng(0), states=6000, trees=10, depth=3, episodes=8)
    assert found.student_return >= 0.95 * found.teacher_return
    export_trees(found.trees, tmp_path, name="t")
    x = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
    assert verify_trees(found.trees, tmp_path, name="t", x=x, cc=("gcc",)).verified
