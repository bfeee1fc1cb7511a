"""Write the models we train as ONNX, read them back, run any ONNX file.

The writer knows protobuf's two wire types and the few messages of `onnx.proto` (IR 8, operator set 17,
ai.onnx.ml 3) that MLPs, GRU cells and tree ensembles need. Weights are stored (outputs, inputs) as
`Gemm(transB=1)` wants them. Reading and running treat a file as untrusted: `flocklet.onnx_io.parse` bounds
every length, onnxruntime runs with one thread.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError, ExportError, MissingExtra
from flocklet.onnx_io.parse import parse_model

__all__ = [
    "TREE_KEYS",
    "DenseLayer",
    "OnnxSession",
    "Tree",
    "decode_mlp",
    "encode_gru_cell",
    "encode_mlp",
    "encode_trees",
    "regressor",
    "save",
    "with_output",
]

Floats = NDArray[np.float32]
DenseLayer = tuple[Floats, Floats, str]
_PRODUCER = "flocklet"
_PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}


@dataclass(frozen=True)
class Tree:
    """One regression tree: node i goes to `left[i]` where x[feature[i]] <= threshold[i], else to `right[i]`.

    A leaf has `left[i]` < 0 and gives `value[i]`. Node 0 is the root.
    """

    feature: NDArray[np.int64]
    threshold: Floats
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: Floats


def _varint(n: int) -> bytes:
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def _field(number: int, value: int | bytes | str | float) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    kind, dtype = (7, "<i8") if array.dtype.kind == "i" else (1, "<f4")
    dims = b"".join(_field(1, int(n)) for n in array.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, np.ascontiguousarray(array, dtype).tobytes())


def _attribute(
    name: str, value: int | float | str | Sequence[int] | Sequence[float] | Sequence[str]
) -> bytes:
    head = _field(1, name)
    if isinstance(value, int):
        return head + _field(3, value) + _field(20, 2)
    if isinstance(value, float):
        return head + _field(2, value) + _field(20, 1)
    if isinstance(value, str):
        return head + _field(4, value) + _field(20, 3)
    if value and isinstance(value[0], str):
        return head + b"".join(_field(9, str(x)) for x in value) + _field(20, 8)
    if value and isinstance(value[0], float):
        return head + b"".join(_field(7, float(x)) for x in value) + _field(20, 6)
    return head + b"".join(_field(8, int(x)) for x in value) + _field(20, 7)


def _node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any
) -> bytes:
    out = b"".join(_field(1, x) for x in inputs) + b"".join(_field(2, x) for x in outputs)
    out += _field(3, outputs[0]) + _field(4, op)
    out += b"".join(_field(5, _attribute(k, v)) for k, v in attributes.items())
    return out + (_field(7, domain) if domain else b"")


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(_field(1, _field(1, d) if isinstance(d, int) else _field(2, d)) for d in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, dims)))


def _model(
    name: str,
    nodes: Sequence[bytes],
    tensors: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
) -> bytes:
    graph = b"".join(_field(1, n) for n in nodes) + _field(2, name)
    graph += b"".join(_field(5, t) for t in tensors)
    graph += b"".join(_field(11, v) for v in inputs) + b"".join(_field(12, v) for v in outputs)
    sets = _field(8, _field(1, "") + _field(2, 17)) + _field(8, _field(1, "ai.onnx.ml") + _field(2, 3))
    return _field(1, 8) + _field(2, _PRODUCER) + _field(7, graph) + sets


def _activation(kind: str, source: str, target: str) -> tuple[list[bytes], list[bytes]]:
    """Return the nodes and constants of one activation."""
    if kind in _PLAIN:
        return [_node(_PLAIN[kind], [source], [target])], []
    if kind != "fast_tanh":
        raise ExportError(f"the activation '{kind}' cannot be written as ONNX")
    c, s, n, t, d, e = (f"{target}.{part}" for part in "csntde")
    low, high, nine, shift = (f"{target}.{part}" for part in ("low", "high", "nine", "shift"))
    values = ((low, -3.0), (high, 3.0), (nine, 9.0), (shift, 27.0))
    nodes = [
        _node("Clip", [source, low, high], [c]),
        _node("Mul", [c, c], [s]),
        _node("Add", [s, shift], [n]),
        _node("Mul", [c, n], [t]),
        _node("Mul", [s, nine], [d]),
        _node("Add", [d, shift], [e]),
        _node("Div", [t, e], [target]),
    ]
    return nodes, [_tensor(key, np.array(value, np.float32)) for key, value in values]


def encode_mlp(layers: Sequence[DenseLayer], *, name: str = "mlp") -> bytes:
    """Return an ONNX file for dense layers (weights (outputs, inputs), bias, activation): `x` (batch, n) ->
    `y`.

    `Mlp.export` of `flocklet.kernels.nets` gives such layers. Raise ExportError for shapes that do not chain.
    """
    nodes: list[bytes] = []
    tensors: list[bytes] = []
    source = "x"
    if not layers:
        raise ExportError("a net without layers cannot be written as ONNX")
    for i, (weights, bias, kind) in enumerate(layers):
        if weights.ndim != 2 or bias.shape != weights.shape[:1]:
            raise ExportError(
                f"layer {i} has weights {weights.shape} and bias {bias.shape}, which do not fit"
            )
        if i and layers[i - 1][0].shape[0] != weights.shape[1]:
            raise ExportError(
                f"layer {i} takes {weights.shape[1]} values, layer {i - 1} gives {layers[i - 1][0].shape[0]}"
            )
        target = "y" if i == len(layers) - 1 else f"h{i}"
        linear = target if kind == "none" else f"{target}.linear"
        nodes.append(_node("Gemm", [source, f"w{i}", f"b{i}"], [linear], transB=1))
        tensors += [_tensor(f"w{i}", weights), _tensor(f"b{i}", bias)]
        if kind != "none":
            more, constants = _activation(kind, linear, target)
            nodes += more
            tensors += constants
        source = target
    inputs = [_value("x", ["batch", int(layers[0][0].shape[1])])]
    return _model(name, nodes, tensors, inputs, [_value("y", ["batch", int(layers[-1][0].shape[0])])])


def encode_gru_cell(
    gates: Floats, recurrent: Floats, bias: Floats, recurrent_bias: Floats, *, name: str = "gru_cell"
) -> bytes:
    """Return an ONNX file for one GRU step: `x` (batch, n), `h` (batch, m) -> `h_next` (batch, m).

    Rows are in ONNX order, update z, reset r, new n: `gates` (3m, n), `recurrent` (3m, m), biases (3m). The
    reset gate acts after the recurrent product (linear_before_reset = 1, as in cuDNN and PyTorch).
    """
    m, n = recurrent.shape[1], gates.shape[1]
    if (
        gates.shape[0] != 3 * m
        or recurrent.shape[0] != 3 * m
        or bias.shape != (3 * m,)
        or recurrent_bias.shape != (3 * m,)
    ):
        raise ExportError(f"a GRU cell of {m} units does not fit weights {gates.shape}, {recurrent.shape}")
    tensors = [
        _tensor("w", gates[None]),
        _tensor("r", recurrent[None]),
        _tensor("b", np.concatenate([bias, recurrent_bias])[None]),
        _tensor("axis", np.array([0], np.int64)),
    ]
    nodes = [
        _node("Unsqueeze", ["x", "axis"], ["x1"]),
        _node("Unsqueeze", ["h", "axis"], ["h1"]),
        _node("GRU", ["x1", "w", "r", "b", "", "h1"], ["", "h2"], hidden_size=m, linear_before_reset=1),
        _node("Squeeze", ["h2", "axis"], ["h_next"]),
    ]
    inputs = [_value("x", ["batch", n]), _value("h", ["batch", m])]
    return _model(name, nodes, tensors, inputs, [_value("h_next", ["batch", m])])


def encode_trees(trees: Sequence[Tree], features: int, *, base: float = 0.0, name: str = "trees") -> bytes:
    """Return an ONNX file for the sum of regression trees plus `base`: `x` (batch, features) -> `y` (batch,
    1).
    """
    columns: dict[str, list[Any]] = {key: [] for key in TREE_KEYS}
    for t, tree in enumerate(trees):
        for i in range(len(tree.left)):
            is_leaf = bool(tree.left[i] < 0)
            if not is_leaf and not 0 <= int(tree.feature[i]) < features:
                raise ExportError(f"tree {t} asks for feature {int(tree.feature[i])} of {features}")
            row = (t, i, 0 if is_leaf else int(tree.feature[i]), 0.0 if is_leaf else float(tree.threshold[i]))
            row += ("LEAF" if is_leaf else "BRANCH_LEQ",)  # type: ignore[assignment]
            row += (0, 0) if is_leaf else (int(tree.left[i]), int(tree.right[i]))  # type: ignore[assignment]
            for key, value in zip(TREE_KEYS[:7], row, strict=True):
                columns[key].append(value)
            if is_leaf:
                for key, value in zip(TREE_KEYS[7:], (t, i, 0, float(tree.value[i])), strict=True):
                    columns[key].append(value)
    if not columns["target_weights"]:
        raise ExportError("an ensemble without leaves cannot be written as ONNX")
    return regressor(columns, features, [float(base)], name)


def regressor(columns: dict[str, list[Any]], features: int, base: Sequence[float], name: str) -> bytes:
    """Return the file of one TreeEnsembleRegressor with the lists of `TREE_KEYS`; one output per value of `base`."""
    width = len(base)
    node = _node(
        "TreeEnsembleRegressor",
        ["x"],
        ["y"],
        "ai.onnx.ml",
        n_targets=width,
        base_values=list(base),
        **columns,
    )
    return _model(name, [node], [], [_value("x", ["batch", features])], [_value("y", ["batch", width])])


TREE_KEYS = (
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "target_treeids",
    "target_nodeids",
    "target_ids",
    "target_weights",
)


def decode_mlp(data: bytes) -> list[DenseLayer]:
    """Return the layers of a file that `encode_mlp` wrote; raise ExportError for any other file."""
    model = parse_model(data)
    layers: list[DenseLayer] = []
    names = {op: kind for kind, op in _PLAIN.items()}
    for node in model.graph.nodes:
        if node.op_type == "Gemm":
            if len(node.inputs) != 3 or not all(key in model.graph.initializers for key in node.inputs[1:]):
                raise ExportError(f"{node.label} has no constant weights and bias")
            weights, bias = (np.asarray(model.graph.initializers[key], np.float32) for key in node.inputs[1:])
            layers.append((weights, bias, "none"))
        elif layers and node.op_type in names:
            layers[-1] = (*layers[-1][:2], names[node.op_type])
        elif layers and node.op_type == "Clip":
            layers[-1] = (*layers[-1][:2], "fast_tanh")
        elif node.op_type not in ("Mul", "Add", "Div"):
            raise ExportError(f"{node.label} is not part of a net that flocklet wrote")
    if encode_mlp(layers, name=model.graph.name) != data:
        raise ExportError("this ONNX file was not written by flocklet; 'flocklet infer' can still run it")
    return layers


def save(path: Path, data: bytes) -> None:
    """Write a model file in one step: a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def with_output(data: bytes, name: str) -> bytes:
    """Return an ONNX file with a tensor of its graph as one more output.

    Protobuf joins messages by appending them: the graph of the second is merged into that of the first.
    """
    return data + _field(7, _field(12, _field(1, name)))


