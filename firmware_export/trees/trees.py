"""Hold tree ensembles as flat tables, fit oblivious ones, and evaluate them exactly as the generated C does.

An oblivious tree has one split per level: bit d of the leaf index is (x[feature_d] > threshold_d). General
trees are arrays of nodes in breadth order, so that the right child follows the left: node += left +
(x[feature] > threshold). Sums over trees are float32 in tree order. "x <= t" of other libraries with a
float64 threshold t becomes a float32 comparison by rounding t down, which decides the same for every
float32 x.

Fitting: greedy oblivious boosting on histograms (the CatBoost construction, Prokhorenkova et al. 2018,
without its ordered part), squared error, NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError

__all__ = ["FlatTrees", "ObliviousTrees", "Trees", "fit_oblivious", "round_down", "round_up"]

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

    @property
    def n_out(self) -> int:
        """Return the number of outputs."""
        return int(self.base.size)

    @property
    def table_bytes(self) -> int:
        """Return the bytes of the constant tables."""
        return int(self.feature.nbytes + self.threshold.nbytes + self.leaf.nbytes + self.base.nbytes)

    def predict(self, x: F32) -> F32:
        """Return (n, n_out) float32 for (n, n_in) float32."""
        x = np.ascontiguousarray(x, np.float32)
        total = np.tile(self.base, (len(x), 1))
        for feature, threshold, leaf in zip(self.feature, self.threshold, self.leaf, strict=True):
            index = np.zeros(len(x), np.int64)
            for d in range(len(feature)):
                index |= (x[:, feature[d]] > threshold[d]).astype(np.int64) << d
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


def fit_oblivious(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    *,
    trees: int = 10,
    depth: int = 3,
    bins: int = 32,
    rate: float = 0.5,
) -> ObliviousTrees:
    """Fit boosted oblivious trees to (n, n_in) -> (n, n_out) by squared error.

    Raises `ExportError` for more than 255 inputs or data that is not finite.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or len(x) < 2 or x.shape[1] > 255:
        raise ExportError("trees need two or more finite samples of at most 255 inputs")
    edges = [
        np.unique(np.quantile(x[:, j], np.linspace(0, 1, bins + 1)[1:-1]).astype(np.float32))
        for j in range(x.shape[1])
    ]
    codes = np.stack([np.searchsorted(edge, x[:, j], side="left") for j, edge in enumerate(edges)], axis=1)
    base = y.mean(axis=0)
    rest = y - base
    found = []
    for _ in range(trees):
        tree = _one_tree(codes, edges, rest, depth, rate)
        rest -= tree[2][tree[3]]
        found.append(tree)
    feature = np.array([t[0] for t in found], np.uint8)
    threshold = np.array([t[1] for t in found], np.float32)
    leaf = np.array([t[2] for t in found], np.float32)
    return ObliviousTrees(feature, threshold, leaf, base.astype(np.float32), x.shape[1])


def _one_tree(
    codes: npt.NDArray[np.int64], edges: list[F32], rest: F64, depth: int, rate: float
) -> tuple[list[int], list[float], F64, npt.NDArray[np.int64]]:
    n, n_out = rest.shape
    index = np.zeros(n, np.int64)
    features, thresholds = [], []
    for level in range(depth):
        groups = 1 << level
        best = (-1.0, 0, 0)
        for j, edge in enumerate(edges):
            size = len(edge) + 1
            if size < 2:
                continue
            slot = index * size + codes[:, j]
            count = np.bincount(slot, minlength=groups * size).reshape(groups, size).cumsum(axis=1)
            gain = np.zeros(size - 1)
            for k in range(n_out):
                total = (
                    np.bincount(slot, rest[:, k], minlength=groups * size)
                    .reshape(groups, size)
                    .cumsum(axis=1)
                )
                below, all_ = total[:, :-1], total[:, -1:]
                gain += (below**2 / np.maximum(count[:, :-1], 1)).sum(axis=0)
                gain += ((all_ - below) ** 2 / np.maximum(count[:, -1:] - count[:, :-1], 1)).sum(axis=0)
            at = int(gain.argmax())
            if gain[at] > best[0]:
                best = (float(gain[at]), j, at)
        _, j, at = best
        limit = edges[j][at] if len(edges[j]) else np.float32(np.inf)
        features.append(j)
        thresholds.append(float(limit))
        index |= (codes[:, j] > at).astype(np.int64) << level
    leaves = 1 << depth
    count = np.maximum(np.bincount(index, minlength=leaves), 1)
    leaf = np.stack([np.bincount(index, rest[:, k], minlength=leaves) / count for k in range(n_out)], axis=1)
    return features, thresholds, (rate * leaf).astype(np.float32).astype(np.float64), index
