"""The file is the judge: nothing is written that onnxruntime does not confirm, unless the owner says so."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from flocklet.errors import ExportError
from flocklet.firmware_export.export import export_policy, load_artifact
from flocklet.firmware_export.plan.judge import agreement
from flocklet.firmware_export.read.lowering import Lowering
from flocklet.firmware_export.trees.trees import FlatTrees
from flocklet.firmware_export.verify.report import summary
from flocklet.onnx_io.model import Tree, encode_gru_cell, encode_mlp, encode_trees
from kit.firmware import command
from kit.made_graphs import floats, model

node = helper.make_node


def file_of(tmp_path, *, kind="tanh"):
    rng = np.random.default_rng(0)
    path = tmp_path / "p.onnx"
    layers = [(floats(rng, 8, 5), floats(rng, 8), kind), (floats(rng, 2, 8), floats(rng, 2), "none")]
    path.write_bytes(encode_mlp(layers))
    return path


def test_what_agrees_is_written_with_its_comparison(tmp_path):
    made = export_policy(file_of(tmp_path), tmp_path / "out", packages=("plain",))
    found = made.manifest["compared"]
    assert found["with"].startswith("onnxruntime ") and found["observations"] == 64
    assert 0 <= found["largest_difference"] <= 1e-5
    assert any("agrees on 64 observations" in line for line in summary(load_artifact(tmp_path / "out")))
    assert "the same outputs" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("fault", ["scale", "constant", "swap"])
def test_a_wrong_reading_writes_nothing(tmp_path, monkeypatch, fault):
    """Controls: a reader that takes Tanh for the identity, forgets a bias, or turns a weight round."""
    path = file_of(tmp_path)
    if fault == "scale":
        monkeypatch.setattr(Lowering, "_op_tanh", lambda self, item, _: self._flow(item))
    elif fault == "constant":
        monkeypatch.setattr(Lowering, "_optional", lambda *_: None)
    else:
        plain = Lowering._constant
        monkeypatch.setattr(Lowering, "_constant", lambda self, item, i: plain(self, item, i)[::-1])
    with pytest.raises(ExportError, match="by onnxruntime and"):
        export_policy(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_onnxruntime_it_takes_a_word_of_the_owner(tmp_path, monkeypatch):
    path = file_of(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match="onnxruntime does not work here") as refused:
        export_policy(path, tmp_path / "out")
    assert "--uncompared" in str(refused.value.remedy) and not (tmp_path / "out").exists()
    made = export_policy(path, tmp_path / "out", uncompared=True)
    assert made.manifest["compared"] == "not compared"
    assert any(line.startswith("not compared") for line in summary(made))
    assert "not compared" in (tmp_path / "out" / "README.md").read_text()


def test_the_owners_observations_count_too(tmp_path):
    samples = floats(np.random.default_rng(1), 7, 5)
    made = export_policy(file_of(tmp_path), tmp_path / "out", samples=samples)
    assert made.manifest["compared"]["observations"] == 71


def test_a_declared_fast_tanh_is_compared_as_the_file_is_written(tmp_path):
    made = export_policy(file_of(tmp_path), tmp_path / "out", activation="fast_tanh")
    assert made.manifest["compared"]["largest_difference"] <= 1e-5
    assert made.manifest["activations"][0] == "fast_tanh"


def test_an_inner_tensor_is_compared_too(tmp_path):
    made = export_policy(file_of(tmp_path), tmp_path / "out", output="h0")
    assert made.manifest["dims"] == [5, 8] and made.manifest["compared"]["largest_difference"] <= 1e-5


def test_hidden_values_come_in_by_the_file(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "g.onnx"
    path.write_bytes(encode_gru_cell(floats(rng, 9, 4), floats(rng, 9, 3), floats(rng, 9), floats(rng, 9)))
    made = export_policy(path, tmp_path / "out")
    assert made.manifest["inputs"] == [["x", 4]] and made.manifest["compared"]["largest_difference"] <= 1e-5


def test_the_bound_is_per_output():
    file = np.array([[1000.0, 0.5], [10.0, 0.25]])
    assert (
        agreement(file + np.array([0.09, 0.9e-4]), file)
        < 1
        < agreement(file + np.array([0.09, 1.1e-4]), file)
    )
    assert agreement(file + np.array([0.11, 0.0]), file) > 1
    assert agreement(np.array([[np.nan]]), np.array([[1.0]])) == np.inf
    assert agreement(np.array([[np.nan]]), np.array([[np.nan]])) == 0
    assert agreement(file[:, :1], file) == np.inf


def test_unused_and_folded_constants_do_not_refuse_a_file(tmp_path):
    rng = np.random.default_rng(0)
    constants = {"w": floats(rng, 3, 4), "k": np.float32(0.5), "u": np.array([7], np.uint64)}
    nodes = [
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("Mul", ["t", "k"], ["s"]),
        node("MatMul", ["x", "s"], ["y"]),
    ]
    path = tmp_path / "c.onnx"
    made = onnx.load_from_string(model(nodes, constants, [("x", [1, 4])]))
    made.graph.initializer.append(helper.make_tensor("labels", onnx.TensorProto.STRING, [1], [b"a"]))
    made.graph.initializer.append(helper.make_tensor("odd", onnx.TensorProto.BFLOAT16, [1], [1.0]))
    onnx.save(made, path)
    assert export_policy(path, tmp_path / "out").manifest["dims"] == [4, 3]
    made.graph.node[1].input[1] = "odd"
    onnx.save(made, path)
    with pytest.raises(ExportError, match="tensor 'odd' has element type bfloat16"):
        export_policy(path, tmp_path / "out2", uncompared=True)


def test_trees_go_through_the_documented_command(tmp_path, capsys):
    tree = Tree(*(np.array(v) for v in ([0, 0, 0], [0.5, 0, 0], [1, -1, -1], [2, -1, -1], [0.0, 0.25, -1.5])))
    path = tmp_path / "t.onnx"
    path.write_bytes(encode_trees([tree], 3, base=0.5))
    assert command("export", path, "--out", tmp_path / "out", "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["compared"]["observations"] == 256 and manifest["trees"] == 1
    assert (tmp_path / "out" / "policy.c").exists()


def test_trees_that_differ_are_not_written(tmp_path, monkeypatch):
    tree = Tree(*(np.array(v) for v in ([0, 0, 0], [0.5, 0, 0], [1, -1, -1], [2, -1, -1], [0.0, 0.25, -1.5])))
    path = tmp_path / "t.onnx"
    path.write_bytes(encode_trees([tree], 3))
    plain = FlatTrees.predict
    monkeypatch.setattr(FlatTrees, "predict", lambda self, x: plain(self, np.nan_to_num(x)))  # NaN goes left
    with pytest.raises(ExportError, match="differs between onnxruntime"):
        command("export", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_form_that_stable_baselines_writes(tmp_path):
    """`policy._predict`: the mean of a normal distribution, expanded to its own shape by a chain of shape nodes."""
    rng = np.random.default_rng(0)
    nodes = [
        node("Flatten", ["x"], ["f"]),
        node("Gemm", ["f", "w0", "b0"], ["h"]),
        node("Tanh", ["h"], ["t"]),
        node("Gemm", ["t", "w1", "b1"], ["mean"]),
        node("Shape", ["mean"], ["s"]),
        node("ConstantOfShape", ["s"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("Exp", ["log_std"], ["std"]),
        node("Mul", ["ones", "std"], ["spread"]),
        node("Shape", ["s"], ["rank"]),
        node("ConstantOfShape", ["rank"], ["each"], value=numpy_helper.from_array(np.ones(1, np.int64))),
        node("Mul", ["each", "minus"], ["open"]),
        node("Equal", ["s", "open"], ["same"]),
        node("Where", ["same", "each", "s"], ["wanted"]),
        node("Expand", ["mean", "wanted"], ["y"]),
    ]
    constants = {"w0": floats(rng, 5, 8), "b0": floats(rng, 8), "w1": floats(rng, 8, 2), "b1": floats(rng, 2)}
    constants |= {"log_std": floats(rng, 2), "minus": np.int64(-1)}
    path = tmp_path / "sb3.onnx"
    path.write_bytes(model(nodes, constants, [("x", [1, 5])]))
    assert export_policy(path, tmp_path / "out").manifest["dims"] == [5, 8, 2]
