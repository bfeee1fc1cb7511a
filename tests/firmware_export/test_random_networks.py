"""Random graphs of every supported operator, against onnxruntime, and in C on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from flocklet.firmware_export.export import outputs
from flocklet.firmware_export.plan.plan import make_plan
from flocklet.firmware_export.read.onnx_reader import read
from flocklet.firmware_export.verify.host import build_host
from kit.firmware import needs_cc, write_c

node = helper.make_node


def random_file(rng: np.random.Generator, path: Path) -> Path:
    """Write a chain of random operators of random widths; float64 weights now and then."""
    nodes, constants = [], {}
    n_in = width = int(rng.integers(1, 65))
    value = "x"

    def constant(name: str, array: np.ndarray, scale: float = 1.0) -> str:
        constants[name] = (scale * array).astype(np.float32)
        return name

    def step(kind: str, inputs: list[str], i: int, **how: object) -> str:
        nodes.append(node(kind, inputs, [f"v{i}"], name=f"n{i}", **how))
        return f"v{i}"

    for i in range(int(rng.integers(2, 9))):
        kind = str(rng.choice(["Gemm", "MatMul", "LayerNormalization", "Affine", "Clip", "act", "Flatten"]))
        if kind in {"Gemm", "MatMul"}:
            out = int(rng.integers(1, 97))
            turned = kind == "Gemm" and rng.random() < 0.5
            w = constant(f"w{i}", rng.normal(size=(out, width) if turned else (width, out)), width**-0.5)
            if kind == "Gemm":
                how = {"alpha": float(rng.choice([1.0, 0.5])), "beta": float(rng.choice([1.0, 2.0]))}
                b = constant(f"b{i}", rng.normal(size=out), 0.2)
                value = step("Gemm", [value, w, b], i, transB=int(turned), **how)
            else:
                product = step("MatMul", [value, w], 100 + i)
                value = step("Add", [product, constant(f"b{i}", rng.normal(size=out), 0.2)], i)
            width = out
        elif kind == "LayerNormalization" and width > 3:
            names = [constant(f"g{i}", rng.normal(size=width)), constant(f"o{i}", rng.normal(size=width))]
            value = step(kind, [value, *names], i, axis=-1, epsilon=1e-3)
        elif kind == "Affine":
            shifted = step("Sub", [value, constant(f"m{i}", rng.normal(size=width), 0.3)], 100 + i)
            value = step("Div", [shifted, constant(f"s{i}", 0.5 + rng.random(width))], i)
        elif kind == "Clip":
            limits = [constant(f"lo{i}", np.array(-1.5)), constant(f"hi{i}", np.array(0.75))]
            value = step(kind, [value, *limits], i)
        elif kind == "act":
            name = str(rng.choice(["Tanh", "Relu", "Sigmoid", "LeakyRelu", "Identity"]))
            value = step(name, [value], i, **({"alpha": 0.2} if name == "LeakyRelu" else {}))
        else:
            value = step("Flatten", [value], i)
    nodes.append(node("Identity", [value], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


def against_onnxruntime(path: Path, rng: np.random.Generator) -> tuple[object, np.ndarray, np.ndarray]:
    net = read(path)
    plan = make_plan("any", net)
    x = rng.normal(size=(6, net.n_in)).astype(np.float32)
    y = outputs(plan, x)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = np.array([session.run(None, {"x": row[None]})[0].reshape(-1) for row in x])
    assert np.abs(y - wanted).max() <= 1e-5 * max(1.0, float(np.abs(wanted).max()))
    return plan, x, y


@pytest.mark.parametrize("block", range(5))
def test_random_graphs_agree_with_onnxruntime(tmp_path, block):
    for seed in range(12 * block, 12 * block + 12):
        rng = np.random.default_rng(seed)
        against_onnxruntime(random_file(rng, tmp_path / f"{seed}.onnx"), rng)


@needs_cc
@pytest.mark.parametrize("seed", [100, 101, 102, 103])
def test_random_graphs_have_the_same_bits_in_c(tmp_path, seed):
    rng = np.random.default_rng(seed)
    plan, x, y = against_onnxruntime(random_file(rng, tmp_path / "m.onnx"), rng)
    program = build_host(plan, write_c(plan, tmp_path / "c"), tmp_path / "host", sanitize=False)
    got, selftest = program.run(x.view(np.uint32), is_step=False)
    np.testing.assert_array_equal(got, np.ascontiguousarray(y).view(np.uint32))
    assert selftest == 0
