"""Keep random walks from an ego and mend them when an edge changes: MeritRank for large and moving graphs.

All walks advance together (one running sum of shares per row, one `searchsorted` per step); how long each walk may
go on is tossed beforehand. A changed edge u -> v touches only departures from u: of each, in the order of the walk,
the old step is kept with probability min(1, new / old share) and else drawn anew from what the new distribution has
in excess (maximal coupling): v alone when the edge gained weight, everybody else when it lost some. From the first
changed step on the walk is drawn afresh. So the kept walks always have exactly the
distribution of fresh walks, whatever the sequence of updates. (The published implementations treat a re-weight as an
addition and are biased; see docs/recommendation.md.) Walks that ended at u because it had no edges toss their coin
anew when it gets some.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.meritrank import MeritSettings, TrustEdges

__all__ = ["TrustWalks", "Walks"]

MAX_STEPS = 100
_FEW = 16
Floats = NDArray[np.float64]
Nodes = NDArray[Any]


@dataclass(frozen=True, slots=True)
class _Change:
    """An edge src -> dst had the positive weight `was` of the row's total `before`, now `now` of `after`."""

    src: int
    dst: int
    was: float
    now: float
    before: float
    after: float


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
        self._distrust.get(src, {}).pop(dst, None)
        if weight < 0:
            self._distrust.setdefault(src, {})[dst] = weight
        was, now = max(0.0, self._positive(src, dst)), max(0.0, weight)
        if was == now:
            return
        before = self._total(src)
        self._put(src, dst, now)
        change = _Change(src, dst, was, now, before, self._total(src))
        for walks in self._walks.values():
            walks.mend(change)

    def row(self, src: int) -> tuple[Nodes, Floats]:
        """Return the targets of `src` and the share of each, summing to 1."""
        span = slice(int(self._starts[src]), int(self._starts[src + 1]))
        weights = self._weights[span]
        return self._targets[span].copy(), weights / weights.sum() if len(weights) else weights

    def _total(self, src: int) -> float:
        return float(self._weights[int(self._starts[src]) : int(self._starts[src + 1])].sum())

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
                _without(column, at) for column in (self._targets, self._weights, self._ends)
            )
            self._starts[src + 1 :] -= 1
            last -= 1
        else:
            place = first + int(np.searchsorted(self._targets[first:last], dst))
            self._targets = _with(self._targets, place, dst)
            self._weights = _with(self._weights, place, weight)
            self._ends = _with(self._ends, place, 0.0)
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

    def follow(self, at: int, count: int) -> list[int]:
        """Return where up to `count` steps from `at` lead; for few walks this is faster than `step`."""
        starts, ends, targets = self._starts.data, self._ends.data, self._targets.data
        path: list[int] = []
        for share in self._rng.random(count).tolist():
            first, last = starts[at], starts[at + 1]
            if first == last:
                break
            at = targets[min(bisect_right(ends, at + share, first, last), last - 1)]
            path.append(at)
        return path

    def lengths(self, count: int) -> NDArray[np.int64]:
        """Return for each of `count` walks how many more steps its coin lets it go."""
        tossed = np.log1p(-self._rng.random(count)) / np.log1p(-self.settings.alpha)
        return np.asarray(np.minimum(tossed, MAX_STEPS), np.int64)

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
    """Hold the walks of one ego, a row each with -1 after the end, and how many visit each person."""

    def __init__(self, graph: TrustWalks, ego: int, count: int) -> None:
        self.graph, self.ego, self.count = graph, ego, count
        # narrow numbers where they do: every update scans all steps for one person
        kind: type[np.int16] | type[np.int32] = np.int16 if graph.n < 32_767 else np.int32
        self._steps: NDArray[Any] = np.full((count, 16), -1, kind)  # a walk's steps lie side by side
        self._steps[:, 0] = ego
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
            steps = self._steps[(self._steps == distrusted).any(axis=1)]
            last = steps.shape[1] - 1 - np.argmax(steps[:, ::-1] == distrusted, axis=1)
            before = np.where(np.arange(steps.shape[1]) <= last[:, None], steps, -1)
            losses += -weight * self._count(before)
        return losses

    def paths(self, person: int, count: int = 3) -> list[tuple[tuple[int, ...], int]]:
        """Return the most walked paths that lead to `person`, and how many walks took each."""
        steps = self._steps[(self._steps == person).any(axis=1)]
        until = np.argmax(steps == person, axis=1)
        taken: dict[tuple[int, ...], int] = {}
        for row, end in zip(steps.tolist(), until.tolist(), strict=True):
            path = tuple(row[: end + 1])
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
        """Draw `walks` anew after step `depth` (w,); what they held beyond it is -1 already."""
        more = np.minimum(self.graph.lengths(len(walks)), MAX_STEPS - 1 - depth)
        order = np.argsort(-more, kind="stable")  # the walks that go on are always the first ones
        walks, depth, less = walks[order], depth[order], -more[order]
        at = self._steps[walks, depth]
        self._grow(int((depth - less).max(initial=0)))
        steps, place = self._steps.reshape(-1), walks * self._steps.shape[1] + depth
        for taken in range(1, 1 - int(less.min(initial=0))):
            going = int(np.searchsorted(less, -taken, side="right"))
            if going <= _FEW:
                for walk in range(going):
                    path = self.graph.follow(int(at[walk]), 1 - taken - int(less[walk]))
                    steps[place[walk] + 1 : place[walk] + 1 + len(path)] = path
                break
            at, on = self.graph.step(at[:going])
            less, place = less[:going], place[:going] + 1
            if not on.all():
                at, less, place = at[on], less[on], place[on]
            steps[place] = at
        if self._is_new:
            self._hits, self._is_new = self._count(self._steps), False

    def mend(self, change: _Change) -> None:
        """Make the walks those of the graph after one edge got another weight."""
        if not self._hits[change.src]:
            return
        places, columns = self._visits(change.src), self._steps.shape[1]
        places = places[self._leaves(self._steps.reshape(-1)[places + 1], change)]
        walks = places // columns
        depth = places - walks * columns
        may = depth < MAX_STEPS - 1
        walks, depth = walks[may], depth[may]
        if not len(walks):
            return
        is_first = np.append(True, walks[1:] != walks[:-1])  # what follows the first change is drawn afresh
        walks, depth = walks[is_first], depth[is_first]
        kept = self._steps[walks]
        self._hits -= self._count(kept)
        kept[np.arange(kept.shape[1]) > depth[:, None]] = -1
        self._steps[walks] = kept
        if change.after > 0:
            self._grow(int(depth.max()) + 1)
            self._steps[walks, depth + 1] = self._elsewhere(len(walks), change)
            self.redraw(walks, depth + 1)
        self._hits += self._count(self._steps[walks])

    def _visits(self, person: int) -> NDArray[np.int64]:
        """Return the places of every visit in the flat steps; where few are, eight places are looked at at once."""
        found = self._steps.reshape(-1) == person
        if len(found) % 8 or 8 * int(self._hits[person]) > self.count:
            return np.flatnonzero(found)
        eights = np.flatnonzero(found.view(np.uint64) != 0)
        inside = np.flatnonzero(found.reshape(-1, 8)[eights])
        return np.asarray(eights[inside >> 3] * 8 + (inside & 7), np.int64)

    def _grow(self, most: int) -> None:
        """Make room for step number `most` and the end behind it: the last column is always blank."""
        if most + 1 >= self._steps.shape[1]:
            room = np.full((self.count, min(most + 8, MAX_STEPS + 1)), -1, self._steps.dtype)
            room[:, : self._steps.shape[1]] = self._steps
            self._steps = room

    def _leaves(self, to: Nodes, change: _Change) -> NDArray[np.bool_]:
        """Return for every departure, which led to `to` (-1: the walk ended), whether it changes."""
        if change.before <= 0:  # all walks ended here; each tosses its coin now
            return self.graph.random(len(to)) >= self.graph.settings.alpha
        if change.after <= 0:
            return np.asarray(to >= 0)
        if change.now > change.was:
            keep, moves = change.before / change.after, (to >= 0) & (to != change.dst)
        else:
            keep = change.now * change.before / (change.was * change.after)
            moves = to == change.dst
        moves[moves] = self.graph.random(int(moves.sum())) >= keep
        return np.asarray(moves)

    def _elsewhere(self, count: int, change: _Change) -> Nodes:
        """Return where `count` changed departures lead now."""
        if change.now > change.was:
            return np.full(count, change.dst, self._steps.dtype)
        targets, shares = self.graph.row(change.src)
        return np.asarray(targets[self.graph.draw(np.where(targets == change.dst, 0.0, shares), count)])

    def _count(self, steps: Nodes) -> NDArray[np.int64]:
        """Return how many rows of `steps` hold each person."""
        flat = steps.reshape(-1)
        used = np.flatnonzero(flat >= 0)
        keys = np.sort(used // steps.shape[1] * self.graph.n + flat[used])
        once = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.zeros(0, bool)
        return np.bincount(keys[once] % self.graph.n, minlength=self.graph.n)

    def _first_visits(self) -> Nodes:
        """Return the steps, (steps, walks), every later visit to the same person taken out and the rest moved up."""
        steps = self._steps.T.copy()
        for late in range(1, len(steps)):
            seen = (steps[:late] == steps[late]).any(axis=0)
            steps[late, seen] = -1
        packed = np.full_like(steps, -1)
        place = np.cumsum(steps >= 0, axis=0) - 1
        depth, walks = np.nonzero(steps >= 0)
        packed[place[depth, walks], walks] = steps[depth, walks]
        return packed[: int((packed >= 0).any(axis=1).sum())]


def _with(column: NDArray[Any], place: int, value: float) -> NDArray[Any]:
    """Return the column with a value put in, moved within the room behind it while there is any."""
    size, room = len(column), column.base
    if room is None or len(room) <= size:
        room = np.empty(size + 64 + size // 8, column.dtype)
        room[:size] = column
    moved = room.data
    moved[place + 1 : size + 1] = moved[place:size]
    room[place] = value
    return np.asarray(room[: size + 1])


def _without(column: NDArray[Any], place: int) -> NDArray[Any]:
    moved = column.data
    moved[place : len(column) - 1] = moved[place + 1 : len(column)]
    return column[:-1]
