"""Matrix products and dense layers: forward, input gradient, weight gradient.

All of them are one loop nest: C(i, j) = finish(sum over k of A(i, k) B(k, j)), with `rows` x `groups * lanes`
accumulators in registers and B read along its rows. Weights are stored (inputs, outputs) row-major, so that
the forward product reads them along the lanes; the input gradient reads a transposed copy, which a Program
refreshes once per update. `lanes` numbers make one group, so that the C compiler needs one vector operation
(or a few) per group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flocklet.kernels.body.adjoint import adjoint_of
from flocklet.kernels.body.dsl import ACTIVATIONS, SLOPES, where
from flocklet.kernels.body.expr import Graph, NumpyArithmetic, SymbolArithmetic, trace
from flocklet.kernels.kernel import Floats, Kernel, Tile, column_cuts, cuts
from flocklet.kernels.maps import Window, map_kernel, reduce_kernel
from flocklet.kernels.render.tinygrad_adapter import Loops, UopArithmetic

__all__ = [
    "bias_grad",
    "dense",
    "input_grad",
    "output_grad",
    "product_nests",
    "to_outputs_first",
    "transpose",
    "weight_grad",
    "weight_step",
]

# Accessors: operand(loops, row index, k index) -> number; finish(loops, i, j, value) -> statements.
Operand = Callable[[Any, Any], Any]
Finish = Callable[[Any, Any, Any], list[Any]]


def product_nests(
    loops: Loops,
    shape: tuple[int, int, int],
    tile: Tile,
    a: Operand,
    b: Operand,
    start: Operand | None,
    finish: Finish,
    *,
    is_exact: bool = False,
) -> list[Any]:
    """Return the loop nests of C(i, j) = finish(start(i, j) + sum_k a(i, k) b(k, j)) for `shape` = (rows, columns, k).

    A single row is summed in four interleaved parts, because one chain of additions would wait for itself; a few
    columns are taken for many rows at once for the same reason. `is_exact` finishes every element exactly once.
    """
    rows, columns, depth = shape
    nests = []
    parts = 4 if rows == 1 and depth >= 8 else 1
    most = tile.rows * 8 if start is None and 1 < columns <= tile.lanes // 2 else tile.rows
    for first_row, height, row_tiles in cuts(rows, most if rows > 1 else 1, is_exact=is_exact):
        for first_column, groups, lanes, column_tiles in column_cuts(columns, tile, is_exact=is_exact):
            nests.append(
                _nest(
                    loops,
                    (first_row, height, row_tiles),
                    (first_column, groups, lanes, column_tiles),
                    (depth, parts),
                    (a, b, start, finish),
                )
            )
    return nests


def _nest(
    loops: Loops,
    row_cut: tuple[int, int, int],
    column_cut: tuple[int, int, int, int],
    depth_cut: tuple[int, int],
    parts_of: tuple[Operand, Operand, Operand | None, Finish],
) -> Any:
    (first_row, height, row_tiles), (first_column, groups, lanes, column_tiles) = row_cut, column_cut
    (depth, parts), (a, b, start, finish) = depth_cut, parts_of
    block, tile_column = loops.loop(row_tiles), loops.loop(column_tiles)
    width = groups * lanes
    acc = loops.registers(height * parts * width)

    def place() -> tuple[Any, Any, Any, Any]:
        lane, r, g = loops.loop(lanes), loops.unrolled(height), loops.unrolled(groups)
        column = tile_column * width + g * lanes + lane + first_column
        return lane, r, g, (block * height + r + first_row, column, (r * groups + g) * lanes + lane)

    span = height * width
    lane, r, g, (row, column, slot) = place()
    begin = loops.after(acc, block, tile_column)
    first = start(row, column) if start is not None else loops.const(0.0)
    opening = [begin[slot].store(first)] + [
        begin[slot + p * span].store(loops.const(0.0)) for p in range(1, parts)
    ]
    ready = loops.end(opening, g, r, lane)
    whole, rest = divmod(depth, parts)
    k = loops.loop(whole, is_reduction=True)
    lane, r, g, (row, column, slot) = place()
    now = loops.after(acc, ready, k)
    steps = []
    for p in range(parts):
        at = k * parts + p
        steps.append(acc[slot + p * span].store(now[slot + p * span] + a(row, at) * b(at, column)))
    summed = loops.end(steps, g, r, lane, k)
    for extra in range(rest):
        lane, r, g, (row, column, slot) = place()
        now = loops.after(acc, summed)
        at = whole * parts + extra
        summed = loops.end([acc[slot].store(now[slot] + a(row, at) * b(at, column))], g, r, lane)
    lane, r, g, (row, column, slot) = place()
    done = loops.after(acc, summed)
    total = done[slot]
    for p in range(1, parts):
        total = total + done[slot + p * span]
    return loops.end(finish(row, column, total), g, r, lane, tile_column, block)


def _activation(name: str) -> Graph:
    return trace(lambda x: [ACTIVATIONS[name](x[0])], 1)


def _slope(name: str) -> Graph:
    """Return the derivative of an activation as a function of its input."""
    graph = adjoint_of(lambda x: [ACTIVATIONS[name](x[0])], 1)
    return trace(lambda x: graph.evaluate([x[0], 1.0], SymbolArithmetic(x[0])), 1)


def dense(
    rows: int, inputs: int, outputs: int, activation: str = "none", *, keep_slope: bool = False
) -> Kernel:
    """Return Y = activation(X W + b): buffers X (rows, inputs), W (inputs, outputs), b (outputs), Y (rows, outputs).

    With `keep_slope` a fifth buffer D (rows, outputs) receives the derivative of the activation, which is
    all that the backward pass needs.
    """
    act, slope = _activation(activation), _slope(activation)
    sizes = [rows * inputs, inputs * outputs, outputs, rows * outputs] + [rows * outputs] * keep_slope

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        x, w, bias, *out = loops.buffers
        numbers = UopArithmetic(loops)

        def finish(i: Any, j: Any, value: Any) -> list[Any]:
            at = i * outputs + j
            stores = [out[0][at].store(act.evaluate([value], numbers)[0])]
            if keep_slope:
                stores.append(out[1][at].store(slope.evaluate([value], numbers)[0]))
            return stores

        nests = product_nests(
            loops,
            (rows, outputs, inputs),
            tile,
            lambda i, k: x[i * inputs + k],
            lambda k, j: w[k * outputs + j],
            lambda i, j: bias[j],
            finish,
        )
        return loops.finish(nests, symbol)

    def twin(x: Floats, w: Floats, bias: Floats, y: Floats, d: Floats | None = None) -> None:
        z = x.reshape(rows, inputs) @ w.reshape(inputs, outputs) + bias
        numbers = NumpyArithmetic(x.dtype)
        y.reshape(rows, outputs)[...] = act.evaluate([z], numbers)[0]
        if d is not None:
            d.reshape(rows, outputs)[...] = slope.evaluate([z], numbers)[0]

    key = f"dense({rows},{inputs},{outputs},{act.digest()},{int(keep_slope)})"
    return Kernel(key, tuple(sizes), (False, False, False, *[True] * (len(sizes) - 3)), emit, twin)


def input_grad(rows: int, inputs: int, outputs: int, below: str = "none", *, first: int = 0) -> Kernel:
    """Return dX = (dZ Wt) * act'(H): buffers dZ (rows, outputs), Wt (outputs, inputs), H and dX (rows, inputs).

    `below` names the activation of the layer below, whose output is H; with it dX is that layer's dZ.
    "slope" means that H holds the slope itself (`dense(..., keep_slope=True)`); "none" leaves H out. With
    `first` only the columns from there on are computed, dX and H are (rows, inputs - first).
    """
    width = inputs - first
    sizes = [rows * outputs, outputs * inputs] + [rows * width] * (1 + (below != "none"))
    slope = _slope_of_output(below)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        dz, wt, *rest = loops.buffers
        numbers = UopArithmetic(loops)

        def finish(i: Any, j: Any, value: Any) -> list[Any]:
            at = i * width + j
            return [
                rest[-1][at].store(
                    value if slope is None else slope.evaluate([value, rest[0][at]], numbers)[0]
                )
            ]

        nests = product_nests(
            loops,
            (rows, width, outputs),
            tile,
            lambda i, k: dz[i * outputs + k],
            lambda k, j: wt[k * inputs + j + first],
            None,
            finish,
        )
        return loops.finish(nests, symbol)

    def twin(dz: Floats, wt: Floats, *rest: Floats) -> None:
        dx = (dz.reshape(rows, outputs) @ wt.reshape(outputs, inputs)[:, first:]).reshape(-1)
        rest[-1][...] = dx if slope is None else slope.evaluate([dx, rest[0]], NumpyArithmetic(dz.dtype))[0]

    key = f"input_grad({rows},{inputs},{outputs},{first},{below},{slope.digest() if slope else ''})"
    return Kernel(key, tuple(sizes), (*[False] * (len(sizes) - 1), True), emit, twin)


def _slope_of_output(below: str) -> Graph | None:
    """Return (gradient, output of the layer below) -> gradient * slope, written so that relu is one
    selection.
    """
    if below == "none":
        return None
    if below == "relu":
        return trace(lambda x: [where(x[1] > 0.0, x[0], 0.0)], 2)
    return trace(lambda x: [x[0] * SLOPES[below](x[1])], 2)


def weight_grad(rows: int, inputs: int, outputs: int) -> Kernel:
    """Return dW = X' dZ: buffers X (rows, inputs), dZ (rows, outputs), dW (inputs, outputs).

    Few outputs are computed the other way round, with the lanes along the inputs.
    """

    def twin(x: Floats, dz: Floats, dw: Floats) -> None:
        dw.reshape(inputs, outputs)[...] = x.reshape(rows, inputs).T @ dz.reshape(rows, outputs)

    return _outer("weight_grad", (rows, inputs, outputs), None, twin)


def weight_step(rows: int, inputs: int, outputs: int, rate: float) -> Kernel:
    """Return W <- W - rate X' dZ, a step of SGD without a gradient in memory: buffers X, dZ, W (in place)."""

    def twin(x: Floats, dz: Floats, w: Floats) -> None:
        w.reshape(inputs, outputs)[...] -= rate * (x.reshape(rows, inputs).T @ dz.reshape(rows, outputs))

    return _outer("weight_step", (rows, inputs, outputs), rate, twin)


