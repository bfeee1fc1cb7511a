"""Recommend as Web3Recommend does: walks along trust and taste (Madhwal & Pouwelse, arXiv 2307.01411).

The faithful version of the published algorithm, with its parameters as the preset `PUBLISHED`; kept to compare with
and to trace paths ("via ..."). What it ranks is close to popularity, and coordinated attackers get into it: see
docs/recommendation.md. Names follow the authors' code where they differ from the paper.

*Trust*: personalised PageRank walks from the ego over trust edges with reset `alpha`; score = occurrences / total,
times (1 - `beta` d) where d is the share of a person's visits that come through the single most common other person
and exceeds `threshold`. *Item walk*: start at the ego or, with chance (5 - own items) / 5, at a trusted person drawn
by trust score; stop with `alpha` before each hop; person -> item by affinity, never the item just left; item ->
person among the last person's trusted who like the item, else a trusted person by trust. Score = visits / total.
*Cold start*: people of similar taste are proposed as trusted until there are five.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.likes import Likes, Profile

__all__ = ["PUBLISHED", "PublishedSettings", "PublishedWalk", "similar_people"]

Floats = NDArray[np.float32]
Draw = Callable[[], float]


@dataclass(frozen=True, slots=True)
class PublishedSettings:
    """The parameters of the walk."""

    walks: int = 1_000
    max_length: int = 100
    alpha: float = 0.1
    beta: float = 0.8
    threshold: float = 0.99
    own_items: int = 5
    trusted: int = 5
    seed: int = 0


PUBLISHED = PublishedSettings()
"""As in `TrustNetwork.kt`: 1,000 walks of at most 100, alpha .1, beta .8, threshold .99, bootstrap until 5 items."""


class _Choice:
    """Draw from a few names by weight."""

    __slots__ = ("_running", "names")

    def __init__(self, names: list[int], weights: list[float]) -> None:
        self.names = names
        self._running = list(accumulate(weights))

    def draw(self, draw: Draw) -> int:
        at = bisect_right(self._running, draw() * self._running[-1])
        return self.names[min(at, len(self.names) - 1)]


class PublishedWalk:
    """Score items by the published walk. `seen_before` holds whom the last walks met before each item."""

    name = "web3recommend"

    def __init__(self, settings: PublishedSettings = PUBLISHED) -> None:
        self.settings = settings
        self.seen_before: dict[int, Counter[int]] = {}
        self._likes: Likes | None = None
        self._items: list[NDArray[np.int64]] = []
        self._holds: list[set[int]] = []
        self._trust: dict[int, dict[int, float]] = {}

    def fit(self, likes: Likes) -> None:
        """Take the edges in; nothing is learnt beforehand."""
        self._likes = likes
        self._items = [likes.liked(row) for row in range(likes.n_people)]
        self._holds = [set(items.tolist()) for items in self._items]
        self._trust = {}
        for src, dst, weight in likes.trust.tolist():
            if weight > 0:
                self._trust.setdefault(int(src), {})[int(dst)] = weight

    def score(self, profile: Profile) -> Floats:
        """Return visits / total of each item, beta-decayed; the same every time for the same seed."""
        likes = self._likes
        if likes is None:
            return np.zeros(0, np.float32)
        draw = np.random.default_rng(self.settings.seed).random
        trust = dict(self._trust)
        ego = profile.row if profile.row >= 0 else likes.n_people
        if len(trust.get(ego, {})) < self.settings.trusted:
            near = similar_people(likes, profile, self.settings.trusted - len(trust.get(ego, {})))
            trust[ego] = {**dict(near), **trust.get(ego, {})}
        choices = {who: _Choice(list(t), list(t.values())) for who, t in trust.items() if t}
        scores = self.trust_scores(ego, choices, draw)
        visits = self._walk_items(ego, profile, trust, choices, scores, draw)
        return self._decayed(visits)

    def trust_scores(self, ego: int, choices: dict[int, _Choice], draw: Draw) -> dict[int, float]:
        """Return the trust score of everybody that the trust walks meet."""
        settings = self.settings
        visits: Counter[int] = Counter()
        through: dict[int, Counter[int]] = {}
        for _ in range(settings.walks):
            at, path = ego, set[int]()
            for _ in range(settings.max_length):
                if draw() < settings.alpha or at not in choices:
                    break
                at = choices[at].draw(draw)
                visits[at] += 1
                through.setdefault(at, Counter()).update(path - {at, ego})
                path.add(at)
        total = max(visits.total(), 1)
        scores = {}
        for who, count in visits.items():
            share = max(through[who].values(), default=0) / count
            scores[who] = count / total * (1 - settings.beta * share if share > settings.threshold else 1.0)
        scores.pop(ego, None)
        return scores

    def _walk_items(
        self,
        ego: int,
        profile: Profile,
        trust: dict[int, dict[int, float]],
        choices: dict[int, _Choice],
        scores: dict[int, float],
        draw: Draw,
    ) -> Counter[int]:
        settings, visits = self.settings, Counter[int]()
        own = profile.columns
        elsewhere = max(0.0, (settings.own_items - len(own)) / settings.own_items)
        start = _Choice(list(scores), list(scores.values())) if scores else None
        self.seen_before = {}
        for _ in range(settings.walks):
            who, last = ego, -1
            met: list[int] = []
            if start is not None and elsewhere and draw() < elsewhere:
                who = start.draw(draw)
            for _ in range(settings.max_length // 2):
                items = own if who == ego else self._items[who]
                if who != ego:
                    met.append(who)
                if draw() < settings.alpha or not len(items) or (len(items) == 1 and items[0] == last):
                    break
                item = last
                while item == last:
                    item = int(items[int(draw() * len(items))])
                visits[item] += 1
                self.seen_before.setdefault(item, Counter()).update(met)
                last = item
                if draw() < settings.alpha or who not in choices:
                    break
                liking = [
                    t for t in trust[who] if t != ego and t < len(self._holds) and item in self._holds[t]
                ]
                if liking:
                    who = _Choice(liking, [1.0 / len(self._items[t]) for t in liking]).draw(draw)
                else:
                    who = choices[who].draw(draw)
        return visits

    def _decayed(self, visits: Counter[int]) -> Floats:
        likes = self._likes
        scores = np.zeros(likes.n_items if likes else 0, np.float32)
        total = max(visits.total(), 1)
        for item, count in visits.items():
            share = max(self.seen_before[item].values(), default=0) / count
            decay = 1 - self.settings.beta * share if share > self.settings.threshold else 1.0
            scores[item] = count / total * decay
        return scores

    def trust_updates(self, column: int, change: float, *, most: int = 5) -> dict[int, float]:
        """Return whose trust changes by how much after the ego listened to an item, from the last walks."""
        return {who: change for who, _ in self.seen_before.get(column, Counter()).most_common(most)}


def similar_people(likes: Likes, profile: Profile, count: int) -> list[tuple[int, float]]:
    """Return up to `count` (row, similarity) with the nearest taste: half Pearson, half 1 - mean difference.

    Likes are ones, so Pearson is the phi coefficient over all items, and the difference is over the items that
    either likes.
    """
    n_items = max(likes.n_items, 2)
    mine = np.zeros(likes.n_items, bool)
    mine[profile.columns] = True
    sizes = np.diff(likes.starts).astype(np.float64)
    both = np.bincount(likes.rows, mine[likes.columns], likes.n_people)
    size = float(len(profile.columns))
    spread = np.sqrt(size * (n_items - size) * sizes * (n_items - sizes))
    pearson = np.divide(n_items * both - size * sizes, spread, out=np.zeros_like(sizes), where=spread > 0)
    nearness = np.divide(both, size + sizes - both, out=np.zeros_like(sizes), where=sizes > 0)
    similarity = 0.5 * pearson + 0.5 * nearness
    if profile.row >= 0:
        similarity[profile.row] = -1.0
    best = np.argsort(-similarity, kind="stable")[:count]
    return [(int(row), float(similarity[row])) for row in best if similarity[row] > 0]
