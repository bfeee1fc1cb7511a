"""Hold what a value of an ONNX graph is while it is lowered: a constant, layers so far, or arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Layer
from flocklet.onnx_io.parse import Node, Tensor

__all__ = [
    "Coefficients",
    "Flow",
    "Rational",
    "Value",
    "constant_of",
    "fixed_shape",
    "float_of",
    "fraction",
    "int_of",
    "is_usable",
    "matrix",
    "one_row",
    "settle",
    "spread",
    "takes_bias",
    "with_bias",
]

MAX_RANK = 8
Coefficients: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold a value that depends on the inputs: their names and widths, the layers so far, and its shape.

    The elements lie in the order of the shape, last axis fastest. states: per GRU among the layers, the input of the
    file that its hidden values come in by ("" for none).
    """

    inputs: tuple[tuple[str, int], ...]
    layers: tuple[Layer, ...]
    shape: tuple[int, ...]
    states: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Return the number of vectors along the last axis."""
        return math.prod(self.shape[:-1])

    def then(self, layer: Layer, shape: tuple[int, ...] | None = None) -> Flow:
        """Append a layer; `shape` is that of its result, by default the last axis changes alone."""
        wanted = (*self.shape[:-1], layer.n_out) if shape is None else shape
        return replace(self, layers=(*self.layers, layer), shape=wanted)

    def shaped(self, shape: tuple[int, ...]) -> Flow:
        """Return the same elements in the same order in another shape."""
        return self if shape == self.shape else replace(self, shape=shape)

    def activated(self, activation: Activation) -> Flow:
        """Apply an activation: merged into the last layer where that has none yet."""
        if self.layers:
            last = self.layers[-1]
            if isinstance(last, Dense | Affine) and last.activation.kind == "identity":
                return replace(self, layers=(*self.layers[:-1], replace(last, activation=activation)))
        ones = np.ones(self.width, np.float32)
        return self.then(Affine(ones, np.zeros(self.width, np.float32), activation), self.shape)


@dataclass(frozen=True, eq=False)
class Rational:
    """Hold num(x) / den(x) of a flow x; coefficients rise in power."""

    base: Flow
    num: Coefficients
    den: Coefficients


Value: TypeAlias = Flow | Rational | Tensor


def fixed_shape(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """Return the shape of an input with 1 for an open batch, and for open time and batch of three axes.

    None where another size is open.
    """
    if not shape or len(shape) > MAX_RANK or shape[-1] is None:
        return None
    open_axes = 0 if len(shape) == 1 else 2 if len(shape) == 3 else 1
    if any(size is None for size in shape[open_axes:]):
        return None
    return tuple(1 if size is None else size for size in shape)


def settle(value: Value, node: Node) -> Flow:
    """Turn a quotient of polynomials back into layers: FAST_TANH or a scaling; refuse any other."""
    if isinstance(value, Flow):
        return value
    if not isinstance(value, Rational):
        raise ExportError(f"{node.label} works on constants only; fold them before the export")
    num, den = (np.trim_zeros(part, "b") / value.den[0] for part in (value.num, value.den))
    last = value.base.layers[-1] if value.base.layers else None
    if len(num) == 4 and len(den) == 3 and isinstance(last, Dense | Affine):
        fast = np.allclose(num, [0, 1, 0, 1 / 27], rtol=1e-5) and np.allclose(den, [1, 0, 1 / 3], rtol=1e-5)
        if fast and last.activation == Activation("clip", -3.0, 3.0):
            merged = replace(last, activation=Activation("fast_tanh"))
            return replace(value.base, layers=(*value.base.layers[:-1], merged))
    if len(den) == 1 and len(num) <= 2:
        offset, scale = (float(num[i]) if len(num) > i else 0.0 for i in (0, 1))
        width = value.base.width
        affine = Affine(np.full(width, scale, np.float32), np.full(width, offset, np.float32))
        return value.base.then(affine, value.base.shape)
    raise ExportError(
        f"{node.label} reads element-wise arithmetic that is no known activation",
        remedy="use Tanh, Relu, LeakyRelu, Sigmoid, Clip or the FAST_TANH form behind a clip to [-3, 3]",
    )


def constant_of(node: Node) -> Tensor:
    """Return the value of a Constant node."""
    for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if key in node.attributes:
            item = node.attributes[key]
            if key == "value" and item.t is None:
                break
            if key in {"value_float", "value_floats"}:
                return np.array(item.f if key == "value_float" else item.floats, np.float32)
            return (
                np.asarray(item.t)
                if key == "value"
                else np.array(item.i if key == "value_int" else item.ints)
            )
    raise ExportError(f"{node.label} holds no numbers")


def float_of(node: Node, key: str, default: float) -> float:
    """Return a float attribute."""
    return node.attributes[key].f if key in node.attributes else default


def int_of(node: Node, key: str, default: int) -> int:
    """Return an integer attribute."""
    return node.attributes[key].i if key in node.attributes else default


def matrix(array: npt.NDArray[np.float64], node: Node) -> npt.NDArray[np.float64]:
    """Return a weight, which must be a matrix."""
    if array.ndim != 2 or 0 in array.shape:
        raise ExportError(f"{node.label} has a weight of shape {array.shape}, not a matrix")
    return array


def spread(
    array: npt.NDArray[np.float64], shape: tuple[int, ...], node: Node
) -> tuple[npt.NDArray[np.float64], tuple[int, ...]]:
    """Return constants as one per element of a value of some shape, and the shape of the two combined."""
    try:
        joined = np.broadcast_shapes(array.shape, shape)
    except ValueError:
        joined = ()
    if math.prod(joined) != math.prod(shape) or len(joined) < len(shape):
        raise ExportError(
            f"{node.label} combines constants of shape {array.shape} with values of shape {shape}, "
            "which cannot be exported"
        )
    return np.broadcast_to(array, joined).reshape(-1).astype(np.float64), joined


def one_row(flow: Flow, node: Node) -> Flow:
    """Return a flow that is one vector; refuse several rows, each of which the node would treat by itself."""
    if flow.rows != 1:
        raise ExportError(
            f"{node.label} works on {flow.rows} rows at once (shape {flow.shape}); one can be exported",
            remedy="export the file with a batch of 1, one time step per call",
        )
    return flow


def fraction(value: Value) -> tuple[Flow | None, Coefficients, Coefficients]:
    """Return a value as (flow, numerator, denominator); the flow is None for a constant."""
    if isinstance(value, Rational):
        return value.base, value.num, value.den
    if isinstance(value, Flow):
        return value, np.array([0.0, 1.0]), np.ones(1)
    return None, np.asarray(value, np.float64).reshape(-1)[:1], np.ones(1)


def is_usable(num: Any, den: Any) -> bool:
    """Return whether a quotient is small and finite."""
    return bool(len(num) <= 12 and len(den) <= 12 and np.isfinite(num).all() and den[0])


def takes_bias(flow: Flow) -> bool:
    """Return whether a bias can be merged into the last layer."""
    if not flow.layers or not isinstance(flow.layers[-1], Dense):
        return False
    last = flow.layers[-1]
    return last.activation.kind == "identity" and not last.bias.any()


def with_bias(flow: Flow, vector: npt.NDArray[np.float64]) -> Flow:
    """Merge a bias into the last layer."""
    last = flow.layers[-1]
    assert isinstance(last, Dense)  # noqa: S101 - _takes_bias said so
    return replace(flow, layers=(*flow.layers[:-1], replace(last, bias=vector.astype(np.float32))))
