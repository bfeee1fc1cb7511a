"""Order what was found for one person: by the posterior click rate, or by G-Rank; and say why.

The default is the posterior (`flocklet.models.search.ranking.posterior`): without clicks for a query its order is that of
the text, with them it is the debiased click rate. Documents whose words match come before those that people clicked for
this query although they do not match. A reranker, once the clicks justify one, replaces BM25 as the text's opinion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.clock import Clock
from flocklet.errors import UsageError
from flocklet.events.click import ClickEntry
from flocklet.models.search.index.asked import Asked
from flocklet.models.search.index.index import Index
from flocklet.models.search.ranking.grank import GRank, RankQuery, Settings
from flocklet.models.search.ranking.posterior import Posterior, PosteriorSettings, text_prior
from flocklet.models.search.ranking.propensity import classes_of
from flocklet.models.search.rerank.features import BM25, standardise
from flocklet.models.search.rerank.linear import Reranker
from flocklet.models.search.rerank.online import Impression, OnlineRankers

__all__ = ["CANDIDATES", "MODELS", "Ranked", "Ranker"]

MODELS = ("posterior", "grank", "bm25")
CANDIDATES = 100

_REFIT_SHARE = 4  # propensities are estimated again when the log has grown by a quarter
_LEAST_IMPRESSIONS = 50
_PEERS_NAMED = 20

Trust = Callable[[bytes], float]


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """Hold items in the order to show, `(n,)` each: ids, scores of the model, G-Rank votes and BM25 scores."""

    ids: NDArray[np.uint64]
    scores: NDArray[np.float32]
    votes: NDArray[np.float32]
    text: NDArray[np.float32]

    def row(self, place: int) -> tuple[float, float, float]:
        """Return score, votes and text score of one place."""
        return float(self.scores[place]), float(self.votes[place]), float(self.text[place])

    def followed_by(self, ids: NDArray[np.uint64], text: NDArray[np.float32]) -> Ranked:
        """Return this order with those of `ids` behind it that are not in it yet, in their own order."""
        new = ~np.isin(ids, self.ids)
        none = np.zeros(int(new.sum()), np.float32)
        return Ranked(
            np.concatenate([self.ids, ids[new]]),
            np.concatenate([self.scores, none]),
            np.concatenate([self.votes, none]),
            np.concatenate([self.text, text[new]]),
        )

    @classmethod
    def only(cls, ids: NDArray[np.uint64]) -> Ranked:
        """Return `ids` in their order, without any score."""
        none = np.zeros(len(ids), np.float32)
        return cls(ids, none, none, none)

    @classmethod
    def nothing(cls) -> Ranked:
        """Return no items."""
        none = np.zeros(0, np.float32)
        return cls(np.zeros(0, np.uint64), none, none, none)


class Ranker:
    """Learn from every click entry once, for all models, and rank with any of them."""

    def __init__(
        self,
        clock: Clock,
        votes: Settings | None = None,
        settings: PosteriorSettings | None = None,
        *,
        owner_trust: Callable[[], Trust | None] = lambda: None,
    ) -> None:
        self.grank = GRank(votes)
        self.posterior = Posterior(settings)
        self.reranker: Reranker | None = None
        self.online: OnlineRankers | None = None
        self._clock = clock
        self._owner_trust = owner_trust
        self._fitted = 0

    def learn(self, entry: ClickEntry) -> None:
        """Take one accepted entry in."""
        self.grank.learn(entry)
        self.posterior.learn(entry)

    def unlearn(self, entry: ClickEntry) -> None:
        """Take one entry back."""
        self.grank.unlearn(entry)
        self.posterior.unlearn(entry)

    def only(self, entries: list[ClickEntry]) -> Ranker:
        """Return a ranker of the same kind that knows these entries and nothing else."""
        other = Ranker(self._clock, self.grank.settings, self.posterior.settings)
        for entry in entries:
            other.learn(entry)
        return other

    def rank(
        self,
        index: Index,
        query: str,
        me: bytes,
        *,
        model: str = "posterior",
        candidates: int = CANDIDATES,
        trust: Trust | None = None,
        own: Collection[bytes] = (),
        rng: np.random.Generator | None = None,
        asked: Asked | None = None,
    ) -> Ranked:
        """Return the order to show to person `me`; with `rng` little-seen items get a chance in the lower slots.

        `trust` is the person's, `own` are the origins of everybody here: where these look is learnt from them.
        Raises UsageError for an unknown model.
        """
        if model not in MODELS:
            raise UsageError(f"there is no ranking called {model!r}", remedy=f"one of {', '.join(MODELS)}")
        ids, text = index.candidates(query, candidates, asked)
        if model == "bm25":
            none = np.zeros(len(ids), np.float32)
            return Ranked(ids, text, none, text)
        clicked = self.grank if model == "grank" else self.posterior
        others = np.setdiff1d(clicked.clicked_items(query), ids)
        held = np.array([item for item in others.tolist() if item in index], dtype=np.uint64)
        if asked is not None and asked.allowed is not None and len(held):
            held = held[index.passing(held, asked.allowed)]
        is_matching = np.isin(held, index.matches(query, every=False)) if len(held) else held.astype(bool)
        matching = np.concatenate([np.ones(len(ids), dtype=bool), is_matching])
        every = np.concatenate([ids, held])
        scores = np.concatenate([text, np.zeros(len(held), dtype=np.float32)])
        if not len(every):
            return Ranked.nothing()
        votes = self.grank.predict(RankQuery(query, every, scores, matching, me))
        if model == "grank":
            ranking = self.grank.order(query, every, scores, matching, me=me)
            place = np.argsort(every, kind="stable")
            order = place[np.searchsorted(every, ranking.ids, sorter=place)]
            return Ranked(ranking.ids, ranking.scores, ranking.scores, scores[order])
        self._estimate(own)
        return self._by_posterior(index, query, me, every, scores, matching, votes, trust, rng)

    def _by_posterior(
        self,
        index: Index,
        query: str,
        me: bytes,
        ids: NDArray[np.uint64],
        text: NDArray[np.float32],
        matching: NDArray[np.bool_],
        votes: NDArray[np.float32],
        trust: Trust | None,
        rng: np.random.Generator | None,
    ) -> Ranked:
        found = self.posterior.evidence(query, ids, me=me, now_s=self._clock.time(), trust=trust)
        opinion = self._opinion(index, query, ids, text)
        scores = self.posterior.scores(found, text_prior(opinion))
        # Words that match count more than any number of clicks on what does not match; then score, then text.
        order = np.lexsort((ids, -opinion, -scores, ~matching))
        if rng is not None and found.looks.any():
            head = order[matching[order]]
            tail = order[~matching[order]]
            explored = self.posterior.explore(scores[head], _part(found, head), rng)
            order = np.concatenate([head[explored], tail])
        return Ranked(ids[order], scores[order].astype(np.float32), votes[order], text[order])

    def _opinion(
        self, index: Index, query: str, ids: NDArray[np.uint64], text: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return what the text says of the candidates `(n,)`: BM25, or the mean of the rerankers that earned a say."""
        online = self.online.best if self.online is not None else None
        is_fitted = self.reranker is not None and self.reranker.is_active
        if len(ids) < 2 or not (is_fitted or online is not None):
            return text
        reranker = self.ready(index)
        matrix = reranker.matrix(query, ids, text)
        said = [matrix @ reranker.weights] if is_fitted else []
        if online is not None:
            said.append(online.scores(matrix))
        if len(said) == 1:
            return said[0]
        result: NDArray[np.float32] = standardise(said[0]) + standardise(said[1])
        return result

    def ready(self, index: Index) -> Reranker:
        """Return the reranker over `index`, made with the click rates of now when there is none yet."""
        if self.reranker is None:
            self.reranker = Reranker(index)
            self.reranker.remember(self.rates())
        return self.reranker

    def rates(self) -> dict[str, dict[int, float]]:
        """Return query -> item -> click rate of now, everybody's clicks weighed by the owner's trust.

        What the device teaches itself rests on these, so they do not depend on who searched last.
        """
        return self.posterior.every_rate(now_s=self._clock.time(), trust=self._owner_trust())

    def impression(self, index: Index, entry: ClickEntry) -> Impression | None:
        """Return what one entry teaches a reranker; None when what was clicked is no candidate of the text."""
        ids, text = index.candidates(entry.query, CANDIDATES)
        places = {item: at for at, item in enumerate(ids.tolist())}
        if entry.item not in places or len(ids) < 2:
            return None
        clicks = np.arange(len(entry.shown)) == entry.clicked
        kept = np.array([item in places for item in entry.shown])
        shown = np.array([places[item] for item in entry.shown if item in places], np.int64)
        looks = self.posterior.propensities.gamma[classes_of(clicks)]
        matrix = self.ready(index).matrix(entry.query, ids, text)
        return Impression(matrix, shown, clicks[kept], looks[kept])

    def _estimate(self, own: Collection[bytes]) -> None:
        seen = self.posterior.impressions
        if seen >= _LEAST_IMPRESSIONS and abs(seen - self._fitted) * _REFIT_SHARE > max(self._fitted, 1):
            self.posterior.fit_propensities(own=own)
            self._fitted = seen

    def explain(
        self, index: Index, query: str, ids: list[int], me: bytes, *, trust: Trust | None = None
    ) -> list[dict[str, Any]]:
        """Return for each item what came from the text, the person's own clicks, peers' clicks and the reranker."""
        now_s = self._clock.time()
        reasons = []
        moved = self.reranker.reasons(query, ids) if self.reranker and self.reranker.is_active else {}
        learnt = self._learnt(index, query, ids)
        for item in ids:
            seen = self.posterior.explain(query, item, me=me, now_s=now_s, trust=trust)
            shares: dict[bytes, tuple[float, float]] = {}
            for origin, weight, clicks in seen.peers:
                shares[origin] = (weight, shares.get(origin, (weight, 0.0))[1] + clicks)
            named = sorted(shares.items(), key=lambda row: (-row[1][1], row[0]))
            reasons.append(
                {
                    "text": {term: round(value, 4) for term, value in index.explain(query, item).items()},
                    "own": {"clicks": round(seen.own_clicks, 4), "looks": round(seen.own_looks, 4)},
                    "peers": {
                        "clicks": round(seen.peer_clicks, 4),
                        "looks": round(seen.peer_looks, 4),
                        "identities": len(shares),
                        "trust": [
                            {"origin": origin.hex(), "trust": round(weight, 4), "clicks": round(clicks, 4)}
                            for origin, (weight, clicks) in named[:_PEERS_NAMED]
                        ],
                    },
                    "reranker": moved.get(item, {}),
                    "online": learnt.get(item, {}),
                }
            )
        return reasons

    def _learnt(self, index: Index, query: str, ids: list[int]) -> dict[int, dict[str, Any]]:
        """Return per item which online model decided and how far it moved the item against the mean of
        the candidates (in sd of BM25)."""
        best = self.online.best if self.online is not None else None
        if best is None:
            return {}
        found, text = index.candidates(query, CANDIDATES)
        matrix = self.ready(index).matrix(query, found, text)
        change = best.scores(matrix) - matrix[:, BM25]
        moved = (
            dict(zip(found.tolist(), (change - change.mean()).tolist(), strict=True)) if len(found) else {}
        )
        return {item: best.facts() | {"moved": round(moved[item], 4)} for item in ids if item in moved}


def _part(found: Any, chosen: NDArray[np.int64]) -> Any:
    from flocklet.models.search.ranking.posterior import Evidence

    return Evidence(found.clicks[chosen], found.looks[chosen])