def _outer(
    name: str, shape: tuple[int, int, int], rate: float | None, twin: Callable[[Floats, Floats, Floats], None]
) -> Kernel:
    rows, inputs, outputs = shape
    sizes = (rows * inputs, rows * outputs, inputs * outputs)
    is_turned = outputs < inputs and outputs < 16

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        x, dz, dw = loops.buffers

        def finish(i: Any, j: Any, value: Any) -> list[Any]:
            target = dw[j * outputs + i] if is_turned else dw[i * outputs + j]
            return [target.store(value if rate is None else target + value * loops.const(-rate))]

        def left(i: Any, k: Any) -> Any:
            return dz[k * outputs + i] if is_turned else x[k * inputs + i]

        def right(k: Any, j: Any) -> Any:
            return x[k * inputs + j] if is_turned else dz[k * outputs + j]

        size = (outputs, inputs, rows) if is_turned else (inputs, outputs, rows)
        is_exact = rate is not None
        return loops.finish(
            product_nests(loops, size, tile, left, right, None, finish, is_exact=is_exact), symbol
        )

    key = f"{name}({rows},{inputs},{outputs}{'' if rate is None else f',{rate!r}'})"
    return Kernel(key, sizes, (False, False, True), emit, twin)


def bias_grad(rows: int, outputs: int) -> Kernel:
    """Return db = column sums of dZ: buffers dZ (rows, outputs), db (outputs)."""
    graph = trace(lambda x: [x[0]], 1)
    return reduce_kernel(graph, [Window(row_stride=outputs)], rows, outputs, over="rows")


def output_grad(rows: int, outputs: int, activation: str) -> Kernel:
    """Return dZ = dY * act'(Y): buffers dY, Y (the slope itself for "slope") and dZ, all (rows, outputs)."""
    graph = _slope_of_output(activation)
    if graph is None:
        raise ValueError("a layer without activation needs no output_grad: dZ is dY")
    return map_kernel(graph, [Window(), Window(), Window("out")], 1, rows * outputs)


def transpose(rows: int, columns: int) -> Kernel:
    """Return Y = X': buffers X (rows, columns), Y (columns, rows)."""
    graph = trace(lambda x: [x[0]], 1)
    windows = [Window(row_stride=1, column_stride=columns), Window("out", row_stride=rows)]
    return map_kernel(graph, windows, columns, rows)


def to_outputs_first(weights: Floats) -> Floats:
    """Return (inputs, outputs) weights as the (outputs, inputs) matrix that ONNX and the firmware store."""
    return np.ascontiguousarray(weights.T)
