"""Find documents by their words: an incremental BM25 index in NumPy arrays.

Equation (Robertson & Zaragoza 2009, section 3.4.2, with the +1 that keeps idf positive):

    idf = ln(1 + (N - df + .5) / (df + .5))
    score = sum over the query's words of idf * f * (k1 + 1) / (f + k1 * (1 - b + b * L / avgL))

N documents, df of them with the term, f occurrences in this document, L its length in terms, avgL the mean
length. A document's text is `title + " " + text`, so a title that the text repeats counts twice.

How it works. One immutable *base* (`Postings`) holds the bulk; documents added since then stand in a small
*delta* of growing lists; removed ones are dead until the next `compact()`. N, df and avgL are always those
of the live documents, so scores equal those of a fresh build to the last bit. The weights of a term are
computed when a query first needs them after a change and kept until the next one, so queries between
changes only add arrays: a long list as a dense row, a short one by its document numbers. The top k is found
without sorting: the k-th largest of the maxima of disjoint groups of documents is a lower bound of the k-th
score, and only documents that reach it are sorted. All of it is exact.

An index is used by one thread at a time.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import StoreError
from flocklet.events.item import Document
from flocklet.models.search.index.archive import FORMAT, check_arrays, pack_terms, unpack_terms
from flocklet.models.search.index.catalogue import Catalogue
from flocklet.models.search.index.postings import Postings, invert, merge
from flocklet.models.search.index.recent import Delta
from flocklet.models.search.index.text import MAX_TERM_LENGTH, term_of, tokenize, words
from flocklet.models.search.index.topk import GROUP, best

__all__ = ["Index"]

# A weighted list: document numbers and what the term adds to each; None stands for 0, 1, ... (a dense row).
_Weighted = tuple[NDArray[np.int32] | None, NDArray[np.float32]]
_Part = tuple[Postings, NDArray[np.int32]]

_CHUNK = 1024  # documents that a bulk addition inverts at a time
_BULK = 64  # add_many of so many documents may go straight into the base
_SMALLEST_DELTA = 256
_MEMO_WORDS = 50_000
_DENSE_SHARE = 8  # a list of more than 1 / 8 of the base is added faster as a dense row ...
_DENSE_BYTES = 8 << 20  # ... and so many bytes of dense rows are kept at most


class _Rows(dict[str, int]):
    """Map a word to the row of its term, -1 for a stop word; a word not seen before gets a row."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        super().__init__()
        self._vocabulary = vocabulary

    def __missing__(self, word: str) -> int:
        if len(word) > MAX_TERM_LENGTH:
            return self[word[:MAX_TERM_LENGTH]]
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
        self._catalogue = Catalogue()
        self._vocabulary: dict[str, int] = {}  # term -> row, in the order of rows
        self._rows = _Rows(self._vocabulary)
        self._df = array("i")  # live documents per row
        self._base = Postings.empty()
        self._delta = Delta(0)
        self._dense_from = 1  # length from which a list of the base is kept as a dense row
        self._weighted: dict[int, tuple[_Weighted, ...]] = {}  # per row, until the next change
        self._norms: NDArray[np.float32] | None = None  # per document number, until the next change
        self._scores = np.zeros(0, np.float32)

    # -- what is inside

    def __len__(self) -> int:
        """Return the number of live documents."""
        return len(self._catalogue.numbers)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._catalogue.numbers

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Return the item ids of the live documents `(len,) uint64`, ascending."""
        return np.sort(self._catalogue.ids[self._catalogue.alive])

    @property
    def terms(self) -> int:
        """Return the number of distinct terms, those of removed documents until the next `compact`."""
        return len(self._vocabulary)

    @property
    def parts(self) -> tuple[dict[str, int], array[int], Postings, Delta, Catalogue]:
        """Return vocabulary, df, base, delta and catalogue for whoever only reads, until the next change."""
        return self._vocabulary, self._df, self._base, self._delta, self._catalogue

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all arrays (the dictionaries of terms and ids are not counted)."""
        weights = sum(values.nbytes for lists in self._weighted.values() for _, values in lists)
        working = self._scores.nbytes + (0 if self._norms is None else self._norms.nbytes) + weights
        kept = self._base.size_bytes + self._delta.size_bytes + self._catalogue.size_bytes
        return kept + 4 * len(self._df) + working

    @property
    def is_compaction_due(self) -> bool:
        """Tell whether new and dead documents are worth a `compact()`: more than an eighth of the base."""
        waiting = len(self._delta) + self._catalogue.dead
        return waiting > max(_SMALLEST_DELTA, self._delta.first // 8)

    # -- change

    def add(self, item_id: int, title: str, text: str) -> None:
        """Add or replace one document, searchable at once. OverflowError: `item_id` is no u64."""
        counts: dict[int, int] = {}
        length = 0
        for row in map(self._rows.__getitem__, words(f"{title} {text}")):
            if row >= 0:
                counts[row] = counts.get(row, 0) + 1
                length += 1
        self.remove(item_id)
        self._forget_weights()
        self._catalogue.append(item_id, length)
        self._df.frombytes(bytes(4 * (len(self._vocabulary) - len(self._df))))
        for row in counts:
            self._df[row] += 1
        self._delta.add(counts)
        # Doubling keeps the cost per document constant even when nobody ever calls compact().
        if len(self._delta) > max(4 * _SMALLEST_DELTA, self._delta.first):
            self.compact()

    def add_many(self, documents: Iterable[Document]) -> int:
        """Add or replace `documents` and return how many; of several with one id the last stays.

        When the iterable raises, whole chunks before that are kept. OverflowError: an id is no u64.
        """
        parts: list[_Part] = []
        chunk: list[Document] = []
        count = 0
        try:
            for document in documents:
                chunk.append(document)
                count += 1
                if len(chunk) == _CHUNK:
                    parts.append(self._invert(chunk))
                    chunk = []
            # A merge copies the base: it must be worth it, or a long import in small batches would crawl.
            if len(chunk) >= max(_BULK, self._delta.first // 16):
                parts.append(self._invert(chunk))
                chunk = []
        finally:
            if parts:
                self._compact(parts)
        for document in chunk:
            self.add(document.item_id, document.title, document.text)
        return count

    def remove(self, item_id: int) -> bool:
        """Remove a document at once; return whether it was there."""
        return self.remove_many((item_id,)) == 1

    def remove_many(self, item_ids: Iterable[int]) -> int:
        """Remove documents at once, with a single scan of the base; return how many were there."""
        killed = [number for item_id in item_ids if (number := self._catalogue.kill(item_id)) is not None]
        if killed:
            self._forget_weights()
        from_base = [number for number in killed if number < self._delta.first]
        rows: list[int] = self._base.rows_with(from_base).tolist() if from_base else []
        for number in killed:
            if number >= self._delta.first:
                rows.extend(self._delta.rows_of(number))
        for row in rows:
            self._df[row] -= 1
        return len(killed)

    def compact(self) -> None:
        """Merge the delta into the base and forget dead documents and their terms; scores do not change."""
        if len(self._delta) or self._catalogue.dead:
            self._compact([])

    # -- ask

    def candidates(self, query: str, k: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the ids and scores of the best `k` documents, best first, equal scores by ascending id.

        Only documents with at least one word of the query are returned, so there may be fewer than `k`. A
        word that the query repeats counts again. A query without any known word finds nothing.
        """
        rows = self._query_rows(query)
        if not rows or k <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.float32)
        return best(self._accumulate(rows), self._catalogue.ids, k)

    def matches(self, query: str, *, every: bool = True) -> NDArray[np.uint64]:
        """Return the ids, ascending, of the documents that contain all words of `query` (`every`) or any."""
        rows = {self._vocabulary.get(term, -1) for term in tokenize(query)}
        if not rows or (every and -1 in rows):
            return np.zeros(0, np.uint64)
        hits = np.zeros(len(self._catalogue), np.int32)
        for row in rows - {-1}:
            for docs, _ in self._postings_of(row):
                hits[docs] += 1
        hits[~self._catalogue.alive] = 0
        found = hits == len(rows) if every else hits > 0
        return np.sort(self._catalogue.ids[found])

    def explain(self, query: str, item_id: int) -> dict[str, float]:
        """Return what each term of `query` adds to the score of `item_id`; empty when nothing does."""
        result: dict[str, float] = {}
        number = self._catalogue.numbers.get(item_id)
        if number is None:
            return result
        for term in tokenize(query):
            row = self._vocabulary.get(term, -1)
            for docs, frequencies in self._postings_of(row):
                at = int(np.searchsorted(docs, number))
                if at < len(docs) and docs[at] == number:
                    one = slice(at, at + 1)
                    result[term] = result.get(term, 0.0) + float(
                        self._weigh(row, docs[one], frequencies[one])[0]
                    )
        return result

    # -- keep

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Compact, and return everything as flat arrays (see `archive`) for the store."""
        self.compact()
        terms, term_ends = pack_terms(self._vocabulary)
        return {
            "format": np.array([FORMAT], np.int64),
            "parameters": np.array([self._k1, self._b], np.float64),
            "ids": self._catalogue.ids.copy(),
            "lengths": self._catalogue.lengths.copy(),
            "terms": terms,
            "term_ends": term_ends,
            "starts": self._base.starts,
            "docs": self._base.docs,
            "frequencies": self._base.frequencies,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Index:
        """Return the index that `to_arrays` wrote; the posting arrays are used as they are (mapped, read-
        only).

        Raises StoreError when they are damaged or of another version; the documents can always be indexed
        anew.
        """
        try:
            check_arrays(arrays)
            k1, b = arrays["parameters"].tolist()
            index = cls(k1=k1, b=b)
            index._vocabulary = unpack_terms(arrays["terms"], arrays["term_ends"])
            index._rows = _Rows(index._vocabulary)
            index._catalogue = Catalogue.of(arrays["ids"], arrays["lengths"])
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StoreError(
                f"the stored search index cannot be used ({error})",
                remedy="delete it; it is built anew from the stored documents",
            ) from error
        index._set_base(Postings(arrays["starts"], arrays["docs"], arrays["frequencies"]))
        return index

    # -- inside

    def _forget_weights(self) -> None:
        self._weighted.clear()
        self._norms = None

    def _invert(self, documents: list[Document]) -> _Part:
        """Number `documents` and return their posting lists; df is settled by the `_compact` that must
        follow.
        """
        np.array(
            [document.item_id for document in documents], np.uint64
        )  # OverflowError before anything changes
        if len(self._delta):
            self._compact([])  # the numbers must ascend from part to part
        first = len(self._catalogue)
        flat = array("i")
        ends = [0]
        for document in documents:
            flat.extend(map(self._rows.__getitem__, words(f"{document.title} {document.text}")))
            ends.append(len(flat))
        rows = np.frombuffer(flat, np.int32)
        kept = rows >= 0
        lengths = np.diff(np.concatenate(([0], np.cumsum(kept)))[ends]).tolist()
        for document, length in zip(documents, lengths, strict=True):
            self._catalogue.append(document.item_id, length)
        return invert(rows[kept], lengths, first)

    def _compact(self, parts: list[_Part]) -> None:
        """Merge base, delta and `parts` (documents numbered after those of the delta), the dead left out."""
        everything = [
            (self._base, np.arange(self._base.rows, dtype=np.int32)),
            self._delta.to_postings(),
            *parts,
        ]
        self._catalogue, new_numbers = self._catalogue.survivors()
        base = merge(everything, new_numbers, len(self._vocabulary))
        used = np.diff(base.starts) > 0
        if not used.all():
            terms = [term for term, is_used in zip(self._vocabulary, used.tolist(), strict=True) if is_used]
            self._vocabulary = dict(zip(terms, range(len(terms)), strict=True))
            self._rows = _Rows(self._vocabulary)
            base = Postings(np.append(base.starts[:-1][used], base.starts[-1:]), base.docs, base.frequencies)
        self._set_base(base)

    def _set_base(self, base: Postings) -> None:
        self._forget_weights()
        documents = len(self._catalogue)
        counts = np.diff(base.starts)
        self._base = base
        self._delta = Delta(documents)
        self._df = array("i", counts.astype(np.int32).tobytes())
        dense_rows = _DENSE_BYTES // (4 * documents + 1)
        longest = np.sort(counts)[::-1]
        self._dense_from = documents // _DENSE_SHARE + 1
        if dense_rows < len(longest):
            self._dense_from = max(self._dense_from, int(longest[dense_rows]) + 1)

    def _query_rows(self, query: str) -> list[int]:
        result = []
        for word in words(query):
            row = self._rows.get(word)
            if row is None:  # not in the memo, which may only learn the words of documents
                row = self._vocabulary.get(term_of(word), -1)
            if row >= 0:
                result.append(row)
        return result

    def _postings_of(self, row: int) -> list[tuple[NDArray[np.int32], NDArray[Any]]]:
        """Return the (documents, frequencies) of a row: those of the base, then those of the delta."""
        result: list[tuple[NDArray[np.int32], NDArray[Any]]] = []
        if 0 <= row < self._base.rows:
            span = slice(int(self._base.starts[row]), int(self._base.starts[row + 1]))
            result.append((self._base.docs[span], self._base.frequencies[span]))
        newest = self._delta.postings_of(row)
        if newest is not None:
            result.append(newest)
        return result

    def _weigh(self, row: int, docs: NDArray[np.int32], frequencies: NDArray[Any]) -> NDArray[np.float32]:
        if self._norms is None:
            catalogue = self._catalogue
            slope = np.float32(self._k1 * self._b / catalogue.mean_length)
            self._norms = np.float32(self._k1 * (1 - self._b)) + slope * catalogue.lengths.astype(np.float32)
            if catalogue.dead:
                self._norms[~catalogue.alive] = np.inf  # the weight becomes 0
        df = self._df[row]
        idf = math.log(1 + (len(self) - df + 0.5) / (df + 0.5))
        occurrences = frequencies.astype(np.float32)
        weights: NDArray[np.float32] = np.float32(idf * (self._k1 + 1)) * occurrences
        occurrences += self._norms[docs]
        weights /= occurrences
        return weights

    def _weighted_lists(self, row: int) -> tuple[_Weighted, ...]:
        result: list[_Weighted] = []
        for docs, frequencies in self._postings_of(row):
            weights = self._weigh(row, docs, frequencies)
            if len(docs) >= self._dense_from and docs[-1] < self._delta.first:
                dense = np.zeros(self._delta.first, np.float32)
                dense[docs] = weights
                result.append((None, dense))
            else:
                result.append((docs, weights))
        self._weighted[row] = tuple(result)
        return self._weighted[row]

    def _accumulate(self, rows: list[int]) -> NDArray[np.float32]:
        """Return the scores by document number, padded with zeros to whole groups (a buffer used again)."""
        padded = -(-len(self._catalogue) // GROUP) * GROUP
        if len(self._scores) != padded:
            self._scores = np.empty(padded, np.float32)
        scores = self._scores
        scores.fill(0)
        base = scores[: self._delta.first]
        for row in rows:
            for docs, weights in self._weighted.get(row) or self._weighted_lists(row):
                if docs is None:
                    base += weights
                else:
                    np.add.at(scores, docs, weights)
        return scores
