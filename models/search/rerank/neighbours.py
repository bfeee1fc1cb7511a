"""Carry clicks from one query to similar ones, and count how often a document is chosen at all.

A document's evidence for query Q is `v / (v + 1)` with `v` = sum over the similar queries Q' of sim(Q, Q')^2 rate(Q', d);
sim is the cosine of idf-weighted query words, `rate` in [0, 1] how often people chose d for Q'. Q itself never counts:
its own clicks belong to the posterior (`flocklet.models.search.ranking.posterior`).
Popularity is `v / (v + 2)` with `v` the sum
of the rates over all other queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.index import Index

__all__ = ["Neighbours"]

_MOST = 20
_LEAST_SIMILAR = 0.1


class Neighbours:
    """Remember rates by query; `evidence` is a `flocklet.models.search.rerank.features.ClickEvidence`."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._rates: dict[str, dict[int, float]] = {}
        self._words: dict[str, dict[str, int]] = {}
        self._asked: dict[str, set[str]] = {}  # term -> queries
        self._total: dict[int, float] = {}

    def __len__(self) -> int:
        """Return the number of queries remembered."""
        return len(self._rates)

    def put(self, query: str, rates: Mapping[int, float]) -> None:
        """Set the rates of one query, item id -> [0, 1]; an empty map forgets it."""
        for item, rate in self._rates.pop(query, {}).items():
            left = self._total[item] - rate
            self._total[item] = max(left, 0.0)
            if left < 1e-9:
                del self._total[item]
        for term in self._words.pop(query, {}):
            self._asked[term].discard(query)
        kept = {item: min(max(rate, 0.0), 1.0) for item, rate in rates.items() if rate > 0}
        if not kept:
            return
        words: dict[str, int] = {}
        for term in self._index.query_terms(query):
            words[term] = words.get(term, 0) + 1
        self._rates[query] = kept
        self._words[query] = words
        for term in words:
            self._asked.setdefault(term, set()).add(query)
        for item, rate in kept.items():
            self._total[item] = self._total.get(item, 0.0) + rate

    def similar(self, query: str) -> list[tuple[float, str]]:
        """Return the queries most like `query`, itself left out, as (similarity, query), most similar first."""
        words: dict[str, int] = {}
        for term in self._index.query_terms(query):
            words[term] = words.get(term, 0) + 1
        others = set().union(*(self._asked.get(term, ()) for term in words)) if words else set()
        idf: dict[str, float] = {}
        norm = self._norm(words, idf)
        found = []
        for other in others:
            if other == query:
                continue
            theirs = self._words[other]
            dot = sum(n * theirs[t] * self._idf(t, idf) ** 2 for t, n in words.items() if t in theirs)
            similarity = dot / max(norm * self._norm(theirs, idf), 1e-9)
            if similarity > _LEAST_SIMILAR:
                found.append((similarity, other))
        return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:_MOST]

    def evidence(
        self, query: str, ids: NDArray[np.uint64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return (neighbours, popularity) of the items `ids` for `query`, each `(n,) float32` in [0, 1)."""
        items = ids.tolist()
        near = np.zeros(len(items))
        for similarity, other in self.similar(query):
            rates = self._rates[other]
            near += similarity**2 * np.array([rates.get(item, 0.0) for item in items])
        own = self._rates.get(query, {})
        total = np.array([max(self._total.get(item, 0.0) - own.get(item, 0.0), 0.0) for item in items])
        return (near / (near + 1)).astype(np.float32), (total / (total + 2)).astype(np.float32)

    def _idf(self, term: str, memo: dict[str, float]) -> float:
        if term not in memo:
            vocabulary, df, _, _, _ = self._index.parts
            row = vocabulary.get(term, -1)
            count = df[row] if 0 <= row < len(df) else 0
            memo[term] = math.log1p((len(self._index) - count + 0.5) / (count + 0.5))
        return memo[term]

    def _norm(self, words: Mapping[str, int], memo: dict[str, float]) -> float:
        return math.sqrt(sum((n * self._idf(t, memo)) ** 2 for t, n in words.items()))
