"""Keep random walks from an ego and mend them when an edge changes: MeritRank for large and moving graphs.

All walks advance together (one running sum of shares per row, one `searchsorted` per step). A changed row u of the
transition matrix touches only departures from u: of each, in the order of the walk, the old step is kept with
probability min(1, new / old share) and else drawn anew from what the new distribution has in excess (maximal
coupling); from the first changed step on the walk is drawn afresh. So the kept walks always have exactly the
distribution of fresh walks, whatever the sequence of updates. (The published implementations treat a re-weight as an
addition and are biased; see docs/recommendation.md.) Walks that ended at u because it had no edges toss their coin
anew when it gets some.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.meritrank import MeritSettings, TrustEdges

__all__ = ["TrustWalks", "Walks"]

MAX_STEPS = 100
Floats = NDArray[np.float64]
Nodes = NDArray[Any]


class TrustWalks:
    """Hold a trust graph that changes and the walks of some egos in it.

    `set_edge` keeps every ego's walks up to date. People are 0..n-1; an edge to oneself is refused.
    """

    def __init__(
        self, edges: TrustEdges, rng: np.random.Generator, settings: MeritSettings | None = None
    ) -> None:
        self.settings = settings or MeritSettings()
        self.n = edges.n
        self._rng = rng
        positive = edges.weight > 0
        keys, place = np.unique(edges.src[positive] * self.n + edges.dst[positive], return_inverse=True)
        rows = keys // self.n
        self._targets = (keys % self.n).astype(np.int32)
        self._weights = np.bincount(place, edges.weight[positive], len(keys)).astype(np.float64)
        self._starts = np.searchsorted(rows, np.arange(self.n + 1))
        running = np.cumsum(self._weights)
        before = np.concatenate([[0.0], running])[self._starts[rows]]
        total = np.bincount(rows, self._weights, self.n)
        self._ends = rows + (running - before) / total[rows]
        last = self._starts[1:][self._starts[1:] > self._starts[:-1]] - 1
        self._ends[last] = rows[last] + 1.0  # rounding must not leave a gap below the next row
        negative = edges.weight < 0
        self._distrust: dict[int, dict[int, float]] = {}
        for src, dst, weight in zip(
            edges.src[negative].tolist(),
            edges.dst[negative].tolist(),
            edges.weight[negative].tolist(),
            strict=True,
        ):
            self._distrust.setdefault(src, {})[dst] = weight
        self._walks: dict[int, Walks] = {}

    def walk(self, ego: int, count: int = 10_000) -> Walks:
        """Walk from `ego` anew and keep the walks."""
        walks = Walks(self, ego, count)
        walks.redraw(np.arange(count), np.zeros(count, np.int64))
        self._walks[ego] = walks
        return walks

    def weight(self, src: int, dst: int) -> float:
        """Return the weight of an edge, 0 where there is none."""
        at = self._find(src, dst)
        if at is not None:
            return float(self._weights[at])
        return self._distrust.get(src, {}).get(dst, 0.0)

    def set_edge(self, src: int, dst: int, weight: float) -> None:
        """Give an edge a new weight, of any sign; 0 takes it away."""
        if src == dst:
            raise ValueError("an edge leads from a person to the same person")
        old_targets, old_shares = self.row(src)
        self._distrust.get(src, {}).pop(dst, None)
        if weight < 0:
            self._distrust.setdefault(src, {})[dst] = weight
        was, now = max(0.0, self._positive(src, dst)), max(0.0, weight)
        if was == now:
            return
        self._put(src, dst, now)
        new_targets, new_shares = self.row(src)
        for walks in self._walks.values():
            walks.mend(src, old_targets, old_shares, new_targets, new_shares)

    def row(self, src: int) -> tuple[Nodes, Floats]:
        """Return the targets of `src` and the share of each, summing to 1."""
        span = slice(int(self._starts[src]), int(self._starts[src + 1]))
        weights = self._weights[span]
        return self._targets[span].copy(), weights / weights.sum() if len(weights) else weights

    def _find(self, src: int, dst: int) -> int | None:
        first, last = int(self._starts[src]), int(self._starts[src + 1])
        at = first + int(np.searchsorted(self._targets[first:last], dst))
        return at if at < last and self._targets[at] == dst else None

    def _positive(self, src: int, dst: int) -> float:
        at = self._find(src, dst)
        return 0.0 if at is None else float(self._weights[at])

    def _put(self, src: int, dst: int, weight: float) -> None:
        at = self._find(src, dst)
        first, last = int(self._starts[src]), int(self._starts[src + 1])
        if at is not None and weight > 0:
            self._weights[at] = weight
        elif at is not None:
            self._targets, self._weights, self._ends = (
                np.delete(column, at) for column in (self._targets, self._weights, self._ends)
            )
            self._starts[src + 1 :] -= 1
            last -= 1
        else:
            place = first + int(np.searchsorted(self._targets[first:last], dst))
            self._targets = np.insert(self._targets, place, dst)
            self._weights = np.insert(self._weights, place, weight)
            self._ends = np.insert(self._ends, place, 0.0)
            self._starts[src + 1 :] += 1
            last += 1
        if last > first:
            running = np.cumsum(self._weights[first:last])
            self._ends[first:last] = src + running / running[-1]
            self._ends[last - 1] = src + 1.0

    def step(self, at: Nodes) -> tuple[Nodes, NDArray[np.bool_]]:
        """Return where one step from each of `at` leads, and whether there is a way on at all."""
        places = np.searchsorted(self._ends, at + self._rng.random(len(at)), side="right")
        if not len(self._targets):
            return at, np.zeros(len(at), bool)
        on = places < self._starts[at + 1]
        return self._targets[np.minimum(places, len(self._targets) - 1)], on

    def toss(self, count: int) -> NDArray[np.bool_]:
        """Return for each of `count` walks whether it goes on."""
        return self._rng.random(count) >= self.settings.alpha

    def draw(self, chances: Floats, count: int) -> NDArray[np.int64]:
        """Return `count` indices drawn by `chances`, which need not sum to 1."""
        running = np.cumsum(chances)
        places = np.searchsorted(running, self._rng.random(count) * running[-1], side="right")
        return np.asarray(np.minimum(places, len(chances) - 1), np.int64)

    def random(self, count: int) -> Floats:
        """Return uniform numbers."""
        return self._rng.random(count)

    def distrusted(self, ego: int) -> dict[int, float]:
        """Return the people that `ego` distrusts, with their negative weights."""
        return dict(self._distrust.get(ego, {}))


class Walks:
    """Hold the walks of one ego, (steps, walks) int32 with -1 after the end, and how many visit each person."""

    def __init__(self, graph: TrustWalks, ego: int, count: int) -> None:
        self.graph, self.ego, self.count = graph, ego, count
        # narrow numbers where they do: every update scans all steps for one person
        kind: type[np.int16] | type[np.int32] = np.int16 if graph.n < 32_767 else np.int32
        self._steps: NDArray[Any] = np.full((16, count), -1, kind)
        self._steps[0] = ego
        self._hits = np.zeros(graph.n, np.int64)
        self._is_new = True

    @property
    def hits(self) -> NDArray[np.int64]:
        """Number of walks that visit each person, (n,)."""
        return self._hits.copy()

    def scores(self) -> Floats:
        """Return the MeritRank score of each person, (n,): hits less penalties, over the sum of the hits."""
        hits = self._hits.astype(np.float64)
        scores = hits - self.penalties()
        settings = self.graph.settings
        if settings.beta:
            scores *= np.where(self.bottleneck() >= settings.threshold, 1.0 - settings.beta, 1.0)
        return np.asarray(scores / hits.sum())

    def top(self, count: int = 20) -> list[tuple[int, float]]:
        """Return the best (person, score), best first, the ego left out."""
        scores = self.scores()
        scores[self.ego] = -np.inf
        count = min(count, len(scores) - 1)
        best = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
        best = best[np.argsort(-scores[best], kind="stable")]
        return [(int(person), float(scores[person])) for person in best if scores[person] > -np.inf]

    def penalties(self) -> Floats:
        """Return what each person loses by walking towards the distrusted, (n,), in hits."""
        losses = np.zeros(self.graph.n)
        for distrusted, weight in self.graph.distrusted(self.ego).items():
            reached = np.flatnonzero((self._steps == distrusted).any(axis=0))
            steps = self._steps[:, reached]
            last = len(steps) - 1 - np.argmax(steps[::-1] == distrusted, axis=0)
            before = np.where(np.arange(len(steps))[:, None] <= last, steps, -1)
            losses += -weight * self._count(before)
        return losses

    def paths(self, person: int, count: int = 3) -> list[tuple[tuple[int, ...], int]]:
        """Return the most walked paths that lead to `person`, and how many walks took each."""
        reached = np.flatnonzero((self._steps == person).any(axis=0))
        steps = self._steps[:, reached]
        until = np.argmax(steps == person, axis=0)
        taken: dict[tuple[int, ...], int] = {}
        for column, end in zip(steps.T.tolist(), until.tolist(), strict=True):
            path = tuple(column[: end + 1])
            taken[path] = taken.get(path, 0) + 1
        return sorted(taken.items(), key=lambda item: (-item[1], len(item[0]), item[0]))[:count]

    def bottleneck(self) -> Floats:
        """Return the largest share of the walks to each person that pass one other person first, (n,)."""
        first = self._first_visits()
        depth = len(first)
        most = np.zeros(self.graph.n)
        parts = []
        for late in range(2, depth):
            for early in range(1, late):
                both = (first[late] >= 0) & (first[early] >= 0)
                if both.any():
                    parts.append(first[late][both].astype(np.int64) * self.graph.n + first[early][both])
        if parts:
            pairs, counts = np.unique(np.concatenate(parts), return_counts=True)
            persons = pairs // self.graph.n
            np.maximum.at(most, persons, counts / np.maximum(self._hits[persons], 1))
        return most

    def redraw(self, walks: NDArray[np.int64], depth: NDArray[np.int64]) -> None:
        """Draw `walks` anew after step `depth` (w,)."""
        at = self._steps[depth, walks]
        while len(walks):
            go = self.graph.toss(len(walks)) & (depth < MAX_STEPS - 1)
            walks, depth, at = walks[go], depth[go] + 1, at[go]
            at, on = self.graph.step(at)
            if not on.all():
                walks, depth, at = walks[on], depth[on], at[on]
            self._write(walks, depth, at)
        if self._is_new:
            self._hits, self._is_new = self._count(self._steps), False

    def mend(
        self, src: int, old_targets: Nodes, old_shares: Floats, new_targets: Nodes, new_shares: Floats
    ) -> None:
        """Make the walks those of the new row of `src`."""
        if not self._hits[src]:
            return
        depth, walks = np.divmod(np.flatnonzero(self._steps.ravel() == src), self.count)
        if not len(walks):
            return
        following = np.where(depth + 1 < len(self._steps), depth + 1, 0)
        to = np.where(following > 0, self._steps[following, walks], -1)
        is_changed, steps = self._recouple(to, old_targets, old_shares, new_targets, new_shares)
        is_changed &= depth < MAX_STEPS - 1
        depth, walks, steps = depth[is_changed], walks[is_changed], steps[is_changed]
        walks, first = np.unique(walks, return_index=True)  # departures are in the order of depth
        depth, steps = depth[first], steps[first]
        if not len(walks):
            return
        kept = self._steps[:, walks]
        self._hits -= self._count(kept)
        kept[np.arange(len(kept))[:, None] > depth] = -1
        self._steps[:, walks] = kept
        on = steps >= 0
        self._write(walks[on], depth[on] + 1, steps[on])
        self.redraw(walks[on], depth[on] + 1)
        self._hits += self._count(self._steps[:, walks])

    def _write(self, walks: NDArray[np.int64], depth: NDArray[np.int64], to: Nodes) -> None:
        if len(depth) and (most := int(depth.max())) >= len(self._steps):
            rows = min(most + 8, MAX_STEPS) - len(self._steps)
            self._steps = np.concatenate([self._steps, np.full((rows, self.count), -1, self._steps.dtype)])
        self._steps[depth, walks] = to

    def _recouple(
        self, to: Nodes, old_targets: Nodes, old_shares: Floats, new_targets: Nodes, new_shares: Floats
    ) -> tuple[NDArray[np.bool_], Nodes]:
        """Return for every departure whether it changes and where it leads now, -1 for an end."""
        steps = np.full(len(to), -1, np.int32)
        if not len(old_targets):  # all walks ended here; each tosses its coin now
            goes = self.graph.toss(len(to))
            steps[goes] = new_targets[self.graph.draw(new_shares, int(goes.sum()))]
            return goes, steps
        left = to >= 0
        if not len(new_targets):
            return left, steps
        every = np.union1d(old_targets, new_targets)
        old, new = np.zeros(len(every)), np.zeros(len(every))
        old[np.searchsorted(every, old_targets)] = old_shares
        new[np.searchsorted(every, new_targets)] = new_shares
        keep = np.divide(new, old, out=np.ones(len(every)), where=old > 0)
        place = np.minimum(np.searchsorted(every, to), len(every) - 1)
        leaves = left & (self.graph.random(len(to)) >= keep[place])
        excess = np.maximum(new - old, 0.0)
        if leaves.any():
            steps[leaves] = every[self.graph.draw(excess, int(leaves.sum()))]
        return leaves, steps

    def _count(self, steps: Nodes) -> NDArray[np.int64]:
        """Return how many columns of `steps` hold each person."""
        flat = steps.ravel()
        used = np.flatnonzero(flat >= 0)
        keys = np.sort(used % steps.shape[1] * self.graph.n + flat[used])
        once = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.zeros(0, bool)
        return np.bincount(keys[once] % self.graph.n, minlength=self.graph.n)

    def _first_visits(self) -> Nodes:
        """Return the steps with every later visit to the same person taken out and the rest moved up."""
        steps = self._steps.copy()
        for late in range(1, len(steps)):
            seen = (steps[:late] == steps[late]).any(axis=0)
            steps[late, seen] = -1
        packed = np.full_like(steps, -1)
        place = np.cumsum(steps >= 0, axis=0) - 1
        depth, walks = np.nonzero(steps >= 0)
        packed[place[depth, walks], walks] = steps[depth, walks]
        return packed[: int((packed >= 0).any(axis=1).sum())]
