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

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import StoreError
from flocklet.events.item import Document
from flocklet.models.search.index.analysis import ENGLISH, Analysis, analysed_as, stemmer_version
from flocklet.models.search.index.archive import FORMAT, check_arrays, pack_terms, unpack_terms
from flocklet.models.search.index.asked import Asked
from flocklet.models.search.index.catalogue import Catalogue
from flocklet.models.search.index.postings import Postings, invert, merge
from flocklet.models.search.index.recent import Delta
from flocklet.models.search.index.scoring import Scorer
from flocklet.models.search.index.topk import best

__all__ = ["Index"]

_Part = tuple[Postings, NDArray[np.int32]]

_CHUNK = 1024  # documents that a bulk addition inverts at a time
_BULK = 64  # add_many of so many documents may go straight into the base
_SMALLEST_DELTA = 256


class Index:
    """Keep documents by item id (u64) and return the best for a query; see the module for the equation."""

    def __init__(self, *, k1: float = 1.2, b: float = 0.75) -> None:
        self._k1 = k1
        self._b = b
        self._catalogue = Catalogue()
        self._vocabulary: dict[str, int] = {}  # term -> row, in the order of rows
        self._analysis = Analysis(self._vocabulary)
        self._names = [ENGLISH]  # languages by the codes of the catalogue
        self._df = array("i")  # live documents per row
        self._base = Postings.empty()
        self._delta = Delta(0)
        self._scorer = Scorer(k1, b)
        self._scorer.use(self._base, self._delta, self._catalogue, self._df)

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
    def languages(self) -> tuple[str, ...]:
        """Return the languages that live documents are analysed in, the one with the most documents first."""
        spoken = sorted(
            (-count, self._names[code]) for code, count in self._catalogue.spoken.items() if count
        )
        return tuple(name for _, name in spoken)

    def query_terms(self, query: str) -> list[str]:
        """Return the terms of `query` in order, with repetitions, in every language of the index."""
        return self._analysis.terms(query, self.languages or (ENGLISH,))

    @property
    def parts(self) -> tuple[dict[str, int], array[int], Postings, Delta, Catalogue]:
        """Return vocabulary, df, base, delta and catalogue for whoever only reads, until the next change."""
        return self._vocabulary, self._df, self._base, self._delta, self._catalogue

    @property
    def size_bytes(self) -> int:
        """Return the bytes of all arrays (the dictionaries of terms and ids are not counted)."""
        kept = self._base.size_bytes + self._delta.size_bytes + self._catalogue.size_bytes
        return kept + 4 * len(self._df) + self._scorer.size_bytes

    # -- change

    def add(self, item_id: int, title: str, text: str, language: str = "") -> None:
        """Add or replace one document, searchable at once. OverflowError: `item_id` is no u64."""
        code = self._code(language)
        counts: dict[int, int] = {}
        length = 0
        for row in self._analysis.rows(f"{title} {text}", self._names[code]):
            if row >= 0:
                counts[row] = counts.get(row, 0) + 1
                length += 1
        self.remove(item_id)
        self._scorer.forget()
        self._catalogue.append(item_id, length, code)
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
            self.add(document.item_id, document.title, document.text, document.language)
        return count

    def remove(self, item_id: int) -> bool:
        """Remove a document at once; return whether it was there."""
        return self.remove_many((item_id,)) == 1

    def remove_many(self, item_ids: Iterable[int]) -> int:
        """Remove documents at once, with a single scan of the base; return how many were there."""
        killed = [number for item_id in item_ids if (number := self._catalogue.kill(item_id)) is not None]
        if killed:
            self._scorer.forget()
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

    def candidates(
        self, query: str, k: int, asked: Asked | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Return the ids and scores of the best `k` documents, best first, equal scores by ascending id.

        Only documents with at least one word of the query are returned, so there may be fewer than `k`. A
        word that the query repeats counts again. A query without any known word finds nothing. `asked`
        says what else the query means (`index.asking`).
        """
        groups = self._groups(query) if asked is None else asked.groups
        if not groups or k <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.float32)
        return best(self._scores(groups, asked), self._catalogue.ids, k)

    def count(self, query: str, asked: Asked | None = None) -> int:
        """Return how many documents `candidates` finds without a bound."""
        groups = self._groups(query) if asked is None else asked.groups
        return int(np.count_nonzero(self._scores(groups, asked))) if groups else 0

    def _scores(self, groups: Sequence[tuple[int, ...]], asked: Asked | None) -> NDArray[np.float32]:
        if asked is None:
            return self._scorer.accumulate(groups)
        scores = self._scorer.accumulate(groups, asked.factors)
        if asked.allowed is not None:
            scores[: len(asked.allowed)] *= asked.allowed
        return scores

    def numbers_of(self, ids: Iterable[int]) -> NDArray[np.bool_]:
        """Return who of the documents is one of `ids`, by number `(len(catalogue),) bool`."""
        found = np.zeros(len(self._catalogue), bool)
        found[[number for item in ids if (number := self._catalogue.numbers.get(item)) is not None]] = True
        return found

    def passing(self, ids: NDArray[np.uint64], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return who of the documents `ids` is `allowed` (by number), `(len(ids),) bool`."""
        return np.array([allowed[self._catalogue.numbers[item]] for item in ids.tolist()], bool)

    def with_group(self, group: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return who of the documents has a term of `group`, by number `(len(catalogue),) bool`."""
        found = np.zeros(len(self._catalogue), bool)
        for docs, _ in self._scorer.postings(group):
            found[docs] = True
        return found & self._catalogue.alive

    def frequency(self, group: tuple[int, ...]) -> int:
        """Return how many live documents have a term of `group`."""
        return self._scorer.df(group)

    @property
    def analysis(self) -> Analysis:
        """What makes rows of words, until the next change."""
        return self._analysis

    def matches(self, query: str, *, every: bool = True) -> NDArray[np.uint64]:
        """Return the ids, ascending, of the documents that contain all words of `query` (`every`) or any."""
        asked = self._analysis.asked(query, self.languages)
        if not asked or (every and () in asked):
            return np.zeros(0, np.uint64)
        hits = np.zeros(len(self._catalogue), np.int32)
        for group in asked - {()}:
            for docs, _ in self._scorer.postings(group):
                hits[docs] += 1
        hits[~self._catalogue.alive] = 0
        found = hits == len(asked) if every else hits > 0
        return np.sort(self._catalogue.ids[found])

    def explain(self, query: str, item_id: int) -> dict[str, float]:
        """Return what each term of `query` adds to the score of `item_id`; empty when nothing does."""
        result: dict[str, float] = {}
        number = self._catalogue.numbers.get(item_id)
        if number is None:
            return result
        names = list(self._vocabulary)
        for group in self._groups(query):
            term = " / ".join(names[row] for row in group)
            df = self._scorer.df(group)
            for docs, frequencies in self._scorer.postings(group):
                at = int(np.searchsorted(docs, number))
                if at < len(docs) and docs[at] == number:
                    one = slice(at, at + 1)
                    result[term] = result.get(term, 0.0) + float(
                        self._scorer.weigh(df, docs[one], frequencies[one])[0]
                    )
        return result

    # -- keep

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Compact, and return everything as flat arrays (see `archive`) for the store."""
        self.compact()
        terms, term_ends = pack_terms(self._vocabulary)
        words, word_ends = pack_terms(self._analysis.surface)
        return {
            "format": np.array([FORMAT], np.int64),
            "parameters": np.array([self._k1, self._b], np.float64),
            "ids": self._catalogue.ids.copy(),
            "lengths": self._catalogue.lengths.copy(),
            "languages": self._catalogue.languages.copy(),
            "names": np.frombuffer(" ".join([*self._names, stemmer_version()]).encode("ascii"), np.uint8),
            "terms": terms,
            "term_ends": term_ends,
            "words": words,
            "word_ends": word_ends,
            "word_rows": np.fromiter(self._analysis.surface.values(), np.int32),
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
            written = unpack_terms(arrays["words"], arrays["word_ends"])
            surface = dict(zip(written, arrays["word_rows"].tolist(), strict=True))
            index._analysis = Analysis(index._vocabulary, surface)
            *index._names, stemmers = arrays["names"].tobytes().decode("ascii").split(" ")
            index._catalogue = Catalogue.of(arrays["ids"], arrays["lengths"], arrays["languages"])
            if stemmers != stemmer_version():
                raise ValueError(f"made with version {stemmers} of the stemmers")
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StoreError(
                f"the stored search index cannot be used ({error})",
                remedy="delete it; it is built anew from the stored documents",
            ) from error
        index._set_base(Postings(arrays["starts"], arrays["docs"], arrays["frequencies"]))
        return index

    # -- inside

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
            name = self._names[self._code(document.language)]
            flat.extend(self._analysis.rows(f"{document.title} {document.text}", name))
            ends.append(len(flat))
        rows = np.frombuffer(flat, np.int32)
        kept = rows >= 0
        lengths = np.diff(np.concatenate(([0], np.cumsum(kept)))[ends]).tolist()
        for document, length in zip(documents, lengths, strict=True):
            self._catalogue.append(document.item_id, length, self._code(document.language))
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
            self._analysis = self._analysis.renumbered(
                self._vocabulary, np.where(used, np.cumsum(used) - 1, -1)
            )
            base = Postings(np.append(base.starts[:-1][used], base.starts[-1:]), base.docs, base.frequencies)
        self._set_base(base)

    def _set_base(self, base: Postings) -> None:
        self._base = base
        self._delta = Delta(len(self._catalogue))
        self._df = array("i", np.diff(base.starts).astype(np.int32).tobytes())
        self._scorer.use(base, self._delta, self._catalogue, self._df)

    def _code(self, language: str) -> int:
        """Return the code of the analyser for documents in `language`."""
        name = analysed_as(language)
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def _groups(self, query: str) -> list[tuple[int, ...]]:
        return self._analysis.groups(query, self.languages)
