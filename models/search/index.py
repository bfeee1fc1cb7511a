"""Find documents by their words: an incremental BM25 index in NumPy arrays.

Equation (specs, and Robertson & Zaragoza 2009, section 3.4.2, with the +1 that keeps idf positive):

    idf = ln(1 + (N - df + .5) / (df + .5))
    score = sum over the query's words of idf * f * (k1 + 1) / (f + k1 * (1 - b + b * L / avgL))

N documents, df of them with the term, f occurrences in this document, L its length in terms, avgL the mean
length. A document's text is `title + " " + text`, so a title that the text repeats counts twice.

How it works. One immutable *base* (`Postings`) holds the bulk; documents added since then stand in a small
*delta* of growing lists; removed ones are dead until the next `compact()`. N, df and avgL are always those
of the live documents, so scores equal those of a fresh build to the last bit. The weights of a term in the
base are computed when a query first needs them after a change and kept until the next one, so queries
between changes only add arrays. The top k is found without sorting: the k-th largest of the maxima of
disjoint groups of documents is a lower bound of the k-th score, and only documents that reach it are sorted
(exact).

An index is used by one thread at a time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from flocklet.errors import StoreError
from flocklet.models.search.items import Document
from flocklet.models.search.postings import Postings, invert, merge
from flocklet.models.search.text import term_of, tokenize, words
from numpy.typing import NDArray

__all__ = ["Index"]

_FORMAT = 1  # of to_arrays and of the text pipeline: another number means "build anew from the documents"
_CHUNK = 1024  # documents that a bulk add inverts at a time
_BULK = 64  # from so many documents on, add_many goes straight into the base
_GROUP = 64  # documents per group of the top-k bound
_SMALLEST_DELTA = 256
_MEMO_WORDS = 200_000


class _Rows(dict[str, int]):
    """Map a word to the row of its term, -1 for a stop word; a word not seen before gets a row."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, word: str) -> int:
        term = term_of(word)
        row = self._vocabulary.setdefault(term, len(self._vocabulary)) if term else -1
        if len(self) >= _MEMO_WORDS:
            self.clear()
        self[word] = row
        return row


