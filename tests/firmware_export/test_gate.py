"""Integers are written only where they still mean what the network meant."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from flocklet.errors import ExportError, UsageError
from flocklet.firmware_export.export import export_policy
from flocklet.firmware_export.plan.gate import accuracy, admit
from flocklet.firmware_export.plan.quantise import quantise_rows
from flocklet.firmware_export.read.network import seeded_actor
from flocklet.firmware_export.read.semantics import ObsSpec
from kit.firmware import command, small_plan
from kit.made_graphs import floats, model

node = helper.make_node


def deep_relu(rng, width=48, depth=6):
    """Return a net whose interval bounds grow by each layer, so that 13 bits of an activation mean nothing."""
    return seeded_actor(rng, (8, *([width] * depth), 10), "relu", "identity")


def test_a_ruined_network_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"w16 is off by .*% of an output's own size"):
        export_policy(
            deep_relu(np.random.default_rng(0)), tmp_path / "out", dtype="w16", obs=ObsSpec(8, range=4.0)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["w16", "i16", "w8"])
def test_what_is_written_keeps_to_the_gate(tmp_path, dtype):
    x = np.clip(floats(np.random.default_rng(2), 400, 6), -2, 2)
    net = seeded_actor(np.random.default_rng(1), (6, 16, 3))
    how = {"samples": x, "max_error": 1.0} if dtype == "w8" else {}
    made = export_policy(net, tmp_path, dtype=dtype, ranges=(2.0,), **how)
    error = made.manifest["error"]
    assert error["relative"] <= 0.05 and 0.9 <= error["agreement"] <= 1
    assert made.manifest["obs"]["range"] == 2.0


def test_the_error_is_that_of_each_outputs_own_size():
    exact = np.array([[1000.0, 1.0], [-1000.0, -1.0]])
    assert accuracy(exact + np.array([1.0, 0.0]), exact).relative == pytest.approx(0.001)
    small = accuracy(exact + np.array([0.0, 1.0]), exact)
    assert small.relative == pytest.approx(0.1)  # judged by 1 % of the largest output, not by itself alone
    with pytest.raises(ExportError, match="own size"):
        admit(small, "i16", classifier=False)


def test_a_classifier_must_agree_about_the_largest(tmp_path):
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(200, 4))
    close = exact.copy()
    close[:3] = close[:3, ::-1]
    found = accuracy(close, exact)
    assert found.agreement == pytest.approx(0.985, abs=0.01) and found.relative < 0.05
    admit(found, "w16", classifier=False)
    with pytest.raises(ExportError, match="agrees about the largest"):
        admit(found, "w16", classifier=True)
    with pytest.raises(ExportError, match="agrees about the largest"):
        admit(found, "w16", classifier=False, min_agreement=0.999)


def test_what_looks_for_the_largest_is_a_classifier(tmp_path):
    from flocklet.firmware_export.read.onnx_reader import interpret
    from flocklet.onnx_io.parse import parse_model

    constants = {"w": floats(np.random.default_rng(0), 4, 3)}
    nodes = [node("MatMul", ["x", "w"], ["logits"]), node("Softmax", ["logits"], ["y"])]
    data = model(nodes, constants, [("x", [1, 4])])
    assert interpret(parse_model(data), output="logits").is_classifier
    plain = model([node("MatMul", ["x", "w"], ["y"])], constants, [("x", [1, 4])])
    assert not interpret(parse_model(plain)).is_classifier


@pytest.mark.parametrize("text", ["x", "0", "-1", "1,,2", "inf", "nan"])
def test_a_range_is_a_number_above_zero(tmp_path, text):
    path = tmp_path / "p.onnx"
    path.write_bytes(model([node("Tanh", ["x"], ["y"])], {}, [("x", [1, 4])]))
    with pytest.raises(UsageError, match="--range"):
        command("export", path, "--out", tmp_path / "out", "--dtype", "i16", "--range", text)


def test_the_hint_names_an_option_that_exists(tmp_path):
    """i16 without a range says --range; with it the export is written."""
    rng = np.random.default_rng(0)
    path = tmp_path / "p.onnx"
    nodes = [node("Gemm", ["x", "w"], ["d"]), node("Tanh", ["d"], ["y"])]
    path.write_bytes(model(nodes, {"w": floats(rng, 4, 8) / 4}, [("x", [1, 4])]))
    with pytest.raises(ExportError, match="--range"):
        command("export", path, "--out", tmp_path / "out", "--dtype", "i16")
    assert command("export", path, "--out", tmp_path / "out", "--dtype", "i16", "--range", "3,3,3,3") == 0


def test_no_sum_of_quantised_rows_reaches_two_to_the_31():
    """The proof is of the integers themselves: rows that a wrong cap would let through are refused."""
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3):
        for n in (3, 300, 3000):
            weight = scale * rng.normal(size=(4, n))
            rows = quantise_rows(weight, 4095, 32767)
            worst = max(sum(abs(int(v)) for v in row) for row in rows.q) * 4095
            assert worst < 2**31 and rows.margin == pytest.approx(1 - worst / 2**31)
            adverse = np.sign(rows.q[0]) * 4095
            assert abs(int((rows.q[0] * adverse).sum())) < 2**31


def test_a_row_that_could_overflow_is_refused(monkeypatch):
    """The control: where the integers do reach the limit, it is the proof that stops the export."""
    from flocklet.firmware_export.plan import quantise

    monkeypatch.setattr(quantise, "_LIMIT", 2**20)
    with pytest.raises(ExportError, match="beyond 2\\^31"):
        quantise_rows(np.ones((1, 400)), 4095, 32767)


def test_the_rounding_of_very_many_weights_is_counted():
    """1.6 counts a weight round to 2: 300,000 of them are 25 % more than the cap alone allows."""
    rows = quantise_rows(np.ones((2, 327_749)), 4095, 32767)
    assert int(np.abs(rows.q).sum(axis=1).max()) * 4095 < 2**31 and rows.q.max() >= 1


def test_the_i16_reach_is_refused_beyond_q16():
    net = seeded_actor(np.random.default_rng(0), (4, 8, 2))
    heavy = type(net)(
        tuple(type(layer)(layer.weight * 9000, layer.bias, layer.activation) for layer in net.dense)
    )
    from flocklet.firmware_export.plan.plan import make_plan

    with pytest.raises(ExportError, match="i16"):
        make_plan("p", heavy, dtype="i16", obs=ObsSpec(4, range=4.0))
    assert small_plan("i16").proofs["q16_reach_below"] == 2**15
