"""Rank by what similar peers clicked: G-Rank as in the thesis, and flocklet's default with one vote per
identity.

    R_i(Q) = sort over k of  sum_j C_k^j (S_i(j) + F),     S_i(j) = (kappa_t + kappa_m^2) / kappa_u, divided
    by max_j S_i

C_k^j = clicks of j on item k for query Q; S = 0 where kappa_m = 0; the own S is max(1, max_j S_i(j)) before
the division (the thesis leaves it open). Source: Gold & Pouwelse, "G-Rank", arXiv 2301.12530, III.A-D.

The two modes differ in `Settings` only: `Settings.thesis(isolation=0)` is the paper; `Settings()` caps C at
one vote per (identity, query, item), takes F = 1 and breaks ties by the text score. The audit switches
bring back what the published notebook does differently from its thesis, so that the effect of each
deviation can be measured.

The state is the counted click log, nothing is trained. Weights are rounded to multiples of 2^-24, so sums
are exact and do not depend on the order in which entries arrived.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.click import MAX_QUERY_SIZE, ORIGIN_SIZE, ClickEntry, normalise_query
from flocklet.models.base import State
from flocklet.models.search.ranking.tally import TOP_TERMS, ClickTally, QueryCells

__all__ = ["Explanation", "GRank", "RankQuery", "Ranking", "Settings", "Supporter"]

_GRAIN = 2.0**24


@dataclass(frozen=True, slots=True)
class Settings:
    """Choose the mode; every field is one switch with its own row in the benchmark.

    `isolation` is F. `noise` is the share of queries in which two random positions are swapped (thesis: 0.5).
    The audit switches: `squares_terms` = (kappa_m + kappa_t^2)/kappa_u; `drops_isolation` = F computed,
    then overwritten; `aligns_by_row` = clicks summed over the peers first, then multiplied by the
    similarity of the peer whose number is the item's row.
    """

    isolation: float = 1.0
    one_vote: bool = True
    metadata_first: bool = True
    text_breaks_ties: bool = True
    popular_fallback: bool = False
    noise: float = 0.0
    top_terms: int = TOP_TERMS
    squares_terms: bool = False
    drops_isolation: bool = False
    aligns_by_row: bool = False

    @classmethod
    def among_friends(cls) -> Settings:
        """Return the default mode with F = 0.1, for a closed flock: similar people decide more, and so could a
        member who copies their clicks (docs/grank.md has the figures behind the choice)."""
        return cls(isolation=0.1)

    @classmethod
    def thesis(cls, isolation: float = 0.0, *, noise: float = 0.0) -> Settings:
        """Return the paper's algorithm with F = `isolation`."""
        return cls(
            isolation=isolation, one_vote=False, text_breaks_ties=False, popular_fallback=True, noise=noise
        )


