"""Layers over a sliding window: the last inputs of a net are the newest rows of a log, never copied.

A log of k numbers per step and batch row lies as (rows, capacity, k), so that the last L steps of one row are L * k
numbers in a row, and the next step sees the same memory one place further. `sliding_dense` is the first layer of such a
net, `sliding_input_grad` its input gradient: that of the window is *added* to a second log of the same form, because one
entry of the log is seen by L steps. `weight_grad_add` adds weight gradients up, chunk of time by chunk of time;
`input_grad_through` turns the slope of a layer into its gradient in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.kernels.body.adjoint import adjoint_of
from flocklet.kernels.body.dsl import ACTIVATIONS
from flocklet.kernels.body.expr import Graph, NumpyArithmetic, SymbolArithmetic, trace
from flocklet.kernels.dense import product_nests
from flocklet.kernels.kernel import Floats, Kernel, Tile, column_cuts, cuts
from flocklet.kernels.render.tinygrad_adapter import Loops, UopArithmetic

__all__ = [
    "SlidingShape",
    "input_grad_through",
    "sliding_dense",
    "sliding_input_grad",
    "weight_grad_add",
]


@dataclass(frozen=True)
class SlidingShape:
    """A layer that sees `seen` numbers of its own and `window` numbers of a log.

    `stride` is the distance between two rows of the log; `skip` says how many of the oldest `window` numbers are not
    looked at (their weights neither act nor learn). Weights are (seen + window, outputs). Rows of X are `pitch` apart
    (more than `seen` where further columns, such as a constant 1, serve the weight gradient).
    """

    rows: int
    seen: int
    window: int
    outputs: int
    stride: int
    skip: int
    pitch: int

    @property
    def used(self) -> int:
        """Return how many numbers of the log are looked at."""
        return self.window - self.skip

    @property
    def log_size(self) -> int:
        """Return how many elements of the log one step reaches."""
        return (self.rows - 1) * self.stride + self.window

    @property
    def key(self) -> str:
        """Return text for cache keys."""
        numbers = (self.rows, self.seen, self.window, self.outputs, self.stride, self.skip, self.pitch)
        return ",".join(map(str, numbers))

    def look(self, log: Floats) -> Floats:
        """Return the (rows, used) view of the log."""
        step = log.itemsize
        return np.lib.stride_tricks.as_strided(
            log[self.skip :], (self.rows, self.used), (self.stride * step, step)
        )


def _graphs(activation: str) -> tuple[Graph, Graph]:
    act = ACTIVATIONS[activation]
    back = adjoint_of(lambda x: [act(x[0])], 1)
    slope = trace(lambda x: back.evaluate([x[0], 1.0], SymbolArithmetic(x[0])), 1)
    return trace(lambda x: [act(x[0])], 1), slope


def sliding_dense(shape: SlidingShape, activation: str) -> Kernel:
    """Return Y = activation([X, window] W + b): buffers X (rows, pitch), log, W, b, Y, D (rows, outputs).

    D receives the derivative of the activation.
    """
    act, slope = _graphs(activation)
    n, m = shape.rows, shape.outputs
    sizes = (n * shape.pitch, shape.log_size, (shape.seen + shape.window) * m, m, n * m, n * m)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        x, log, w, bias, y, d = loops.buffers
        numbers = UopArithmetic(loops)
        nests = []
        for first_row, height, row_tiles in cuts(n, tile.rows):
            for first_column, groups, lanes, column_tiles in column_cuts(m, tile):
                block, side = loops.loop(row_tiles), loops.loop(column_tiles)
                width = groups * lanes
                acc = loops.registers(height * width)

                def place(
                    cut: tuple[Any, ...] = (block, side, height, groups, lanes, first_row, first_column),
                ) -> tuple[Any, ...]:
                    block, side, height, groups, lanes, first_row, first_column = cut
                    lane, r, g = loops.loop(lanes), loops.unrolled(height), loops.unrolled(groups)
                    column = side * (groups * lanes) + g * lanes + lane + first_column
                    return lane, r, g, block * height + r + first_row, column, (r * groups + g) * lanes + lane

                lane, r, g, row, column, slot = place()
                begin = loops.after(acc, block, side)
                ready = loops.end([begin[slot].store(bias[column])], g, r, lane)
                for depth, first, source, row_stride, offset in (
                    (shape.used, shape.seen + shape.skip, log, shape.stride, shape.skip),
                    (shape.seen, 0, x, shape.pitch, 0),
                ):
                    k = loops.loop(depth, is_reduction=True)
                    lane, r, g, row, column, slot = place()
                    now = loops.after(acc, ready, k)
                    term = source[row * row_stride + k + offset] * w[(k + first) * m + column]
                    ready = loops.end([acc[slot].store(now[slot] + term)], g, r, lane, k)
                lane, r, g, row, column, slot = place()
                done = loops.after(acc, ready)[slot]
                at = row * m + column
                stores = [
                    y[at].store(act.evaluate([done], numbers)[0]),
                    d[at].store(slope.evaluate([done], numbers)[0]),
                ]
                nests.append(loops.end(stores, g, r, lane, side, block))
        return loops.finish(nests, symbol)

    def twin(x: Floats, log: Floats, w: Floats, bias: Floats, y: Floats, d: Floats) -> None:
        weights = w.reshape(-1, m)
        z = x.reshape(n, -1)[:, : shape.seen] @ weights[: shape.seen] + bias
        z += shape.look(log) @ weights[shape.seen + shape.skip :]
        numbers = NumpyArithmetic(x.dtype)
        y.reshape(n, m)[...] = act.evaluate([z], numbers)[0]
        d.reshape(n, m)[...] = slope.evaluate([z], numbers)[0]

    key = f"sliding_dense({shape.key},{act.digest()})"
    return Kernel(key, sizes, (False, False, False, False, True, True), emit, twin)


def sliding_input_grad(shape: SlidingShape) -> Kernel:
    """Return dX = dZ Wt for the own numbers and log += dZ Wt for the window.

    Buffers: dZ (rows, outputs), Wt (outputs, seen + window), dX (rows, seen), log.
    """
    n, m, width = shape.rows, shape.outputs, shape.seen + shape.window
    if shape.used % 16:
        raise ValueError("the part of the window that is looked at must be a multiple of 16 numbers")
    sizes = (n * m, m * width, n * shape.seen, shape.log_size)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        dz, wt, dx, log = loops.buffers
        first = shape.seen + shape.skip
        own = product_nests(
            loops,
            (n, shape.seen, m),
            tile,
            lambda i, k: dz[i * m + k],
            lambda k, j: wt[k * width + j],
            None,
            lambda i, j, value: [dx[i * shape.seen + j].store(value)],
        )

        def place(i: Any, j: Any) -> Any:
            return i * shape.stride + j + shape.skip

        window = product_nests(
            loops,
            (n, shape.used, m),
            tile,
            lambda i, k: dz[i * m + k],
            lambda k, j: wt[k * width + j + first],
            lambda i, j: log[place(i, j)],
            lambda i, j, value: [log[place(i, j)].store(value)],
        )
        return loops.finish([*own, *window], symbol)

    def twin(dz: Floats, wt: Floats, dx: Floats, log: Floats) -> None:
        weights, flow = wt.reshape(m, width), dz.reshape(n, m)
        dx.reshape(n, -1)[...] = flow @ weights[:, : shape.seen]
        shape.look(log)[...] += flow @ weights[:, shape.seen + shape.skip :]

    if n % 4:
        raise ValueError("rows must be a multiple of 4: a tile that overlaps would add twice")
    return Kernel(f"sliding_input_grad({shape.key})", sizes, (False, False, True, True), emit, twin)


def input_grad_through(rows: int, inputs: int, outputs: int) -> Kernel:
    """Return D *= dZ Wt: buffers dZ (rows, outputs), Wt (outputs, inputs), D (rows, inputs).

    D holds the slope of the layer below and becomes its dZ.
    """
    if rows % 4 or inputs % 16:
        raise ValueError(
            "rows must be a multiple of 4 and inputs of 16: a tile that overlaps would act twice"
        )
    sizes = (rows * outputs, outputs * inputs, rows * inputs)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        dz, wt, d = loops.buffers
        nests = product_nests(
            loops,
            (rows, inputs, outputs),
            tile,
            lambda i, k: dz[i * outputs + k],
            lambda k, j: wt[k * inputs + j],
            None,
            lambda i, j, value: [d[i * inputs + j].store(d[i * inputs + j] * value)],
        )
        return loops.finish(nests, symbol)

    def twin(dz: Floats, wt: Floats, d: Floats) -> None:
        d.reshape(rows, inputs)[...] *= dz.reshape(rows, outputs) @ wt.reshape(outputs, inputs)

    return Kernel(f"input_grad_through({rows},{inputs},{outputs})", sizes, (False, False, True), emit, twin)


def weight_grad_add(rows: int, inputs: int, outputs: int) -> Kernel:
    """Return dW += X' dZ: buffers X (rows, inputs), dZ (rows, outputs), dW (inputs, outputs).

    With fewer outputs than a vector the lanes run along the inputs.
    """
    sizes = (rows * inputs, rows * outputs, inputs * outputs)
    is_turned = outputs < inputs and outputs < 16
    first, second = (outputs, inputs) if is_turned else (inputs, outputs)
    if first % 4 or second % 16:
        raise ValueError("tiles must not overlap, they would add twice: 4 divides one side, 16 the other")

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        x, dz, dw = loops.buffers

        def at(i: Any, j: Any) -> Any:
            return j * outputs + i if is_turned else i * outputs + j

        left, right = (dz, x) if is_turned else (x, dz)
        nests = product_nests(
            loops,
            (first, second, rows),
            tile,
            lambda i, k: left[k * first + i],
            lambda k, j: right[k * second + j],
            lambda i, j: dw[at(i, j)],
            lambda i, j, value: [dw[at(i, j)].store(value)],
        )
        return loops.finish(nests, symbol)

    def twin(x: Floats, dz: Floats, dw: Floats) -> None:
        dw.reshape(inputs, outputs)[...] += x.reshape(rows, inputs).T @ dz.reshape(rows, outputs)

    return Kernel(f"weight_grad_add({rows},{inputs},{outputs})", sizes, (False, False, True), emit, twin)
