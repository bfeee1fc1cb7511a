"""Hold what a value of an ONNX graph is while it is lowered: a constant, layers so far, or arithmetic."""

from __future__ import annotations

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
    "float_of",
    "fraction",
    "int_of",
    "is_usable",
    "matrix",
    "settle",
    "spread",
    "takes_bias",
    "with_bias",
]

Coefficients: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Flow:
    """Hold a value that depends on the inputs: their names and widths, and the layers so far."""

    inputs: tuple[tuple[str, int], ...]
    layers: tuple[Layer, ...]
    width: int

    def then(self, layer: Layer) -> Flow:
        """Append a layer."""
        return replace(self, layers=(*self.layers, layer), width=layer.n_out)

    def activated(self, activation: Activation) -> Flow:
        """Apply an activation: merged into the last layer where that has none yet."""
        if self.layers:
            last = self.layers[-1]
            if isinstance(last, Dense | Affine) and last.activation.kind == "identity":
                return replace(self, layers=(*self.layers[:-1], replace(last, activation=activation)))
        ones = np.ones(self.width, np.float32)
        return self.then(Affine(ones, np.zeros(self.width, np.float32), activation))


@dataclass(frozen=True, eq=False)
class Rational:
    """Hold num(x) / den(x) of a flow x; coefficients rise in power."""

    base: Flow
    num: Coefficients
    den: Coefficients


Value: TypeAlias = Flow | Rational | Tensor


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
        return value.base.then(Affine(np.full(width, scale, np.float32), np.full(width, offset, np.float32)))
    raise ExportError(
        f"{node.label} reads element-wise arithmetic that is no known activation",
        remedy="use Tanh, Relu, LeakyRelu, Sigmoid, Clip or the FAST_TANH form behind a clip to [-3, 3]",
    )


def constant_of(node: Node) -> Tensor:
    """Return the value of a Constant node."""
    for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if key in node.attributes:
            item = node.attributes[key]
            found: Any = {"value": item.t, "value_float": item.f, "value_int": item.i}.get(key)
            return np.asarray(found if found is not None else item.floats or item.ints)
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


def spread(array: npt.NDArray[np.float64], width: int, node: Node) -> npt.NDArray[np.float64]:
    """Return constants as one per element."""
    if array.size not in {1, width}:
        raise ExportError(f"{node.label} combines {array.size} constants with {width} values")
    return np.broadcast_to(array.reshape(-1), (width,)).astype(np.float64)


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
