"""Describe the candidates of a query by numbers that a reranker can weigh.

`Features.of(query)` returns the best candidates of BM25 with a row of `FEATURES` each, normalised within the query: the
continuous ones to mean 0, sd 1, clipped to +-4 (a feature that does not vary is 0), so a model means the same on any
collection. What depends on clicks (`neighbours`, `popularity`) is stretched from [0, 1] to [0, 4], 0 without evidence.

| name | what |
|---|---|
| `bm25`, `bm25_long`, `bm25_short` | BM25 as in the index; with k1 = 2, b = .5; with k1 = .9, b = .4 |
| `tfidf` | cosine of log(1 + f) idf vectors |
| `dirichlet`, `jelinek` | query likelihood, mu = 200; lambda = .7 (Zhai & Lafferty 2001) |
| `coverage`, `idf_coverage` | share of the query's words (of their idf) in the document |
| `length` | log(1 + terms) |
| `feedback` | BM25 of the query expanded by 20 terms of the best 8 (RM3, Lavrenko & Croft 2001) |
| `broad_feedback` | the same with 50 terms of the best 15 |
| `graph` | BM25 smoothed over the 10 nearest candidates (score regularisation, Diaz 2005), alpha = .8 |
| `latent` | cosine in the landscape (LSI) |
| `neighbours` | clicks on this document for similar queries |
| `popularity` | clicks on this document for any query |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.forward import DocumentTerms, Forward, Landscape, idf_of
from flocklet.models.search.index.index import Index

__all__ = [
    "BM25",
    "CLIP",
    "FEATURES",
    "ClickEvidence",
    "Features",
    "QueryFeatures",
    "put_evidence",
    "standardise",
]

Floats = NDArray[np.float32]

FEATURES = (
    "bm25",
    "bm25_long",
    "bm25_short",
    "tfidf",
    "dirichlet",
    "jelinek",
    "coverage",
    "idf_coverage",
    "length",
    "feedback",
    "broad_feedback",
    "graph",
    "latent",
    "neighbours",
    "popularity",
)
BM25 = FEATURES.index("bm25")
CLIP = 4.0
_MU = 200.0
_LAMBDA = 0.7
_ALPHA = 0.8
_NEAREST = 10

ClickEvidence = Callable[[str, NDArray[np.uint64]], tuple[Floats, Floats]]
"""Return (neighbours, popularity) of candidates for a query, each `(n,) float32` in [0, 1]."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryFeatures:
    """Hold the candidates of one query, best BM25 first: ids `(n,)`, text scores `(n,)`, matrix `(n, F)`."""

    ids: NDArray[np.uint64]
    text_scores: Floats
    matrix: Floats


class Features:
    """Make features from an index; `evidence` supplies those of clicks (none: they are 0)."""

    def __init__(self, index: Index, evidence: ClickEvidence | None = None) -> None:
        self._index = index
        self._forward = Forward(index)
        self._evidence = evidence
        self._landscape: Landscape | None = None
        self._documents = 0

    @property
    def size_bytes(self) -> int:
        """Return the bytes that features keep beside the index."""
        return self._forward.size_bytes + (self._landscape.size_bytes if self._landscape else 0)

    def use(self, evidence: ClickEvidence | None) -> None:
        """Take the features of clicks from somewhere else from now on."""
        self._evidence = evidence

    def of(self, query: str, k: int = 100) -> QueryFeatures:
        """Return the features of the best `k` candidates of `query`; costs milliseconds."""
        ids, scores = self._index.candidates(query, k)
        return QueryFeatures(ids, scores, self.matrix(query, ids, scores))

    def matrix(self, query: str, ids: NDArray[np.uint64], scores: Floats) -> Floats:
        """Return the features `(n, F) float32` of given candidates with their BM25 scores."""
        result = np.zeros((len(ids), len(FEATURES)), np.float32)
        if not len(ids):
            return result
        documents = self._forward.terms_of(ids)
        columns = self._text_columns(query, documents, scores)
        result[:, : len(columns)] = standardise(np.stack(columns, axis=1))
        if self._evidence is not None:
            put_evidence(result, *self._evidence(query, ids))
        return result

    def _text_columns(self, query: str, documents: DocumentTerms, scores: Floats) -> list[Floats]:
        vocabulary, df, _, _, catalogue = self._index.parts
        total = len(self._index)
        rows, lengths, place = documents.rows, documents.lengths, documents.place
        idf = idf_of(df, rows, total)
        asked = np.zeros(len(rows), np.float32)
        known = np.array(
            [row for term in self._index.query_terms(query) if (row := vocabulary.get(term)) is not None],
            np.int64,
        )
        spots = np.minimum(np.searchsorted(rows, known), max(len(rows) - 1, 0))
        np.add.at(asked, spots[rows[spots] == known] if len(rows) else spots[:0], 1)
        mean = catalogue.mean_length
        frequencies, of_term = documents.frequencies, idf[place]
        weights = _bm25(frequencies, of_term, lengths[documents.owner], mean, 1.2, 0.75)
        at = np.flatnonzero(asked)
        column = np.full(len(rows), -1)
        column[at] = np.arange(len(at))
        hits = np.flatnonzero(column[place] >= 0)
        seen = np.zeros((len(lengths), len(at)), np.float32)
        seen[documents.owner[hits], column[place[hits]]] = frequencies[hits]
        amount = asked[at]
        sizes = np.maximum(lengths, 1.0)[:, None]
        # p(term | collection), from df: the index does not count occurrences over the collection
        share = np.maximum(np.frombuffer(df, np.int32)[rows[at]], 1) / (total * mean)
        cosine = np.log1p(frequencies) * of_term
        cosine /= np.maximum(np.sqrt(documents.sums(cosine**2)), 1e-9)[documents.owner]
        tfidf = documents.table(cosine)
        question = (asked * idf)[None, :]
        question /= max(float(np.linalg.norm(question)), 1e-9)
        everything = max(float(idf[at].sum()), 1e-9)
        return [
            scores,
            _bm25(seen, idf[at], lengths[:, None], mean, 2.0, 0.5) @ amount,
            _bm25(seen, idf[at], lengths[:, None], mean, 0.9, 0.4) @ amount,
            tfidf @ question[0],
            np.log((seen + _MU * share) / (sizes + _MU)) @ amount,
            np.log((1 - _LAMBDA) * seen / sizes + _LAMBDA * share) @ amount,
            (seen > 0).mean(axis=1, dtype=np.float32) if len(at) else np.zeros(len(lengths), np.float32),
            (seen > 0) @ idf[at] / everything,
            np.log1p(lengths),
            _expanded(documents, weights, asked, idf, scores, 8, 20, 0.6),
            _expanded(documents, weights, asked, idf, scores, 15, 50, 0.5),
            _smoothed(tfidf @ tfidf.T, standardise(scores)),
            self._latent(vocabulary, rows, tfidf, question),
        ]

    def _latent(
        self, vocabulary: dict[str, int], rows: NDArray[np.int64], tfidf: Floats, question: Floats
    ) -> Floats:
        if self._landscape is None or not 0.5 < len(self._index) / max(self._documents, 1) < 2:
            self._landscape = Landscape.of(self._index, self._forward)
            self._documents = len(self._index)
        points = self._landscape.places(vocabulary, rows, np.concatenate([question, tfidf]))
        result: Floats = points[1:] @ points[0]
        return result


