"""Score people by MeritRank, exactly, by linear algebra (Nasrulin, Ishmaev & Pouwelse, arXiv 2207.09950).

A walk from the ego stops with probability `alpha` before every step (transitivity decay), follows positive edges in
proportion to their weights and ends where there are none. The *hitting score* of v is the share of v in the expected
number of people that a walk visits at least once. With P[u, w] = (1 - alpha) weight / sum of positive weights and
G = (I - P)^-1, the probability to hit v from u is G[u, v] / G[v, v]: one inverse instead of a solve per target.

*Connectivity decay*: if one person m other than the ego and v is on at least `threshold` of the walks that reach v,
the score of v is multiplied by 1 - `beta`. The share is 1 - (probability to hit v avoiding m) / (to hit v), and
avoiding m only subtracts G[., m] G[m, .] / G[m, m] from G. *Negative edges* of the ego are penalties: whoever a walk
visits before or at a distrusted d loses the magnitude of d's weight, so in expectation h(ego, x) h(x, d) |w_d|.
*Epoch decay* halves an edge's weight every `half_life_s`; off by default (the authors found it counter-productive).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MeritSettings",
    "TrustEdges",
    "bottleneck",
    "exact_hits",
    "exact_scores",
    "forward_push",
    "transitions",
]

Array = NDArray[np.float64]
DENSE_MOST = 2_000
"""Above this many people the inverse costs seconds: use `flocklet.models.recommend.walks`."""


@dataclass(frozen=True, slots=True)
class MeritSettings:
    """The decays; alpha .15 is meritrank-python's continue-probability .85."""

    alpha: float = 0.15
    beta: float = 0.0
    threshold: float = 0.99
    half_life_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 <= self.beta <= 1 or not 0 < self.threshold <= 1:
            raise ValueError("alpha lies in (0, 1), beta in [0, 1], the threshold in (0, 1]")


@dataclass(frozen=True, slots=True)
class TrustEdges:
    """Columns of edges between people 0..n-1: `src`, `dst` int64, `weight` float64 (negative = distrust), `ts` s."""

    n: int
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    weight: Array
    ts: Array

    @classmethod
    def of(cls, n: int, edges: list[tuple[int, int, float]]) -> TrustEdges:
        """Return the columns of (src, dst, weight) triples; an edge to oneself is refused with ValueError."""
        if any(src == dst for src, dst, _ in edges):
            raise ValueError("an edge leads from a person to the same person")
        columns = list(zip(*edges, strict=True)) if edges else [(), (), ()]
        return cls(
            n,
            np.array(columns[0], np.int64),
            np.array(columns[1], np.int64),
            np.array(columns[2], np.float64),
            np.zeros(len(edges)),
        )

    def decayed(self, now_s: float, half_life_s: float | None) -> TrustEdges:
        """Return the edges with weights halved every `half_life_s`, unchanged for None."""
        if half_life_s is None:
            return self
        age = np.maximum(now_s - self.ts, 0.0)
        return TrustEdges(self.n, self.src, self.dst, self.weight * 0.5 ** (age / half_life_s), self.ts)


def transitions(edges: TrustEdges, alpha: float) -> Array:
    """Return P, (n, n): the probability to step from row to column; rows sum to 1 - alpha or, at an end, to 0."""
    matrix = np.zeros((edges.n, edges.n))
    positive = edges.weight > 0
    np.add.at(matrix, (edges.src[positive], edges.dst[positive]), edges.weight[positive])
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    return np.asarray((1.0 - alpha) * shares)


def exact_hits(edges: TrustEdges, ego: int, alpha: float) -> Array:
    """Return the probability that a walk from `ego` visits each person, (n,); 1 for the ego itself."""
    visits = np.linalg.inv(np.eye(edges.n) - transitions(edges, alpha))
    return np.asarray(np.clip(visits[ego] / np.diag(visits), 0.0, 1.0))


def exact_scores(
    edges: TrustEdges, ego: int, settings: MeritSettings | None = None, *, now_s: float = 0.0
) -> Array:
    """Return the MeritRank score of each person from `ego`, (n,); penalised scores may be negative.

    Raises:
        ValueError: more than 2,000 people.
    """
    settings = settings or MeritSettings()
    if edges.n > DENSE_MOST:
        raise ValueError(f"{edges.n} people are too many for the exact solve, use walks")
    edges = edges.decayed(now_s, settings.half_life_s)
    visits: Array = np.asarray(
        np.linalg.inv(np.eye(edges.n) - transitions(edges, settings.alpha)), np.float64
    )
    returns = np.diag(visits)
    hits = np.clip(visits[ego] / returns, 0.0, 1.0)
    scores = hits - _penalties(edges, ego, hits, visits / returns[None, :])
    if settings.beta:
        share = bottleneck(visits, ego).max(axis=0)
        scores = np.where(share >= settings.threshold, scores * (1.0 - settings.beta), scores)
    return np.asarray(scores / hits.sum())


def bottleneck(visits: Array, ego: int) -> Array:
    """Return the share of the walks from `ego` to each column that pass each row first, (n, n), from G.

    The ego, a person's own row and people whom no walk reaches have share 0.
    """
    returns = np.diag(visits)
    hits = visits[ego] / returns
    through = (visits[ego] / returns)[:, None] * visits  # G[e,m] G[m,v] / G[m,m]
    back = visits * visits.T / returns[:, None]  # G[v,m] G[m,v] / G[m,m]
    avoiding = (visits[ego] - through) / np.maximum(returns - back, 1e-12)
    reached = hits > 1e-15
    share = 1.0 - np.divide(avoiding, hits, out=np.ones_like(avoiding), where=reached)
    share[ego, :] = 0.0
    share[:, ego] = 0.0
    np.fill_diagonal(share, 0.0)
    return np.asarray(share)


def forward_push(edges: TrustEdges, ego: int, alpha: float, *, tolerance: float = 1e-9) -> Array:
    """Return the expected visits to each person, G[ego, :], by pushing what is not yet spread (Andersen 2006).

    What is left unspread is below `tolerance` in sum. Memory and time per round are those of the edges, so this
    serves graphs of any size; the hitting score needs the returns as well and is taken from walks there.
    """
    positive = edges.weight > 0
    src, dst, weight = edges.src[positive], edges.dst[positive], edges.weight[positive]
    share = (1.0 - alpha) * weight / np.bincount(src, weight, edges.n)[src]
    moving = np.zeros(edges.n)
    moving[ego] = 1.0
    total = moving.copy()
    while moving.sum() > tolerance:
        moving = np.bincount(dst, moving[src] * share, edges.n).astype(np.float64)
        total += moving
    return total


def _penalties(edges: TrustEdges, ego: int, hits: Array, hit: Array) -> Array:
    own = (edges.src == ego) & (edges.weight < 0)
    losses = np.zeros(edges.n)
    for distrusted, weight in zip(edges.dst[own].tolist(), edges.weight[own].tolist(), strict=True):
        losses -= weight * hits * hit[:, distrusted]
    return losses
