"""Items with preferences: ten of which three beat each other in a circle, or a plain order.

P(i beats j) is a matrix; the rater of a seed answers by it, some answers flipped. For `flocklet.models.policy.preference`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cyclic", "rater_of", "transitive"]


def cyclic(items: int = 10) -> NDArray[np.float64]:
    """Return wins (K, K): 0 beats 1 beats 2 beats 0 with .8, and all three beat the others with .9."""
    wins = np.full((items, items), 0.5)
    for a, b in ((0, 1), (1, 2), (2, 0)):
        wins[a, b], wins[b, a] = 0.8, 0.2
    wins[:3, 3:], wins[3:, :3] = 0.9, 0.1
    return wins


def transitive(items: int = 10) -> NDArray[np.float64]:
    """Return wins (K, K) of a plain order: item 0 is the best, by a logistic of the distance in rank."""
    rank = np.arange(items, dtype=float)
    return np.asarray(1.0 / (1.0 + np.exp(rank[:, None] - rank[None])))


def rater_of(wins: NDArray[np.float64], rng: np.random.Generator, flipped: float = 0.0) -> Any:
    """Return a rater that answers by `wins`, a share of its answers flipped."""
    said = (1.0 - flipped) * wins + flipped * (1.0 - wins)

    def rate(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(rng.random(len(first)) < said[first, second], float)

    return rate
