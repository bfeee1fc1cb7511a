"""Lay arrays out for the kernels: one array of the weights struct, and dense layers in tiles.

Dense float layers are stored in tiles of 8 outputs, [tile][input][8], the last tile in 4 where 4 or fewer
outputs remain; missing outputs are zero rows. Biases are padded alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Field", "pack_dense", "rows_of", "tiles"]

_C_TYPES = {
    "f4": "float",
    "i4": "int32_t",
    "i2": "int16_t",
    "i1": "int8_t",
    "u4": "uint32_t",
    "u2": "uint16_t",
}


@dataclass(frozen=True)
class Field:
    """Hold one array of the weights struct."""

    name: str
    values: npt.NDArray[Any]

    @property
    def c_type(self) -> str:
        """Return the C type of an element."""
        return _C_TYPES[self.values.dtype.str[1:]]


def tiles(n_out: int) -> tuple[int, bool]:
    """Return how many tiles of 8 outputs there are, and whether a tile of 4 follows."""
    rest = n_out % 8
    return n_out // 8 + (rest > 4), 0 < rest <= 4


def rows_of(n_out: int) -> int:
    """Return the number of outputs after padding."""
    eights, four = tiles(n_out)
    return 8 * eights + 4 * four


def _pad(array: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.float32]:
    out = np.zeros((n, *array.shape[1:]), np.float32)
    out[: len(array)] = array
    return out


def pack_dense(prefix: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> list[Field]:
    """Return the tiled weight and the padded bias of a dense float layer."""
    n_out, n_in = weight.shape
    eights, four = tiles(n_out)
    full = _pad(weight, rows_of(n_out))
    parts = [full[: 8 * eights].reshape(eights, 8, n_in).transpose(0, 2, 1).ravel()]
    if four:
        parts.append(full[8 * eights :].T.ravel())
    return [Field(f"w{prefix}", np.concatenate(parts)), Field(f"b{prefix}", _pad(bias, rows_of(n_out)))]
