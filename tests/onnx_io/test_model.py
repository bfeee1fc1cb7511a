"""ONNX files that we write: valid, run by onnxruntime to the same numbers, read back, refused if foreign."""

from __future__ import annotations

import argparse
import io
import json

import numpy as np
import onnx
import pytest

from flocklet.cli import infer
from flocklet.errors import ConfigError, ExportError, UsageError
from flocklet.kernels.actor_critic import actor_program
from flocklet.kernels.nets import Mlp
from flocklet.onnx_io.model import (
    OnnxSession,
    Tree,
    decode_mlp,
    encode_gru_cell,
    encode_mlp,
    encode_trees,
    save,
)


def checked(data: bytes) -> bytes:
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    return data


@pytest.mark.parametrize("hidden", ["relu", "tanh", "sigmoid", "fast_tanh"])
def test_a_net_runs_in_onnxruntime_as_it_does_here(hidden):
    net, rng = Mlp((18, 33, 20, 4), hidden, hidden), np.random.default_rng(0)
    flat = net.init(rng) * 2
    layers = net.export(flat)
    data = checked(encode_mlp(layers))
    session = OnnxSession(data)
    assert session.inputs["x"][1] == ("batch", 18)
    x = rng.standard_normal((7, 18)).astype(np.float32) * 3
    ours = actor_program(net, 7).interpret()
    ours.buffers["params"][:], ours.buffers["x"][:] = flat, x.reshape(-1)
    ours()
    assert np.abs(session.run({"x": x})["y"] - ours.buffers["y"].reshape(7, 4)).max() <= 1e-5
    again = decode_mlp(data)
    assert [kind for *_, kind in again] == [kind for *_, kind in layers]
    for (w, b, _), (w2, b2, _) in zip(layers, again, strict=True):
        assert np.array_equal(w, w2) and np.array_equal(b, b2)


def test_a_gru_cell_follows_its_equations():
    rng = np.random.default_rng(1)
    n, m = 5, 7
    w, r = (
        rng.standard_normal((3 * m, n)).astype(np.float32),
        rng.standard_normal((3 * m, m)).astype(np.float32),
    )
    b, c = rng.standard_normal(3 * m).astype(np.float32), rng.standard_normal(3 * m).astype(np.float32)
    x, h = rng.standard_normal((4, n)).astype(np.float32), rng.standard_normal((4, m)).astype(np.float32)
    got = OnnxSession(checked(encode_gru_cell(w, r, b, c))).run({"x": x, "h": h})["h_next"]
    gx, gh = x @ w.T + b, h @ r.T + c
    z, reset = (1 / (1 + np.exp(-(gx[:, i * m : (i + 1) * m] + gh[:, i * m : (i + 1) * m]))) for i in (0, 1))
    new = np.tanh(gx[:, 2 * m :] + reset * gh[:, 2 * m :])
    assert np.abs(got - ((1 - z) * new + z * h)).max() <= 1e-5


def random_tree(rng: np.random.Generator, features: int, depth: int) -> Tree:
    n = 2**depth - 1
    leaf = np.arange(n) >= 2 ** (depth - 1) - 1
    left, right = np.where(leaf, -1, 2 * np.arange(n) + 1), np.where(leaf, -1, 2 * np.arange(n) + 2)
    value = rng.standard_normal(n).astype(np.float32)
    return Tree(rng.integers(0, features, n), rng.standard_normal(n).astype(np.float32), left, right, value)


def test_a_tree_ensemble_adds_its_leaves():
    rng = np.random.default_rng(2)
    trees = [random_tree(rng, 6, 4) for _ in range(5)]
    x = rng.standard_normal((50, 6)).astype(np.float32)
    want = np.full(50, 0.5)
    for row in range(50):
        for tree in trees:
            i = 0
            while tree.left[i] >= 0:
                i = tree.left[i] if x[row, tree.feature[i]] <= tree.threshold[i] else tree.right[i]
            want[row] += tree.value[i]
    got = OnnxSession(checked(encode_trees(trees, 6, base=0.5))).run({"x": x})["y"][:, 0]
    assert np.abs(got - want).max() <= 1e-5


