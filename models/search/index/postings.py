"""Hold which documents contain which terms: immutable posting lists in CSR form, their construction and their
merge.

A posting list names, for one term, the documents that contain it (numbers, ascending) and how often (term
frequency). `Postings` holds the lists of many terms in three flat arrays; terms are rows, documents are
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Postings", "invert", "merge", "narrow"]

_BLOCK = 1 << 20  # postings that are moved at a time by a merge: bounds its scratch memory to about 20 MB


@dataclass(frozen=True, slots=True)
class Postings:
    """Hold posting lists: those of row r are `docs[starts[r]:starts[r + 1]]`, with frequencies at the same
    places.

    starts `(rows + 1,) int64`, docs `(postings,) int32`, frequencies `(postings,) uint8 | uint16 | uint32`.
    """

    starts: NDArray[np.int64]
    docs: NDArray[np.int32]
    frequencies: NDArray[Any]

    @classmethod
    def empty(cls) -> Postings:
        """Return posting lists of no terms."""
        return cls(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.uint8))

    @property
    def rows(self) -> int:
        """Return the number of terms."""
        return len(self.starts) - 1

    @property
    def size_bytes(self) -> int:
        """Return the bytes that the arrays take."""
        return self.starts.nbytes + self.docs.nbytes + self.frequencies.nbytes

    def rows_with(self, docs: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of every posting that names one of `docs`, ascending (a scan of all postings)."""
        if len(docs) == 1:
            places = np.flatnonzero(self.docs == docs[0])
        else:
            wanted = np.zeros(max(int(self.docs.max(initial=0)), *docs) + 1, np.bool_)
            wanted[docs] = True
            places = np.flatnonzero(wanted[self.docs])
        return np.searchsorted(self.starts, places, side="right").astype(np.int64) - 1


def narrow(frequencies: NDArray[Any]) -> NDArray[Any]:
    """Return `frequencies` in the smallest unsigned type that holds them all."""
    return frequencies.astype(np.min_scalar_type(int(frequencies.max(initial=0))))


def invert(
    rows: NDArray[np.int32], lengths: Sequence[int], first_doc: int
) -> tuple[Postings, NDArray[np.int32]]:
    """Return the posting lists of the documents `first_doc`, `first_doc + 1`, ... as rows in use, and which
    those are.

    `rows` holds the term row of every word of these documents, one document after the other; `lengths`
    their counts. The returned lists have one entry per *distinct* row; the second value `(distinct,) int32`
    names them, ascending.
    """
    count = max(len(lengths), 1)
    local = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    keys, frequencies = np.unique(rows.astype(np.int64) * count + local, return_counts=True)
    key_rows = keys // count
    used, starts = np.unique(key_rows, return_index=True)
    docs = (keys - key_rows * count + first_doc).astype(np.int32)
    ends = np.append(starts, len(keys)).astype(np.int64)
    return Postings(ends, docs, narrow(frequencies)), used.astype(np.int32)


def merge(
    parts: Sequence[tuple[Postings, NDArray[np.int32]]], new_numbers: NDArray[np.int32], rows: int
) -> Postings:
    """Merge `parts` (lists, and the rows they belong to) into lists of `rows` terms, leaving dead documents
    out.

    `new_numbers[d]` is the number that document d gets, -1 when it is dead. The parts must come in
    ascending order of their documents, and the new numbers must keep the order, so every merged list stays
    ascending.
    """
    counts = np.zeros(rows, np.int64)
    for part, used in parts:
        alive = np.zeros(len(part.docs) + 1, np.int64)
        np.cumsum(new_numbers[part.docs] >= 0, out=alive[1:])
        counts[used] += alive[part.starts[1:]] - alive[part.starts[:-1]]
    starts = np.zeros(rows + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    total = int(starts[-1])
    widest = max(
        (part.frequencies.dtype for part, _ in parts), key=lambda kind: kind.itemsize, default=np.dtype("u1")
    )
    docs = np.empty(total, np.int32)
    frequencies = np.empty(total, widest)
    fill = starts[:-1].copy()
    for part, used in parts:
        row = 0
        while row < len(used):
            # As many whole rows as fit in a block, at least one.
            limit = part.starts[row] + _BLOCK
            end = max(int(np.searchsorted(part.starts, limit, side="right")) - 1, row + 1)
            low, high = int(part.starts[row]), int(part.starts[end])
            numbers = new_numbers[part.docs[low:high]]
            local = np.repeat(np.arange(end - row), np.diff(part.starts[row : end + 1]))
            keep = numbers >= 0
            block_frequencies = part.frequencies[low:high]
            if not keep.all():
                numbers, local, block_frequencies = numbers[keep], local[keep], block_frequencies[keep]
            row_counts = np.bincount(local, minlength=end - row)
            target = fill[used[row:end]]
            # Place of a posting: where its row is filled to, plus how many of the row came before it in this
            # block.
            shift = target - (np.cumsum(row_counts) - row_counts)
            places = shift[local] + np.arange(len(local))
            docs[places] = numbers
            frequencies[places] = block_frequencies
            fill[used[row:end]] += row_counts
            row = end
    return Postings(starts, docs, frequencies)
