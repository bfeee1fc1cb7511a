"""Rank by the posterior click rate: clicks over expected looks, with what the text says as the prior.

    score = (C + a p_text) / (E + a),   a = 3

C = clicks on the item for this query, E = how often it was looked at, estimated by `Propensities`. Dividing clicks by
looks already corrects for the position; clicks are not weighted again. An item that nobody was shown scores p_text, so
a query that nobody asked is ranked by the text alone.

One person, one vote: what one identity adds to (C, E) of a (query, item) is scaled down so that neither exceeds `vote`
(1, times the trust in that identity; the asking person's own clicks count `own_weight` each, up to `own_vote`). Nobody
else's rate exceeds 1, so that to claim clicks at rank 10, where few look, wins no more than a click on top. Over all items
of a query one identity has at most `query_vote` votes: whoever clicks everything says nothing. Once there is trust,
strangers and whom it hardly reaches together have one vote, so a crowd of made-up identities is as loud as one person. Old
impressions fade by half-life: an entry's epoch is its own `ts`, and one from the future counts as new, no more.

The state is counts, so the order of arrival does not matter and any entry can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.click import (
    MAX_QUERY_SIZE,
    NO_CLICK,
    ORIGIN_SIZE,
    ClickEntry,
    normalise_query,
)
from flocklet.models.base import State
from flocklet.models.search.ranking.impressions import Impressions
from flocklet.models.search.ranking.propensity import CLASSES, Propensities, classes_of

__all__ = ["Evidence", "ItemEvidence", "Posterior", "PosteriorSettings", "Trust", "text_prior"]

Floats = NDArray[np.float64]

Trust = Callable[[bytes], float]
"""Return how much the clicks of an origin count, in [0, 1]."""

EPOCH_S = 30 * 86_400
_CLIP = 4.0
_SHIFT = 1.5
_PRIOR_DEPTH = 100
_OWN_ENOUGH = 200
_STRANGER_MOST = 10.0


@dataclass(frozen=True, slots=True)
class PosteriorSettings:
    """`strength` is a, `vote` and `own_vote` cap one identity, `half_life_s` fades what is old (None: never).

    `query_vote` caps the clicks of one identity over all items of a query. Everybody whom trust gives `faint` or less
    counts, all together, no more than one vote per (query, item).
    """

    strength: float = 3.0
    vote: float = 1.0
    own_vote: float = 8.0
    own_weight: float = 2.0
    query_vote: float = 5.0
    faint: float = 0.25
    half_life_s: float | None = 365 * 86_400.0
    exploration: float = 0.5
    explored_from: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Hold clicks C and looks E per item `(n,) float64`, after caps, trust and fading."""

    clicks: Floats
    looks: Floats


@dataclass(frozen=True, slots=True)
class ItemEvidence:
    """Say where an item's score comes from: own and peers' clicks and looks, and (origin, trust, clicks) of peers."""

    own_clicks: float
    own_looks: float
    peer_clicks: float
    peer_looks: float
    peers: tuple[tuple[bytes, float, float], ...]


