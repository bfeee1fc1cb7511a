"""Hold tree ensembles as flat tables, fit oblivious ones, and evaluate them exactly as the generated C does.

An oblivious tree has one split per level: bit d of the leaf index is (x[feature_d] > threshold_d). General
trees are arrays of nodes in breadth order, so that the right child follows the left: node += left +
(x[feature] > threshold). Sums over trees are float32 in tree order. "x <= t" of other libraries with a
float64 threshold t becomes a float32 comparison by rounding t down, which decides the same for every
float32 x.

A split marked `equal` is x[feature] == threshold instead: codes have no order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError

__all__ = ["FlatTrees", "ObliviousTrees", "Trees", "round_down", "round_up"]

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]


def round_down(values: npt.NDArray[np.floating]) -> F32:
    """Return the largest float32 that does not exceed each value."""
    values = np.asarray(values, np.float64)
    near = values.astype(np.float32)
    return np.where(near.astype(np.float64) > values, np.nextafter(near, np.float32(-np.inf)), near)


def round_up(values: npt.NDArray[np.floating]) -> F32:
    """Return the smallest float32 that is not below each value."""
    return -round_down(-np.asarray(values, np.float64))


@dataclass(frozen=True, eq=False)
class ObliviousTrees:
    """Hold oblivious trees.

    Feature (trees, depth), threshold (trees, depth), leaf (trees, 2^depth, n_out), base (n_out,).
    """

    feature: npt.NDArray[np.uint8]
    threshold: F32
    leaf: F32
    base: F32
    n_in: int
    equal: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.equal is not None and self.n_in > 127:
            raise ExportError("trees over codes take at most 127 inputs", remedy="fewer columns")

    @property
    def n_out(self) -> int:
        """Return the number of outputs."""
        return int(self.base.size)

    @property
    def table_bytes(self) -> int:
        """Return the bytes of the constant tables; `equal` travels in the high bits of the features."""
        return int(self.feature.nbytes + self.threshold.nbytes + self.leaf.nbytes + self.base.nbytes)

    def predict(self, x: F32) -> F32:
        """Return (n, n_out) float32 for (n, n_in) float32."""
        x = np.ascontiguousarray(x, np.float32)
        total = np.tile(self.base, (len(x), 1))
        equal = np.zeros(self.feature.shape, bool) if self.equal is None else self.equal
        for feature, threshold, leaf, is_equal in zip(
            self.feature, self.threshold, self.leaf, equal, strict=True
        ):
            index = np.zeros(len(x), np.int64)
            for d in range(len(feature)):
                column = x[:, feature[d]]
                passed = column == threshold[d] if is_equal[d] else column > threshold[d]
                index |= passed.astype(np.int64) << d
            total = total + leaf[index]
        return total


@dataclass(frozen=True, eq=False)
class FlatTrees:
    """Hold general trees with one output.

    Root (trees,), and per node feature (255: leaf), left offset, value.

    Each tree adds to output `target[tree]`; value is a threshold at a split and the result at a leaf. nan_left: 1 per
    node where a NaN goes left (None: everywhere). complement: with two outputs, the first is this number minus the
    second, and no tree adds to it.
    """

    root: npt.NDArray[np.uint32]
    target: npt.NDArray[np.uint8]
    feature: npt.NDArray[np.uint8]
    left: npt.NDArray[np.uint16]
    value: F32
    base: F32
    n_in: int
    nan_left: npt.NDArray[np.uint8] | None = None
    complement: float | None = None

    @property
    def n_out(self) -> int:
        """Return the number of outputs."""
        return int(self.base.size)

    @property
    def missing(self) -> str:
        """Return where a NaN goes at the splits: "left", "right", or "mixed" by `nan_left`."""
        found = set() if self.nan_left is None else set(self.nan_left[self.feature != 255].tolist())
        return "mixed" if len(found) == 2 else "right" if found == {0} else "left"

    @property
    def table_bytes(self) -> int:
        """Return the bytes of the constant tables."""
        arrays = (self.root, self.target, self.feature, self.left, self.value, self.base)
        flags = 0 if self.nan_left is None or self.missing != "mixed" else self.nan_left.nbytes
        return int(flags + sum(array.nbytes for array in arrays))

    def predict(self, x: F32) -> F32:
        """Return (n, n_out) float32 for (n, n_in) float32."""
        x = np.ascontiguousarray(x, np.float32)
        total = np.tile(self.base, (len(x), 1))
        rows = np.arange(len(x))
        for root, target in zip(self.root, self.target, strict=True):
            node = np.full(len(x), int(root))
            for _ in range(len(self.value)):  # a step goes down, so no path is longer than all nodes
                split = self.feature[node] != 255
                if not split.any():
                    break
                feature = np.where(split, self.feature[node], 0)
                found = x[rows, feature]
                left = found <= self.value[node]
                if self.nan_left is None:
                    left |= np.isnan(found)
                else:
                    left |= np.isnan(found) & (self.nan_left[node] != 0)
                node = np.where(split, int(root) + self.left[node] + ~left, node)
            total[:, target] = total[:, target] + self.value[node]
        if self.complement is not None:
            total[:, 0] = np.float32(self.complement) - total[:, 1]
        return total


Trees: TypeAlias = ObliviousTrees | FlatTrees
