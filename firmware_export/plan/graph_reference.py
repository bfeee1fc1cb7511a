"""Compute a graph in NumPy float32 in the order of the generated C: the yardstick of its bits.

A sum starts with the bias and adds one product after the other: channels, rows, columns; taps on padding are left out,
never added as zero. Every operation rounds by itself.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.plan.numerics import activate
from flocklet.firmware_export.read.graph import Conv, Full, Graph, Kind, Pool, Scale, Softmax, Window
from flocklet.firmware_export.read.network import Activation

__all__ = ["EXP", "LOG2", "LOG2E", "exp_of", "run_graph"]

F32: TypeAlias = npt.NDArray[np.float32]
_f = np.float32
# e^r on [-log 2 / 2, log 2 / 2], highest power first, and log 2 in two parts: Cephes expf (Moshier).
EXP = tuple(
    _f(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
LOG2 = (_f(0.693359375), _f(-2.12194440e-4))
LOG2E = _f(1.44269504088896341)
_MAGIC = _f(12582912.0)


def exp_of(x: F32) -> F32:
    """Return e^x for x <= 0 (below -87 as -87), with the operations of the C."""
    x = np.where(x > _f(-87), x, _f(-87))
    t = x * LOG2E + _MAGIC
    n = t - _MAGIC
    r = (x - n * LOG2[0]) - n * LOG2[1]
    p = np.full_like(x, EXP[0])
    for c in EXP[1:]:
        p = p * r + c
    power = ((t.view(np.uint32) - np.uint32(0x4B400000) + np.uint32(127)) << np.uint32(23)).view(_f)
    return np.asarray(((p * r) * r + r + _f(1)) * power, _f)


def _taps(n: int, out: int, offset: int, stride: int) -> tuple[slice, slice]:
    """Return which outputs a tap at an offset reaches, and the inputs that it reads."""
    first = max(0, -(offset // stride) if offset < 0 else 0)
    while first * stride + offset < 0:
        first += 1
    last = min(out, (n - 1 - offset) // stride + 1) if n - 1 - offset >= 0 else 0
    last = max(last, first)
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first) * stride, stride)


def _positions(window: Window) -> list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Return every tap (row, column) of a kernel with the outputs it reaches and the inputs it reads."""
    (_, height, width), (_, rows, columns) = window.source, window.target
    found = []
    for ky in range(window.kernel[0]):
        to_y, from_y = _taps(height, rows, ky * window.dilations[0] - window.pads[0], window.strides[0])
        for kx in range(window.kernel[1]):
            to_x, from_x = _taps(width, columns, kx * window.dilations[1] - window.pads[1], window.strides[1])
            found.append((ky, kx, (to_y, to_x), (from_y, from_x)))
    return found


def _conv(x: F32, conv: Conv) -> F32:
    out, inner = conv.weight.shape[:2]
    per_group = out // conv.groups
    y = np.empty((out, *conv.window.target[1:]), _f)
    y[:] = conv.bias[:, None, None]
    planes = x.reshape(conv.window.source)
    groups = np.arange(out) // per_group
    for i in range(inner):
        source = planes[groups * inner + i] if conv.groups > 1 else planes[i][None]
        for ky, kx, to, at in _positions(conv.window):
            part = conv.weight[:, i, ky, kx, None, None] * source[:, at[0], at[1]]
            y[:, to[0], to[1]] = y[:, to[0], to[1]] + part
    return y


def _pool(x: F32, pool: Pool) -> F32:
    planes = x.reshape(pool.window.source)
    y = np.zeros(pool.window.target, _f)
    count = np.zeros(pool.window.target[1:], _f)
    for _, _, to, at in _positions(pool.window):
        part, now = planes[:, at[0], at[1]], y[:, to[0], to[1]]
        if pool.is_max:
            y[:, to[0], to[1]] = np.where((count[to] == 0) | (part > now), part, now)
        else:
            y[:, to[0], to[1]] = now + part
        count[to] = count[to] + 1
    if pool.is_max:
        return y
    whole = _f(pool.window.kernel[0] * pool.window.kernel[1])
    return y / (whole if pool.counts_pads else count)


def _apply(kind: Kind, given: list[F32]) -> F32:
    x = given[0]
    if isinstance(kind, Conv):
        return _conv(x, kind)
    if isinstance(kind, Pool):
        return _pool(x, kind)
    if isinstance(kind, Full):
        y = kind.bias.copy()
        for k in range(kind.weight.shape[1]):
            y = y + x[k] * kind.weight[:, k]
        return y
    if isinstance(kind, Scale):
        return x.reshape(len(kind.scale), -1) * kind.scale[:, None] + kind.offset[:, None]
    if isinstance(kind, Softmax):
        rows = x.reshape(-1, kind.length)
        e = exp_of(rows - rows.max(axis=1, keepdims=True))
        total = np.zeros((len(rows), 1), _f)
        for k in range(kind.length):
            total = total + e[:, k : k + 1]
        return e / total
    if isinstance(kind, Activation):
        return activate(x, kind)
    if kind.kind == "concat":
        return np.concatenate(given)
    return given[0] + given[1] if kind.kind == "add" else given[0] * given[1]


def run_graph(graph: Graph, x: npt.NDArray[np.floating]) -> F32:
    """Return the outputs (n, n_out) float32 for inputs (n, n_in)."""
    rows = []
    for row in np.ascontiguousarray(x, _f).reshape(len(x), -1):
        values: dict[int, F32] = {0: row}
        for step in graph.steps:
            made = _apply(step.kind, [values[i] for i in step.inputs]).reshape(-1)
            values[step.output] = activate(np.ascontiguousarray(made, _f), step.activation)
        rows.append(values[graph.output])
    return np.array(rows, _f)
