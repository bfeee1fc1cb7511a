"""Score documents by BM25: the posting lists of base and delta, weighted when a query first needs them.

See `index` for the equation and for how it stays exact.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.catalogue import Catalogue
from flocklet.models.search.index.postings import Postings
from flocklet.models.search.index.recent import Delta
from flocklet.models.search.index.topk import GROUP

__all__ = ["Scorer"]

# A weighted list: document numbers and what the term adds to each; None stands for 0, 1, ... (a dense row).
_Weighted = tuple[NDArray[np.int32] | None, NDArray[np.float32]]

_DENSE_SHARE = 8  # a list of more than 1 / 8 of the base is added faster as a dense row ...
_DENSE_BYTES = 8 << 20  # ... and so many bytes of dense rows are kept at most


class Scorer:
    """Weigh and add up posting lists; `forget` after every change of what it was given."""

    def __init__(self, k1: float, b: float) -> None:
        self._k1 = k1
        self._b = b
        self._dense_from = 1  # length from which a list of the base is kept as a dense row
        self._weighted: dict[tuple[int, ...], tuple[_Weighted, ...]] = {}  # per group, until the next change
        self._norms: NDArray[np.float32] | None = None  # per document number, until the next change
        self._scores = np.zeros(0, np.float32)
        self._base = Postings.empty()
        self._delta = Delta(0)
        self._catalogue = Catalogue()
        self._dfs = array("i")

    def use(self, base: Postings, delta: Delta, catalogue: Catalogue, dfs: array[int]) -> None:
        """Score from now on with these lists; `dfs` are the live documents per row."""
        self.forget()
        self._base, self._delta, self._catalogue, self._dfs = base, delta, catalogue, dfs
        documents = len(catalogue)
        dense_rows = _DENSE_BYTES // (4 * documents + 1)
        longest = np.sort(np.diff(base.starts))[::-1]
        self._dense_from = documents // _DENSE_SHARE + 1
        if dense_rows < len(longest):
            self._dense_from = max(self._dense_from, int(longest[dense_rows]) + 1)

    def forget(self) -> None:
        """Forget the weights: the documents changed."""
        self._weighted.clear()
        self._norms = None

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the weights and of the buffer."""
        weights = sum(values.nbytes for lists in self._weighted.values() for _, values in lists)
        return self._scores.nbytes + (0 if self._norms is None else self._norms.nbytes) + weights

    def _lists(self, row: int) -> list[tuple[NDArray[np.int32], NDArray[Any]]]:
        """Return the (documents, frequencies) of a row: those of the base, then those of the delta."""
        result: list[tuple[NDArray[np.int32], NDArray[Any]]] = []
        if 0 <= row < self._base.rows:
            span = slice(int(self._base.starts[row]), int(self._base.starts[row + 1]))
            result.append((self._base.docs[span], self._base.frequencies[span]))
        newest = self._delta.postings_of(row)
        if newest is not None:
            result.append(newest)
        return result

    def postings(self, group: tuple[int, ...]) -> list[tuple[NDArray[np.int32], NDArray[Any]]]:
        """Return the lists of a group like those of one term: documents once, occurrences added up."""
        if len(group) == 1:
            return self._lists(group[0])
        lists = [part for row in group for part in self._lists(row)]
        if not lists:
            return []
        docs, place = np.unique(np.concatenate([docs for docs, _ in lists]), return_inverse=True)
        frequencies = np.zeros(len(docs), np.uint32)
        np.add.at(frequencies, place, np.concatenate([counts.astype(np.uint32) for _, counts in lists]))
        return [(docs, frequencies)]

    def df(self, group: tuple[int, ...]) -> int:
        """Return how many live documents have a term of the group."""
        if len(group) == 1:
            return self._dfs[group[0]] if group[0] < len(self._dfs) else 0
        return sum(int(self._catalogue.alive[docs].sum()) for docs, _ in self.postings(group))

    def weigh(self, df: int, docs: NDArray[np.int32], frequencies: NDArray[Any]) -> NDArray[np.float32]:
        """Return what a term of `df` documents adds to each of `docs`, in which it occurs `frequencies` times."""
        if self._norms is None:
            catalogue = self._catalogue
            slope = np.float32(self._k1 * self._b / catalogue.mean_length)
            self._norms = np.float32(self._k1 * (1 - self._b)) + slope * catalogue.lengths.astype(np.float32)
            if catalogue.dead:
                self._norms[~catalogue.alive] = np.inf  # the weight becomes 0
        idf = math.log(1 + (len(self._catalogue.numbers) - df + 0.5) / (df + 0.5))
        occurrences = frequencies.astype(np.float32)
        weights: NDArray[np.float32] = np.float32(idf * (self._k1 + 1)) * occurrences
        occurrences += self._norms[docs]
        weights /= occurrences
        return weights

    def _weighted_lists(self, group: tuple[int, ...]) -> tuple[_Weighted, ...]:
        result: list[_Weighted] = []
        df = self.df(group)
        for docs, frequencies in self.postings(group):
            weights = self.weigh(df, docs, frequencies)
            if len(docs) >= self._dense_from and docs[-1] < self._delta.first:
                dense = np.zeros(self._delta.first, np.float32)
                dense[docs] = weights
                result.append((None, dense))
            else:
                result.append((docs, weights))
        self._weighted[group] = tuple(result)
        return self._weighted[group]

    def accumulate(
        self, groups: Sequence[tuple[int, ...]], factors: Sequence[float] = ()
    ) -> NDArray[np.float32]:
        """Return the scores by document number, padded with zeros to whole groups (a buffer used again)."""
        padded = -(-len(self._catalogue) // GROUP) * GROUP
        if len(self._scores) != padded:
            self._scores = np.empty(padded, np.float32)
        scores = self._scores
        scores.fill(0)
        base = scores[: self._delta.first]
        for at, group in enumerate(groups):
            for docs, weights in self._weighted.get(group) or self._weighted_lists(group):
                if factors and factors[at] != 1.0:
                    weights = weights * np.float32(factors[at])
                if docs is None:
                    base += weights
                else:
                    np.add.at(scores, docs, weights)
        return scores