class Posterior:
    """Learn from click entries and score candidates for a person of this device.

    Whose clicks count how much is an argument of each call (`trust`, None: all alike), so no call depends on another's.
    """

    name = "posterior"
    is_order_free = True

    def __init__(self, settings: PosteriorSettings | None = None) -> None:
        self.settings = settings or PosteriorSettings()
        self.propensities = Propensities()
        self._origins: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._queries: dict[str, Impressions] = {}
        self._impressions = 0
        self._version = 0
        self._now_s = 0.0

    @property
    def impressions(self) -> int:
        """Return how many impressions are counted."""
        return self._impressions

    # -- learn

    def learn(self, event: ClickEntry) -> None:
        """Count one entry that a `ClickLog` accepted; raises WireError for anything else."""
        self._count(event, 1)

    def unlearn(self, event: ClickEntry) -> None:
        """Take back an entry that was learnt."""
        self._count(event, -1)

    def observe(
        self,
        origin: bytes,
        query: str,
        shown: list[int],
        clicks: NDArray[np.bool_],
        epoch: int = 0,
        amount: int = 1,
    ) -> None:
        """Count one impression with any number of clicks, `(len(shown),) bool`."""
        number = self._numbers.get(origin)
        if number is None:
            number = self._numbers[origin] = len(self._origins)
            self._origins.append(origin)
        cells = self._queries.setdefault(query, Impressions())
        gamma = self.propensities.gamma
        weight = float(self._faded(np.array([epoch]), self._now_s)[0]) if self._now_s > 0 else 1.0
        for item, kind, is_clicked in zip(shown, classes_of(clicks).tolist(), clicks.tolist(), strict=True):
            cells.count(number, item, kind, epoch, amount, amount * is_clicked, weight, float(gamma[kind]))
        self._impressions += amount

    def _count(self, event: ClickEntry, amount: int) -> None:
        if not isinstance(event, ClickEntry):
            raise WireError(f"the posterior learns from click entries, not from {type(event).__name__}")
        clicks = np.zeros(len(event.shown), dtype=bool)
        if event.clicked != NO_CLICK:
            clicks[event.clicked] = True
        self.observe(event.origin, event.query, list(event.shown), clicks, event.ts // EPOCH_S, amount)

    def fit_propensities(self, *, own: Collection[bytes] = (), by_rank_only: bool = False) -> None:
        """Estimate where people look (tens of milliseconds for 20,000 impressions).

        From the log of the origins `own` alone as soon as it has `_OWN_ENOUGH` impressions. Until then from everybody,
        each origin counting as at most ten impressions, so that no stranger can bend the estimate far.
        """
        mine = {self._numbers[origin] for origin in own if origin in self._numbers}
        asked = np.zeros(len(self._origins))
        for cells in self._queries.values():
            origin, _, counts = cells.rows()
            top = counts[:, 0] == 0
            asked += np.bincount(origin[top], counts[top, 2], len(asked))
        weight = np.minimum(1.0, _STRANGER_MOST / np.maximum(asked, 1.0))
        chosen = np.array(sorted(mine), np.int64)
        if len(chosen) and asked[chosen].sum() >= _OWN_ENOUGH:
            weight = np.zeros(len(asked))
            weight[chosen] = 1.0
        keys, shown, clicked, first = [], [], [], 0
        for query in sorted(self._queries):
            cells = self._queries[query]
            origin, place, counts = cells.rows()
            keys.append((place + first) * CLASSES + counts[:, 0])
            shown.append(counts[:, 2] * weight[origin])
            clicked.append(counts[:, 3] * weight[origin])
            first += len(cells.items)
        if not keys:
            return
        flat, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        views, hits = (
            np.bincount(inverse, np.concatenate(shown)),
            np.bincount(inverse, np.concatenate(clicked)),
        )
        used = views > 0
        self.propensities.fit(
            flat[used] // CLASSES,
            flat[used] % CLASSES,
            views[used].astype(np.float64),
            hits[used].astype(np.float64),
            by_rank_only=by_rank_only,
        )
        self._version += 1

    # -- ask

    def clicked_items(self, query: str) -> NDArray[np.uint64]:
        """Return every item that anybody clicked for `query`, `(n,) uint64` ascending."""
        cells = self._queries.get(normalise_query(query))
        if cells is None:
            return np.zeros(0, np.uint64)
        _, place, counts = cells.rows()
        chosen = np.flatnonzero(np.bincount(place, counts[:, 3], len(cells.items)) > 0)
        return np.array(sorted(cells.items[at] for at in chosen.tolist()), dtype=np.uint64)

    def has_clicked(self, origin: bytes, query: str) -> bool:
        """Tell whether `origin` clicked anything for `query`."""
        cells = self._queries.get(normalise_query(query))
        if cells is None or origin not in self._numbers:
            return False
        who, _, counts = cells.rows()
        return bool(counts[who == self._numbers[origin], 3].any())

    def evidence(
        self,
        query: str,
        ids: NDArray[np.uint64],
        *,
        me: bytes = b"",
        now_s: float = 0.0,
        trust: Trust | None = None,
    ) -> Evidence:
        """Return the clicks and looks of the items `ids` for `query` as person `me`, with this `trust`, counts them."""
        cells = self._queries.get(normalise_query(query))
        if cells is None or not cells.size:
            return Evidence(np.zeros(len(ids)), np.zeros(len(ids)))
        _, place, clicks, looks = self._voted(cells, me, now_s, trust)
        size = len(cells.items)
        places = np.array([cells.places.get(item, size) for item in ids.tolist()], np.int64)
        return Evidence(
            np.bincount(place, clicks, size + 1).astype(np.float64)[places],
            np.bincount(place, looks, size + 1).astype(np.float64)[places],
        )

    def scores(self, evidence: Evidence, prior: Floats) -> Floats:
        """Return the posterior click rates `(n,)` under the text prior `(n,)` in (0, 1)."""
        strength = self.settings.strength
        looks = np.maximum(evidence.looks, evidence.clicks)
        result: Floats = (evidence.clicks + strength * prior) / (looks + strength)
        return result

    def rates(self, query: str, *, now_s: float = 0.0, trust: Trust | None = None) -> dict[int, float]:
        """Return item -> C / (E + 1) of `query`, the evidence that similar queries may use."""
        cells = self._queries.get(normalise_query(query))
        if cells is None or not cells.size:
            return {}
        _, place, clicks, looks = self._voted(cells, b"", now_s, trust)
        size = len(cells.items)
        total, seen = np.bincount(place, clicks, size), np.bincount(place, looks, size)
        return {
            item: float(c / (e + 1)) for item, c, e in zip(cells.items, total, seen, strict=True) if c > 0
        }

    def every_rate(self, *, now_s: float = 0.0, trust: Trust | None = None) -> dict[str, dict[int, float]]:
        """Return query -> item -> rate for every query that somebody clicked."""
        found = {query: self.rates(query, now_s=now_s, trust=trust) for query in self._queries}
        return {query: rates for query, rates in found.items() if rates}

    def explore(
        self, scores: Floats, evidence: Evidence, rng: np.random.Generator, shown: int = 10
    ) -> NDArray[np.int64]:
        """Return the order to show `(n,)`: the best, but the slots from `explored_from` on give little-seen items
        a chance in proportion to what is not known of them.
        """
        order = np.argsort(-scores, kind="stable")
        head = min(self.settings.explored_from, len(order))
        if len(order) <= head or self.settings.exploration <= 0:
            return order
        tail = order[head:]
        bonus = self.settings.exploration * np.sqrt(1 / (evidence.looks[tail] + self.settings.strength))
        chosen = tail[
            np.argsort(-(scores[tail] + bonus * rng.random(len(tail))), kind="stable")[: shown - head]
        ]
        left = tail[~np.isin(tail, chosen)]
        return np.concatenate([order[:head], chosen, left])

    def predict(self, query: object) -> NDArray[np.float32]:
        """Return the posterior click rate of each candidate of a `grank.RankQuery`, (n,) float32."""
        from flocklet.models.search.ranking.grank import RankQuery

        if not isinstance(query, RankQuery):
            raise WireError("the posterior predicts for a RankQuery")
        text = query.text_scores
        prior = text_prior(np.zeros(len(query.candidates)) if text is None else text)
        found = self.evidence(query.text, query.candidates, me=query.me)
        return self.scores(found, prior).astype(np.float32)

    def explain(
        self, query: str, item: int, *, me: bytes = b"", now_s: float = 0.0, trust: Trust | None = None
    ) -> ItemEvidence:
        """Return whose clicks and looks an item's score rests on."""
        cells = self._queries.get(normalise_query(query))
        if cells is None or item not in cells.places:
            return ItemEvidence(0.0, 0.0, 0.0, 0.0, ())
        origin, place, clicks, looks = self._voted(cells, me, now_s, trust)
        at = place == cells.places[item]
        own = at & (origin == self._numbers.get(me, -1))
        others = at & ~own
        peers = tuple(
            (self._origins[number], self._weight_of(number, trust), float(count))
            for number, count in sorted(zip(origin[others].tolist(), clicks[others].tolist(), strict=True))
            if count > 0
        )
        return ItemEvidence(
            float(clicks[own].sum()),
            float(looks[own].sum()),
            float(clicks[others].sum()),
            float(looks[others].sum()),
            peers,
        )

    # -- keep

    def state(self) -> State:
        """Return the counts as arrays in canonical order, and gamma."""
        rows = sorted(
            (query, self._origins[o], cells.items[p], k, e, s, c)
            for query, cells in self._queries.items()
            for o, p, (k, e, s, c) in zip(*(column.tolist() for column in cells.rows()), strict=True)
            if s
        )
        origins = sorted({row[1] for row in rows})
        queries = sorted({row[0] for row in rows})
        origin_at = {origin: at for at, origin in enumerate(origins)}
        query_at = {query: at for at, query in enumerate(queries)}
        numbers = np.array(
            [(query_at[q], origin_at[o], k, e, s, c) for q, o, _, k, e, s, c in rows], np.int64
        )
        return {
            "origins": np.frombuffer(b"".join(origins), dtype=np.uint8).reshape(-1, ORIGIN_SIZE).copy(),
            "queries": np.array(queries, dtype=f"<U{MAX_QUERY_SIZE}"),
            "items": np.array([row[2] for row in rows], np.uint64),
            "rows": numbers.reshape(-1, 6),
            "gamma": self.propensities.gamma.copy(),
        }

    def load_state(self, state: State) -> None:
        """Replace the counts; raises SchemaMismatch and keeps the old ones when `state` is not one of ours."""
        fresh = Posterior(self.settings)
        try:
            origins = [bytes(row) for row in np.asarray(state["origins"], np.uint8)]
            queries = state["queries"].tolist()
            gamma = np.array(state["gamma"], np.float64)
            if gamma.shape != (CLASSES,) or not ((gamma > 0) & (gamma <= 1)).all():
                raise ValueError("gamma is not a set of probabilities")
            for item, (q, o, kind, epoch, shown, clicked) in zip(
                state["items"].tolist(), state["rows"].tolist(), strict=True
            ):
                if not 0 <= kind < CLASSES or not 0 <= clicked <= shown:
                    raise ValueError("a count is out of range")
                number = fresh._numbers.setdefault(origins[o], len(fresh._numbers))
                if number == len(fresh._origins):
                    fresh._origins.append(origins[o])
                cells = fresh._queries.setdefault(queries[q], Impressions())
                cells.count(number, item, kind, epoch, shown, clicked, 1.0, 1.0)
                fresh._impressions += shown * (kind == 0)
        except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
            raise SchemaMismatch(f"this is not the state of a posterior: {error}") from error
        self._origins, self._numbers, self._queries = fresh._origins, fresh._numbers, fresh._queries
        self._impressions = fresh._impressions
        self.propensities.gamma = gamma
        self._version += 1

    # -- inside

    def _weight_of(self, number: int, trust: Trust | None) -> float:
        return 1.0 if trust is None else min(max(float(trust(self._origins[number])), 0.0), 1.0)

    def _voted(
        self, cells: Impressions, me: bytes, now_s: float, trust: Trust | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
        """Return (origin, place, clicks, looks) per (origin, item) after fading, caps and trust."""
        now_epoch = int(now_s // EPOCH_S) if self.settings.half_life_s is not None else 0
        version = (self._version, now_epoch)
        if now_epoch != int(self._now_s // EPOCH_S):
            self._now_s = now_s
        fading = self._faded(cells.epochs(), now_s) if now_epoch else None
        who, which, clicks, looks = cells.sums(version, self.propensities.gamma, fading)
        own = who == self._numbers.get(me, -1)
        clicks = np.where(own, self.settings.own_weight * clicks, clicks)
        looks = np.where(own, self.settings.own_weight * looks, np.maximum(looks, clicks))
        weight = np.where(own, self.settings.own_vote, self.settings.vote)
        scale = np.minimum(1.0, weight / np.maximum(np.maximum(clicks, looks), 1e-9))
        told = np.bincount(who, np.where(own, 0.0, clicks * scale), len(self._origins))
        scale = scale * np.minimum(1.0, self.settings.query_vote / np.maximum(told, 1e-9))[who]
        if trust is not None:
            known = {number: self._weight_of(number, trust) for number in set(who[~own].tolist())}
            weight = np.array([known.get(number, 1.0) for number in who.tolist()])
            scale = scale * weight
            faint = ~own & (weight <= self.settings.faint)
            size = len(cells.items)
            together = np.bincount(which[faint], (np.maximum(looks, clicks) * scale)[faint], size)
            scale[faint] *= np.minimum(1.0, self.settings.vote / np.maximum(together, 1e-9))[which[faint]]
        return who, which, clicks * scale, looks * scale

    def _faded(self, epoch: NDArray[np.int64], now_s: float) -> Floats:
        if self.settings.half_life_s is None or now_s <= 0:
            return np.ones(len(epoch))
        age_s = np.maximum(int(now_s // EPOCH_S) - epoch, 0) * float(EPOCH_S)
        result: Floats = np.exp2(-age_s / self.settings.half_life_s)
        return result


def text_prior(scores: NDArray[np.floating]) -> Floats:
    """Return the click rates `(n,)` that text scores (best first) predict: sigmoid(z - 1.5), z over the best 100."""
    values = np.asarray(scores, np.float64)
    top = np.sort(values)[::-1][:_PRIOR_DEPTH]
    spread = float(top.std()) if len(top) else 0.0
    if spread < 1e-9:
        return np.full(len(values), 1 / (1 + np.exp(_SHIFT)))
    z = np.clip((values - top.mean()) / spread, -_CLIP, _CLIP)
    result: Floats = 1 / (1 + np.exp(_SHIFT - z))
    return result
