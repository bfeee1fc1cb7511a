"""Grow oblivious trees: one split per level for all rows, chosen among candidates by one matrix product.

A candidate is "x[j] > t" for the quantiles of a column, or "x[j] == c" for the codes of a categorical one: codes have
no order. The score of a split is the sum over its sides of |G|^2 / (n + shrink) with G the summed goals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.trees import ObliviousTrees

__all__ = ["Splits", "Tree", "fit_oblivious", "leaf_means"]

F32: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.floating]


class Tree(NamedTuple):
    """One tree: `feature`, `threshold` and `equal` (depth,), `row` (n,) the leaf of each row.

    `gain` (depth,) is what each level added to the score, `chosen` (depth,) the numbers of the candidates.
    """

    feature: npt.NDArray[np.uint8]
    threshold: F32
    equal: npt.NDArray[np.bool_]
    row: npt.NDArray[np.int64]
    gain: npt.NDArray[np.float64]
    chosen: list[int]


class Splits:
    """The candidates of a set of rows (n, n_in), and which rows pass each of them."""

    def __init__(self, x: Floats, *, bins: int = 32, categorical: Sequence[int] = ()) -> None:
        feature, threshold, equal = [], [], []
        for j in range(x.shape[1]):
            if j in categorical:
                marks = np.unique(x[:, j])
            else:
                marks = np.unique(np.quantile(x[:, j], np.linspace(0, 1, bins + 1)[1:-1]).astype(np.float32))
            feature += [j] * len(marks)
            threshold += marks.tolist()
            equal += [j in categorical] * len(marks)
        self.feature = np.array(feature, np.uint8)
        self.threshold = np.array(threshold, np.float32)
        self.equal = np.array(equal, bool)

    def passed(self, x: Floats) -> F32:
        """Return which rows (n, n_in) pass which candidate, (n, candidates) of 0 and 1."""
        picked = np.asarray(x, np.float32)[:, self.feature]
        return np.where(self.equal, picked == self.threshold, picked > self.threshold).astype(np.float32)

    def grow(self, passed: F32, goal: Floats, depth: int, *, shrink: float = 1.0) -> Tree:
        """Return the greedy tree for goals (n, n_out) of rows whose passing is `passed` (n, candidates)."""
        n, n_out = goal.shape
        wide = np.concatenate([goal, np.ones((n, 1))], axis=1).astype(np.float32)
        index = np.zeros(n, np.int64)
        chosen, gains = [], []
        turned = np.ascontiguousarray(passed.T)
        for level in range(depth):
            groups = 1 << level
            spread = np.zeros((n, groups, n_out + 1), np.float32)
            spread[np.arange(n), index] = wide
            above = (turned @ spread.reshape(n, -1)).reshape(-1, groups, n_out + 1).astype(np.float64)
            below = spread.sum(axis=0, dtype=np.float64)[None] - above
            score = sum(
                np.square(side[..., :-1]).sum(axis=-1) / (side[..., -1] + shrink) for side in (above, below)
            )
            total = np.asarray(score).sum(axis=1)
            at = int(total.argmax())
            chosen.append(at)
            gains.append(float(total[at]))
            index |= passed[:, at].astype(np.int64) << level
        return Tree(
            self.feature[chosen],
            self.threshold[chosen],
            self.equal[chosen],
            index,
            np.diff(gains, prepend=0),
            chosen,
        )


def leaf_means(index: npt.NDArray[np.int64], goal: Floats, leaves: int) -> npt.NDArray[np.float64]:
    """Return the mean goal (leaves, n_out) of the rows in each leaf; 0 where there are none."""
    count = np.maximum(np.bincount(index, minlength=leaves), 1)
    sums = [np.bincount(index, goal[:, k], minlength=leaves) for k in range(goal.shape[1])]
    return np.asarray(np.stack(sums, axis=1) / count[:, None])


def fit_oblivious(
    x: Floats,
    y: Floats,
    *,
    trees: int = 10,
    depth: int = 3,
    bins: int = 32,
    rate: float = 0.5,
    categorical: Sequence[int] = (),
) -> ObliviousTrees:
    """Fit boosted oblivious trees to (n, n_in) -> (n, n_out) by squared error.

    Raises `ExportError` for more than 255 inputs or data that is not finite.
    """
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or len(x) < 2 or x.shape[1] > 255:
        raise ExportError("trees need two or more finite samples of at most 255 inputs")
    splits = Splits(x, bins=bins, categorical=categorical)
    passed = splits.passed(x)
    base = y.mean(axis=0)
    rest = y - base
    found: list[Tree] = []
    leaves = []
    for _ in range(trees):
        tree = splits.grow(passed, rest, depth, shrink=1e-9)
        leaf = (rate * leaf_means(tree.row, rest, 1 << depth)).astype(np.float32)
        rest -= leaf[tree.row]
        found.append(tree)
        leaves.append(leaf)
    return ObliviousTrees(
        np.array([tree.feature for tree in found], np.uint8).reshape(trees, depth),
        np.array([tree.threshold for tree in found], np.float32).reshape(trees, depth),
        np.array(leaves, np.float32),
        base.astype(np.float32),
        x.shape[1],
        np.array([tree.equal for tree in found], bool).reshape(trees, depth) if categorical else None,
    )
