"""Functions over "any number": NumPy arrays, floats, symbols of a trace, tinygrad UOps.

Bodies use + - * / < and these functions, nothing else; then one body serves the float64 oracle, the NumPy
twin, the CPU kernel, the GPU kernel, its own adjoint and the firmware.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "ACTIVATIONS",
    "SLOPES",
    "Number",
    "clip",
    "cos",
    "exp",
    "exp2",
    "fast_tanh",
    "identity",
    "log",
    "log2",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "sin",
    "sqrt",
    "step",
    "tanh",
    "where",
]

Number = Any
_LOG2_E = 1.0 / math.log(2.0)


def sqrt(x: Number) -> Number:
    """Return the square root."""
    return x.sqrt() if hasattr(x, "sqrt") else np.sqrt(x)


def exp2(x: Number) -> Number:
    """Return 2 ** x."""
    return x.exp2() if hasattr(x, "exp2") else np.exp2(x)


def log2(x: Number) -> Number:
    """Return the logarithm to base 2."""
    return x.log2() if hasattr(x, "log2") else np.log2(x)


def sin(x: Number) -> Number:
    """Return the sine of `x` radians."""
    return x.sin() if hasattr(x, "sin") else np.sin(x)


def cos(x: Number) -> Number:
    """Return the cosine of `x` radians."""
    return sin(x + math.pi / 2)


def exp(x: Number) -> Number:
    """Return e ** x."""
    return exp2(x * _LOG2_E)


def log(x: Number) -> Number:
    """Return the natural logarithm."""
    return log2(x) * math.log(2.0)


def maximum(x: Number, y: Number) -> Number:
    """Return the larger one."""
    return x.maximum(y) if hasattr(x, "maximum") else np.maximum(x, y)


def minimum(x: Number, y: Number) -> Number:
    """Return the smaller one."""
    return -maximum(-x, -y)


def clip(x: Number, low: float, high: float) -> Number:
    """Return `x` held inside [low, high]."""
    return minimum(maximum(x, low), high)


def where(condition: Number, yes: Number, no: Number) -> Number:
    """Return `yes` where the condition (of `<` or `>`) holds, else `no`."""
    return condition.where(yes, no) if hasattr(condition, "where") else np.where(condition, yes, no)


def identity(x: Number) -> Number:
    """Return `x`."""
    return x


def relu(x: Number) -> Number:
    """Return max(x, 0)."""
    return maximum(x, 0.0)


def sigmoid(x: Number) -> Number:
    """Return 1 / (1 + e ** -x); exact to rounding for every finite x."""
    return 1.0 / (1.0 + exp2(maximum(x, -87.0) * -_LOG2_E))


def tanh(x: Number) -> Number:
    """Return the hyperbolic tangent as 1 - 2 / (1 + e ** 2x); absolute error below 2e-7 in float32."""
    return 1.0 - 2.0 / (1.0 + exp2(minimum(x, 40.0) * (2.0 * _LOG2_E)))


def fast_tanh(x: Number) -> Number:
    """Return x (27 + x²) / (27 + 9 x²) on x held inside [-3, 3] (rl_tools' activation; it is not tanh)."""
    x = clip(x, -3.0, 3.0)
    squared = x * x
    return x * (27.0 + squared) / (27.0 + 9.0 * squared)


def step(x: Number) -> Number:
    """Return 1 where x > 0, else 0."""
    return where(x > 0.0, 1.0, 0.0)


ACTIVATIONS: dict[str, Callable[[Number], Number]] = {
    "none": identity,
    "relu": relu,
    "tanh": tanh,
    "fast_tanh": fast_tanh,
    "sigmoid": sigmoid,
}

# The derivative of an activation as a function of its *output*; fast_tanh has none and keeps its slope instead.
SLOPES: dict[str, Callable[[Number], Number]] = {
    "relu": step,
    "tanh": lambda y: 1.0 - y * y,
    "sigmoid": lambda y: y * (1.0 - y),
    "slope": identity,
}
