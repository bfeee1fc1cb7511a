"""Read an index the other way round: which terms a document holds, and where it lies among all documents.

`Forward` turns the posting lists into rows per document, lazily and once per merge of the index; what was added since
is read from the delta. `Landscape` is latent semantic indexing (Deerwester et al. 1990) over a sample of the documents:
a document's place is `x V`, its term weights folded into the k leading directions of the sample, normalised to length
1; so new documents have a place at once. Both cost nothing until somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.index import Index
from flocklet.models.search.index.postings import Postings

__all__ = ["DocumentTerms", "Forward", "Landscape", "idf_of"]

Floats = NDArray[np.float32]

_DIRECTIONS = 100
_OVERSAMPLE = 12
_ROUNDS = 3
_SAMPLE = 1_536
_MAX_TERMS = 6_144


@dataclass(frozen=True, slots=True, eq=False)
class DocumentTerms:
    """Hold the terms of n documents over the U distinct terms that they use, as one entry per (document, term).

    owner `(z,)` which document, place `(z,)` which of the U terms, frequencies `(z,) float32` occurrences; rows `(U,) int64`
    vocabulary rows, lengths `(n,) float32` in terms.
    """

    owner: NDArray[np.int64]
    place: NDArray[np.int64]
    frequencies: Floats
    rows: NDArray[np.int64]
    lengths: Floats

    @property
    def counts(self) -> Floats:
        """The occurrences as a table `(n, U) float32`."""
        return self.table(self.frequencies)

    def table(self, values: Floats) -> Floats:
        """Return a value per entry as a table `(n, U) float32`."""
        result = np.zeros((len(self.lengths), len(self.rows)), np.float32)
        result[self.owner, self.place] = values
        return result

    def sums(self, values: Floats) -> Floats:
        """Return the sum of a value per entry over each document, `(n,) float32`."""
        return np.bincount(self.owner, values, len(self.lengths)).astype(np.float32)


class Forward:
    """Answer for documents of `index` by their ids; an id that is not there has no terms."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._base: Postings | None = None
        self._starts: NDArray[np.int64] = np.zeros(1, np.int64)
        self._rows: NDArray[np.int32] = np.zeros(0, np.int32)
        self._frequencies: NDArray[Any] = np.zeros(0, np.uint8)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the rows per document."""
        return self._starts.nbytes + self._rows.nbytes + self._frequencies.nbytes

    def terms_of(self, ids: NDArray[np.uint64]) -> DocumentTerms:
        """Return the terms of the documents `ids` `(n,) uint64`."""
        _, _, _, _, catalogue = self._index.parts
        numbers = [catalogue.numbers.get(item, -1) for item in ids.tolist()]
        return self._gather(numbers)

    def sample(self, size: int) -> list[int]:
        """Return the numbers of at most `size` live documents, evenly spread over their order of arrival."""
        alive = np.flatnonzero(self._index.parts[4].alive)
        step = max(1, -(-len(alive) // size))
        return [int(number) for number in alive[::step]]

    def numbered(self, numbers: list[int]) -> DocumentTerms:
        """Return the terms of documents by their numbers."""
        return self._gather(numbers)

    def _gather(self, numbers: list[int]) -> DocumentTerms:
        _, _, base, delta, catalogue = self._index.parts
        if self._base is not base:
            self._transpose(base)
        wanted = np.array(numbers, np.int64)
        in_base = np.flatnonzero((wanted >= 0) & (wanted < delta.first))
        first = self._starts[wanted[in_base]]
        sizes = self._starts[wanted[in_base] + 1] - first
        before = np.cumsum(sizes) - sizes
        spans = np.arange(int(sizes.sum())) + np.repeat(first - before, sizes)
        owners = [np.repeat(in_base, sizes)]
        rows = [self._rows[spans].astype(np.int64)]
        counts = [self._frequencies[spans].astype(np.float32)]
        for at in np.flatnonzero(wanted >= delta.first).tolist():
            added = np.array(delta.rows_of(numbers[at]), np.int64)
            owners.append(np.full(len(added), at, np.int64))
            rows.append(added)
            counts.append(np.array(delta.frequencies_of(numbers[at]), np.float32))
        flat = np.concatenate(rows)
        is_used = np.zeros(int(flat.max(initial=-1)) + 1, bool)
        is_used[flat] = True
        used = np.flatnonzero(is_used)
        place = np.cumsum(is_used) - 1
        lengths = catalogue.lengths
        held = np.array([lengths[number] if number >= 0 else 0 for number in numbers], np.float32)
        return DocumentTerms(np.concatenate(owners), place[flat], np.concatenate(counts), used, held)

    def _transpose(self, base: Postings) -> None:
        self._base = base
        order = np.argsort(base.docs, kind="stable")
        rows = np.repeat(np.arange(base.rows, dtype=np.int32), np.diff(base.starts))
        self._rows = rows[order]
        self._frequencies = base.frequencies[order]
        self._starts = np.zeros(self._index.parts[3].first + 1, np.int64)
        np.cumsum(np.bincount(base.docs, minlength=len(self._starts) - 1), out=self._starts[1:])


class Landscape:
    """Place documents and queries in the k leading directions of a sample; the same index gives the same places."""

    def __init__(self, terms: list[str], directions: Floats) -> None:
        self._terms = terms
        self._directions = np.concatenate(
            [directions, np.zeros((1, directions.shape[1]), np.float32)]
        )  # (terms + 1, k)
        self._vocabulary: dict[str, int] | None = None
        self._known = -1
        self._place: NDArray[np.int64] = np.zeros(0, np.int64)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the directions."""
        return self._directions.nbytes

    @classmethod
    def of(cls, index: Index, forward: Forward, *, seed: int = 0) -> Landscape:
        """Return the landscape of a sample of the documents of `index` (randomised subspace iteration)."""
        vocabulary, df, _, _, _ = index.parts
        documents = forward.numbered(forward.sample(_SAMPLE))
        counts = documents.counts
        within = (counts > 0).sum(axis=0)
        chosen = np.flatnonzero(within > 1)
        if len(chosen) > _MAX_TERMS:
            chosen = np.sort(chosen[np.argsort(-within[chosen], kind="stable")[:_MAX_TERMS]])
        rows = documents.rows[chosen]
        table = np.log1p(counts[:, chosen])
        table *= idf_of(df, rows, len(index))
        table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
        names = list(vocabulary)
        kept = min(_DIRECTIONS, min(table.shape) // 2)
        if kept < 2:
            return cls([], np.zeros((0, 0), np.float32))
        rng = np.random.default_rng(seed)
        width = min(kept + _OVERSAMPLE, *table.shape)
        basis = rng.standard_normal((table.shape[1], width)).astype(np.float32)
        for _ in range(_ROUNDS):
            image, _ = np.linalg.qr(table @ basis)
            basis, _ = np.linalg.qr(table.T @ image)
        _, _, right = np.linalg.svd(table @ basis, full_matrices=False)
        directions = basis @ right[:kept].T
        return cls([names[row] for row in rows.tolist()], directions.astype(np.float32))

    def places(self, vocabulary: dict[str, int], rows: NDArray[np.int64], weights: Floats) -> Floats:
        """Return the places `(n, k) float32`, of length 1 or 0, of term weights `(n, U)` over vocabulary `rows`."""
        if self._vocabulary is not vocabulary or self._known != len(vocabulary):
            self._vocabulary, self._known = vocabulary, len(vocabulary)
            self._place = np.full(len(vocabulary) + 1, -1, np.int64)
            for at, term in enumerate(self._terms):
                row = vocabulary.get(term)
                if row is not None:
                    self._place[row] = at
        points: Floats = (
            weights @ self._directions[self._place[rows]]
        )  # an unknown term is the last row, zeros
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        result: Floats = points / np.maximum(norms, 1e-9)
        return result


def idf_of(df: Any, rows: NDArray[np.int64], documents: int) -> Floats:
    """Return the idf of the BM25 equation for vocabulary `rows`."""
    counts = np.frombuffer(df, np.int32)[rows] if len(df) else np.zeros(len(rows), np.int32)
    result: Floats = np.log1p((documents - counts + 0.5) / (counts + 0.5)).astype(np.float32)
    return result