def put_evidence(matrix: Floats, neighbours: Floats, popularity: Floats) -> None:
    """Write the features that depend on clicks, each `(n,)` in [0, 1], into `matrix` `(n, F)`."""
    matrix[:, -2], matrix[:, -1] = CLIP * neighbours, CLIP * popularity


def standardise(column: NDArray[np.floating]) -> Floats:
    """Return `column` `(n,)`, or each column of `(n, m)`, with mean 0 and sd 1, clipped to +-4; 0 where it does not vary."""
    values = np.asarray(column, np.float64)
    if not values.size:
        return np.zeros(values.shape, np.float32)
    values = values - values.mean(axis=0)
    spread = np.sqrt((values * values).mean(axis=0))
    # rounding of large equal numbers is no variation
    is_flat = spread < 1e-9 * np.maximum(1.0, np.abs(column).max(axis=0))
    values /= np.where(is_flat, np.inf, spread)
    result: Floats = np.clip(values, -CLIP, CLIP).astype(np.float32)
    return result


def _bm25(counts: Floats, idf: Floats, lengths: Floats, mean: float, k1: float, b: float) -> Floats:
    norms = (k1 * (1 - b + b * lengths / mean)).astype(np.float32)
    result: Floats = (k1 + 1) * idf * counts / np.maximum(counts + norms, 1e-9)
    return result


def _expanded(
    documents: DocumentTerms,
    weights: Floats,
    asked: Floats,
    idf: Floats,
    scores: Floats,
    best: int,
    terms: int,
    original: float,
) -> Floats:
    """Return the BM25 scores of the query expanded by the terms of the `best` candidates."""
    trust = scores[:best] / max(float(scores[:best].sum()), 1e-9)
    share = (trust / np.maximum(documents.lengths[:best], 1.0)).astype(np.float32)
    used = np.flatnonzero(documents.owner < best)
    part = share[documents.owner[used]] * documents.frequencies[used]
    mass = np.bincount(documents.place[used], part, len(idf)) * idf
    chosen = np.argsort(-mass, kind="stable")[:terms]
    expanded = (original * asked / max(float(asked.sum()), 1e-9)).astype(np.float32)
    expanded[chosen] += ((1 - original) * mass[chosen] / max(float(mass[chosen].sum()), 1e-9)).astype(
        np.float32
    )
    return documents.sums(weights * expanded[documents.place])


def _smoothed(similarity: Floats, scores: Floats) -> Floats:
    """Return the scores smoothed over the graph of nearest candidates."""
    size = len(scores)
    if size < 3:
        return scores
    np.fill_diagonal(similarity, 0.0)
    nearest = min(_NEAREST, size - 1)
    edge = np.partition(similarity, size - nearest, axis=1)[:, size - nearest][:, None]
    graph = np.where(similarity >= edge, np.maximum(similarity, 0), 0)
    graph = np.maximum(graph, graph.T)
    degree = np.sqrt(np.maximum(graph.sum(axis=1), 1e-9))
    graph /= degree[:, None] * degree[None, :]
    result: Floats = np.linalg.solve(np.eye(size, dtype=np.float32) - np.float32(_ALPHA) * graph, scores)
    return result
