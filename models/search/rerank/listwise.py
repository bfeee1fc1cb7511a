"""Fit a linear ranker to judged or clicked lists, no further from BM25 than the lists justify.

The loss is ListNet's (Cao et al., ICML 2007): the cross-entropy between softmax(w x) and the gains 2^g - 1 of a list as
a distribution, averaged over lists, plus `pull / lists * |w - w0|^2`. `w0` has one weight that is not 0, on BM25. The
loss is convex; Newton's method with a halved step where needed finds the minimum in about ten rounds.

`fit_close` learns how far to go: the pull is chosen by cross-validation over the queries, and the weights are used only
if, out of fold, they beat BM25 twice: in nDCG@10 by more than `margin` standard errors, and in the loss, which looks at
the whole list and is much less noisy, by more than `_LIKELIHOOD_MARGIN`. Else the answer is BM25 itself. So a few
queries cannot hurt. (The second margin tells MED, t about 10, from ADI, t up to 3.3, whose gains do not generalise.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.evaluation.metrics import k_fold
from flocklet.models.search.rerank.features import BM25, FEATURES

__all__ = ["Fit", "JudgedList", "Lists", "bm25_weights", "fit_close", "fit_linear", "ndcg_of"]

Floats = NDArray[np.float64]

PULLS = (0.25, 1.0, 4.0, 16.0, 64.0)
_ROUNDS = 25
_DEPTH = 10
_LEAST_LISTS = 10
_MANY_LISTS = 100
_LIKELIHOOD_MARGIN = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class JudgedList:
    """Hold one query's candidates: features `(n, F)`, gains `(n,)`, and the ideal DCG@10 over all that is judged."""

    matrix: NDArray[np.float32]
    gains: NDArray[np.int64]
    ideal: float