def test_io_binding_works_in_place():
    net = Mlp((3, 4, 2), "tanh")
    data = encode_mlp(net.export(net.init(np.random.default_rng(0))))
    session, x, y = OnnxSession(data), np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)
    call = session.bind({"x": x}, {"y": y})
    x[:] = 0.7
    call()
    assert np.array_equal(y, session.run({"x": x})["y"])


def test_what_does_not_fit_is_refused(tmp_path):
    good = np.zeros((4, 3), np.float32), np.zeros(4, np.float32), "none"
    with pytest.raises(ExportError, match="without layers"):
        encode_mlp([])
    with pytest.raises(ExportError, match="gives 4"):
        encode_mlp([good, good])
    with pytest.raises(ExportError, match="softplus"):
        encode_mlp([(*good[:2], "softplus")])
    with pytest.raises(ExportError, match="asks for feature"):
        encode_trees([random_tree(np.random.default_rng(0), 9, 3)], 1)
    data = encode_mlp([good])
    with pytest.raises(ExportError):
        decode_mlp(data[: len(data) // 2])
    with pytest.raises(ExportError, match="not written by flocklet"):
        decode_mlp(data.replace(b"flocklet", b"another!"))
    with pytest.raises(ExportError, match="refuses"):
        OnnxSession(data[:40])
    with pytest.raises(ConfigError, match="cannot read"):
        OnnxSession(tmp_path / "nothing.onnx")
    with pytest.raises(ConfigError, match="do not fit"):
        OnnxSession(data).run({"x": np.zeros((1, 5), np.float32)})
    with pytest.raises(ConfigError, match="cannot write"):
        save(tmp_path / "no" / "file.onnx", data)


def ask(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    infer.add_parser(parser.add_subparsers())
    args = parser.parse_args(["infer", *words])
    args.json, args.quiet = True, False
    return args


def test_infer_runs_a_file_on_numbers(tmp_path, capsys, monkeypatch):
    model = tmp_path / "m.onnx"
    save(model, encode_mlp([(np.eye(2, dtype=np.float32) * 3, np.ones(2, np.float32), "relu")]))
    assert infer.run(ask(str(model))) == 0
    assert json.loads(capsys.readouterr().out) == {"inputs": {"x": ["batch", 2]}, "outputs": ["y"]}
    np.save(tmp_path / "x.npy", np.array([[1.0, -2.0]]))
    out = tmp_path / "y.npy"
    assert (
        infer.run(
            ask(str(model), "--input", f"x={tmp_path / 'x.npy'}", "--output", str(out), "--repeat", "3")
        )
        == 0
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown["outputs"] == {"y": [[4.0, 0.0]]} and shown["median_us"] > 0
    assert np.load(out).tolist() == [[4.0, 0.0]]
    (tmp_path / "x.csv").write_text("1,-2\n0, 1\n")
    assert infer.run(ask(str(model), "--input", str(tmp_path / "x.csv"))) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [[4.0, 0.0], [1.0, 4.0]]}
    monkeypatch.setattr("sys.stdin", io.StringIO("[[0, 1]]"))
    assert infer.run(ask(str(model), "--input", "-")) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [[1.0, 4.0]]}


def test_infer_refuses_bad_input_in_one_line(tmp_path):
    model = tmp_path / "m.onnx"
    save(model, encode_mlp([(np.eye(2, dtype=np.float32), np.ones(2, np.float32), "none")]))
    (tmp_path / "bad.json").write_text("[1, ")
    (tmp_path / "text.json").write_text('["a"]')
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    for words, error, why in (
        (["--input", str(tmp_path / "empty.csv")], ConfigError, "it is empty"),
        (["--input", str(tmp_path / "ragged.csv")], ConfigError, "cannot use"),
        (["--input", "z=x.npy"], UsageError, "no input 'z'"),
        (["--input", str(tmp_path / "nothing.npy")], ConfigError, "cannot read"),
        (["--input", str(tmp_path / "bad.json")], ConfigError, "cannot use"),
        (["--input", str(tmp_path / "text.json")], ConfigError, "no plain numbers"),
        (["--input", str(tmp_path / "pickle.npy")], ConfigError, "cannot use"),
    ):
        with pytest.raises(error, match=why) as caught:
            infer.run(ask(str(model), *words))
        assert "\n" not in str(caught.value)
