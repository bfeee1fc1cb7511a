"""See the graph as one person does: whom they trust and through whom, what to recommend and why."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.blend import Blend, choose_weights, default_scorers, top_unseen
from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.feedback import FEEDBACK, Played, rerank
from flocklet.models.recommend.graph import Graph
from flocklet.models.recommend.independence import independent
from flocklet.models.recommend.influence import InfluenceSettings, influence
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.meritrank import DENSE_MOST, MeritSettings, TrustEdges, exact_scores
from flocklet.models.recommend.tags import tags_of
from flocklet.models.recommend.walks import TrustWalks

__all__ = ["Recommendation", "TrustView", "Trusted", "reach"]

LIKED_FROM = 0.75
ITEMS_MOST = 2_000
TRUSTED_LEAST = 5
_WITNESS_FULL = 0.1
Words = Callable[[int], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Trusted:
    """One person's MeritRank score, influence on recommendations, and a shortest path of trust that leads there."""

    origin: bytes
    score: float
    influence: float
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An item with its score; `because` are liked items that speak for it, `through` people who like it."""

    item_id: int
    score: float
    because: tuple[int, ...]
    through: tuple[bytes, ...]


def reach(graph: Graph, starts: Iterable[bytes]) -> set[bytes]:
    """Return everybody whom trust reaches from `starts`, these left out; empty when they trust nobody."""
    edges = graph.trust()
    paths = _paths(edges.src, edges.dst, edges.weight, _numbers(graph, starts), len(graph.people))
    begun = set(starts)
    return {graph.people[n] for n in paths if graph.people[n] not in begun}


class TrustView:
    """Answer questions of one person from a graph; fitted once, as of the graph's state then."""

    def __init__(self, graph: Graph, ego: bytes, *, settings: InfluenceSettings | None = None) -> None:
        self.graph, self.ego = graph, ego
        self._settings = settings
        self._edges = graph.trust()
        self._me = graph.people.number(ego)
        n = len(graph.people)
        self._trust = TrustEdges(
            n,
            self._edges.src.astype(np.int64),
            self._edges.dst.astype(np.int64),
            self._edges.weight.astype(np.float64),
            self._edges.ts.astype(np.float64),
        )
        self.voice, self.is_trust_used = self._voices()
        self._model: Blend | None = None
        self._columns: NDArray[np.int64] = np.zeros(0, np.int64)
        self._likes: Likes | None = None
        self._own: tuple[int, Profile, Profile] | None = None
        self._vectors: NDArray[np.float32] | None = None

    @property
    def has_trust(self) -> bool:
        """Whether the person trusts anybody; if not, all people count alike."""
        return self._me is not None and bool(((self._edges.src == self._me) & (self._edges.weight > 0)).any())

    def _voices(self) -> tuple[NDArray[np.float32], bool]:
        """Return the influence of everybody, and whether trust decided it.

        While fewer than `TRUSTED_LEAST` people whom trust reaches like anything, everybody whom the person does not
        distrust counts alike: a first friend must not silence all others.
        """
        everybody = np.ones(self._trust.n, np.float32)
        if self._me is None:
            return everybody, False
        own = self._edges.src == self._me
        everybody[self._edges.dst[own & (self._edges.weight < 0)]] = 0.0
        if not self.has_trust:
            return everybody, False
        voice = influence(self._trust, self._me, self._settings)
        heard = np.unique(self.graph.affinity().src)
        enough = int((voice[heard] > 0).sum()) - (self._me in heard) >= TRUSTED_LEAST
        return (voice, True) if enough else (everybody, False)

    def heard(self) -> dict[bytes, float]:
        """Return how much each person whom trust reaches counts as a witness, in (0, 1]; distrusted people count 0.

        In proportion to the probability that walks from the person hit somebody, full at `_WITNESS_FULL` or at what the
        best known tenth reaches (in a large flock nobody is hit often): so identities behind a few fooled people share
        what those few bring in. Empty without trust.
        """
        if self._me is None or not self.has_trust:
            return {}
        voice = influence(
            self._trust, self._me, replace(self._settings or InfluenceSettings(), full_at=_WITNESS_FULL)
        )
        reached = np.flatnonzero(voice > 0)
        level = float(np.quantile(voice[reached[reached != self._me]], 0.9)) if len(reached) > 1 else 1.0
        people = self.graph.people
        found = {people[n]: min(1.0, float(voice[n]) / level) for n in reached.tolist() if n != self._me}
        own = (self._edges.src == self._me) & (self._edges.weight < 0)
        return found | {people[n]: 0.0 for n in self._edges.dst[own].tolist()}

    def trusted(self, *, settings: MeritSettings | None = None) -> list[Trusted]:
        """Return everybody with a score, the best first, and whoever the person distrusts."""
        if self._me is None or not self.has_trust:
            return []
        if self._trust.n <= DENSE_MOST:
            scores = exact_scores(self._trust, self._me, settings)
        else:
            scores = TrustWalks(self._trust, np.random.default_rng(0), settings).walk(self._me).scores()
        paths = _paths(self._edges.src, self._edges.dst, self._edges.weight, [self._me], self._trust.n)
        people = self.graph.people
        rows = [
            Trusted(
                people[n], float(scores[n]), float(self.voice[n]), tuple(people[p] for p in paths.get(n, ()))
            )
            for n in np.argsort(-scores, kind="stable").tolist()
            if n != self._me and scores[n] != 0
        ]
        lost = set(self._edges.dst[(self._edges.src == self._me) & (self._edges.weight < 0)].tolist())
        rows += [Trusted(people[n], float(scores[n]), 0.0, ()) for n in sorted(lost) if scores[n] == 0]
        return rows

    def fit(self, words: Words | None = None, *, choose: bool = True) -> None:
        """Learn from everybody's likes, weighed by influence; the items in view are at most 2,000."""
        affinity = self.graph.affinity()
        liked = affinity[affinity.weight >= LIKED_FROM]
        mass = np.bincount(liked.dst, self.voice[liked.src], len(self.graph.items)).astype(np.float64)
        mine = liked.dst[liked.src == (-1 if self._me is None else self._me)]
        mass[mine] += mass.max(initial=0.0) + 1.0
        self._columns = np.sort(np.argsort(-mass, kind="stable")[:ITEMS_MOST])
        self._columns = self._columns[mass[self._columns] > 0]
        inside = np.isin(liked.dst, self._columns) & (self.voice[liked.src] > 0)
        people = np.union1d(liked.src[inside], [] if self._me is None else [self._me]).astype(np.int64)
        ids = [self.graph.items[column] for column in self._columns.tolist()]
        self._likes = Likes.of(
            np.searchsorted(people, liked.src[inside]),
            np.searchsorted(self._columns, liked.dst[inside]),
            (len(people), len(self._columns)),
            influence=self.voice[people],
            times=liked.ts[inside].astype(np.int64),
            tags=tags_of([words(item) for item in ids]) if words is not None else None,
        )
        self._people = people
        self._own = self._vectors = None
        if not len(self._columns):
            self._model = None
            return
        row = int(np.searchsorted(people, self._me)) if self._me is not None else -1
        if self.is_trust_used:
            self._likes = replace(self._likes, influence=independent(self._likes, row))
        rng = np.random.default_rng(0)
        weights = choose_weights(self._likes, row, rng) if choose and row >= 0 else None
        self._model = Blend(default_scorers) if weights is None else Blend(default_scorers, weights)
        self._model.fit(self._likes)

    def seen_by(self, origin: bytes) -> TrustView:
        """Return the same fitted model for another person of the device; only right while trust does not differ.

        Raises:
            ValueError: trust decided the influence here, so another person sees another graph.
        """
        if self.is_trust_used:
            raise ValueError("another person trusts others: fit a view of their own")
        other = copy.copy(self)
        other.ego, other._me, other._own = origin, self.graph.people.number(origin), None
        return other

    def _mine(self) -> tuple[Profile, Profile]:
        """Return what the person likes and what they rated at all, among the items in view, as of now."""
        if self._own is None or self._own[0] != self.graph.generation:
            affinity = self.graph.affinity()
            own = affinity[affinity.src == (-1 if self._me is None else self._me)]
            own = own[np.isin(own.dst, self._columns)]
            columns = np.searchsorted(self._columns, own.dst.astype(np.int64))
            profiles = Profile(columns[own.weight >= LIKED_FROM]), Profile(columns)
            self._own = (self.graph.generation, *profiles)
        return self._own[1], self._own[2]

    def recommend(
        self, limit: int = 10, *, explain: bool = False, played: Sequence[Played] = ()
    ) -> list[Recommendation]:
        """Return up to `limit` items that the person has not rated, best first; ratings after `fit` count at once.

        What was `played` is not recommended again, and re-ranks the rest (`flocklet.models.recommend.feedback`).
        """
        if self._model is None or self._likes is None:
            return []
        profile, rated = self._mine()
        scores = self._model.score(profile)
        best = self._reranked(scores, rated, limit, played) if played else top_unseen(scores, rated, limit)
        found = []
        for column in best.tolist():
            because, through = self._reasons(profile, column) if explain else ((), ())
            item = self.graph.items[int(self._columns[column])]
            found.append(Recommendation(item, float(scores[column]), because, through))
        return found

    def _reranked(
        self, scores: NDArray[np.float32], rated: Profile, limit: int, played: Sequence[Played]
    ) -> NDArray[np.int64]:
        place = {self.graph.items[column]: n for n, column in enumerate(self._columns.tolist())}
        known = [row for row in played if row.item_id in place]
        columns = np.array([place[row.item_id] for row in known], np.int64)
        best = top_unseen(
            scores, Profile(np.union1d(rated.columns, columns)), max(limit, FEEDBACK.candidates)
        )
        vectors = self._item_vectors()
        return best[rerank(scores[best], vectors[best], known, vectors[columns])][:limit]

    def _item_vectors(self) -> NDArray[np.float32]:
        """Return the latent vectors of the items in view, learnt on first use unless the blend has them."""
        assert self._model is not None and self._likes is not None  # noqa: S101 - asked by `recommend`
        if self._vectors is None:
            pairs = zip(self._model.scorers, self._model.weights, strict=True)
            factors = next((s for s, weight in pairs if weight and isinstance(s, Factors)), None)
            if factors is None:
                factors = Factors(16, ridge=0.1)
                factors.fit(self._likes)
            self._vectors = factors.vectors
        return self._vectors

    def _reasons(self, profile: Profile, column: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
        """Return up to three liked items and three people that a recommendation came through."""
        assert self._model is not None and self._likes is not None  # noqa: S101 - asked by `recommend`
        speaks = self._model.contributions(profile, column)
        best = [n for n in np.argsort(-speaks, kind="stable")[:3].tolist() if speaks[n] > 0]
        because = tuple(self.graph.items[int(self._columns[profile.columns[n]])] for n in best)
        likes = self._likes
        shared = np.bincount(likes.rows, np.isin(likes.columns, profile.columns), likes.n_people)
        likers = likes.rows[likes.columns == column]
        likers = likers[self._people[likers] != self._me]
        weight = likes.influence * shared / np.sqrt(np.maximum(np.diff(likes.starts), 1))
        top = likers[np.argsort(-weight[likers], kind="stable")[:3]]
        through = tuple(self.graph.people[int(self._people[row])] for row in top.tolist())
        return because, through


def _numbers(graph: Graph, origins: Iterable[bytes]) -> list[int]:
    return [n for origin in origins if (n := graph.people.number(origin)) is not None]


def _paths(
    src: NDArray[np.uint32],
    dst: NDArray[np.uint32],
    weight: NDArray[np.float16],
    starts: Sequence[int],
    n: int,
) -> dict[int, tuple[int, ...]]:
    """Return a shortest path of positive edges from a start to everybody in reach."""
    order = np.lexsort((dst, -weight.astype(np.float32), src))
    order = order[weight[order] > 0]
    sources, targets = src[order], dst[order].tolist()
    first = np.searchsorted(sources, np.arange(n + 1)).tolist()
    paths: dict[int, tuple[int, ...]] = {start: (start,) for start in starts}
    queue = deque(starts)
    while queue:
        at = queue.popleft()
        for target in targets[first[at] : first[at + 1]]:
            if target not in paths:
                paths[target] = (*paths[at], target)
                queue.append(target)
    return paths
