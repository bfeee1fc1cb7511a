"""Compute activations in float32 with a fixed order of operations, so that C code can give the same bits.

Only + - * / and integer operations on the bits of a float are used: each rounds the same way on every
IEEE-754 target. All functions take and return float32 arrays of any shape.

Sources: rational tanh 13/6 with the constants of Eigen's float tanh (clamp 7.90531110763549805, so that
|y| <= 1); FAST_TANH of rl_tools (Eschmann et al., "Learning to Fly in Seconds", 2023); reciprocal square
root after Lomont (2003) with four Newton steps.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.network import Activation

__all__ = [
    "FAST_CLAMP",
    "TANH_CLAMP",
    "TANH_P",
    "TANH_Q",
    "activate",
    "activate_exact",
    "clamp",
    "fast_tanh",
    "reciprocal_sqrt",
    "tanh",
]

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]

_f = np.float32
TANH_CLAMP = _f(7.90531110763549805)
TANH_P = tuple(
    _f(c)
    for c in (
        -2.76076847742355e-16,
        2.00018790482477e-13,
        -8.60467152213735e-11,
        5.12229709037114e-08,
        1.48572235717979e-05,
        6.37261928875436e-04,
        4.89352455891786e-03,
    )
)
TANH_Q = tuple(
    _f(c) for c in (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
)
FAST_CLAMP = _f(3.0)


def clamp(x: F32, limit: np.float32) -> F32:
    """Limit to [-limit, limit] on the bits of the float, so that a NaN also becomes +-limit."""
    bits = np.ascontiguousarray(x, _f).view(np.uint32)
    over = (bits & np.uint32(0x7FFFFFFF)) > limit.view(np.uint32)
    limited: F32 = np.where(over, (bits & np.uint32(0x80000000)) | limit.view(np.uint32), bits).view(_f)
    return limited


def tanh(x: F32) -> F32:
    """Return tanh, at most 3.9e-7 off and never outside [-1, 1]."""
    x = clamp(x, TANH_CLAMP)
    x2 = x * x
    p: F32 = np.full_like(x, TANH_P[0])
    q: F32 = np.full_like(x, TANH_Q[0])
    for c in TANH_P[1:]:
        p = p * x2 + c
    for c in TANH_Q[1:]:
        q = q * x2 + c
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
