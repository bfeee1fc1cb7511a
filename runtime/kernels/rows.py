"""Row-wise layers, appended to a program as a few kernels: softmax and layer norm, forward and backward."""

from __future__ import annotations

from typing import Any

from flocklet.kernels.body.dsl import exp, sqrt
from flocklet.kernels.body.expr import trace
from flocklet.kernels.maps import Window, map_kernel, matrix, reduce_kernel
from flocklet.kernels.program import Program, View

__all__ = ["layer_norm", "layer_norm_grad", "softmax", "softmax_grad"]

_EPSILON = 1e-5


def _per_row(mode: str = "in") -> Window:
    return Window(mode, row_stride=1, column_stride=0)


def _per_column(mode: str = "in") -> Window:
    return Window(mode, row_stride=0, column_stride=1)


def softmax(program: Program, name: str, rows: int, columns: int, x: View, y: View) -> None:
    """Append y = softmax(x) over the columns of each row."""
    top, total = program.scratch(f"{name}.max", rows), program.scratch(f"{name}.sum", rows)
    whole = matrix(columns)
    largest = reduce_kernel(trace(lambda a: [a[0]], 1), [whole], rows, columns, how="max")
    summed = reduce_kernel(trace(lambda a, m: [exp(a[0] - m[0])], 1, 1), [whole, _per_row()], rows, columns)

    def body(a: list[Any], m: list[Any], s: list[Any]) -> list[Any]:
        return [exp(a[0] - m[0]) / s[0]]

    windows = [whole, _per_row(), _per_row(), matrix(columns, "out")]
    program.call(largest, x, top)
    program.call(summed, x, top, total)
    program.call(map_kernel(trace(body, 1, 1, 1), windows, rows, columns), x, top, total, y)


def softmax_grad(program: Program, name: str, rows: int, columns: int, y: View, dy: View, dx: View) -> None:
    """Append dx = y (dy - sum of dy y over the row)."""
    dot = program.scratch(f"{name}.dot", rows)
    whole = matrix(columns)
    program.call(
        reduce_kernel(trace(lambda a, b: [a[0] * b[0]], 1, 1), [whole, whole], rows, columns), y, dy, dot
    )

    def body(a: list[Any], b: list[Any], s: list[Any]) -> list[Any]:
        return [a[0] * (b[0] - s[0])]

    windows = [whole, whole, _per_row(), matrix(columns, "out")]
    program.call(map_kernel(trace(body, 1, 1, 1), windows, rows, columns), y, dy, dot, dx)


def layer_norm(
    program: Program,
    name: str,
    rows: int,
    columns: int,
    x: View,
    gain: View,
    shift: View,
    normal: View,
    y: View,
) -> None:
    """Append y = gain * normal + shift with normal = (x - mean) / sqrt(variance + 1e-5) (Ba et al. 2016, eq. 4).

    `normal` (rows, columns) and the buffer `{name}.rstd` (rows) are kept for the backward pass.
    """
    mean, rstd = program.scratch(f"{name}.mean", rows), program.scratch(f"{name}.rstd", rows)
    variance = program.scratch(f"{name}.var", rows)
    whole, scale = matrix(columns), 1.0 / columns
    program.call(reduce_kernel(trace(lambda a: [a[0] * scale], 1), [whole], rows, columns), x, mean)

    def spread(a: list[Any], m: list[Any]) -> list[Any]:
        return [(a[0] - m[0]) * (a[0] - m[0]) * scale]

    program.call(reduce_kernel(trace(spread, 1, 1), [whole, _per_row()], rows, columns), x, mean, variance)
    invert = trace(lambda v: [1.0 / sqrt(v[0] + _EPSILON)], 1)
    program.call(map_kernel(invert, [Window(), Window("out")], 1, rows), variance, rstd)

    def body(a: list[Any], m: list[Any], r: list[Any], g: list[Any], b: list[Any]) -> list[Any]:
        n = (a[0] - m[0]) * r[0]
        return [n, n * g[0] + b[0]]

    windows = [whole, _per_row(), _per_row(), _per_column(), _per_column()]
    windows += [matrix(columns, "out"), matrix(columns, "out")]
    kernel = map_kernel(trace(body, 1, 1, 1, 1, 1), windows, rows, columns)
    program.call(kernel, x, mean, rstd, gain, shift, normal, y)


def layer_norm_grad(
    program: Program,
    name: str,
    rows: int,
    columns: int,
    *,
    gain: View,
    normal: View,
    dy: View,
    dx: View,
    dgain: View,
    dshift: View,
) -> None:
    """Append the gradients of `layer_norm` with respect to x, gain and shift."""
    rstd = program.scratch(f"{name}.rstd", rows)
    sums = program.scratch(f"{name}.sums", 2 * rows)
    whole, scale = matrix(columns), 1.0 / columns

    def means(d: list[Any], g: list[Any], n: list[Any]) -> list[Any]:
        inner = d[0] * g[0]
        return [inner * scale, inner * n[0] * scale]

    kernel = reduce_kernel(trace(means, 1, 1, 1), [whole, _per_column(), whole], rows, columns)
    program.call(kernel, dy, gain, normal, sums)

    def body(d: list[Any], g: list[Any], n: list[Any], s: list[Any], r: list[Any]) -> list[Any]:
        return [(d[0] * g[0] - s[0] - n[0] * s[1]) * r[0]]

    pair = Window(planes=2, plane_stride=rows, row_stride=1, column_stride=0)
    windows = [whole, _per_column(), whole, pair, _per_row(), matrix(columns, "out")]
    kernel = map_kernel(trace(body, 1, 1, 1, 2, 1), windows, rows, columns)
    program.call(kernel, dy, gain, normal, sums, rstd, dx)
    product = trace(lambda d, n: [d[0] * n[0]], 1, 1)
    program.call(reduce_kernel(product, [whole, whole], rows, columns, over="rows"), dy, normal, dgain)
    program.call(reduce_kernel(trace(lambda d: [d[0]], 1), [whole], rows, columns, over="rows"), dy, dshift)
