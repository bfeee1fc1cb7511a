"""Estimate at which positions people look, from nothing but a log of impressions and clicks.

An impression's position r has a *class*: how far above it the closest click lies, or that there is none above. A person
looks there with probability gamma[class] and, having looked, clicks with the attraction alpha of the (query, item):

    P(click at r | clicks above) = gamma[r, r - previous click] alpha        (UBM, Dupret & Piwowarski, SIGIR 2008)

With gamma depending on r alone this is the position-based model; a cascade (gamma = 1 until a click, less after it) is
another special case, so nobody has to say which kind of people click. `fit` is expectation maximisation over counts
(Wang et al., WSDM 2018, "regression EM": alpha is pulled towards what the text predicts, by `priors`), with
pseudo-observations that hold gamma at 1/rank until the log says otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSES", "Propensities", "classes_of"]

POSITIONS = 10
CLASSES = POSITIONS * (POSITIONS + 1) // 2
"""Position r (0..9) has r + 1 classes: no click above, or the closest one 1..r above."""

_ROUNDS = 40
_PULL = 30.0  # pseudo-observations of the fall-back per class
_ALPHA_PULL = 2.0
_LEAST = 0.02

Floats = NDArray[np.float64]


def classes_of(clicks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the class `(k,)` of each position of one impression with `clicks` `(k,)`, k <= 10."""
    size = len(clicks)
    positions = np.arange(size)
    last = np.maximum.accumulate(np.where(clicks, positions, -1))
    above = np.concatenate(([-1], last[:-1])) if size else last
    distance = np.where(above < 0, 0, positions - above)
    result: NDArray[np.int64] = positions * (positions + 1) // 2 + distance
    return result


class Propensities:
    """Hold gamma `(CLASSES,) float64`; without data it is 1/rank."""

    def __init__(self) -> None:
        ranks = np.repeat(np.arange(POSITIONS), np.arange(1, POSITIONS + 1)) + 1
        self._fallback: Floats = 1.0 / ranks
        self.gamma: Floats = self._fallback.copy()
        self.is_fitted = False

    @property
    def by_rank(self) -> Floats:
        """Return the propensity of each rank while nothing above was clicked, `(10,)`."""
        positions = np.arange(POSITIONS)
        result: Floats = self.gamma[positions * (positions + 1) // 2]
        return result

    def fit(
        self,
        pairs: NDArray[np.int64],
        classes: NDArray[np.int64],
        shown: Floats,
        clicked: Floats,
        priors: Floats | None = None,
        *,
        by_rank_only: bool = False,
    ) -> None:
        """Fit gamma to counts: how often each (query, item) pair was `shown` and `clicked` in each class.

        `priors` `(max(pairs) + 1,)` are the attractions that the text predicts (default: the mean click rate).
        `by_rank_only` forgets the clicks above: the position-based model.
        """
        self.gamma, self.is_fitted = self._fallback.copy(), False
        if not len(pairs) or clicked.sum() <= 0:
            return
        group = np.arange(CLASSES)
        if by_rank_only:
            group = np.repeat(np.arange(POSITIONS), np.arange(1, POSITIONS + 1))
        tied = group[classes]
        size = int(pairs.max()) + 1
        gamma = np.zeros(int(group.max()) + 1)
        gamma[group] = self._fallback
        fallback = gamma.copy()
        rate = float(clicked.sum() / np.maximum((shown * gamma[tied]).sum(), 1e-9))
        prior = np.full(size, min(rate, 0.9)) if priors is None else np.clip(priors, 0.01, 0.99)
        alpha = prior.copy()
        missed = shown - clicked
        looks = np.bincount(tied, shown, len(gamma)) + _PULL
        views = np.bincount(pairs, shown, size) + _ALPHA_PULL
        for _ in range(_ROUNDS):
            a, g = alpha[pairs], gamma[tied]
            unclicked = np.maximum(1 - a * g, 1e-9)
            seen = clicked + missed * g * (1 - a) / unclicked
            liked = clicked + missed * a * (1 - g) / unclicked
            gamma = (np.bincount(tied, seen, len(gamma)) + _PULL * fallback) / looks
            alpha = (np.bincount(pairs, liked, size) + _ALPHA_PULL * prior) / views
            alpha = np.clip(alpha * gamma[0], 1e-4, 1 - 1e-4)  # the first position is always looked at
            gamma = np.clip(gamma / gamma[0], _LEAST, 1.0)
        self.gamma, self.is_fitted = gamma[group], True