class Index:
    """Keep documents by item id (u64) and return the best for a query; see the module for the equation."""

    def __init__(self, *, k1: float = 1.2, b: float = 0.75) -> None:
        self._k1 = k1
        self._b = b
        self._vocabulary: dict[str, int] = {}  # term -> row, in the order of rows
        self._rows = _Rows(self._vocabulary)
        self._df = array("i")  # live documents per row
        self._ids = array("Q")  # per document number, dead ones included
        self._lengths = array("i")
        self._alive = bytearray()
        self._numbers: dict[int, int] = {}  # item id -> document number, live ones only
        self._total_length = 0
        self._base = Postings.empty()
        self._base_docs = 0
        self._impacts = np.zeros(
            0, np.float32
        )  # of the base, valid per row while its stamp is the current one
        self._stamps = np.zeros(0, np.int64)
        self._delta: dict[int, tuple[array[int], array[int]]] = {}  # row -> (document numbers, frequencies)
        self._delta_rows: list[array[int]] = []  # per document of the delta: its rows
        self._change = 1
        self._norms_change = 0
        self._norms = np.zeros(0, np.float32)
        self._scores = np.zeros(0, np.float32)

    # -- what is inside

    def __len__(self) -> int:
        """Return the number of live documents."""
        return len(self._numbers)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._numbers

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Return the item ids of the live documents `(len,) uint64`, ascending."""
        return np.sort(np.fromiter(self._numbers, np.uint64, len(self._numbers)))

    @property
    def terms(self) -> int:
        """Return the number of distinct terms, those of removed documents until the next `compact`."""
        return len(self._vocabulary)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the arrays (the dictionaries of terms and ids are not counted)."""
        delta = sum(2 * 4 * len(docs) for docs, _ in self._delta.values()) + 4 * sum(
            map(len, self._delta_rows)
        )
        documents = len(self._alive) * (8 + 4 + 1)
        return (
            self._base.size_bytes
            + self._impacts.nbytes
            + self._stamps.nbytes
            + self._norms.nbytes
            + self._scores.nbytes
            + 4 * len(self._df)
            + documents
            + delta
        )

    @property
    def is_compaction_due(self) -> bool:
        """Tell whether delta and dead documents are worth a `compact()` (an eighth of the base)."""
        waiting = len(self._alive) - self._base_docs + self._alive.count(0)
        return waiting > max(_SMALLEST_DELTA, self._base_docs // 8)

    # -- change

    def add(self, item_id: int, title: str, text: str) -> None:
        """Add one document, searchable at once; an id that is already there is replaced."""
        self.remove(item_id)
        counts: dict[int, int] = {}
        length = 0
        for row in map(self._rows.__getitem__, words(f"{title} {text}")):
            if row >= 0:
                counts[row] = counts.get(row, 0) + 1
                length += 1
        number = self._append(item_id, length)
        self._grow_df()
        for row, frequency in counts.items():
            self._df[row] += 1
            docs, frequencies = self._delta.setdefault(row, (array("i"), array("i")))
            docs.append(number)
            frequencies.append(frequency)
        self._delta_rows.append(array("i", counts))
        self._total_length += length
        self._change += 1
        # Doubling keeps the cost per document constant even when nobody ever calls compact().
        if len(self._delta_rows) > max(4 * _SMALLEST_DELTA, self._base_docs):
            self.compact()

    def add_many(self, documents: Iterable[Document]) -> int:
        """Add or replace `documents`, return how many; the last one of equal ids stays."""
        parts: list[tuple[Postings, NDArray[np.int32]]] = []
        chunk: list[Document] = []
        count = 0
        try:
            for document in documents:
                chunk.append(document)
                count += 1
                if len(chunk) == _CHUNK:
                    parts.append(self._invert(chunk))
                    chunk = []
            if len(chunk) >= _BULK:
                parts.append(self._invert(chunk))
                chunk = []
        finally:  # what was read before `documents` failed is kept
            if parts:
                self._compact(parts)
        for document in chunk:
            self.add(document.item_id, document.title, document.text)
        return count

    def remove(self, item_id: int) -> bool:
        """Remove a document at once; return whether it was there."""
        number = self._numbers.pop(item_id, None)
        if number is None:
            return False
        if number >= self._base_docs:
            rows: Iterable[int] = self._delta_rows[number - self._base_docs]
        else:
            rows = self._base.rows_with(number).tolist()
        for row in rows:
            self._df[row] -= 1
        self._alive[number] = 0
        self._total_length -= self._lengths[number]
        self._change += 1
        return True

    def compact(self) -> None:
        """Merge the delta into the base and forget dead documents and their terms; scores do not change."""
        if self._delta_rows or len(self._numbers) != len(self._alive):
            self._compact([])

    # -- ask

    def candidates(self, query: str, k: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the ids and scores of the best `k` documents, best first, equal scores by ascending id.

        Only documents with at least one word of the query are returned, so there may be fewer than `k`. A
        word that the query repeats counts again. A query of no known words finds nothing.
        """
        rows = self._query_rows(query)
        if not rows or k <= 0 or not self._numbers:
            return np.zeros(0, np.uint64), np.zeros(0, np.float32)
        scores = self._accumulate(rows)
        found = np.flatnonzero(scores >= self._bound(scores, k))
        best = scores[found]
        if len(found) > 4 * k:
            kth = np.partition(best, len(best) - k)[len(best) - k]
            found, best = found[best >= kth], best[best >= kth]
        ids = np.frombuffer(self._ids, np.uint64)[found]
        order = np.lexsort((ids, -best))[:k]
        return ids[order], best[order]

    def matches(self, query: str, *, every: bool = True) -> NDArray[np.uint64]:
        """Return the ids, ascending, of the documents that contain all words of `query` (`every`) or any of
        them.
        """
        terms = set(tokenize(query))
        rows = [self._vocabulary.get(term, -1) for term in terms]
        if not rows or (every and -1 in rows):
            return np.zeros(0, np.uint64)
        hits = np.zeros(len(self._alive), np.int32)
        for row in rows:
            for docs, _ in self._lists(row):
                hits[docs] += 1
        hits[np.frombuffer(self._alive, np.uint8) == 0] = 0
        found = hits == len(rows) if every else hits > 0
        return np.sort(np.frombuffer(self._ids, np.uint64)[found])

    def explain(self, query: str, item_id: int) -> dict[str, float]:
        """Return what each term of `query` adds to the score of `item_id`; empty when nothing does."""
        number = self._numbers.get(item_id)
        result: dict[str, float] = {}
        if number is None:
            return result
        for term in tokenize(query):
            row = self._vocabulary.get(term)
            if row is None:
                continue
            for docs, impacts in self._lists(row):
                at = int(np.searchsorted(docs, number))
                if at < len(docs) and docs[at] == number:
                    result[term] = result.get(term, 0.0) + float(impacts[at])
        return result

    # -- keep

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Compact, and return everything as flat arrays for the store; `from_arrays` reads them without
        copying.
        """
        self.compact()
        blob = [term.encode() for term in self._vocabulary]
        return {
            "format": np.array([_FORMAT], np.int64),
            "parameters": np.array([self._k1, self._b], np.float64),
            "ids": np.frombuffer(self._ids.tobytes(), np.uint64),
            "lengths": np.frombuffer(self._lengths.tobytes(), np.int32),
            "terms": np.frombuffer(b"".join(blob), np.uint8),
            "term_ends": np.cumsum([len(term) for term in blob], dtype=np.int64),
            "starts": self._base.starts,
            "docs": self._base.docs,
            "frequencies": self._base.frequencies,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Index:
        """Return the index that `to_arrays` wrote; arrays may be memory-mapped and read-only.

        Raises StoreError when they are damaged or of another version; the documents can always be indexed
        anew.
        """
        try:
            k1, b = (float(value) for value in arrays["parameters"])
            index = cls(k1=k1, b=b)
            index._restore(arrays)
        except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
            raise StoreError(
                f"the stored search index cannot be used ({error})",
                remedy="delete the index file; it is built anew from the stored documents",
            ) from error
        return index

    def _restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        if int(arrays["format"][0]) != _FORMAT:
            raise ValueError(f"format {int(arrays['format'][0])}, this version reads {_FORMAT}")
        ids, lengths, starts, docs = (arrays[name] for name in ("ids", "lengths", "starts", "docs"))
        frequencies, ends = arrays["frequencies"], arrays["term_ends"]
        expected = {
            "ids": "u8",
            "lengths": "i4",
            "starts": "i8",
            "docs": "i4",
            "term_ends": "i8",
            "terms": "u1",
        }
        for name, kind in expected.items():
            if arrays[name].dtype != np.dtype(kind) or arrays[name].ndim != 1:
                raise ValueError(f"'{name}' is not a flat array of type {kind}")
        if (
            frequencies.dtype.kind != "u"
            or not len(frequencies) == len(docs) == int(starts[-1])
            or starts[0] != 0
        ):
            raise ValueError("posting arrays of different lengths")
        if len(lengths) != len(ids) or len(starts) != len(ends) + 1 or np.any(np.diff(starts) < 0):
            raise ValueError("document or term arrays of different lengths")
        if len(docs) and (int(docs.min()) < 0 or int(docs.max()) >= len(ids)):
            raise ValueError("a posting names a document that is not there")
        if len(ends) and (int(ends[-1]) != len(arrays["terms"]) or np.any(np.diff(ends) < 0)):
            raise ValueError("the terms are cut")
        blob = arrays["terms"].tobytes()
        bounds = [0, *ends.tolist()]
        for row in range(len(ends)):
            self._vocabulary[blob[bounds[row] : bounds[row + 1]].decode()] = row
        self._ids.frombytes(ids.tobytes())
        self._lengths.frombytes(lengths.tobytes())
        self._alive = bytearray(b"\1" * len(ids))
        self._numbers = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        if len(self._vocabulary) != len(ends) or len(self._numbers) != len(ids):
            raise ValueError("a term or an id appears twice")
        self._df.frombytes(np.diff(starts).astype(np.int32).tobytes())
        self._total_length = int(lengths.sum(dtype=np.int64))
        self._set_base(Postings(starts, docs, frequencies))

    # -- inside

    def _append(self, item_id: int, length: int) -> int:
        number = len(self._alive)
        self._ids.append(item_id)
        self._lengths.append(length)
        self._alive.append(1)
        self._numbers[item_id] = number
        return number

    def _grow_df(self) -> None:
        self._df.frombytes(bytes(4 * (len(self._vocabulary) - len(self._df))))

    def _invert(self, documents: list[Document]) -> tuple[Postings, NDArray[np.int32]]:
        """Number `documents` and return their posting lists; df and lengths are settled by the merge that
        follows.
        """
        if self._delta_rows:
            self._compact([])  # document numbers must ascend from part to part
        first = len(self._alive)
        flat = array("i")
        ends = []
        for document in documents:
            flat.extend(map(self._rows.__getitem__, words(f"{document.title} {document.text}")))
            ends.append(len(flat))
        rows = np.frombuffer(flat, np.int32)
        kept = rows >= 0
        before = np.concatenate(([0], np.cumsum(kept)))
        lengths = np.diff(before[np.array([0, *ends])]).tolist()
        for document, length in zip(documents, lengths, strict=True):
            old = self._numbers.get(document.item_id)
            if old is not None:
                self._alive[old] = 0
            self._append(document.item_id, length)
        return invert(rows[kept], lengths, first)

    def _compact(self, parts: list[tuple[Postings, NDArray[np.int32]]]) -> None:
        """Merge base, delta and `parts` (whose documents are numbered after those of the delta)."""
        every = [(self._base, np.arange(self._base.rows, dtype=np.int32))]
        if self._delta:
            every.append(self._delta_postings())
        every += parts
        alive = np.frombuffer(bytes(self._alive), np.uint8).astype(bool)
        new_numbers = np.where(alive, np.cumsum(alive, dtype=np.int32) - np.int32(1), np.int32(-1)).astype(
            np.int32
        )
        base = merge(every, new_numbers, len(self._vocabulary))
        counts = np.diff(base.starts)
        if not counts.all():
            used = counts > 0
            base = Postings(np.append(base.starts[:-1][used], base.starts[-1:]), base.docs, base.frequencies)
            terms = [term for term, is_used in zip(self._vocabulary, used.tolist(), strict=True) if is_used]
            self._vocabulary = dict(zip(terms, range(len(terms)), strict=True))
            self._rows = _Rows(self._vocabulary)
            counts = counts[used]
        self._df = array("i", counts.astype(np.int32).tobytes())
        self._ids = array("Q", np.frombuffer(self._ids, np.uint64)[alive].tobytes())
        self._lengths = array("i", np.frombuffer(self._lengths, np.int32)[alive].tobytes())
        self._total_length = sum(self._lengths)
        self._alive = bytearray(b"\1" * len(self._ids))
        self._numbers = dict(zip(self._ids, range(len(self._ids)), strict=True))
        self._delta = {}
        self._delta_rows = []
        self._set_base(base)

    def _set_base(self, base: Postings) -> None:
        self._base = base
        self._base_docs = len(self._alive)
        self._impacts = np.empty(len(base.docs), np.float32)
        self._stamps = np.zeros(base.rows, np.int64)
        self._change += 1

    def _delta_postings(self) -> tuple[Postings, NDArray[np.int32]]:
        rows = np.array(sorted(self._delta), np.int32)
        lists = [self._delta[row] for row in rows.tolist()]
        starts = np.cumsum([0, *(len(docs) for docs, _ in lists)], dtype=np.int64)
        docs = np.concatenate([np.frombuffer(docs, np.int32) for docs, _ in lists])
        frequencies = np.concatenate([np.frombuffer(counts, np.int32) for _, counts in lists])
        kind = np.min_scalar_type(int(frequencies.max(initial=0)))
        return Postings(starts, docs, frequencies.astype(kind)), rows

    def _query_rows(self, query: str) -> list[int]:
        find = self._vocabulary.get
        return [row for term in tokenize(query) if (row := find(term, -1)) >= 0]

    def _settle_norms(self) -> None:
        """Bring the norms k1 * (1 - b + b * L / avgL) up to date; that of a dead document is infinite."""
        if self._norms_change == self._change:
            return
        mean = self._total_length / max(len(self._numbers), 1) or 1.0
        lengths = np.frombuffer(self._lengths, np.int32).astype(np.float32)
        norms = np.float32(self._k1 * (1 - self._b)) + np.float32(self._k1 * self._b / mean) * lengths
        if len(self._numbers) != len(self._alive):
            norms[np.frombuffer(self._alive, np.uint8) == 0] = np.inf
        self._norms = norms
        padded = -(-len(norms) // _GROUP) * _GROUP
        if len(self._scores) != padded:
            self._scores = np.zeros(padded, np.float32)
        self._norms_change = self._change

    def _weigh(self, row: int, docs: NDArray[np.int32], frequencies: NDArray[Any]) -> NDArray[np.float32]:
        df = self._df[row]
        idf = math.log(1 + (len(self._numbers) - df + 0.5) / (df + 0.5))
        occurrences = frequencies.astype(np.float32)
        weights: NDArray[np.float32] = np.float32(idf * (self._k1 + 1)) * occurrences
        occurrences += self._norms[docs]
        weights /= occurrences
        return weights

    def _lists(self, row: int) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Return the (documents, weights) of a term: those of the base, then those of the delta."""
        self._settle_norms()
        result = []
        base = self._base
        if row < base.rows:
            span = slice(int(base.starts[row]), int(base.starts[row + 1]))
            docs = base.docs[span]
            if self._stamps[row] != self._change:
                self._impacts[span] = self._weigh(row, docs, base.frequencies[span])
                self._stamps[row] = self._change
            result.append((docs, self._impacts[span]))
        if row in self._delta:
            delta_docs, counts = self._delta[row]
            docs = np.frombuffer(delta_docs, np.int32)
            result.append((docs, self._weigh(row, docs, np.frombuffer(counts, np.int32))))
        return result

    def _accumulate(self, rows: list[int]) -> NDArray[np.float32]:
        """Return the scores of all document numbers, padded with zeros to whole groups (a shared buffer)."""
        self._settle_norms()
        scores = self._scores
        scores.fill(0)
        for row in rows:
            for docs, impacts in self._lists(row):
                np.add.at(scores, docs, impacts)
        return scores

    @staticmethod
    def _bound(scores: NDArray[np.float32], k: int) -> np.float32:
        """Return a positive lower bound of the k-th largest of `scores` (the smallest positive number if
        fewer).
        """
        groups = len(scores) // _GROUP
        smallest = np.float32(np.finfo(np.float32).tiny)
        if k > groups:
            return smallest
        maxima = scores.reshape(_GROUP, groups).max(axis=0)
        kth: np.float32 = np.partition(maxima, groups - k)[groups - k]
        return max(kth, smallest)
