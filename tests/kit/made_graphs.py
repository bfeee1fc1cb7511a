"""ONNX graphs made at random around what readers get wrong: types, shapes, axes, modes.

`draw(kind, rng)` makes one; `judged(data)` says "equal" or "refused", and fails where our reading gives other numbers
than onnxruntime, or where a refusal does not say which node, input or output is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from flocklet.errors import ExportError
from flocklet.firmware_export.plan.reference import forward, hidden_size
from flocklet.firmware_export.read.onnx_reader import interpret
from flocklet.firmware_export.trees.onnx_trees import ensembles, interpret_trees
from flocklet.firmware_export.trees.tree_model import probes
from flocklet.onnx_io.parse import parse_model

node = helper.make_node
Rng = np.random.Generator


def model(
    nodes: list[Any], constants: dict[str, Any], inputs: list[tuple[str, list[Any]]], outputs: Any = "y"
) -> bytes:
    """Return the bytes of a file; outputs: a name, or (name, type) pairs."""
    named = [(outputs, TensorProto.FLOAT)] if isinstance(outputs, str) else outputs
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, shape in inputs],
        [helper.make_tensor_value_info(k, kind, None) for k, kind in named],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=sets)
    made.ir_version = 8
    return bytes(made.SerializeToString())


def floats(rng: Rng, *shape: int) -> Any:
    return rng.normal(size=shape).astype(np.float32)


def _shape(rng: Rng, rank: int, first: int = 1) -> list[int]:
    return [first, *(int(v) for v in rng.choice([1, 2, 3, 4], rank - 1))]


def _dense(rng: Rng, source: str, n: int) -> tuple[list[Any], dict[str, Any]]:
    """Return a flatten and a Gemm behind a value, so that the order of its elements matters."""
    constants = {"wd": floats(rng, n, 3), "bd": floats(rng, 3)}
    return [node("Flatten", [source], ["flat"]), node("Gemm", ["flat", "wd", "bd"], ["y"])], constants


def cast(rng: Rng) -> bytes:
    to = int(rng.choice([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
                         TensorProto.FLOAT16, TensorProto.UINT8]))  # fmt: skip
    nodes = [
        node("Gemm", ["x", "w"], ["d"]),
        node("Cast", ["d"], ["c"], to=to),
        node("Cast", ["c"], ["y"], to=1),
    ]
    return model(nodes, {"w": floats(rng, 4, 3)}, [("x", [1, 4])])


def dropout(rng: Rng) -> bytes:
    training = bool(rng.integers(2))
    inputs = ["d", "r", "t"][: int(rng.integers(1, 4))]
    constants = {"w": floats(rng, 4, 3), "r": np.float32(0.5), "t": np.bool_(training)}
    return model(
        [node("Gemm", ["x", "w"], ["d"]), node("Dropout", inputs, ["y"])], constants, [("x", [1, 4])]
    )


def concat(rng: Rng) -> bytes:
    rank = int(rng.integers(2, 5))
    axis = int(rng.integers(1, rank))
    left = _shape(rng, rank)
    right = list(left)
    right[axis] = int(rng.integers(1, 5))
    tail, constants = _dense(rng, "t", int(np.prod(left) + np.prod(right)))
    given = axis if rng.integers(2) else axis - rank
    return model(
        [node("Concat", ["a", "b"], ["t"], axis=given), *tail], constants, [("a", left), ("b", right)]
    )


def transpose(rng: Rng) -> bytes:
    rank = int(rng.integers(2, 5))
    shape = _shape(rng, rank)
    perm = (
        [0, *(1 + rng.permutation(rank - 1)).tolist()] if rng.integers(3) else rng.permutation(rank).tolist()
    )
    tail, constants = _dense(rng, "t", int(np.prod(shape)))
    tail[0] = node("Reshape", ["t", "one"], ["flat"])
    constants["one"] = np.array([1, -1], np.int64)
    return model([node("Transpose", ["x"], ["t"], perm=perm), *tail], constants, [("x", shape)])


def moved(rng: Rng) -> bytes:
    """Reshape, Slice, Expand, Gather, Unsqueeze and Squeeze in a row."""
    shape = _shape(rng, 3)
    nodes, constants, value, size = [], {}, "x", int(np.prod(shape))
    for i in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(["Unsqueeze", "Reshape", "Slice", "Gather", "Expand", "Flatten"]))
        target, key = f"v{i}", f"k{i}"
        if kind == "Unsqueeze":
            constants[key] = np.array([int(rng.integers(0, 2))], np.int64)
        elif kind == "Reshape":
            constants[key] = np.array([[1, -1], [-1, 1], [0, -1], [1, 1, -1]][int(rng.integers(4))], np.int64)
        elif kind == "Expand":
            constants[key] = np.array([1], np.int64) if rng.integers(2) else np.array([2, 1, 1], np.int64)
        elif kind == "Gather":
            constants[key] = np.array([0] if rng.integers(2) else [0, 0], np.int64)
        if kind == "Slice":
            constants |= {
                f"{key}s": np.array([0], np.int64),
                f"{key}e": np.array([int(rng.integers(1, 9))], np.int64),
            }
            constants[f"{key}a"] = np.array([int(rng.integers(0, 2))], np.int64)
            nodes.append(node(kind, [value, f"{key}s", f"{key}e", f"{key}a"], [target]))
        elif kind == "Flatten":
            nodes.append(node(kind, [value], [target], axis=int(rng.integers(0, 2))))
        else:
            nodes.append(node(kind, [value, key], [target]))
        value = target
    nodes += [node("Reshape", [value, "one"], ["flat"]), node("MatMul", ["flat", "wd"], ["y"])]
    constants |= {"one": np.array([1, size], np.int64), "wd": floats(rng, size, 3)}
    return model(nodes, constants, [("x", shape)])


def norm(rng: Rng) -> bytes:
    shape = _shape(rng, int(rng.integers(2, 4)))
    axis = int(rng.integers(1, len(shape)))
    part = shape[axis:]
    nodes = [
        node(
            "LayerNormalization", ["x", "s", "b"], ["y"], axis=axis if rng.integers(2) else axis - len(shape)
        )
    ]
    return model(nodes, {"s": floats(rng, *part), "b": floats(rng, *part)}, [("x", shape)])


def rows(rng: Rng) -> bytes:
    """A dense layer or a scaling on one row or several, with constants of odd shapes."""
    shape = [[1, 4], [1, 1, 4], [1, 2, 4], [2, 4], [4]][int(rng.integers(5))]
    kind = str(rng.choice(["MatMul", "Add", "Mul", "Sub", "Div"]))
    odd = [(4,), (1, 4), (), (1,), (4, 1), (2, 4), (1, 1, 4), (1, 1)][int(rng.integers(8))]
    constants = {"c": floats(rng, 4, 3) if kind == "MatMul" else np.abs(floats(rng, *odd)) + 1}
    order = ["x", "c"] if kind == "MatMul" or rng.integers(2) else ["c", "x"]
    return model([node(kind, order, ["z"]), node("Tanh", ["z"], ["y"])], constants, [("x", shape)])


def gemm(rng: Rng) -> bytes:
    n, ta, tb = int(rng.choice([1, 1, 2])), int(rng.integers(4) == 0), int(rng.integers(2))
    w = floats(rng, 3, 4) if tb else floats(rng, 4, 3)
    bias = floats(rng, *[(3,), (1, 3), (1,), (), (1, 1)][int(rng.integers(5))])
    how = {
        "alpha": float(rng.choice([1.0, 0.5])),
        "beta": float(rng.choice([1.0, 2.0])),
        "transA": ta,
        "transB": tb,
    }
    shape = [4, n] if ta else [n, 4]
    return model([node("Gemm", ["x", "w", "b"], ["y"], **how)], {"w": w, "b": bias}, [("x", shape)])


def gru(rng: Rng) -> bytes:
    h, n, steps, batch = 3, 4, int(rng.choice([1, 1, 1, 3])), int(rng.choice([1, 1, 1, 2]))
    layout = int(rng.integers(4) == 0)
    how: dict[str, Any] = {"hidden_size": h, "linear_before_reset": int(rng.integers(2))}
    odd = int(rng.integers(8))
    if odd == 0:
        how["direction"] = "reverse"
    elif odd == 1:
        how["activations"] = ["Sigmoid", "Relu"]
    elif odd == 2:
        how["clip"] = 0.5
    constants: dict[str, Any] = {
        "w": floats(rng, 1, 3 * h, n),
        "r": floats(rng, 1, 3 * h, h),
        "b": floats(rng, 1, 6 * h),
    }
    inputs, more = ["x", "w", "r", "b"], []
    state = str(rng.choice(["none", "zero", "constant", "input", "lengths"]))
    if state == "lengths":
        constants["l"] = np.full(batch, int(rng.integers(0, steps + 1)), np.int32)
        inputs.append("l")
    elif state != "none":
        inputs += ["", "h0"]
        if state == "input":
            more = [("h0", [1, batch, h])]
        else:
            constants["h0"] = floats(rng, 1, batch, h) * (state == "constant")
    if layout:
        return model(
            [node("GRU", inputs[:4], ["", "y"], layout=0, **how)], constants, [("x", [steps, batch, n])]
        )
    outputs = [["y", ""], ["", "y"]][int(rng.integers(2))]
    return model([node("GRU", inputs, outputs, **how)], constants, [("x", [steps, batch, n]), *more])


def folded(rng: Rng) -> bytes:
    """Weights that are computed from constants."""
    kind = str(
        rng.choice(
            ["Transpose", "Mul", "Reshape", "DequantizeLinear", "Concat", "Slice", "Neg", "Div", "Softsign"]
        )
    )
    constants: dict[str, Any] = {"k": floats(rng, 4, 3)}
    made = node(kind, ["k"], ["w"])
    if kind == "Transpose":
        constants["k"] = floats(rng, 3, 4)
    elif kind in {"Mul", "Div"}:
        constants["f"] = np.abs(floats(rng, *[(), (3,), (4, 1)][int(rng.integers(3))])) + np.float32(0.5)
        made = node(kind, ["k", "f"], ["w"])
    elif kind == "Reshape":
        constants |= {"k": floats(rng, 12), "s": np.array([4, -1], np.int64)}
        made = node(kind, ["k", "s"], ["w"])
    elif kind == "DequantizeLinear":
        axis = int(rng.integers(2))
        constants["k"] = rng.integers(-128, 128, (4, 3)).astype(np.int8)
        scales = () if rng.integers(2) else (constants["k"].shape[axis],)
        constants |= {
            "s": np.abs(floats(rng, *scales)) / 50,
            "z": rng.integers(-5, 5, scales).astype(np.int8),
        }
        made = node(kind, ["k", "s", "z"], ["w"], **({"axis": axis} if scales else {}))
    elif kind == "Concat":
        constants |= {"k": floats(rng, 1, 3), "f": floats(rng, 3, 3)}
        made = node(kind, ["k", "f"], ["w"], axis=0)
    elif kind == "Slice":
        constants |= {"k": floats(rng, 9, 3), "s": np.array([8], np.int64), "e": np.array([0], np.int64)}
        constants |= {"a": np.array([0], np.int64), "p": np.array([-2], np.int64)}
        made = node(kind, ["k", "s", "e", "a", "p"], ["w"])
    return model([made, node("MatMul", ["x", "w"], ["y"])], constants, [("x", [1, 4])])


def shapes(rng: Rng) -> bytes:
    """What exporters write around shapes: Shape, Gather, Concat, ConstantOfShape, Expand."""
    times = int(rng.choice([1, 1, 2]))
    nodes = [
        node("Gemm", ["x", "w"], ["d"]),
        node("Shape", ["d"], ["s"]),
        node("Mul", ["s", "t"], ["s2"]),
        node("Expand", ["d", "s2"], ["e"]),
        node("Shape", ["e"], ["s3"]),
        node("ConstantOfShape", ["s3"], ["o"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("Mul", ["e", "o"], ["m"]),
        node("Relu", ["m"], ["y"]),
    ]
    return model(nodes, {"w": floats(rng, 4, 3), "t": np.array([times, 1], np.int64)}, [("x", [1, 4])])


def _stump(rng: Rng, kind: str, **more: Any) -> dict[str, Any]:
    """Return a random tree of depth 2 to 4 as attributes."""
    columns: dict[str, list[Any]] = {key: [] for key in (
        "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_values", "nodes_modes", "nodes_truenodeids",
        "nodes_falsenodeids", "nodes_missing_value_tracks_true", f"{kind}_treeids", f"{kind}_nodeids", f"{kind}_ids",
        f"{kind}_weights",
    )}  # fmt: skip
    modes = more.pop("modes", ["BRANCH_LEQ"])
    targets, sign = more.pop("targets", [0]), more.pop("sign", False)
    uniform = int(rng.integers(3))
    for tree in range(int(rng.integers(1, 4))):
        waiting, free = [(0, 0)], 1
        while waiting:
            at, depth = waiting.pop(0)
            leaf = depth >= 3 or (depth > 0 and rng.random() < 0.3)
            mode = "LEAF" if leaf else str(rng.choice(modes))
            flag = 0 if leaf else int(rng.integers(2)) if uniform == 2 else uniform
            row = (tree, at, int(rng.integers(0, 3)), float(np.float32(rng.normal())), mode, 0, 0, flag)
            if not leaf:
                row = (*row[:5], free, free + 1, flag)
                waiting += [(free, depth + 1), (free + 1, depth + 1)]
                free += 2
            else:
                for target in targets:
                    weight = float(np.float32(rng.normal() if sign else rng.random() / 4))
                    columns[f"{kind}_treeids"].append(tree)
                    columns[f"{kind}_nodeids"].append(at)
                    columns[f"{kind}_ids"].append(target)
                    columns[f"{kind}_weights"].append(weight)
            for key, value in zip(list(columns)[:8], row, strict=True):
                columns[key].append(value)
    return columns | more


def tree(rng: Rng) -> bytes:
    """A regressor with all modes, flags for missing values, base values, aggregates and what may follow."""
    modes = [["BRANCH_LEQ"], ["BRANCH_LT"], ["BRANCH_LEQ", "BRANCH_GT"], ["BRANCH_GTE"], ["BRANCH_EQ"]][
        int(rng.integers(5))
    ]
    how: dict[str, Any] = {"n_targets": int(rng.integers(1, 3)), "modes": modes, "sign": True}
    how["targets"] = list(range(how["n_targets"]))
    if rng.integers(4) == 0:
        how["aggregate_function"] = str(rng.choice(["SUM", "AVERAGE", "MIN", "MAX"]))
    if rng.integers(4) == 0:
        how["post_transform"] = str(rng.choice(["NONE", "LOGISTIC", "SOFTMAX"]))
    if rng.integers(2):
        how["base_values"] = [float(np.float32(v)) for v in rng.normal(size=how["n_targets"])]
    after = [
        [],
        [node("Exp", ["t"], ["y"])],
        [node("Identity", ["t"], ["y"])],
        [node("Mul", ["t", "two"], ["y"])],
    ]
    last = after[int(rng.integers(4))]
    first = node(
        "TreeEnsembleRegressor",
        ["x"],
        ["t" if last else "y"],
        domain="ai.onnx.ml",
        **_stump(rng, "target", **how),
    )
    return model([first, *last], {"two": np.float32(2)}, [("x", [["N", 3], [1, 3]][int(rng.integers(2))])])


def classes(rng: Rng) -> bytes:
    """A classifier of two or three classes, with one column of weights or one a class."""
    labels = int(rng.integers(2, 4))
    targets = [int(rng.integers(2))] if labels == 2 and rng.integers(3) else list(range(labels))
    how: dict[str, Any] = {
        "targets": targets,
        "sign": bool(rng.integers(2)),
        "classlabels_int64s": list(range(labels)),
    }
    if rng.integers(4) == 0:
        how["post_transform"] = str(rng.choice(["LOGISTIC", "SOFTMAX"]))
    if rng.integers(4) == 0:
        how["base_values"] = [0.1] * labels
    first = node(
        "TreeEnsembleClassifier", ["x"], ["label", "y"], domain="ai.onnx.ml", **_stump(rng, "class", **how)
    )
    return model([first], {}, [("x", ["N", 3])], [("label", TensorProto.INT64), ("y", TensorProto.FLOAT)])


KINDS: dict[str, Callable[[Rng], bytes]] = {
    made.__name__: made
    for made in (
        cast,
        dropout,
        concat,
        transpose,
        moved,
        norm,
        rows,
        gemm,
        gru,
        folded,
        shapes,
        tree,
        classes,
    )
}


def judged(data: bytes) -> str:
    """Return "equal" or "refused"; fail for other numbers, or for a refusal that names nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception:  # a graph that onnxruntime itself refuses says nothing about us
        return "invalid"
    parsed = parse_model(data)
    try:
        if ensembles(parsed):
            return _judged_trees(session, parsed)
        reading = interpret(parsed)
    except ExportError as error:
        named = any(word in str(error) for word in (" node '", "input '", "output '", "tensor '"))
        assert named and "\n" not in str(error), f"a refusal without a name: {error}"
        return "refused"
    net, rng = reading.network, np.random.default_rng(3)
    hidden = np.zeros((1, hidden_size(net)), np.float32)
    for _ in range(4):
        feeds = {
            item.name: np.zeros([d or 1 for d in item.shape], np.float32) for item in session.get_inputs()
        }
        for name, width in net.inputs:
            feeds[name] = (3 * rng.normal(size=width)).astype(np.float32).reshape(reading.shapes[name])
        for name in reading.states:
            if name:
                hidden = rng.uniform(-1, 1, hidden.shape).astype(np.float32)
                feeds[name] = hidden.reshape(reading.shapes[name])
        try:
            wanted = np.asarray(session.run([reading.output], feeds)[0], np.float64).reshape(-1)
        except Exception:
            return "invalid"
        x = np.concatenate([feeds[name].reshape(-1) for name, _ in net.inputs])
        ours = forward(net, x[None], hidden=hidden.copy())[0]
        assert ours.shape == wanted.shape, f"{ours.shape} values, onnxruntime {wanted.shape}"
        bound = 1e-4 * max(1.0, float(np.abs(wanted).max()))
        assert np.abs(ours - wanted).max() <= bound, f"{ours} but onnxruntime {wanted}"
    return "equal"


def _judged_trees(session: Any, parsed: Any) -> str:
    reading = interpret_trees(parsed)
    x = probes(reading.trees, 64)
    wanted = np.array([session.run([reading.output], {"x": row[None]})[0][0] for row in x], np.float64)
    ours = reading.trees.predict(x)
    assert ours.shape == wanted.shape, f"{ours.shape} values, onnxruntime {wanted.shape}"
    np.testing.assert_allclose(ours, wanted, atol=1e-4, rtol=1e-4)
    return "equal"
