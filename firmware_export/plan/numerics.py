"""Compute activations in float32 with a fixed order of operations, so that C code can give the same bits.

Only + - * / and integer operations on the bits of a float are used: each rounds the same way on every
IEEE-754 target. All functions take and return float32 arrays of any shape.

Sources: the rational tanh 7/8 is our own minimax fit of the absolute error on [0, 8] (differential
correction, then a search over float32 constants with the rounding of the evaluation); FAST_TANH of
rl_tools (Eschmann et al., "Learning to Fly in Seconds", 2023); reciprocal square root after Lomont (2003)
with four Newton steps.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.read.network import Activation

__all__ = [
    "FAST_CLAMP",
    "FULL",
    "TANH_P",
    "TANH_Q",
    "M",
    "activate",
    "activate_exact",
    "clamp",
    "fast_tanh",
    "fixed8",
    "reciprocal_sqrt",
    "tanh",
]

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]

_f = np.float32
# tanh(x) = x P(x^2) / Q(x^2): P = ((s + a) s + b) s + c, Q of degree 4, highest power first.
TANH_P = tuple(_f(c) for c in (259.83837890625, 11417.6865234375, 88415.6328125))
TANH_Q = tuple(
    _f(c) for c in (0.021430451422929764, 20.95701789855957, 2101.09521484375, 40889.37890625, 88415.6796875)
)
FAST_CLAMP = _f(3.0)
# Counts of the integer networks: M for the bound of a hidden value or a past action, FULL for a table's 8.
M = 4095
FULL = 8 * M


def clamp(x: F32, limit: np.float32) -> F32:
    """Limit to [-limit, limit] on the bits of the float, so that a NaN also becomes +-limit."""
    bits = np.ascontiguousarray(x, _f).view(np.uint32)
    over = (bits & np.uint32(0x7FFFFFFF)) > limit.view(np.uint32)
    limited: F32 = np.where(over, (bits & np.uint32(0x80000000)) | limit.view(np.uint32), bits).view(_f)
    return limited


def fixed8(x: F32) -> F32:
    """Limit to [-8, 8] on a grid of 2^-28, as the conversion to a fixed-point number and back does.

    A NaN becomes 0. This is one instruction each way on a core with an FPU, and a clamp for free.
    """
    x = np.ascontiguousarray(x, _f)
    with np.errstate(invalid="ignore"):
        inside = np.abs(x) < 8
    grid = (np.where(inside, x, _f(0)) * _f(2.0**28)).astype(np.int32).astype(_f) * _f(2.0**-28)
    limited: F32 = np.where(inside, grid, np.where(np.isnan(x), _f(0), np.copysign(_f(8), x)))
    return limited


def tanh(x: F32) -> F32:
    """Return tanh, at most 4.4e-7 off and never outside [-1, 1]."""
    x = fixed8(x)
    s = x * x
    p: F32 = s + TANH_P[0]
    q: F32 = s * TANH_Q[0]
    for c in TANH_P[1:]:
        p = p * s + c
    q = q + TANH_Q[1]
    for c in TANH_Q[2:]:
        q = q * s + c
    return np.asarray((x * p) / q, _f)


def fast_tanh(x: F32) -> F32:
    """Return FAST_TANH: x (27 + x^2) / (27 + 9 x^2) with x clamped to [-3, 3]."""
    x = clamp(x, FAST_CLAMP)
    x2 = x * x
    return np.asarray((x * (_f(27) + x2)) / (_f(27) + _f(9) * x2), _f)


def activate(x: F32, activation: Activation) -> F32:
    """Apply an activation in float32, with the operations and the order of the generated C."""
    kind = activation.kind
    if kind == "tanh":
        return tanh(x)
    if kind == "fast_tanh":
        return fast_tanh(x)
    if kind == "sigmoid":
        return _f(0.5) * tanh(_f(0.5) * x) + _f(0.5)
    if kind == "relu":
        return np.where(x > 0, x, _f(0))
    if kind == "leaky_relu":
        return np.where(x > 0, x, _f(activation.a) * x)
    if kind == "clip":
        low, high = _f(activation.a), _f(activation.b)
        x = np.where(x > low, x, low)
        return np.where(x < high, x, high)
    return x


def activate_exact(x: F64, activation: Activation) -> F64:
    """Apply an activation in float64: the yardstick for the error of an export."""
    kind = activation.kind
    if kind == "tanh":
        return np.asarray(np.tanh(x))
    if kind == "fast_tanh":
        x = np.clip(x, -3.0, 3.0)
        return np.asarray(x * (27 + x * x) / (27 + 9 * x * x))
    if kind == "sigmoid":
        return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)
    if kind == "relu":
        return np.maximum(x, 0.0)
    if kind == "leaky_relu":
        return np.where(x > 0, x, float(_f(activation.a)) * x)
    if kind == "clip":
        return np.clip(x, float(_f(activation.a)), float(_f(activation.b)))
    return x


def reciprocal_sqrt(x: F32) -> F32:
    """Return 1/sqrt(x) for positive normal x: bit trick and four Newton steps, all in float32."""
    half = _f(0.5) * x
    y: F32 = (np.uint32(0x5F3759DF) - (np.ascontiguousarray(x, _f).view(np.uint32) >> np.uint32(1))).view(_f)
    for _ in range(4):
        y = y * (_f(1.5) - (half * y) * y)
    return y
