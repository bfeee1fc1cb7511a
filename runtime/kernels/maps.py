"""Elementwise kernels, reductions and block simulation, all from a traced body.

An argument is a window on a flat buffer: number (plane, row, column) lies at
`plane * plane_stride + row * row_stride + column * column_stride`. One form covers vectors, matrices,
broadcast rows, columns and scalars (stride 0), transposition (strides exchanged) and struct-of-arrays
states (one plane per variable).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.kernels.body.expr import Graph, NumpyArithmetic
from flocklet.kernels.kernel import Floats, Kernel, Tile, column_cuts
from flocklet.kernels.render.tinygrad_adapter import Loops, UopArithmetic

__all__ = ["Window", "block_kernel", "map_kernel", "matrix", "reduce_kernel", "scalar", "vector"]

_LOWEST = -3.0e38


@dataclass(frozen=True)
class Window:
    """How a kernel sees one buffer; `mode` is "in", "out" or "inout"."""

    mode: str = "in"
    planes: int = 1
    plane_stride: int = 0
    row_stride: int = 0
    column_stride: int = 1

    @property
    def is_read(self) -> bool:
        """Tell whether the body gets these numbers."""
        return self.mode != "out"

    @property
    def is_written(self) -> bool:
        """Tell whether the body gives these numbers."""
        return self.mode != "in"

    def size(self, rows: int, columns: int) -> int:
        """Return how many elements of the buffer are reached."""
        return (
            1
            + (self.planes - 1) * self.plane_stride
            + (rows - 1) * self.row_stride
            + (columns - 1) * self.column_stride
        )

    def at(self, plane: int, row: Any, column: Any) -> Any:
        """Return the flat index of one number."""
        index: Any = plane * self.plane_stride
        for position, stride in ((row, self.row_stride), (column, self.column_stride)):
            if stride and not (isinstance(position, int) and position == 0):
                index = position * stride + index
        return index

    def views(self, array: Floats, rows: int, columns: int) -> list[Floats]:
        """Return one (rows, columns) view per plane; a repeated row or column is a view of stride 0."""
        step = array.itemsize
        strides = (self.row_stride * step, self.column_stride * step)
        return [
            np.lib.stride_tricks.as_strided(array[p * self.plane_stride :], (rows, columns), strides)
            for p in range(self.planes)
        ]


def vector(mode: str = "in") -> Window:
    """Return a window on n numbers in a row."""
    return Window(mode)


def matrix(columns: int, mode: str = "in") -> Window:
    """Return a window on a row-major matrix of `columns` columns."""
    return Window(mode, row_stride=columns)


def scalar(mode: str = "in") -> Window:
    """Return a window on one number that every element sees."""
    return Window(mode, column_stride=0)


def _check(graph: Graph, windows: Sequence[Window], kind: str) -> None:
    reads = sum(w.planes for w in windows if w.is_read)
    writes = sum(w.planes for w in windows if w.is_written)
    if reads != len(graph.inputs) or (kind == "map" and writes != len(graph.outputs)):
        raise ValueError(
            f"the body takes {len(graph.inputs)} numbers and gives {len(graph.outputs)}, "
            f"the windows hold {reads} and {writes}"
        )


def _key(kind: str, graph: Graph, windows: Sequence[Window], *rest: object) -> str:
    shapes = ";".join(
        f"{w.mode},{w.planes},{w.plane_stride},{w.row_stride},{w.column_stride}" for w in windows
    )
    return f"{kind}({graph.digest()}|{shapes}|{','.join(map(str, rest))})"


def map_kernel(graph: Graph, windows: Sequence[Window], rows: int, columns: int) -> Kernel:
    """Return the kernel that applies a body at every (row, column).

    Body inputs are the planes of the windows that are read, in order; outputs those of the windows that are
    written.
    """
    _check(graph, windows, "map")
    if all(w.row_stride == w.column_stride * columns and w.planes == 1 for w in windows):
        rows, columns = 1, rows * columns
    sizes = tuple(w.size(rows, columns) for w in windows)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        row, column = loops.loop(rows), loops.loop(columns)
        stores = _apply(graph, windows, loops, row, column)
        return loops.finish([loops.end(stores, column, row)], symbol)

    def emit_device(symbol: str, buffers: Sequence[Any], threads: int) -> Any:
        loops = Loops(sizes, buffers)
        column, row = loops.loop(columns), loops.loop(rows)
        stores = _apply(graph, windows, loops, row, column)
        return loops.finish([loops.end(stores, row, column)], symbol, threads=threads)

    def twin(*arrays: Floats) -> None:
        views = [w.views(a, rows, columns) for w, a in zip(windows, arrays, strict=True)]
        values = [v for w, vs in zip(windows, views, strict=True) if w.is_read for v in vs]
        targets = [v for w, vs in zip(windows, views, strict=True) if w.is_written for v in vs]
        results = graph.evaluate(values, NumpyArithmetic(arrays[0].dtype))
        for target, result in [(t, np.array(r)) for t, r in zip(targets, results, strict=True)]:
            target[...] = result

    writes = tuple(w.is_written for w in windows)
    return Kernel(_key("map", graph, windows, rows, columns), sizes, writes, emit, twin, emit_device)


def _apply(graph: Graph, windows: Sequence[Window], loops: Loops, row: Any, column: Any) -> list[Any]:
    cells = [
        [buffer[w.at(p, row, column)] for p in range(w.planes)]
        for w, buffer in zip(windows, loops.buffers, strict=True)
    ]
    values = [cell for w, cs in zip(windows, cells, strict=True) if w.is_read for cell in cs]
    targets = [cell for w, cs in zip(windows, cells, strict=True) if w.is_written for cell in cs]
    results = graph.evaluate(values, UopArithmetic(loops))
    return [target.store(result) for target, result in zip(targets, results, strict=True)]


def reduce_kernel(
    graph: Graph,
    windows: Sequence[Window],
    rows: int,
    columns: int,
    *,
    over: str = "columns",
    how: str = "sum",
) -> Kernel:
    """Return the kernel that reduces a body over the columns of each row, or over the rows of each column.

    The last buffer receives the results, `len(graph.outputs)` planes of `rows` (or `columns`) numbers one
    after another. `how` is "sum" or "max". Float32 sums run in 16 lanes; a float64 sum differs by about
    1e-7 relative.
    """
    _check(graph, windows, "reduce")
    planes = len(graph.outputs)
    length = rows if over == "columns" else columns
    sizes = (*[w.size(rows, columns) for w in windows], planes * length)
    start = 0.0 if how == "sum" else _LOWEST

    def join(a: Any, b: Any) -> Any:
        return a + b if how == "sum" else a.maximum(b)

    def read(loops: Loops, row: Any, column: Any) -> list[Any]:
        cells = [
            loops.buffers[i][w.at(p, row, column)] for i, w in enumerate(windows) for p in range(w.planes)
        ]
        return graph.evaluate(cells, UopArithmetic(loops))

    def emit_over_rows(loops: Loops, cut: tuple[int, int, int, int]) -> Any:
        first, groups, lanes, blocks = cut
        width = groups * lanes
        block = loops.loop(blocks)
        acc, out = loops.registers(planes * width), loops.buffers[-1]

        def place() -> tuple[Any, Any, Any, list[Any]]:
            lane, group = loops.loop(lanes), loops.unrolled(groups)
            inside = group * lanes + lane
            return lane, group, block * width + inside + first, [inside + p * width for p in range(planes)]

        lane, group, _, slots = place()
        begin = loops.after(acc, block)
        ready = loops.end([begin[slot].store(start) for slot in slots], group, lane)
        row = loops.loop(rows, is_reduction=True)
        lane, group, column, slots = place()
        now = loops.after(acc, ready, row)
        values = read(loops, row, column)
        steps = [acc[slot].store(join(now[slot], value)) for slot, value in zip(slots, values, strict=True)]
        done = loops.after(acc, loops.end(steps, group, lane, row))
        lane, group, column, slots = place()
        stores = [out[column + p * columns].store(done[slot]) for p, slot in enumerate(slots)]
        return loops.end(stores, group, lane, block)

    def emit_over_columns(loops: Loops, lanes: int) -> Any:
        row = loops.loop(rows)
        acc, total, out = loops.registers(planes * lanes), loops.registers(planes), loops.buffers[-1]
        lane = loops.loop(lanes)
        begin = loops.after(acc, row)
        ready = loops.end([begin[p * lanes + lane].store(start) for p in range(planes)], lane)
        whole, rest = divmod(columns, lanes)
        if whole:
            block, lane = loops.loop(whole, is_reduction=True), loops.loop(lanes)
            now = loops.after(acc, ready, block)
            values = read(loops, row, block * lanes + lane)
            steps = [
                acc[p * lanes + lane].store(join(now[p * lanes + lane], values[p])) for p in range(planes)
            ]
            ready = loops.end(steps, lane, block)
        if rest:
            lane = loops.loop(rest)
            now = loops.after(acc, ready)
            values = read(loops, row, lane + whole * lanes)
            ready = loops.end(
                [acc[p * lanes + lane].store(join(now[p * lanes + lane], values[p])) for p in range(planes)],
                lane,
            )
        begin = loops.after(total, ready)
        zero = loops.end([begin[p].store(start) for p in range(planes)])
        lane = loops.loop(lanes, is_reduction=True)
        parts, now = loops.after(acc, ready), loops.after(total, zero, lane)
        fold = loops.end([total[p].store(join(now[p], parts[p * lanes + lane])) for p in range(planes)], lane)
        done = loops.after(total, fold)
        return loops.end([out[row + p * rows].store(done[p]) for p in range(planes)], row)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        if over == "columns":
            return loops.finish([emit_over_columns(loops, min(16, columns))], symbol)
        return loops.finish([emit_over_rows(loops, cut) for cut in column_cuts(columns, tile)], symbol)

    def twin(*arrays: Floats) -> None:
        views = [v for w, a in zip(windows, arrays[:-1], strict=True) for v in w.views(a, rows, columns)]
        results = graph.evaluate(views, NumpyArithmetic(arrays[0].dtype))
        axis = 1 if over == "columns" else 0
        for p, result in enumerate(results):
            full = np.broadcast_to(result, (rows, columns))
            reduced = full.sum(axis=axis) if how == "sum" else full.max(axis=axis)
            arrays[-1][p * length : (p + 1) * length] = reduced

    writes = (*[False for _ in windows], True)
    return Kernel(_key("reduce", graph, windows, rows, columns, over, how), sizes, writes, emit, twin)


def block_kernel(
    graph: Graph, windows: Sequence[Window], columns: int, steps: int, *, lanes: int = 16
) -> Kernel:
    """Return the kernel that advances a state `steps` times with the time loop inside.

    `windows` are the state that is read, what is held during the steps, and the state that is written; body
    inputs are the state's planes then the held planes, outputs the state's planes. `lanes` columns at a
    time live in a stack array, the time loop runs around them, so that a simulation touches memory once.
    """
    state, held, after = windows
    n = state.planes
    if len(graph.inputs) != n + held.planes or len(graph.outputs) != n or after.planes != n:
        raise ValueError(f"a step of {n} states and {held.planes} held numbers must give {n} states")
    sizes = tuple(w.size(1, columns) for w in windows)

    def nest(loops: Loops, width: int, blocks: int, first: int) -> Any:
        source, holds, target = loops.buffers
        block = loops.loop(blocks)
        array = loops.registers(n * width)
        lane = loops.loop(width)
        column = block * width + lane + first
        begin = loops.after(array, block)
        ready = loops.end(
            [begin[j * width + lane].store(source[state.at(j, 0, column)]) for j in range(n)], lane
        )
        step, lane = loops.loop(steps, is_reduction=True), loops.loop(width)
        column = block * width + lane + first
        now = loops.after(array, ready, step)
        values = [now[j * width + lane] for j in range(n)]
        values += [holds[held.at(j, 0, column)] for j in range(held.planes)]
        results = graph.evaluate(values, UopArithmetic(loops))
        moved = loops.end([array[j * width + lane].store(x) for j, x in enumerate(results)], lane, step)
        done, lane = loops.after(array, moved), loops.loop(width)
        column = block * width + lane + first
        stores = [target[after.at(j, 0, column)].store(done[j * width + lane]) for j in range(n)]
        return loops.end(stores, lane, block)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        whole, rest = divmod(columns, lanes)
        nests = [nest(loops, lanes, whole, 0)] if whole else []
        nests += [nest(loops, rest, 1, whole * lanes)] if rest else []
        return loops.finish(nests, symbol)

    def emit_device(symbol: str, buffers: Sequence[Any], threads: int) -> Any:
        loops = Loops(sizes, buffers)
        return loops.finish([nest(loops, 1, columns, 0)], symbol, threads=threads)

    def twin(*arrays: Floats) -> None:
        source, holds, target = (w.views(a, 1, columns) for w, a in zip(windows, arrays, strict=True))
        values: list[Any] = [view.copy() for view in source]
        numbers = NumpyArithmetic(arrays[0].dtype)
        for _ in range(steps):
            values = graph.evaluate([*values, *holds], numbers)
        for view, value in zip(target, values, strict=True):
            view[...] = value

    key = _key("block", graph, windows, columns, steps, lanes)
    return Kernel(key, sizes, (False, False, True), emit, twin, emit_device)
