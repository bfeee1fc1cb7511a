"""Lower the nodes of an ONNX graph to layers, or say in one line which node cannot be lowered.

The graph is followed backwards from one output. Every value is a constant, or a `Flow`: the concatenated
inputs, the layers passed so far and the shape. What depends on constants only is computed (`fold`). Nodes that move
elements are tried on element numbers: where the order stays, they cost nothing, else they are refused. Element-wise
arithmetic with scalars is kept as a quotient of polynomials of a flow: that
is how the FAST_TANH subgraph x (27 + x^2) / (27 + 9 x^2) behind a clip to [-3, 3] is recognised however it
was written down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import polynomial

from flocklet.errors import ExportError
from flocklet.firmware_export.read.fold import MOVES, compute
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Gru, LayerNorm
from flocklet.firmware_export.read.onnx_values import (
    Flow,
    Rational,
    Value,
    constant_of,
    fixed_shape,
    float_of,
    fraction,
    int_of,
    is_usable,
    matrix,
    one_row,
    settle,
    spread,
    takes_bias,
    with_bias,
)
from flocklet.onnx_io.parse import Model, Node, shown

__all__ = ["Lowering"]

MAX_WIDTH = 4096
_FLOATS = {0: "unknown", 1: "float32", 11: "float64"}
_FLOAT_MAX = float(np.finfo(np.float32).max)
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}


class Lowering:
    """Hold a graph while it is lowered: what each value stands for so far."""

    def __init__(self, model: Model) -> None:
        self.graph = graph = model.graph
        self.opset = model.opsets.get("", 17)
        self.maker = {name: node for node in graph.nodes for name in node.outputs if name}
        self.values: dict[str, Value] = {}
        self.shapes = {item.name: fixed_shape(item.shape) for item in graph.inputs}
        self.types = {item.name: item.elem_type for item in graph.inputs}

    def value(self, name: str, reader: Node | None) -> Value:
        """Return what a name stands for, working through the nodes it needs without recursion."""
        waiting = [name]
        for _ in range(20 * len(self.graph.nodes) + 20):
            if not waiting:
                return self.values[name]
            current = waiting[-1]
            if current in self.values:
                waiting.pop()
                continue
            known = self._leaf(current, reader)
            if known is not None:
                self.values[current] = known
                continue
            node = self.maker[current]
            missing = [item for item in self._needs(node) if item not in self.values]
            if missing:
                waiting.append(missing[0])
            else:
                self.values[current] = self._apply(node, current)
        raise ExportError("the graph is no sequence of nodes: it contains a cycle")

    def _leaf(self, name: str, reader: Node | None) -> Value | None:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        if name in self.shapes:
            shape = self.shapes[name]
            if shape is None or not 0 < math.prod(shape) <= MAX_WIDTH:
                raise ExportError(f"input '{shown(name)}' has no fixed width between 1 and {MAX_WIDTH}")
            if self.types[name] not in _FLOATS:
                raise ExportError(
                    f"input '{shown(name)}' holds no floats (element type {self.types[name]}), which cannot be exported"
                )
            return Flow(((name, math.prod(shape)),), (), shape)
        if name in self.graph.unreadable:
            raise ExportError(self.graph.unreadable[name])
        if name not in self.maker:
            where = f", which {reader.label} reads" if reader else ""
            raise ExportError(f"nothing in the graph makes the value '{shown(name)}'{where}")
        return None

    def _needs(self, node: Node) -> list[str]:
        return [name for name in node.inputs if name]

    def _input(self, node: Node, index: int) -> Value:
        if index >= len(node.inputs) or not node.inputs[index]:
            raise ExportError(f"{node.label} lacks its input {index}")
        return self.values[node.inputs[index]]

    def _flow(self, node: Node, index: int = 0) -> Flow:
        return settle(self._input(node, index), node)

    def _array(self, node: Node, index: int) -> npt.NDArray[Any]:
        value = self._input(node, index)
        if isinstance(value, Flow | Rational):
            raise ExportError(
                f"{node.label} needs a constant as input {index} ('{shown(node.inputs[index])}')"
            )
        return value

    def _constant(self, node: Node, index: int) -> npt.NDArray[np.float64]:
        return np.asarray(self._array(node, index), np.float64)

    def _optional(self, node: Node, index: int) -> npt.NDArray[np.float64] | None:
        present = index < len(node.inputs) and node.inputs[index]
        return self._constant(node, index) if present else None

    def _apply(self, node: Node, output: str) -> Value:
        if node.domain not in _DOMAINS:
            raise ExportError(f"{node.label} is of the unknown operator domain '{shown(node.domain)}'")
        if node.op_type == "Constant":
            return constant_of(node)
        given = [self.values[name] for name in self._needs(node)]
        if output != node.outputs[0] and node.op_type != "GRU":
            raise ExportError(
                f"{node.label}: its output '{shown(output)}' cannot be exported, only its first"
            )
        if node.op_type in {"Shape", "Size"} and isinstance(given[0], Flow | Rational):
            shape = given[0].shape if isinstance(given[0], Flow) else given[0].base.shape
            return compute(node, [np.broadcast_to(np.float32(0), shape)])
        if node.op_type not in {"Dropout"} and all(isinstance(value, np.ndarray) for value in given):
            return compute(node, [value for value in given if isinstance(value, np.ndarray)])
        if node.op_type in MOVES:
            return self._moved(node)
        handler: Callable[[Node, str], Value] | None = getattr(self, f"_op_{node.op_type.lower()}", None)
        if handler is None:
            raise ExportError(
                f"{node.label} (inputs {shown(', '.join(node.inputs))}) has an operator that cannot be exported"
            )
        return handler(node, output)

    def _moved(self, node: Node) -> Value:
        """Return the same elements in another shape; refuse what changes their order or their number."""
        value = self._input(node, 0)
        if isinstance(value, Rational) and node.op_type == "Identity":
            return value
        flow = self._flow(node)
        rest = [self._array(node, i) for i in range(1, len(node.inputs)) if node.inputs[i]]
        numbers = np.arange(flow.width, dtype=np.int64)
        moved = compute(node, [numbers.reshape(flow.shape), *rest])
        if not np.array_equal(moved.reshape(-1), numbers):
            raise ExportError(
                f"{node.label} moves, drops or repeats elements of shape {flow.shape}, which cannot be exported"
            )
        return flow.shaped(moved.shape)

    def _op_dropout(self, node: Node, _: str) -> Value:
        training = self._optional(node, 2)
        old = self.opset < 7 and not int_of(node, "is_test", 0)
        if old or (training is not None and training.any()):
            raise ExportError(
                f"{node.label} is in training mode: it would drop values at random",
                remedy="export the model in evaluation mode (model.eval())",
            )
        return self._input(node, 0)

    def _op_cast(self, node: Node, _: str) -> Value:
        if int_of(node, "to", 0) not in {1, 11}:
            raise ExportError(
                f"{node.label} casts the signal to another type than float, which cannot be exported"
            )
        return self._input(node, 0)

    def _op_gemm(self, node: Node, _: str) -> Value:
        if int_of(node, "transA", 0):
            raise ExportError(f"{node.label} transposes its input (transA), which cannot be exported")
        weight = float_of(node, "alpha", 1.0) * matrix(self._constant(node, 1), node)
        bias = self._optional(node, 2)
        return self._dense(
            node, weight if int_of(node, "transB", 0) else weight.T, bias, float_of(node, "beta", 1.0)
        )

    def _op_matmul(self, node: Node, _: str) -> Value:
        if not isinstance(self._input(node, 0), Flow | Rational):
            raise ExportError(
                f"{node.label} multiplies a constant by the signal; only signal @ constant can be exported"
            )
        return self._dense(node, matrix(self._constant(node, 1), node).T, None, 1.0)

    def _dense(
        self, node: Node, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64] | None, beta: float
    ) -> Flow:
        flow = one_row(self._flow(node), node)
        n_out, n_in = weight.shape
        if n_in != flow.width or n_out > MAX_WIDTH:
            raise ExportError(f"{node.label} has a {n_in}x{n_out} weight but gets {flow.width} values")
        full = np.zeros(n_out) if bias is None else spread(beta * bias, (1, n_out), node)[0]
        return flow.then(Dense(np.ascontiguousarray(weight, np.float32), full.astype(np.float32)))

    def _arithmetic(self, node: Node, left: Value, right: Value) -> Value:
        """Combine two values, at least one of which depends on the inputs."""
        kind = node.op_type
        constant = left if isinstance(left, np.ndarray) else right if isinstance(right, np.ndarray) else None
        if constant is not None and constant.size > 1:
            return self._vector(node, left, right)
        multiply: Any = polynomial.polymul  # its stubs know no arrays of any length
        (base, a, b), (other, c, d) = fraction(left), fraction(right)
        if base is not None and other is not None and base is not other:
            raise ExportError(f"{node.label} joins two branches of the graph, which cannot be exported")
        found = base or other
        if found is None:
            raise ExportError(f"{node.label} works on constants only; fold them before the export")
        if kind in {"Add", "Sub"}:
            c = c if kind == "Add" else -c
            num, den = polynomial.polyadd(multiply(a, d), multiply(c, b)), multiply(b, d)
        elif kind == "Mul":
            num, den = multiply(a, c), multiply(b, d)
        else:
            num, den = multiply(a, d), multiply(b, c)
        if not is_usable(num, den):
            raise ExportError(f"{node.label} belongs to element-wise arithmetic that cannot be exported")
        shape = found.shape if constant is None else spread(np.asarray(constant), found.shape, node)[1]
        if kind == "Add" and isinstance(left, Flow) and len(num) == 2 and takes_bias(left):
            return with_bias(left.shaped(shape), np.full(left.width, num[0]))
        return Rational(found.shaped(shape), num, den)

    def _vector(self, node: Node, left: Value, right: Value) -> Flow:
        """Combine a flow and a vector of constants: a bias, or a scaling."""
        flow, constant = (
            (settle(left, node), right) if isinstance(right, np.ndarray) else (settle(right, node), left)
        )
        vector, shape = spread(np.asarray(constant, np.float64), flow.shape, node)
        flow = flow.shaped(shape)
        if node.op_type in {"Add", "Sub"} and isinstance(right, np.ndarray) and takes_bias(flow):
            return with_bias(flow, vector if node.op_type == "Add" else -vector)
        scale, offset = np.ones(flow.width), np.zeros(flow.width)
        if node.op_type == "Add":
            offset = vector
        elif node.op_type == "Sub":
            flow_first = isinstance(right, np.ndarray)
            scale, offset = (scale, -vector) if flow_first else (-scale, vector)
        elif node.op_type == "Mul":
            scale = vector
        elif isinstance(right, np.ndarray) and vector.all():
            scale = 1.0 / vector
        else:
            raise ExportError(f"{node.label} divides by the signal or by zero, which cannot be exported")
        return flow.then(Affine(scale.astype(np.float32), offset.astype(np.float32)), shape)

    def _op_add(self, node: Node, _: str) -> Value:
        return self._arithmetic(node, self._input(node, 0), self._input(node, 1))

    _op_sub = _op_mul = _op_div = _op_add

    def _op_neg(self, node: Node, _: str) -> Value:
        base, num, den = fraction(self._input(node, 0))
        return Rational(base or self._flow(node), -num, den)

    def _op_pow(self, node: Node, _: str) -> Value:
        base, num, den = fraction(self._input(node, 0))
        power = self._constant(node, 1)
        if base is None or power.size != 1 or float(power.reshape(-1)[0]) not in {1.0, 2.0, 3.0}:
            raise ExportError(f"{node.label} has a power that cannot be exported")
        n = int(power.reshape(-1)[0])
        return Rational(base, polynomial.polypow(num, n), polynomial.polypow(den, n))

    def _op_tanh(self, node: Node, _: str) -> Value:
        return self._flow(node).activated(Activation("tanh"))

    def _op_relu(self, node: Node, _: str) -> Value:
        return self._flow(node).activated(Activation("relu"))

    def _op_sigmoid(self, node: Node, _: str) -> Value:
        return self._flow(node).activated(Activation("sigmoid"))

    def _op_leakyrelu(self, node: Node, _: str) -> Value:
        return self._flow(node).activated(Activation("leaky_relu", float_of(node, "alpha", 0.01)))

    def _op_clip(self, node: Node, _: str) -> Value:
        low, high = float_of(node, "min", -_FLOAT_MAX), float_of(node, "max", _FLOAT_MAX)
        for index in (1, 2):
            given = self._optional(node, index)
            if given is not None and given.size == 1:
                low, high = (
                    (float(given.reshape(-1)[0]), high) if index == 1 else (low, float(given.reshape(-1)[0]))
                )
            elif given is not None:
                raise ExportError(f"{node.label} has a bound that is no single number")
        if not low <= high:
            raise ExportError(f"{node.label} has the empty range [{low:g}, {high:g}]")
        return self._flow(node).activated(Activation("clip", max(low, -_FLOAT_MAX), min(high, _FLOAT_MAX)))

    def _op_min(self, node: Node, output: str) -> Value:
        bound = self._constant(node, 1)
        if len(node.inputs) != 2 or bound.size != 1:
            raise ExportError(f"{node.label} is no limit by one number, which cannot be exported")
        limit = float(bound.reshape(-1)[0])
        low, high = (-_FLOAT_MAX, limit) if node.op_type == "Min" else (limit, _FLOAT_MAX)
        return self._flow(node).activated(Activation("clip", low, high))

    _op_max = _op_min

    def _op_concat(self, node: Node, _: str) -> Value:
        flows = [self._flow(node, i) for i in range(len(node.inputs))]
        if any(flow.layers for flow in flows):
            raise ExportError(f"{node.label} joins computed values; only inputs can be joined")
        names = [name for flow in flows for name, _ in flow.inputs]
        if len(set(names)) < len(names):
            raise ExportError(f"{node.label} reads an input twice, which cannot be exported")
        starts = np.cumsum([0, *(flow.width for flow in flows)])
        numbers = [
            np.arange(start, start + flow.width).reshape(flow.shape)
            for start, flow in zip(starts, flows, strict=False)
        ]
        joined = compute(node, numbers)
        if not np.array_equal(joined.reshape(-1), np.arange(starts[-1])):
            raise ExportError(f"{node.label} mixes the elements of its inputs, which cannot be exported")
        return Flow(tuple(pair for flow in flows for pair in flow.inputs), (), joined.shape)

    def _op_scaler(self, node: Node, _: str) -> Value:
        flow = one_row(self._flow(node), node)
        parts = [np.array(node.attributes[key].floats if key in node.attributes else d) for key, d in _SCALER]
        offset, scale = (spread(np.asarray(part, np.float64), flow.shape, node)[0] for part in parts)
        return flow.then(Affine(scale.astype(np.float32), (-offset * scale).astype(np.float32)), flow.shape)

    def _op_layernormalization(self, node: Node, output: str) -> Value:
        flow = self._flow(node)
        axis = int_of(node, "axis", -1)
        axis += len(flow.shape) if axis < 0 else 0
        if not 0 <= axis < len(flow.shape) or math.prod(flow.shape[:axis]) != 1:
            raise ExportError(
                f"{node.label} normalises parts of shape {flow.shape} by themselves, which cannot be exported"
            )
        inner = flow.shape[axis:]
        scale = spread(self._constant(node, 1), inner, node)[0]
        given = self._optional(node, 2)
        offset = np.zeros(flow.width) if given is None else spread(given, inner, node)[0]
        epsilon = float_of(node, "epsilon", 1e-5)
        return flow.then(LayerNorm(scale.astype(np.float32), offset.astype(np.float32), epsilon), flow.shape)

    def _op_gru(self, node: Node, output: str) -> Value:
        flow = one_row(self._flow(node), node)
        w, r = self._constant(node, 1), self._constant(node, 2)
        plain = "activations" not in node.attributes or node.attributes["activations"].strings == (
            b"Sigmoid",
            b"Tanh",
        )
        direction = node.attributes["direction"].s if "direction" in node.attributes else b"forward"
        if (
            w.ndim != 3
            or r.ndim != 3
            or w.shape[0] != 1
            or r.shape[0] != 1
            or direction != b"forward"
            or not plain
            or "clip" in node.attributes
        ):
            raise ExportError(f"{node.label} is no plain forward GRU, which cannot be exported")
        hidden = r.shape[2]
        if w.shape[1:] != (3 * hidden, flow.width) or r.shape[1] != 3 * hidden:
            raise ExportError(
                f"{node.label} has weights {w.shape} and {r.shape} but gets {flow.width} values"
            )
        lengths = self._optional(node, 4)
        if lengths is not None and not (lengths == 1).all():
            raise ExportError(f"{node.label} has sequence lengths other than 1, which cannot be exported")
        given = self._optional(node, 3)
        bias = (np.zeros((1, 6 * hidden)) if given is None else given).reshape(-1).astype(np.float32)
        if bias.size != 6 * hidden:
            raise ExportError(f"{node.label} has {bias.size} biases, not {6 * hidden}")
        reset_after = bool(int_of(node, "linear_before_reset", 0))
        gates = (np.ascontiguousarray(w[0], np.float32), np.ascontiguousarray(r[0], np.float32))
        layer = Gru(*gates, bias[: 3 * hidden], bias[3 * hidden :], reset_after)
        shape = (1,) * (4 if output == node.outputs[0] else 3)
        state = self._hidden_input(node, flow, hidden)
        return replace(flow.then(layer, (*shape[:-1], hidden)), states=(*flow.states, state))

    def _hidden_input(self, node: Node, flow: Flow, hidden: int) -> str:
        """Return the input of the file that brings the hidden values of a GRU, "" where it starts from zero."""
        if len(node.inputs) <= 5 or not node.inputs[5]:
            return ""
        value = self._input(node, 5)
        if isinstance(value, np.ndarray):
            if value.any():
                raise ExportError(
                    f"{node.label} starts from hidden values other than zero, which cannot be exported",
                    remedy="make the initial state an input of the file, or zero",
                )
            return ""
        start = settle(value, node)
        if start.layers or len(start.inputs) != 1 or start.width != hidden:
            raise ExportError(f"{node.label} computes its initial state, which cannot be exported")
        name = start.inputs[0][0]
        if name in {key for key, _ in flow.inputs} | set(flow.states):
            raise ExportError(
                f"{node.label} shares its initial state '{shown(name)}', which cannot be exported"
            )
        return name


_SCALER: tuple[tuple[str, tuple[float, ...]], ...] = (("offset", (0.0,)), ("scale", (1.0,)))
