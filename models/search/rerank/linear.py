"""Keep the linear reranker of a device: teach it from what people clicked, use it only where that is justified.

The lists are the queries that somebody clicked; an item's gain is its debiased click rate in five grades. Clicks can
only fall on what was shown, which BM25 chose, so the comparison out of fold (`listwise.fit_close`) favours BM25: the
reranker starts late rather than early. It has 15 weights, 60 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch
from flocklet.models.base import Parameters
from flocklet.models.search.index.index import Index
from flocklet.models.search.rerank.features import BM25, FEATURES, Features
from flocklet.models.search.rerank.listwise import Fit, JudgedList, Lists, fit_close
from flocklet.models.search.rerank.neighbours import Neighbours

__all__ = ["Reranker"]

Floats = NDArray[np.float32]

_GRADES = 4
_MOST_LISTS = 400


class Reranker:
    """Score candidates by `weights @ features`; inactive (BM25) until `teach` finds a reason."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._neighbours = Neighbours(index)
        self._features = Features(index, self._neighbours.evidence)
        self.weights: Floats = np.zeros(len(FEATURES), np.float32)
        self.weights[BM25] = 1.0
        self.is_active = False

    @property
    def parameters(self) -> Parameters:
        """The weights as a model version."""
        return {"weights": self.weights.copy()}

    def load(self, parameters: Parameters) -> None:
        """Take stored weights; raises SchemaMismatch for other or non-finite tensors."""
        weights = parameters.get("weights")
        if weights is None or weights.shape != (len(FEATURES),) or not np.isfinite(weights).all():
            raise SchemaMismatch("these are not the weights of a reranker")
        self.weights, self.is_active = weights.astype(np.float32), True

    def teach(self, rates: Mapping[str, Mapping[int, float]], rng: np.random.Generator) -> Fit:
        """Fit to query -> item -> debiased click rate; take the fit only if it beats BM25 out of fold (seconds)."""
        self.remember(rates)
        chosen = sorted(rates)
        if len(chosen) > _MOST_LISTS:
            chosen = sorted(rng.choice(chosen, _MOST_LISTS, replace=False).tolist())
        lists = []
        for query in chosen:
            found = self._features.of(query)
            gains = np.array(
                [np.ceil(_GRADES * min(rates[query].get(item, 0.0), 1.0)) for item in found.ids.tolist()],
                np.int64,
            )
            if gains.any():
                best = np.exp2(np.sort(gains)[::-1][:10].astype(np.float64)) - 1
                ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
                lists.append(JudgedList(found.matrix, gains, ideal))
        fit = fit_close(Lists(lists), rng)
        self.is_active = fit.pull is not None
        self.weights = fit.weights
        return fit

    def matrix(self, query: str, ids: NDArray[np.uint64], text: Floats) -> Floats:
        """Return the features `(n, F) float32` of candidates with their BM25 scores; costs milliseconds."""
        return self._features.matrix(query, ids, text)

    def reasons(self, query: str, ids: list[int]) -> dict[int, dict[str, float]]:
        """Return per item what each feature adds to its score, the largest first; only those that add something."""
        found = self._features.of(query)
        parts = found.matrix * self.weights
        places = {item: at for at, item in enumerate(found.ids.tolist())}
        result = {}
        for item in ids:
            if item in places:
                row = parts[places[item]]
                order = np.argsort(-np.abs(row), kind="stable")
                result[item] = {
                    FEATURES[at]: round(float(row[at]), 4) for at in order.tolist() if abs(row[at]) > 1e-3
                }
        return result

    def remember(self, rates: Mapping[str, Mapping[int, float]]) -> None:
        """Take query -> item -> debiased click rate, on which the features of clicks lean."""
        self._neighbours = Neighbours(self._index)
        for query, values in rates.items():
            self._neighbours.put(query, values)
        self._features.use(self._neighbours.evidence)
