"""Re-rank recommendations by what their owner did with earlier items: how long, to the end, or skipped.

A list of candidates comes with how much each is expected to be liked. Two critics learn from the owner's own records,
over the latent vectors of the items (`flocklet.models.recommend.factors`): *dwell* (log seconds) is the main signal,
*finished* (+1) or *skipped* (-1) an auxiliary one, and the liking that the recommender predicts is the other. So the
order is that of `signals.ReRanker`: what is stayed with, held to what is liked and finished. Where no dwell is known
finishing is the main signal; without any record the order stays as it came. A few records move little: the ridge
counts as much as one record in each direction of taste.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.signals import Critic, ReRanker

__all__ = ["FEEDBACK", "FeedbackSettings", "Played", "rerank"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one item: `is_finished` None and `dwell_s` None where that is not known."""

    item_id: int
    is_finished: bool | None = None
    dwell_s: float | None = None


@dataclass(frozen=True, slots=True)
class FeedbackSettings:
    """How strongly the main signal is held to the liking and to the finishing (lambda of each), and the ridge.

    `liking` and `finishing` are in deviations of the liking over all items.
    """

    liking: float = 1.0
    finishing: float = 1.0
    ridge: float = 1.0
    finish_scale: float = 2.0
    candidates: int = 100


FEEDBACK = FeedbackSettings()


def rerank(
    liking: NDArray[np.floating],
    vectors: NDArray[np.floating],
    played: Sequence[Played],
    played_vectors: NDArray[np.floating],
    settings: FeedbackSettings = FEEDBACK,
) -> NDArray[np.int64]:
    """Return the order (k,) of candidates with `liking` (k,) and `vectors` (k, d), best first.

    `played_vectors` (m, d) belong to `played`. Ties, and everything where nothing was learnt, keep the order of liking.
    """
    by_liking = np.argsort(-liking, kind="stable")
    finished = [n for n, row in enumerate(played) if row.is_finished is not None]
    dwelt = [n for n, row in enumerate(played) if row.dwell_s is not None]
    if not finished and not dwelt:
        return by_liking
    known = _unit(played_vectors)
    features = np.column_stack([liking, _unit(vectors)])
    finishing = Critic(settings.ridge, is_centred=False)
    finishing.fit(
        _blank(known[finished]),
        settings.finish_scale * np.array([1.0 if played[n].is_finished else -1.0 for n in finished]),
    )
    like = Critic()
    like.weights = np.eye(features.shape[1])[0]
    if len(dwelt) < 2:  # one figure cannot be long or short
        ranker = ReRanker(finishing, {"like": like}, {"like": settings.liking}, temperature=1.0)
    else:
        seconds = np.log1p(np.array([played[n].dwell_s for n in dwelt], np.float64))
        dwell = Critic(settings.ridge)
        dwell.fit(_blank(known[dwelt]), (seconds - seconds.mean()) / max(float(seconds.std()), 1e-9))
        strength = {"like": settings.liking, "finish": settings.finishing}
        ranker = ReRanker(dwell, {"like": like, "finish": finishing}, strength, temperature=1.0)
    return np.asarray(by_liking[ranker.order(features[by_liking])], np.int64)


def _unit(vectors: NDArray[np.floating]) -> Floats:
    wide = np.asarray(vectors, np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-9))


def _blank(vectors: Floats) -> Floats:
    """Return the vectors with a zero in the place of the liking, which a record does not know."""
    return np.column_stack([np.zeros(len(vectors)), vectors])
