"""Kernels whose addresses are data: rows picked by an index, windows of a time line.

An index is a whole number below 2**24 stored as float32, so that it lies in the same flat buffers as everything else.
Nothing checks it: the caller draws indices inside the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flocklet.kernels.body.expr import Graph, NumpyArithmetic
from flocklet.kernels.kernel import Floats, Kernel, Tile
from flocklet.kernels.maps import Window
from flocklet.kernels.render.tinygrad_adapter import Loops, UopArithmetic

__all__ = ["gather_map", "gather_window"]


def gather_map(
    graph: Graph, records: int, width: int, fields: Sequence[int], targets: Sequence[Window], rows: int
) -> Kernel:
    """Return the kernel that applies a body to picked records.

    Buffers: index (rows), records (`records`, `width`), then the targets. Body inputs are the `fields` of a record,
    outputs the planes of the targets.
    """
    if len(graph.inputs) != len(fields) or len(graph.outputs) != sum(w.planes for w in targets):
        raise ValueError(f"the body takes {len(graph.inputs)} of {len(fields)} fields")
    sizes = (rows, records * width, *[w.size(1, rows) for w in targets])

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        index, source, *out = loops.buffers
        row = loops.loop(rows)
        start = loops.whole(index[row]) * width
        values = graph.evaluate([source[start + f] for f in fields], UopArithmetic(loops))
        cells = [b[w.at(p, 0, row)] for w, b in zip(targets, out, strict=True) for p in range(w.planes)]
        stores = [cell.store(value) for cell, value in zip(cells, values, strict=True)]
        return loops.finish([loops.end(stores, row)], symbol)

    def twin(index: Floats, source: Floats, *out: Floats) -> None:
        picked = source.reshape(records, width)[index.astype(np.int64)]
        values = graph.evaluate([picked[:, f] for f in fields], NumpyArithmetic(source.dtype))
        cells = [v[0] for w, a in zip(targets, out, strict=True) for v in w.views(a, 1, rows)]
        for cell, value in zip(cells, values, strict=True):
            cell[...] = value

    shapes = ";".join(f"{w.planes},{w.plane_stride},{w.column_stride}" for w in targets)
    key = f"gather({graph.digest()}|{records},{width},{list(fields)}|{shapes}|{rows})"
    return Kernel(key, sizes, (False, False, *[True] * len(targets)), emit, twin)


def gather_window(
    turns: int,
    width: int,
    slots: int,
    rows: int,
    row_stride: int,
    *,
    age: tuple[int, int, int],
    later: int = 0,
) -> Kernel:
    """Return the kernel that copies the window of `slots` turns that ends at a picked turn of a time line.

    Buffers: index (rows), time line (`turns` + `slots`, `width`), records, out. Window row j is turn `index + later -
    slots + j`, which lies at row `index + later + j` of the time line; rows older than the age of the episode are 0.
    `age` = (records, width of a record, field of the age at turn `index`).
    """
    records, record_width, field = age
    length = slots * width
    sizes = (rows, (turns + slots) * width, records * record_width, (rows - 1) * row_stride + length)

    def emit(symbol: str, tile: Tile) -> Any:
        loops = Loops(sizes)
        index, line, record, out = loops.buffers
        row, cell = loops.loop(rows), loops.loop(length)
        turn = loops.whole(index[row])
        young = (loops.whole(record[turn * record_width + field]) * -1 + (slots - later)) * width
        value = (cell < young).where(loops.const(0.0), line[turn * width + cell + later * width])
        return loops.finish([loops.end([out[row * row_stride + cell].store(value)], cell, row)], symbol)

    def twin(index: Floats, line: Floats, record: Floats, out: Floats) -> None:
        turn = index.astype(np.int64)[:, None]
        cell = np.arange(length)[None, :]
        young = (slots - later - record.reshape(records, record_width)[turn, field]) * width
        values = np.where(cell < young, 0.0, line[turn * width + cell + later * width])
        view = np.lib.stride_tricks.as_strided(out, (rows, length), (row_stride * out.itemsize, out.itemsize))
        view[...] = values

    key = f"window({turns},{width},{slots},{rows},{row_stride},{age},{later})"
    return Kernel(key, sizes, (False, False, False, True), emit, twin)