class OnnxSession:
    """Any ONNX file, ready to run with onnxruntime on one thread; inputs and outputs are NumPy arrays by
    name.
    """

    def __init__(
        self, model: bytes | Path, *, threads: int = 1, folder: Path | None = None, literal: bool = False
    ) -> None:
        """Open a model; `folder` is where bytes of a model find the numbers that they keep in other files.

        literal: compute node by node as the file says, without merging (merged kernels may round otherwise).
        """
        try:
            import onnxruntime
        except (ImportError, OSError) as error:
            raise MissingExtra("onnxruntime", "dev", "running an ONNX file") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.log_severity_level = 4
        if literal:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder)
            )
        self.engine = f"onnxruntime {onnxruntime.__version__}"
        try:
            data = model.read_bytes() if isinstance(model, Path) else model
            self._session: Any = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise ConfigError(
                f"cannot read {model!s}: {error.strerror}", remedy="pass the path of an ONNX file"
            ) from error
        except Exception as error:
            first = str(error).splitlines()[0][:200]
            raise ExportError(
                f"onnxruntime refuses this file: {first}", remedy="check it with onnx.checker"
            ) from error
        self.inputs: dict[str, tuple[str, tuple[int | str | None, ...]]] = {
            i.name: (i.type, tuple(i.shape)) for i in self._session.get_inputs()
        }
        self.outputs: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return every output; raise ConfigError when names, types or shapes do not fit."""
        try:
            return dict(zip(self.outputs, self._session.run(None, feeds), strict=True))
        except Exception as error:
            raise ConfigError(
                f"these inputs do not fit the model: {str(error).splitlines()[0][:200]}"
            ) from error

    def bind(self, feeds: dict[str, NDArray[Any]], results: dict[str, NDArray[Any]]) -> Any:
        """Return a function without arguments that runs in place on these arrays (IO binding, no copies)."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        session, kept = self._session, (feeds, results)  # the arrays must outlive the binding

        def call(_arrays: object = kept) -> None:
            session.run_with_iobinding(binding)

        return call
