"""Combine scorers: the default recommender, its weights chosen by held-out likes of the owner and the trusted.

Each scorer's scores of the items that the person has not liked are brought to mean 0 and deviation 1, then added by
weight. The weights are those of a few candidates that rank held-out likes best (nDCG@10): a fifth of the likes of the
owner and of people with influence are hidden, the newest where times are known, everybody counting by influence, the
owner `owner_voice` times, so that nobody without trust takes part in the choice. The first candidate wins unless
another is better by more than one standard error, so chance does not choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Ease, ItemKNN, Popularity, Salsa, Scorer

__all__ = ["CANDIDATES", "Blend", "choose_weights", "default_scorers", "top_unseen"]

Floats = NDArray[np.float32]

CANDIDATES: tuple[tuple[float, ...], ...] = (
    (0.4, 0.4, 0.2, 0.0, 0.0),  # all three views of the matrix
    (1.0, 0.0, 0.0, 0.0, 0.0),
    (0.8, 0.0, 0.2, 0.0, 0.0),
    (0.2, 0.6, 0.2, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0),
    (0.7, 0.0, 0.0, 0.3, 0.0),  # what is liked next lies near what was liked last
    (0.0, 0.0, 0.2, 0.0, 0.8),  # next to nothing is known: what is liked in general
)
"""Weights of (EASE, factors, SALSA, item-kNN, popularity) that are compared."""


def default_scorers() -> list[Scorer]:
    """Return the scorers of the default recommender, in the order of `CANDIDATES`."""
    return [Ease(), Factors(16, ridge=0.1), Salsa(0.7), ItemKNN(), Popularity()]


class Blend:
    """Score by a weighted sum of scorers; those of weight 0 are not fitted."""

    name = "blend"

    def __init__(
        self,
        make: Callable[[], Sequence[Scorer]] = default_scorers,
        weights: Sequence[float] = CANDIDATES[0],
    ) -> None:
        self.scorers = list(make())
        if len(weights) != len(self.scorers) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError("a blend needs one weight, not negative, for each scorer")
        self.weights = tuple(weights)

    def fit(self, likes: Likes) -> None:
        """Fit every scorer that has a weight."""
        for scorer in self._used():
            scorer.fit(likes)

    def score(self, profile: Profile) -> Floats:
        """Return the weighted sum of the standardised scores."""
        total: Floats | None = None
        for scorer, weight in zip(self.scorers, self.weights, strict=True):
            if weight:
                part = np.float32(weight) * _standard(scorer.score(profile), profile)
                total = part if total is None else total + part
        assert total is not None  # noqa: S101 - some weight is positive
        return total

    def contributions(self, profile: Profile, target: int) -> Floats:
        """Return how much each liked item speaks for `target`, (k,), as EASE and SALSA see it."""
        total = np.zeros(len(profile.columns), np.float32)
        for scorer, weight in zip(self.scorers, self.weights, strict=True):
            if weight and isinstance(scorer, Ease | Salsa | ItemKNN):
                rows = scorer.rows(profile.columns, target)
                total += np.float32(weight) * rows / max(float(np.abs(rows).sum()), 1e-12)
        return total

    def _used(self) -> list[Scorer]:
        return [scorer for scorer, weight in zip(self.scorers, self.weights, strict=True) if weight]


def choose_weights(
    likes: Likes,
    owner: int,
    rng: np.random.Generator,
    *,
    candidates: Sequence[Sequence[float]] = CANDIDATES,
    people: int = 400,
    hidden: float = 0.2,
    owner_voice: float = 5.0,
) -> tuple[float, ...]:
    """Return the candidate weights that rank hidden likes best for the owner and `people` others with influence."""
    chances = likes.influence * (np.diff(likes.starts) >= 5)
    chances[owner] = 0.0
    count = min(people, int((chances > 0).sum()))
    judges = (
        rng.choice(likes.n_people, count, replace=False, p=chances / chances.sum())
        if count
        else np.zeros(0, np.int64)
    )
    judges = np.append(judges, owner)
    held = np.concatenate([_hidden(likes, int(judge), hidden, rng) for judge in judges])
    if not len(held):
        return tuple(candidates[0])
    taught = likes.without(held)
    scorers = default_scorers()
    for scorer in scorers:
        scorer.fit(taught)
    rows, wanted = likes.rows[held], likes.columns[held]
    figures = []
    voices = []
    for judge in np.unique(rows).tolist():
        profile = taught.profile(judge)
        parts = [_standard(scorer.score(profile), profile) for scorer in scorers]
        right = wanted[rows == judge]
        figures.append([_gain(_mix(parts, weights), profile, right) for weights in candidates])
        voices.append(owner_voice if judge == owner else float(likes.influence[judge]))
    table, voice = np.array(figures), np.array(voices) / np.sum(voices)
    means = voice @ table
    best = int(np.argmax(means))
    gain = table[:, best] - table[:, 0]
    error = float(np.sqrt((voice**2 * (gain - voice @ gain) ** 2).sum()))
    return tuple(candidates[best] if means[best] - means[0] > error else candidates[0])


def _hidden(likes: Likes, judge: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return which likes of one person are hidden: the newest where times are known, else any."""
    first, last = int(likes.starts[judge]), int(likes.starts[judge + 1])
    if not len(likes.times):
        return np.flatnonzero(rng.random(last - first) < share) + first
    order = first + np.argsort(likes.times[first:last], kind="stable")
    return np.asarray(order[len(order) - round(share * len(order)) :], np.int64)


def top_unseen(scores: Floats, profile: Profile, count: int) -> NDArray[np.int64]:
    """Return the best `count` columns that the profile does not hold, best first, ties to the lower column."""
    scores = scores.copy()
    scores[profile.columns] = -np.inf
    count = min(count, len(scores) - len(profile.columns))
    if count <= 0:
        return np.zeros(0, np.int64)
    best = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
    return best[np.lexsort((best, -scores[best]))]


def _mix(parts: Sequence[Floats], weights: Sequence[float]) -> Floats:
    return np.asarray(sum(np.float32(w) * part for w, part in zip(weights, parts, strict=True) if w))


def _standard(scores: Floats, profile: Profile) -> Floats:
    seen = scores[profile.columns]
    count = max(len(scores) - len(seen), 1)
    mean = (scores.sum(dtype=np.float64) - seen.sum(dtype=np.float64)) / count
    square = (np.square(scores, dtype=np.float64).sum() - np.square(seen, dtype=np.float64).sum()) / count
    deviation = max(float(np.sqrt(max(square - mean * mean, 0.0))), 1e-9)
    return np.asarray((scores - mean) / deviation, np.float32)


def _gain(scores: Floats, profile: Profile, right: NDArray[np.int64]) -> float:
    top = top_unseen(scores, profile, 10)
    discounts = 1.0 / np.log2(np.arange(2, 12))
    return float(discounts[: len(top)][np.isin(top, right)].sum() / discounts[: min(len(right), 10)].sum())
