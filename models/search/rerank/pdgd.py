"""Learn a ranker online from its owner's clicks: pairwise differentiable gradient descent (PDGD).

Oosterhuis & de Rijke, CIKM 2018. A list R is drawn from the Plackett-Luce distribution of the scores s; every clicked
item i is preferred to every item j that was looked at and not clicked, with the weight

    rho(i, j) = P(R with i and j swapped) / (P(R) + P(R swapped)),    rho e^s_i e^s_j / (e^s_i + e^s_j)^2

which makes the expected gradient unbiased. Looked at: up to one position below the last click. The model is linear, or
linear plus an MLP of 64 ReLU units that starts at zero output, so it starts as BM25 in both cases; a pull towards that
start keeps it close while there is little to learn from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.models.base import Parameters
from flocklet.models.search.rerank.features import BM25, CLIP, FEATURES

__all__ = ["HIDDEN", "PdgdRanker", "draw_list", "preferences"]

Floats = NDArray[np.float64]

HIDDEN = 64
SHOWN = 10


def draw_list(
    scores: NDArray[np.floating[Any]], rng: np.random.Generator, k: int = SHOWN
) -> NDArray[np.int64]:
    """Return the first `k` places of a Plackett-Luce sample of `scores` `(n,)` (Gumbel trick)."""
    noisy = np.asarray(scores, np.float64) + rng.gumbel(size=len(scores))
    return np.argsort(-noisy, kind="stable")[:k]


def preferences(scores: Floats, shown: NDArray[np.int64], clicks: NDArray[np.bool_]) -> Floats:
    """Return the gradient of the scores `(n,)` that one impression asks for; zeros when it says nothing."""
    result = np.zeros(len(scores))
    chosen = np.flatnonzero(clicks)
    if not len(chosen):
        return result
    looked = np.arange(min(int(chosen[-1]) + 2, len(shown)))
    missed = looked[~clicks[looked]]
    powers = np.exp(scores - scores.max())
    listed = powers[shown]
    left = np.maximum(powers.sum() - np.concatenate(([0.0], np.cumsum(listed)[:-1])), 1e-12)
    for i in chosen.tolist():
        for j in missed.tolist():
            first, last = min(i, j), max(i, j)
            between = left[first + 1 : last + 1]
            swapped = np.maximum(between + listed[first] - listed[last], 1e-12)
            odds = float(np.log(between).sum() - np.log(swapped).sum())  # log P(swapped) / P(shown)
            rho = 1 / (1 + np.exp(np.clip(-odds, -50, 50)))
            both = listed[i] + listed[j]
            weight = rho * listed[i] * listed[j] / max(both * both, 1e-24)
            result[shown[i]] += weight
            result[shown[j]] -= weight
    return result


class PdgdRanker:
    """Score features `(n, F)`; `is_deep` adds the MLP (64 x 15 + 64 + 64 weights, 4.4 kB)."""

    name = "pdgd"

    def __init__(
        self, rng: np.random.Generator, *, is_deep: bool = False, rate: float = 0.03, pull: float = 0.002
    ) -> None:
        self._rate, self._pull = rate, pull
        self.parameters: Parameters = {"weights": np.zeros(len(FEATURES), np.float32)}
        self.parameters["weights"][BM25] = 1.0
        if is_deep:
            first = rng.standard_normal((len(FEATURES), HIDDEN)) / np.sqrt(len(FEATURES))
            self.parameters["hidden"] = first.astype(np.float32)
            self.parameters["bias"] = np.zeros(HIDDEN, np.float32)
            self.parameters["out"] = np.zeros(HIDDEN, np.float32)
        self._start = {name: value.copy() for name, value in self.parameters.items()}

    def scores(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores `(n,) float32` of candidates with features `(n, F)`."""
        result: NDArray[np.float32] = matrix @ self.parameters["weights"]
        if "hidden" in self.parameters:
            inner = np.maximum(matrix @ self.parameters["hidden"] + self.parameters["bias"], 0)
            result = result + inner @ self.parameters["out"]
        return result

    def observe(
        self, matrix: NDArray[np.float32], shown: NDArray[np.int64], clicks: NDArray[np.bool_]
    ) -> None:
        """Learn from one impression: candidates' features, the places shown and the clicks on them."""
        slope = preferences(self.scores(matrix).astype(np.float64), shown, clicks)
        if not slope.any():
            return
        step = (self._rate * slope).astype(np.float32)
        updated = {"weights": step @ matrix}
        if "hidden" in self.parameters:
            inner = np.maximum(matrix @ self.parameters["hidden"] + self.parameters["bias"], 0)
            back = step[:, None] * (inner > 0) * self.parameters["out"]
            updated |= {"out": step @ inner, "hidden": matrix.T @ back, "bias": back.sum(axis=0)}
        for name, change in updated.items():
            value = self.parameters[name]
            value += change - self._pull * (value - self._start[name])

    def load(self, parameters: Parameters) -> None:
        """Replace the parameters; raises SchemaMismatch for other tensors, WireError for values that are not finite."""
        check_parameters(parameters, self.parameters)
        self.parameters = {name: value.astype(np.float32) for name, value in parameters.items()}


def check_parameters(received: Parameters, own: Parameters) -> None:
    """Refuse what is not a model like ours: SchemaMismatch for names, shapes and types, WireError for NaN and inf."""
    if received.keys() != own.keys():
        raise SchemaMismatch("the model has other tensors than ours")
    for name, value in received.items():
        if not isinstance(value, np.ndarray) or value.shape != own[name].shape or value.dtype != np.float32:
            raise SchemaMismatch(f"tensor {name!r} has another shape or type than ours")
        if not np.isfinite(value).all() or float(np.abs(value).max(initial=0.0)) > CLIP * 1e6:
            raise WireError(f"tensor {name!r} holds a value that is not finite", reason="not-finite")
