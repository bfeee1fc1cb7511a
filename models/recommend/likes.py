"""Hold who likes what as one sparse matrix, with how much each person counts.

Columns are positions in `items`, rows positions in `people`; the dense form is made in blocks, so that memory is
bounded by `block x items`. No SciPy: the products that the recommenders need are dense blocks or `bincount`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Likes", "Profile"]

_BLOCK_ROWS = 512


@dataclass(frozen=True, slots=True)
class Profile:
    """What one person likes: `columns` (k,) int64 of a `Likes`, and the person's row there, -1 when it has none."""

    columns: NDArray[np.int64]
    row: int = -1


@dataclass(frozen=True)
class Likes:
    """Hold a people x items matrix in CSR form.

    `starts` (people + 1,) and `columns` (likes,) int64; `influence` (people,) float32 is the weight of each row in
    whatever is learnt, 1 for everybody by default; `tags` (tags, items) float32 describes the items, or has no row;
    `trust` (edges, 3) float64 holds `from row, to row, weight` for those who walk along it; `times` (likes,) int64
    says when each like was given, and is empty where that is not known.
    """

    starts: NDArray[np.int64]
    columns: NDArray[np.int64]
    n_items: int
    influence: NDArray[np.float32]
    tags: NDArray[np.float32]
    trust: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 3)))
    times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        shape: tuple[int, int],
        *,
        influence: NDArray[np.floating] | None = None,
        tags: NDArray[np.floating] | None = None,
        trust: NDArray[np.floating] | None = None,
        times: NDArray[np.integer] | None = None,
    ) -> Likes:
        """Return the matrix with a one at every (row, column); repeated pairs count once.

        Raises:
            ValueError: an index is outside `shape`, or an influence is negative or not finite.
        """
        n_people, n_items = shape
        rows, columns = rows.astype(np.int64), columns.astype(np.int64)
        if len(rows) and (
            min(rows.min(), columns.min()) < 0 or rows.max() >= n_people or columns.max() >= n_items
        ):
            raise ValueError("a like is outside the matrix")
        pairs, first = np.unique(rows * max(n_items, 1) + columns, return_index=True)
        rows, columns = pairs // max(n_items, 1), pairs % max(n_items, 1)
        starts: NDArray[np.int64] = np.searchsorted(rows, np.arange(n_people + 1)).astype(np.int64)
        weight = np.ones(n_people) if influence is None else np.asarray(influence, np.float64)
        if weight.shape != (n_people,) or not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError("the influence of people must be finite and not negative")
        return cls(
            starts,
            np.asarray(columns, np.int64),
            n_items,
            weight.astype(np.float32),
            np.zeros((0, n_items), np.float32) if tags is None else np.asarray(tags, np.float32),
            np.empty((0, 3)) if trust is None else np.asarray(trust, np.float64),
            np.zeros(0, np.int64) if times is None else times.astype(np.int64)[first],
        )

    @property
    def n_people(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of every like, (likes,) int64."""
        return np.repeat(np.arange(self.n_people), np.diff(self.starts))

    def liked(self, row: int) -> NDArray[np.int64]:
        """Return the columns of one row."""
        return self.columns[self.starts[row] : self.starts[row + 1]]

    def profile(self, row: int) -> Profile:
        """Return the taste of one row."""
        return Profile(self.liked(row), row)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield (rows, dense (rows, items) float32) until everybody was there."""
        for first in range(0, self.n_people, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, self.n_people)
            span = slice(int(self.starts[first]), int(self.starts[last]))
            counts = np.diff(self.starts[first : last + 1])
            dense = np.zeros((last - first, self.n_items), np.float32)
            dense[np.repeat(np.arange(last - first), counts), self.columns[span]] = 1.0
            yield slice(first, last), dense

    def together(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return X' diag(weights) X, (items, items) float32; the influence is used when no weights are given."""
        weights = self.influence if weights is None else weights
        if not self.influence.all():
            heard = self.influence > 0
            return self.heard().together(weights[heard])
        total = np.zeros((self.n_items, self.n_items), np.float32)
        for rows, dense in self.blocks():
            total += (dense.T * weights[rows]) @ dense
        return total

    def popularity(self) -> NDArray[np.float32]:
        """Return the influence behind every item, (items,) float32."""
        return np.bincount(self.columns, self.influence[self.rows], self.n_items).astype(np.float32)

    def without(self, held: Sequence[int] | NDArray[np.integer]) -> Likes:
        """Return the same matrix less the likes at the positions `held`."""
        keep = np.ones(len(self.columns), bool)
        keep[np.asarray(held, np.int64)] = False
        return Likes.of(
            self.rows[keep],
            self.columns[keep],
            (self.n_people, self.n_items),
            influence=self.influence,
            tags=self.tags,
            trust=self.trust,
            times=self.times[keep] if len(self.times) else None,
        )

    def heard(self) -> Likes:
        """Return the matrix without the rows of no influence, which nothing is learnt from."""
        keep = self.influence > 0
        counts = np.diff(self.starts)
        starts = np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64)
        return Likes(
            starts, self.columns[np.repeat(keep, counts)], self.n_items, self.influence[keep], self.tags
        )

    def weighed(self, influence: NDArray[np.floating]) -> Likes:
        """Return the same matrix with another influence of each person."""
        return Likes(
            self.starts,
            self.columns,
            self.n_items,
            np.asarray(influence, np.float32),
            self.tags,
            self.trust,
        )
