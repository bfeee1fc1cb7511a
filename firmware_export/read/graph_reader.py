"""Read a convolutional ONNX file as a `Graph`, or say which node cannot be exported.

Batch normalisation is folded into the convolution or dense layer before it (in float64, rounded once). Nodes that move
elements are free where the order stays; what depends on constants only is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.read.fold import MOVES, compute
from flocklet.firmware_export.read.graph import (
    Conv,
    Full,
    Graph,
    Join,
    Kind,
    Pool,
    Scale,
    Softmax,
    Step,
)
from flocklet.firmware_export.read.network import Activation
from flocklet.firmware_export.read.onnx_values import constant_of, fixed_shape, float_of, int_of
from flocklet.firmware_export.read.window import window_of
from flocklet.onnx_io.parse import Model, Node, shown

__all__ = ["is_convolutional", "read_graph"]

F64: TypeAlias = npt.NDArray[np.float64]
MAX_ELEMENTS = 1 << 20
_CONVOLUTIONAL = {
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MaxPool",
}
_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def is_convolutional(model: Model) -> bool:
    """Return whether a file holds what only a graph can carry."""
    return any(node.op_type in _CONVOLUTIONAL for node in model.graph.nodes)


@dataclass(frozen=True)
class _Value:
    """Hold a value of the net: its storage and the shape in which it is looked at."""

    index: int
    shape: tuple[int, ...]


_Known: TypeAlias = _Value | npt.NDArray[Any]


class _Reader:
    def __init__(self, model: Model, wanted: str) -> None:
        self.graph = model.graph
        self.opset = model.opsets.get("", 17)
        self.known: dict[str, _Known] = dict(self.graph.initializers)
        self.sizes: list[int] = []
        self.steps: list[Step] = []
        self.shared: set[int] = set()  # storage that several tensors look at
        self.nodes = self._needed(wanted)
        self.uses = Counter(name for node in self.nodes for name in node.inputs if name)
        self.uses[wanted] += 1
        self.input = self._input()

    def _needed(self, wanted: str) -> list[Node]:
        needed, found = {wanted}, []
        for node in reversed(self.graph.nodes):  # a file holds its nodes in topological order
            if needed & set(node.outputs):
                found.append(node)
                needed |= {name for name in node.inputs if name}
        return found[::-1]

    def _input(self) -> tuple[str, tuple[int, ...]]:
        read = {name for node in self.nodes for name in node.inputs}
        inputs = [item for item in self.graph.inputs if item.name in read]
        if len(inputs) != 1:
            raise ExportError(f"the net reads {len(inputs)} inputs; a graph with one can be exported")
        item = inputs[0]
        shape = fixed_shape(item.shape)
        if (
            shape is None
            or shape[0] != 1
            or not 0 < math.prod(shape) <= MAX_ELEMENTS
            or item.elem_type not in {0, 1}
        ):
            raise ExportError(
                f"input '{shown(item.name)}' is no float tensor of a fixed shape with a batch of 1"
            )
        self.known[item.name] = self._new(shape)
        return item.name, shape

    def _new(self, shape: tuple[int, ...]) -> _Value:
        if not 0 < math.prod(shape) <= MAX_ELEMENTS:
            raise ExportError(f"a value of shape {shape} is empty or larger than {MAX_ELEMENTS} elements")
        self.sizes.append(math.prod(shape))
        return _Value(len(self.sizes) - 1, shape)

    def run(self, wanted: str) -> Graph:
        for node in self.nodes:
            if node.domain not in {"", "ai.onnx"}:
                raise ExportError(f"{node.label} is of the unknown operator domain '{shown(node.domain)}'")
            self.known[node.outputs[0]] = self._apply(node)
        result = self.known.get(wanted)
        if not isinstance(result, _Value) or not self.steps or result.index == 0:
            raise ExportError(f"output '{shown(wanted)}' is no result of the net's layers")
        name, shape = self.input
        return Graph(name, shape, wanted, tuple(self.sizes), tuple(self.steps), result.index)

    def _apply(self, node: Node) -> _Known:
        if node.op_type == "Constant":
            return constant_of(node)
        given = [self._any(node, name) for name in node.inputs if name]
        first = given[0] if given else None
        if node.op_type == "Shape" and isinstance(first, _Value):
            return compute(node, [np.broadcast_to(np.float32(0), first.shape)])
        if all(isinstance(value, np.ndarray) for value in given):
            return compute(node, [value for value in given if isinstance(value, np.ndarray)])
        if node.op_type in MOVES and isinstance(first, _Value):
            return self._moved(node, first, given[1:])
        handler: Callable[[Node], _Known] | None = getattr(self, f"_op_{node.op_type.lower()}", None)
        if node.op_type in _ACTIVATIONS:
            return self._activated(node, Activation(_ACTIVATIONS[node.op_type]))
        if handler is None:
            raise ExportError(f"{node.label} has an operator that cannot be exported in a convolutional net")
        return handler(node)

    def _any(self, node: Node, name: str) -> _Known:
        if name in self.graph.unreadable:
            raise ExportError(self.graph.unreadable[name])
        if name not in self.known:
            raise ExportError(
                f"nothing in the graph makes the value '{shown(name)}', which {node.label} reads"
            )
        return self.known[name]

    def _value(self, node: Node, index: int = 0) -> _Value:
        value = self._any(node, node.inputs[index]) if index < len(node.inputs) else None
        if not isinstance(value, _Value):
            raise ExportError(f"{node.label} needs a computed value as input {index}")
        return value

    def _constant(self, node: Node, index: int) -> F64 | None:
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        value = self._any(node, node.inputs[index])
        if isinstance(value, _Value):
            raise ExportError(
                f"{node.label} needs a constant as input {index} ('{shown(node.inputs[index])}')"
            )
        return np.asarray(value, np.float64)

    def _needs_constant(self, node: Node, index: int) -> F64:
        value = self._constant(node, index)
        if value is None:
            raise ExportError(f"{node.label} lacks its input {index}")
        return value

    def _moved(self, node: Node, value: _Value, rest: list[_Known]) -> _Known:
        numbers = np.arange(math.prod(value.shape), dtype=np.int64)
        moved = compute(
            node, [numbers.reshape(value.shape), *(part for part in rest if isinstance(part, np.ndarray))]
        )
        if not np.array_equal(moved.reshape(-1), numbers):
            raise ExportError(
                f"{node.label} moves, drops or repeats elements of shape {value.shape}, which cannot be exported"
            )
        if self.uses[node.inputs[0]] > 1:
            self.shared.add(value.index)
        return _Value(value.index, moved.shape)

    def _step(self, node: Node, kind: Kind, inputs: tuple[_Value, ...], shape: tuple[int, ...]) -> _Value:
        made = self._new(shape)
        self.steps.append(Step(kind, tuple(value.index for value in inputs), made.index, node.label))
        return made

    def _maker(self, node: Node) -> int | None:
        """Return the step that makes the first input, where nothing else reads that value and it has no activation."""
        value = self._value(node)
        single = self.uses[node.inputs[0]] == 1 and value.index not in {0, *self.shared}
        if single and self.steps and self.steps[-1].output == value.index:
            return len(self.steps) - 1 if self.steps[-1].activation.kind == "identity" else None
        return None

    def _activated(self, node: Node, activation: Activation) -> _Value:
        value, maker = self._value(node), self._maker(node)
        if maker is not None and not isinstance(self.steps[maker].kind, Activation | Softmax):
            self.steps[maker] = replace(self.steps[maker], activation=activation)
            return value
        return self._step(node, activation, (value,), value.shape)

    def _op_dropout(self, node: Node) -> _Value:
        training = self._constant(node, 2)
        if (training is not None and training.any()) or self.opset < 7:
            raise ExportError(
                f"{node.label} is in training mode", remedy="export the model in evaluation mode"
            )
        return self._value(node)

    def _op_leakyrelu(self, node: Node) -> _Value:
        return self._activated(node, Activation("leaky_relu", float_of(node, "alpha", 0.01)))

    def _op_clip(self, node: Node) -> _Value:
        bounds = []
        for index, key, default in ((1, "min", -3.4e38), (2, "max", 3.4e38)):
            given = self._constant(node, index)
            bounds.append(float_of(node, key, default) if given is None else float(given.reshape(-1)[0]))
        if not bounds[0] <= bounds[1]:
            raise ExportError(f"{node.label} has an empty range")
        return self._activated(node, Activation("clip", *bounds))

    def _op_conv(self, node: Node) -> _Value:
        value, weight = self._value(node), self._needs_constant(node, 1)
        groups = int_of(node, "group", 1)
        out, inner = weight.shape[:2] if weight.ndim > 2 else (0, 0)
        if groups < 1 or out % groups or inner * groups != value.shape[1]:
            raise ExportError(
                f"{node.label} has weights {weight.shape} in {groups} groups for values {value.shape}"
            )
        window, shape = window_of(node, value.shape, weight.shape[2:], out)
        bias = self._constant(node, 2)
        full = np.zeros(out) if bias is None else bias.reshape(-1)
        if full.size != out:
            raise ExportError(f"{node.label} has {full.size} biases for {out} outputs")
        filters = weight.reshape(out, inner, *window.kernel).astype(np.float32)
        return self._step(node, Conv(filters, full.astype(np.float32), window, groups), (value,), shape)

    def _pooled(self, node: Node, *, is_max: bool) -> _Value:
        if len(node.outputs) > 1:
            raise ExportError(f"{node.label} gives positions as well, which cannot be exported")
        value = self._value(node)
        kernel = node.attributes["kernel_shape"].ints if "kernel_shape" in node.attributes else ()
        window, shape = window_of(node, value.shape, tuple(kernel), value.shape[1])
        counted = bool(int_of(node, "count_include_pad", 0))
        return self._step(node, Pool(is_max, window, counted), (value,), shape)

    def _op_maxpool(self, node: Node) -> _Value:
        return self._pooled(node, is_max=True)

    def _op_averagepool(self, node: Node) -> _Value:
        return self._pooled(node, is_max=False)

    def _op_globalaveragepool(self, node: Node) -> _Value:
        value = self._value(node)
        window, shape = window_of(node, value.shape, value.shape[2:], value.shape[1])
        return self._step(node, Pool(node.op_type == "GlobalMaxPool", window), (value,), shape)

    _op_globalmaxpool = _op_globalaveragepool

    def _op_reducemean(self, node: Node) -> _Value:
        """Take the mean over all places of a channel, which PyTorch writes for a global pool."""
        value, given = self._value(node), self._constant(node, 1)
        axes = node.attributes["axes"].ints if "axes" in node.attributes else ()
        axes = axes if given is None else tuple(int(axis) for axis in given.reshape(-1))
        rank = len(value.shape)
        if sorted(axis % rank for axis in axes) != list(range(2, rank)):
            raise ExportError(
                f"{node.label} takes the mean over {axes} of {value.shape}, which cannot be exported"
            )
        window, shape = window_of(node, value.shape, value.shape[2:], value.shape[1])
        made = self._step(node, Pool(False, window), (value,), shape)
        return made if int_of(node, "keepdims", 1) else _Value(made.index, shape[:2])

    def _op_batchnormalization(self, node: Node) -> _Value:
        value = self._value(node)
        if int_of(node, "training_mode", 0) or len(node.outputs) > 1:
            raise ExportError(
                f"{node.label} is in training mode", remedy="export the model in evaluation mode"
            )
        gamma, beta, mean, var = (self._needs_constant(node, i).reshape(-1) for i in range(1, 5))
        channels = value.shape[1]
        if {part.size for part in (gamma, beta, mean, var)} != {channels}:
            raise ExportError(f"{node.label} does not fit {channels} channels")
        scale = gamma / np.sqrt(var + float_of(node, "epsilon", 1e-5))
        offset = beta - mean * scale
        maker = self._maker(node)
        kind = self.steps[maker].kind if maker is not None else None
        if maker is not None and isinstance(kind, Conv | Full):
            shaped = scale.reshape(-1, *(1,) * (kind.weight.ndim - 1))
            folded = replace(
                kind,
                weight=(kind.weight * shaped).astype(np.float32),
                bias=(kind.bias * scale + offset).astype(np.float32),
            )
            self.steps[maker] = replace(self.steps[maker], kind=folded)
            return value
        return self._step(
            node, Scale(scale.astype(np.float32), offset.astype(np.float32)), (value,), value.shape
        )

    def _dense(self, node: Node, weight: F64, bias: F64 | None) -> _Value:
        value = self._value(node)
        n_in, n_out = weight.shape if weight.ndim == 2 else (0, 0)
        if value.shape != (1, n_in):
            raise ExportError(
                f"{node.label} has a weight of {weight.shape} for values of shape {value.shape}"
            )
        full = np.zeros(n_out) if bias is None else np.broadcast_to(bias.reshape(-1), (n_out,))
        kind = Full(np.ascontiguousarray(weight.T, np.float32), full.astype(np.float32))
        return self._step(node, kind, (value,), (1, n_out))

    def _op_gemm(self, node: Node) -> _Value:
        if int_of(node, "transA", 0):
            raise ExportError(f"{node.label} transposes its input (transA), which cannot be exported")
        weight = float_of(node, "alpha", 1.0) * self._needs_constant(node, 1)
        bias = self._constant(node, 2)
        if bias is not None and bias.size not in {1, weight.shape[0 if int_of(node, "transB", 0) else -1]}:
            raise ExportError(f"{node.label} has {bias.size} biases, which do not fit")
        scaled = None if bias is None else float_of(node, "beta", 1.0) * bias
        return self._dense(node, weight.T if int_of(node, "transB", 0) else weight, scaled)

    def _op_matmul(self, node: Node) -> _Value:
        return self._dense(node, self._needs_constant(node, 1), None)

    def _op_add(self, node: Node) -> _Value:
        left, right = (self._any(node, name) for name in node.inputs[:2])
        if isinstance(left, _Value) and isinstance(right, _Value):
            if left.shape != right.shape:
                raise ExportError(
                    f"{node.label} joins shapes {left.shape} and {right.shape}, which cannot be exported"
                )
            return self._step(node, Join(node.op_type.lower()), (left, right), left.shape)
        value, constant = (left, right) if isinstance(left, _Value) else (right, left)
        if not isinstance(value, _Value) or not isinstance(constant, np.ndarray):
            raise ExportError(f"{node.label} joins no values")
        channels = value.shape[1]
        wanted = (1, channels, *(1,) * (len(value.shape) - 2))
        try:
            spread = np.broadcast_to(constant, wanted).reshape(-1).astype(np.float32)
        except ValueError as error:
            raise ExportError(
                f"{node.label} has a constant of shape {constant.shape}, not one per channel"
            ) from error
        ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        scale, offset = (ones, spread) if node.op_type == "Add" else (spread, zeros)
        return self._step(node, Scale(scale, offset), (value,), value.shape)

    _op_mul = _op_add

    def _op_concat(self, node: Node) -> _Value:
        values = tuple(self._value(node, i) for i in range(len(node.inputs)))
        rank = len(values[0].shape)
        axis = int_of(node, "axis", 1) % max(rank, 1)
        fits = all(
            len(v.shape) == rank and (*v.shape[:axis], *v.shape[axis + 1 :])
            == (*values[0].shape[:axis], *values[0].shape[axis + 1 :])
            for v in values
        )  # fmt: skip
        if not fits or math.prod(values[0].shape[:axis]) != 1:
            raise ExportError(f"{node.label} mixes the elements of its inputs, which cannot be exported")
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        return self._step(node, Join("concat"), values, tuple(shape))

    def _op_softmax(self, node: Node) -> _Value:
        value = self._value(node)
        rank = len(value.shape)
        axis = int_of(node, "axis", -1 if self.opset >= 13 else 1)
        last = axis in {-1, rank - 1} or math.prod(value.shape[axis % rank + 1 :]) == 1
        if not last or (self.opset < 13 and math.prod(value.shape[: axis % rank]) != 1):
            raise ExportError(
                f"{node.label} works along another axis than the last, which cannot be exported"
            )
        return self._step(node, Softmax(value.shape[axis % rank]), (value,), value.shape)


def read_graph(model: Model, *, output: str | None = None) -> Graph:
    """Return the graph between the one input and one output (the first unless named); raise `ExportError`."""
    names = [item.name for item in model.graph.outputs]
    made = {name for node in model.graph.nodes for name in node.outputs if name}
    wanted = output or (names[0] if names else "")
    if wanted not in made:
        raise ExportError(
            f"the graph has no output '{shown(wanted)}'", remedy=f"choose: {shown(', '.join(names))}"
        )
    return _Reader(model, wanted).run(wanted)
