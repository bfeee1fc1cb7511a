"""One kernel: how it is rendered, what it computes in NumPy, and a key that names it in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.compile.compilers import cpu_features

__all__ = ["Floats", "Kernel", "Tile", "column_cuts", "cuts", "native_tile"]

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Tile:
    """How a matrix product is cut for the registers: `rows` x (`groups` x `lanes`) accumulators."""

    rows: int = 4
    groups: int = 4
    lanes: int = 16

    @property
    def key(self) -> str:
        """Return text for cache keys."""
        return f"{self.rows}x{self.groups}x{self.lanes}"


def native_tile(target: str = "") -> Tile:
    """Return the tile for this processor, or for a cross target: 16 vector registers with AVX-512, 16 on
    NEON.
    """
    if target.startswith("aarch64"):
        return Tile(4, 1, 16)
    features = cpu_features()
    if "avx512f" in features:
        return Tile(4, 4, 16)
    return Tile(4, 1, 16)


@dataclass(frozen=True)
class Kernel:
    """A kernel over flat float32 buffers.

    `key` describes it completely; `sizes` is how many elements of each buffer it may touch; `writes` tells
    which it changes. `emit(tile)` returns tinygrad's kernel (tinygrad is imported only then).
    `twin(*arrays)` does the same on flat NumPy arrays of any float dtype, in place: the oracle, and the
    fall-back without a compiler. `emit_device(symbol, buffers, threads)` is the GPU form where one thread
    does one column.
    """

    key: str
    sizes: tuple[int, ...]
    writes: tuple[bool, ...]
    emit: Callable[[str, Tile], Any]
    twin: Callable[..., None]
    emit_device: Callable[[str, Sequence[Any], int], Any] | None = None

    @property
    def symbol(self) -> str:
        """Return the C name, unique to the key."""
        stem = "".join(c if c.isalnum() else "_" for c in self.key.split("(", 1)[0])
        return f"{stem}_{hashlib.sha256(self.key.encode()).hexdigest()[:10]}"


def cuts(count: int, width: int, *, is_exact: bool = False) -> list[tuple[int, int, int]]:
    """Return (first, width, how many) so that the pieces cover `count`.

    What is left over is covered by one more full piece that overlaps: a few results are computed twice,
    which costs less than a loop of odd length. Where storing twice would do harm, ask for an exact cover.
    """
    whole, rest = divmod(count, width)
    if not whole:
        return [(0, count, 1)]
    last = (count - rest, rest, 1) if is_exact else (count - width, width, 1)
    return [(0, width, whole)] + ([last] if rest else [])


def column_cuts(columns: int, tile: Tile, *, is_exact: bool = False) -> list[tuple[int, int, int, int]]:
    """Return (first, groups, lanes, how many): wide tiles, then as many whole lanes as cover the rest.

    The last piece overlaps the one before, as in `cuts`.
    """
    width = tile.groups * tile.lanes
    if columns < tile.lanes:
        return [(0, 1, columns, 1)]
    whole, rest = divmod(columns, width)
    out = [(0, tile.groups, tile.lanes, whole)] if whole else []
    groups, odd = divmod(rest, tile.lanes)
    if groups:
        out.append((whole * width, groups, tile.lanes, 1))
    if odd:
        out.append((columns - odd, 1, odd, 1) if is_exact else (columns - tile.lanes, 1, tile.lanes, 1))
    return out
