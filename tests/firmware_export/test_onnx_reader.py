"""The ONNX reader: what onnx, PyTorch and scikit-learn write, and what must be refused by name."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from flocklet.errors import ExportError
from flocklet.firmware_export.plan.reference import forward
from flocklet.firmware_export.read.onnx_reader import lower, read
from flocklet.onnx_io.parse import parse_model

node = helper.make_node


def save(nodes, constants, n_in, path: Path, *, inputs=None, opset=17) -> Path:
    given = inputs or [("x", n_in)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, [1, n]) for k, n in given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def agrees(path: Path, limit=1e-5) -> None:
    net = read(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for _ in range(8):
        feeds = {name: rng.normal(size=(1, width)).astype(np.float32) for name, width in net.inputs}
        x = np.concatenate(list(feeds.values()), axis=1)
        wanted = np.asarray(session.run(None, feeds)[0]).reshape(-1)
        assert np.abs(forward(net, x)[0] - wanted).max() <= limit


def mlp_file(rng, dims, path: Path, kinds, *, form="gemm") -> Path:
    nodes, constants, value = [], {}, "x"
    for i, (n_in, n_out) in enumerate(pairwise(dims)):
        w = (rng.normal(size=(n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)
        constants |= {f"w{i}": w if form == "gemm" else w.T.copy()}
        constants |= {f"b{i}": (0.1 * rng.normal(size=n_out)).astype(np.float32)}
        if form == "gemm":
            nodes.append(node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"], name=f"fc{i}", transB=1))
        else:
            nodes.append(node("MatMul", [value, f"w{i}"], [f"m{i}"]))
            nodes.append(node("Add", [f"m{i}", f"b{i}"], [f"z{i}"]))
        value = "y" if i == len(dims) - 2 else f"a{i}"
        kind = kinds[i % len(kinds)]
        nodes.append(node(kind, [f"z{i}"], [value], **({"alpha": 0.2} if kind == "LeakyRelu" else {})))
    return save(nodes, constants, dims[0], path)


@pytest.mark.parametrize("seed", range(12))
def test_random_mlps_agree_with_onnxruntime(tmp_path, seed):
    rng = np.random.default_rng(seed)
    dims = [int(v) for v in rng.integers(1, 257, 2 + seed % 6)] if seed else [1, 1]
    kinds = [["Tanh"], ["Relu"], ["Sigmoid", "Tanh"], ["LeakyRelu"], ["Identity"]][seed % 5]
    path = mlp_file(rng, dims, tmp_path / "m.onnx", kinds, form="gemm" if seed % 2 else "matmul")
    assert read(path).dims == tuple(dims)
    agrees(path)


def test_clip_concat_affine_and_norm(tmp_path):
    rng = np.random.default_rng(2)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    nodes = [
        node("Concat", ["p", "q"], ["c"], axis=1),
        node("Sub", ["c", "mean"], ["c1"]),
        node("Div", ["c1", "std"], ["c2"]),
        node("Clip", ["c2", "lo", "hi"], ["c3"]),
        node("Gemm", ["c3", "w", "b"], ["h"], transB=1, alpha=0.5, beta=2.0),
        node("LayerNormalization", ["h", "g", "o"], ["n"], axis=-1, epsilon=1e-4),
        node("Tanh", ["n"], ["y"]),
    ]
    constants = {"mean": draw(7), "std": np.abs(draw(7)) + 0.5, "lo": np.float32(-2), "hi": np.float32(2)}
    constants |= {"w": draw(9, 7), "b": draw(9), "g": draw(9), "o": draw(9)}
    path = save(nodes, constants, 0, tmp_path / "n.onnx", inputs=[("p", 3), ("q", 4)])
    assert read(path).inputs == (("p", 3), ("q", 4))
    agrees(path)


def test_float64_initialisers_and_old_clip(tmp_path):
    w = np.random.default_rng(3).normal(size=(4, 3))
    nodes = [
        node("Cast", ["w64"], ["w"], to=TensorProto.FLOAT),
        node("Gemm", ["x", "w", "zero"], ["h"], transB=1),
        node("Clip", ["h"], ["y"], min=-0.5, max=0.25),
    ]
    agrees(save(nodes, {"w64": w, "zero": np.zeros(4, np.float32)}, 3, tmp_path / "d.onnx", opset=9))


@pytest.mark.parametrize("variant", range(3))
def test_fast_tanh_subgraph_is_recognised(tmp_path, variant):
    rng = np.random.default_rng(variant)
    nodes = [node("Gemm", ["x", "w", "b"], ["h"], transB=1), node("Clip", ["h", "lo", "hi"], ["t"])]
    if variant == 0:
        nodes += [
            node("Mul", ["t", "t"], ["s"]),
            node("Add", ["s", "c27"], ["u"]),
            node("Mul", ["t", "u"], ["num"]),
        ]
    elif variant == 1:
        nodes += [node("Pow", ["t", "two"], ["s"]), node("Add", ["c27", "s"], ["u"])]
        nodes += [node("Mul", ["u", "t"], ["num"])]
    else:
        nodes += [node("Mul", ["t", "t"], ["s"]), node("Mul", ["s", "t"], ["cube"])]
        nodes += [node("Mul", ["c27", "t"], ["l"]), node("Add", ["cube", "l"], ["num"])]
    nodes += [
        node("Mul", ["s", "c9"], ["v"]),
        node("Add", ["v", "c27"], ["den"]),
        node("Div", ["num", "den"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "w": rng.normal(size=(6, 5)).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32),
    }
    for name, value in (("lo", -3), ("hi", 3), ("c27", 27), ("c9", 9), ("two", 2)):
        constants[name] = np.float32(value)
    path = save(nodes, constants, 5, tmp_path / "f.onnx")
    assert read(path).layers[-1].activation.kind == "fast_tanh"
    agrees(path)
    constants["c27"] = np.float32(26)
    with pytest.raises(ExportError, match="no known activation"):
        read(save(nodes, constants, 5, tmp_path / "g.onnx"))


@pytest.mark.parametrize("after", [0, 1])
def test_gru(tmp_path, after):
    rng = np.random.default_rng(after)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    constants = {"w": draw(1, 12, 3), "r": draw(1, 12, 4), "b": draw(1, 24), "wo": draw(4, 2)}
    constants |= {"ax": np.array([0], np.int64)}
    nodes = [
        node("Unsqueeze", ["x", "ax"], ["x3"]),
        node("GRU", ["x3", "w", "r", "b"], ["", "h"], hidden_size=4, linear_before_reset=after),
        node("Squeeze", ["h", "ax"], ["h2"]),
        node("MatMul", ["h2", "wo"], ["y"]),
    ]
    agrees(save(nodes, constants, 3, tmp_path / "gru.onnx"))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Softmax", ["x"], ["y"], name="soft")], "Softmax node 'soft'"),
        ([node("Gemm", ["x", "x"], ["y"], name="g")], "Gemm node 'g' needs a constant"),
        ([node("Gemm", ["x", "w"], ["y"], name="g")], "gets 3 values"),
        ([node("Gemm", ["x", "no"], ["y"], name="g")], "makes the value 'no'"),
        ([node("Tanh", ["x"], ["y"], domain="my.ops")], "domain 'my.ops'"),
        ([node("Relu", ["x"], ["a"]), node("Add", ["x", "a"], ["y"])], "two branches"),
        ([node("Tanh", ["y"], ["z"]), node("Relu", ["z"], ["y"])], "cycle"),
    ],
)
def test_refusals_name_the_node(tmp_path, nodes, message):
    path = save(nodes, {"w": np.ones((4, 4), np.float32)}, 3, tmp_path / "bad.onnx")
    with pytest.raises(ExportError, match=message):
        read(path)


def test_external_data_is_read_beside_the_model_and_nowhere_else(tmp_path):
    model = onnx.load(mlp_file(np.random.default_rng(0), [9, 33, 4], tmp_path / "m.onnx", ["Tanh"]))
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "e.onnx"
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location="d.bin")
    assert path.stat().st_size < 1000
    agrees(path)
    with pytest.raises(ExportError, match="another file"):
        lower(parse_model(path.read_bytes()))
    data = (tmp_path / "own" / "d.bin").read_bytes()
    (tmp_path / "own" / "d.bin").write_bytes(data[:-4])
    with pytest.raises(ExportError, match="too short"):
        read(path)
    (tmp_path / "own" / "d.bin").unlink()
    with pytest.raises(ExportError, match=r"cannot read 'd\.bin'"):
        read(path)
    (tmp_path / "d.bin").write_bytes(data)
    (tmp_path / "own" / "d.bin").symlink_to(tmp_path / "d.bin")
    with pytest.raises(ExportError, match="outside its own folder"):
        read(path)
    path.write_bytes(path.read_bytes().replace(b"d.bin", b"/dev/"[:5]))
    with pytest.raises(ExportError):
        read(path)


def test_damaged_files_give_one_clear_error(tmp_path):
    data = mlp_file(np.random.default_rng(0), [6, 5, 2], tmp_path / "m.onnx", ["Tanh"]).read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for i in range(600):
        broken = bytearray(data)
        if i % 3 == 0:
            broken = broken[: int(rng.integers(0, len(data)))]
        else:
            for at in rng.integers(0, len(data), 1 + i % 4):
                broken[at] = int(rng.integers(256))
        try:
            with np.errstate(all="ignore"):
                lower(parse_model(bytes(broken)))
        except ExportError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 200


def test_tanh_is_never_swapped_silently(tmp_path):
    path = mlp_file(np.random.default_rng(0), [6, 5, 2], tmp_path / "m.onnx", ["Tanh"])
    assert {layer.activation.kind for layer in read(path).layers} == {"tanh"}
    assert {layer.activation.kind for layer in read(path, activation="fast_tanh").layers} == {"fast_tanh"}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    torch.manual_seed(0)
    layers = [torch.nn.Flatten(), torch.nn.Linear(9, 17), torch.nn.Tanh(), torch.nn.LayerNorm(17)]
    layers += [torch.nn.Linear(17, 8), torch.nn.LeakyReLU(), torch.nn.Linear(8, 3), torch.nn.Hardtanh(-1, 1)]
    path = tmp_path / "t.onnx"
    policy = torch.nn.Sequential(*layers).eval()
    torch.onnx.export(
        policy, (torch.zeros(1, 9),), str(path), external_data=False, dynamo=True, verbose=False
    )
    agrees(path)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore")
def test_stable_baselines_policies_with_external_data(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    sb3 = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    policy = sb3.PPO("MlpPolicy", "Pendulum-v1", seed=0, device="cpu").policy
    actor = torch.nn.Sequential(
        policy.features_extractor, policy.mlp_extractor.policy_net, policy.action_net
    ).eval()
    path = tmp_path / "p.onnx"
    torch.onnx.export(actor, (torch.zeros(1, 3),), str(path), external_data=True, dynamo=True, verbose=False)
    assert read(path).dims == (3, 64, 64, 1)
    agrees(path)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_files(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    skl2onnx = pytest.importorskip("skl2onnx", reason="skl2onnx is not installed")
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)).astype(np.float32), rng.normal(size=(80, 2))
    model = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(12, 5), activation="tanh", max_iter=20)
    ).fit(x, y)
    path = tmp_path / "s.onnx"
    path.write_bytes(skl2onnx.to_onnx(model, x[:1], target_opset=15).SerializeToString())
    agrees(path)