@dataclass(frozen=True, slots=True, eq=False)
class RankQuery:
    """Ask for the scores of candidates: ids (n,) uint64, text scores (n,) float32, matching (n,) bool."""

    text: str
    candidates: NDArray[np.uint64]
    text_scores: NDArray[np.float32] | None = None
    matching: NDArray[np.bool_] | None = None
    me: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Hold items in the order in which they are shown: ids (n,) uint64 and G-Rank scores (n,) float32."""

    ids: NDArray[np.uint64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Supporter:
    """Say how much one person's clicks count: `weight` = votes x (similarity + F)."""

    origin: bytes
    clicks: int
    similarity: float
    weight: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Say why an item has its score: own clicks and everybody else's, heaviest first; `score` is their
    sum."""

    own_clicks: int
    own_weight: float
    peers: tuple[Supporter, ...]
    score: float


class GRank:
    """Learn from click entries and order candidates for any person (`me`) of this device."""

    name = "grank"
    is_order_free = True

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._tally = ClickTally(self.settings.top_terms)

    def learn(self, event: ClickEntry) -> None:
        """Count one entry that a `ClickLog` accepted (no entry twice); raises WireError for anything else."""
        self._count(event, 1)

    def unlearn(self, event: ClickEntry) -> None:
        """Take back an entry that was learnt: evicted by quota, or of a condemned origin."""
        self._count(event, -1)

    def predict(self, query: RankQuery) -> NDArray[np.float32]:
        """Return the G-Rank score of each candidate, (n,) float32; `order` also applies metadata and ties."""
        return self._votes(normalise_query(query.text), query.candidates, query.me).astype(np.float32)

    def order(
        self,
        query: str,
        candidates: NDArray[np.uint64],
        text_scores: NDArray[np.float32] | None = None,
        matching: NDArray[np.bool_] | None = None,
        *,
        me: bytes = b"",
        rng: np.random.Generator | None = None,
    ) -> Ranking:
        """Return the candidates in the order to show to person `me` (a 16-byte origin).

        Items whose metadata match come first; then the score; then the text score (default mode); then the
        lowest id. With `popular_fallback` and no candidates, popular items. `rng` is needed for `noise`
        only.
        """
        ids = np.asarray(candidates, dtype=np.uint64)
        if not len(ids) and self.settings.popular_fallback:
            ids = self.popular(10)
        scores = self._votes(normalise_query(query), ids, me).astype(np.float32)
        keys: list[NDArray[np.generic]] = [ids]
        if text_scores is not None and self.settings.text_breaks_ties and len(text_scores) == len(ids):
            keys.append(-np.asarray(text_scores, dtype=np.float32))
        keys.append(-scores)
        if matching is not None and self.settings.metadata_first and len(matching) == len(ids):
            keys.append(~np.asarray(matching, dtype=bool))
        order = np.lexsort(keys)
        if rng is not None and len(order) > 1 and rng.random() < self.settings.noise:
            first, second = rng.choice(len(order), size=2, replace=False)
            order[[first, second]] = order[[second, first]]
        return Ranking(ids[order], scores[order])

    def similarity(self, me: bytes) -> dict[bytes, float]:
        """Return S_me of everybody known, in [0, 1]."""
        values = self._similarity(me)
        return dict(zip(self._tally.origins, values.tolist(), strict=True))

    def explain(self, query: str, item: int, me: bytes = b"") -> Explanation:
        """Return whose clicks give `item` its score for `query` as seen by `me`."""
        cells = self._tally.queries.get(normalise_query(query))
        own = self._tally.id_of(me)
        if cells is None or item not in cells.places:
            return Explanation(0, 0.0, (), 0.0)
        similarity = self._similarity(me)
        weights = self._weights(similarity)
        own_clicks, own_weight, peers = 0, 0.0, []
        for origin in cells.fans(item).tolist():
            clicks = cells.count(origin, item)
            weight = float(weights[origin]) * (1 if self.settings.one_vote else clicks)
            if origin == own:
                own_clicks, own_weight = clicks, weight
            else:
                person = self._tally.origins[origin]
                peers.append(Supporter(person, clicks, float(similarity[origin]), weight))
        peers.sort(key=lambda peer: (-peer.weight, peer.origin))
        score = own_weight + sum(peer.weight for peer in peers)
        return Explanation(own_clicks, own_weight, tuple(peers), score)

    def clicked_items(self, query: str) -> NDArray[np.uint64]:
        """Return every item that anybody clicked for `query`, held here or not, as (n,) uint64 in ascending
        order."""
        cells = self._tally.queries.get(normalise_query(query))
        return np.array(sorted(_live_items(cells)) if cells else [], dtype=np.uint64)

    def popular(self, count: int) -> NDArray[np.uint64]:
        """Return the items with the most clicks (default mode: votes) over all queries, best first."""
        totals: Counter[int] = Counter()
        for cells in self._tally.queries.values():
            _, place, clicks = cells.arrays()
            votes = np.minimum(clicks, 1) if self.settings.one_vote else clicks
            for item, total in zip(cells.items, np.bincount(place, votes, len(cells.items)), strict=True):
                totals[item] += int(total)
        best = sorted((-total, item) for item, total in totals.items() if total > 0)[:count]
        return np.array([item for _, item in best], dtype=np.uint64)

    def state(self) -> State:
        """Return the counts as arrays in canonical order: the same log gives the same bytes in any order."""
        tally = self._tally
        cells = sorted(
            (tally.origins[origin], query, table.items[place], count)
            for query, table in tally.queries.items()
            for origin, place, count in zip(*(column.tolist() for column in table.arrays()), strict=True)
            if count
        )
        terms = sorted((tally.origins[origin], term, count) for origin, term, count in tally.terms())
        origins = sorted({cell[0] for cell in cells} | {term[0] for term in terms})
        queries = sorted({cell[1] for cell in cells})
        words = sorted({term[1] for term in terms})
        origin_at, query_at, word_at = (
            {v: n for n, v in enumerate(names)} for names in (origins, queries, words)
        )
        return {
            "origins": np.frombuffer(b"".join(origins), dtype=np.uint8).reshape(-1, ORIGIN_SIZE).copy(),
            "queries": np.array(queries, dtype=f"<U{MAX_QUERY_SIZE}"),
            "terms": np.array(words, dtype=f"<U{MAX_QUERY_SIZE}"),
            "click_origin": np.array([origin_at[cell[0]] for cell in cells], dtype=np.uint32),
            "click_query": np.array([query_at[cell[1]] for cell in cells], dtype=np.uint32),
            "click_item": np.array([cell[2] for cell in cells], dtype=np.uint64),
            "click_count": np.array([cell[3] for cell in cells], dtype=np.uint32),
            "asked_origin": np.array([origin_at[term[0]] for term in terms], dtype=np.uint32),
            "asked_term": np.array([word_at[term[1]] for term in terms], dtype=np.uint32),
            "asked_count": np.array([term[2] for term in terms], dtype=np.uint32),
        }

    def load_state(self, state: State) -> None:
        """Replace the counts; raises SchemaMismatch and keeps the old ones when `state` is not one of
        ours."""
        tally = ClickTally(self.settings.top_terms)
        try:
            origins = [tally.intern(bytes(row)) for row in np.asarray(state["origins"], dtype=np.uint8)]
            queries, words = state["queries"].tolist(), state["terms"].tolist()
            columns = (state[f"click_{name}"].tolist() for name in ("origin", "query", "item", "count"))
            for origin, query, item, count in zip(*columns, strict=True):
                tally.add_click(origins[origin], queries[query], item, count)
            columns = (state[f"asked_{name}"].tolist() for name in ("origin", "term", "count"))
            for origin, term, count in zip(*columns, strict=True):
                tally.add_terms(origins[origin], [words[term]], count)
        except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
            raise SchemaMismatch(f"this is not the state of a G-Rank model: {error}") from error
        self._tally = tally

    def _count(self, event: ClickEntry, amount: int) -> None:
        if not isinstance(event, ClickEntry):
            raise WireError(f"G-Rank learns from click entries, not from {type(event).__name__}")
        origin = self._tally.intern(event.origin)
        if event.item is not None:
            self._tally.add_click(origin, event.query, event.item, amount)
        self._tally.add_terms(origin, event.query.split(), amount)

    def _similarity(self, me: bytes) -> NDArray[np.float64]:
        own = self._tally.id_of(me)
        if own is None:
            return np.zeros(len(self._tally.origins))
        terms, matches, union = (counts.astype(np.float64) for counts in self._tally.similarity_counts(own))
        counted = matches + terms**2 if self.settings.squares_terms else terms + matches**2
        raw = np.where(matches > 0, counted / np.maximum(union, 1), 0.0)
        raw[own] = max(1.0, float(raw.max()))
        return np.asarray(raw / raw.max(), dtype=np.float64)

    def _weights(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        isolation = 0.0 if self.settings.drops_isolation else self.settings.isolation
        return np.asarray(np.rint((similarity + isolation) * _GRAIN) / _GRAIN, dtype=np.float64)

    def _votes(self, query: str, ids: NDArray[np.uint64], me: bytes) -> NDArray[np.float64]:
        cells = self._tally.queries.get(query)
        if cells is None:
            return np.zeros(len(ids))
        origin, place, count = cells.arrays()
        votes = np.minimum(count, 1) if self.settings.one_vote else count
        weights = self._weights(self._similarity(me))
        places = np.array([cells.places.get(item, -1) for item in ids.tolist()], dtype=np.int64)
        if self.settings.aligns_by_row:
            totals = np.bincount(place, votes, len(cells.items) + 1)
            by_row = weights[
                np.argsort(np.array(self._tally.origins, dtype=f"S{ORIGIN_SIZE}"), kind="stable")
            ]
            return np.asarray(totals[places] * by_row[np.arange(len(ids)) % len(by_row)], dtype=np.float64)
        totals = np.bincount(
            place, votes * weights[origin], len(cells.items) + 1
        )  # the last place is "nobody"
        return np.asarray(totals[places], dtype=np.float64)


def _live_items(cells: QueryCells) -> list[int]:
    _, place, count = cells.arrays()
    return [cells.items[at] for at in np.unique(place[count > 0]).tolist()]
