"""Hold the newest documents of an index in lists that grow: cheap to add to, merged away now and then."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.postings import Postings, narrow

__all__ = ["Delta"]


class Delta:
    """Hold posting lists of documents numbered `first`, `first + 1`, ... (see `Postings`; terms are rows)."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._lists: dict[int, tuple[array[int], array[int]]] = {}  # row -> (document numbers, frequencies)
        self._rows: list[array[int]] = []  # per document: its distinct rows
        self._postings = 0

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._rows)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the lists: number, frequency and row of each posting."""
        return 12 * self._postings

    def add(self, counts: Mapping[int, int]) -> None:
        """Add the next document: how often it has each row."""
        number = self.first + len(self._rows)
        for row, frequency in counts.items():
            docs, frequencies = self._lists.setdefault(row, (array("i"), array("i")))
            docs.append(number)
            frequencies.append(frequency)
        self._rows.append(array("i", counts))
        self._postings += len(counts)

    def rows_of(self, number: int) -> Sequence[int]:
        """Return the distinct rows of document `number`."""
        return self._rows[number - self.first]

    def frequencies_of(self, number: int) -> list[int]:
        """Return how often document `number` has each of its distinct rows, in the order of `rows_of`."""
        result = []
        for row in self.rows_of(number):
            docs, frequencies = self._lists[row]
            result.append(frequencies[bisect_left(docs, number)])
        return result

    def postings_of(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Return copies of the documents (ascending) and frequencies of `row`, None when it is in no
        document.
        """
        found = self._lists.get(row)
        return None if found is None else (np.array(found[0], np.int32), np.array(found[1], np.int32))

    def to_postings(self) -> tuple[Postings, NDArray[np.int32]]:
        """Return everything as `Postings`, one list for each row in use, and those rows, ascending."""
        rows = sorted(self._lists)
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(self._lists[row][0]) for row in rows], out=starts[1:])
        docs = np.empty(int(starts[-1]), np.int32)
        frequencies = np.empty(int(starts[-1]), np.int32)
        for place, row in enumerate(rows):
            span = slice(int(starts[place]), int(starts[place + 1]))
            docs[span], frequencies[span] = self._lists[row]
        return Postings(starts, docs, narrow(frequencies)), np.array(rows, np.int32)