class Lists:
    """Stack lists of unequal length: x `(L, n, F)`, gain mass `(L, n)`, mask `(L, n)`, ideal `(L,)`."""

    def __init__(self, lists: Sequence[JudgedList]) -> None:
        longest = max((len(one.gains) for one in lists), default=1) or 1
        self.x = np.zeros((len(lists), longest, len(FEATURES)), np.float32)
        self.mass = np.zeros((len(lists), longest))
        self.mask = np.zeros((len(lists), longest), bool)
        self.ideal = np.array([one.ideal for one in lists])
        for place, one in enumerate(lists):
            size = len(one.gains)
            self.x[place, :size] = one.matrix
            self.mass[place, :size] = np.exp2(np.maximum(one.gains, 0)) - 1
            self.mask[place, :size] = True

    def __len__(self) -> int:
        return len(self.ideal)

    def take(self, chosen: NDArray[np.int64]) -> Lists:
        """Return some of the lists."""
        part = object.__new__(Lists)
        part.x, part.mass = self.x[chosen], self.mass[chosen]
        part.mask, part.ideal = self.mask[chosen], self.ideal[chosen]
        return part


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Hold what was learnt: weights `(F,)`, and why.

    `pull` is None when BM25 stays. `gain` and `error` are the mean nDCG@10 difference out of fold and its error.
    """

    weights: NDArray[np.float32]
    pull: float | None
    gain: float
    error: float


def bm25_weights(scale: float = 1.0) -> Floats:
    """Return the weights that rank as BM25 does."""
    weights = np.zeros(len(FEATURES))
    weights[BM25] = scale
    return weights


def ndcg_of(lists: Lists, weights: NDArray[np.floating]) -> Floats:
    """Return the nDCG@10 of each list `(L,)` when ranked by `weights`; equal scores keep the order of BM25."""
    scores = np.where(lists.mask, lists.x @ np.asarray(weights, np.float32), -np.inf)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
    gained = np.take_along_axis(lists.mass, best, axis=1)
    discount = 1 / np.log2(np.arange(2, gained.shape[1] + 2))
    result: Floats = (gained @ discount) / np.maximum(lists.ideal, 1e-9)
    return result


def fit_linear(lists: Lists, pull: float, *, start: Floats | None = None) -> Floats:
    """Return the weights `(F,)` that minimise the loss; raises nothing: without a relevant candidate it is BM25."""
    total = lists.mass.sum(axis=1)
    used = lists.take(np.flatnonzero(total > 0))
    if not len(used):
        return bm25_weights()
    target = used.mass / used.mass.sum(axis=1, keepdims=True)
    anchor = bm25_weights(_scale(used, target))
    weights = anchor if start is None else start
    strength = pull / len(used)
    value = _loss(used, target, weights, anchor, strength)
    for _ in range(_ROUNDS):
        chances = np.exp(_log_softmax(used, weights))
        flat = used.x.reshape(-1, used.x.shape[2])
        slope = (chances - target).ravel() @ flat / len(used)
        slope += 2 * strength * (weights - anchor)
        mean = (chances[:, None, :] @ used.x)[:, 0]
        spread = (flat * chances.reshape(-1, 1)).T @ flat
        curve = (spread - mean.T @ mean) / len(used) + 2 * strength * np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-3:
            candidate = weights - size * step
            lower = _loss(used, target, candidate, anchor, strength)
            if lower <= value:
                break
            size /= 2
        else:
            break
        weights, is_done, value = candidate, value - lower < 1e-6, lower
        if is_done:
            break
    return weights


def fit_close(
    lists: Lists,
    rng: np.random.Generator,
    *,
    margin: float = 1.0,
    folds: int = 5,
    repeats: int | None = None,
    pulls: Sequence[float] = PULLS,
) -> Fit:
    """Return the weights that the lists justify; see the module. `repeats`: how often the folds are drawn anew."""
    stay = bm25_weights().astype(np.float32)
    if len(lists) < _LEAST_LISTS:
        return Fit(stay, None, 0.0, 0.0)
    if repeats is None:
        repeats = 1 if len(lists) >= _MANY_LISTS else 3
    base = ndcg_of(lists, stay)
    reached, likelier = np.zeros((len(pulls), len(lists))), np.zeros((len(pulls), len(lists)))
    strongest_first = sorted(enumerate(pulls), key=lambda pair: -pair[1])
    for _ in range(repeats):
        for train, test in k_fold(len(lists), folds, rng):
            kept, held = lists.take(train), lists.take(test)
            before = _losses(held, bm25_weights(_scale(kept, _target(kept))))
            weights = None
            for place, pull in strongest_first:
                weights = fit_linear(kept, pull, start=weights)
                reached[place, test] += ndcg_of(held, weights) / repeats
                likelier[place, test] += (before - _losses(held, weights)) / repeats
    best = int(reached.mean(axis=1).argmax())
    difference = reached[best] - base
    gain, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(lists)))
    if gain <= max(margin * error, 0.0) or _ratio(likelier[best]) <= _LIKELIHOOD_MARGIN:
        return Fit(stay, None, gain, error)
    return Fit(fit_linear(lists, pulls[best]).astype(np.float32), pulls[best], gain, error)


def _ratio(differences: Floats) -> float:
    """Return the mean over its standard error."""
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    return float(differences.mean()) / max(error, 1e-12)


def _target(lists: Lists) -> Floats:
    result: Floats = lists.mass / np.maximum(lists.mass.sum(axis=1, keepdims=True), 1e-12)
    return result


def _losses(lists: Lists, weights: Floats) -> Floats:
    """Return the loss of each list `(L,)`, 0 without a relevant candidate."""
    logs = np.where(lists.mask, _log_softmax(lists, weights), 0.0)
    result: Floats = -(_target(lists) * logs).sum(axis=1)
    return result


def _log_softmax(lists: Lists, weights: Floats) -> Floats:
    scores = np.where(lists.mask, (lists.x @ weights.astype(np.float32)).astype(np.float64), -np.inf)
    top = scores.max(axis=1, keepdims=True)
    scores -= np.where(np.isfinite(top), top, 0.0)  # a list without candidates has no top
    result: Floats = scores - np.log(np.maximum(np.exp(scores).sum(axis=1, keepdims=True), 1e-300))
    return result


def _loss(lists: Lists, target: Floats, weights: Floats, anchor: Floats, strength: float) -> float:
    logs = np.where(lists.mask, _log_softmax(lists, weights), 0.0)
    distance = weights - anchor
    return float(-(target * logs).sum() / len(lists) + strength * (distance @ distance))


def _scale(lists: Lists, target: Floats) -> float:
    """Return the weight of BM25 alone that explains the lists best."""
    grid = np.linspace(0.25, 3.0, 12)
    losses = [_loss(lists, target, bm25_weights(size), np.zeros(len(FEATURES)), 0.0) for size in grid]
    return float(grid[int(np.argmin(losses))])
