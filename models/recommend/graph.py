"""Hold who trusts whom and who likes what: bounded, newest per author, strangers apart from friends.

Two rings (`flocklet.models.recommend.segments`): edges of *friends* (people with trust from the owner's view, and the
owner) and of *strangers*. However many identities somebody makes up, they can only push each other out of the
strangers' ring. Each identity may hold at most a quota of its ring. A replayed or older version of an edge is
refused before it takes room. What an author calls the time of an edge orders its own edges and decides nothing else:
nobody is refused for a wrong clock. Own edges never fall out: they are carried over when their segment is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.events.edge import Edge
from flocklet.models.base import State
from flocklet.models.recommend.names import Names
from flocklet.models.recommend.segments import Edges, SegmentStore

__all__ = ["Graph", "GraphSettings"]

ITEM_BIT = np.uint32(1 << 31)


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """Sizes and limits: 8 + 2 segments of 16,384 edges are 2.3 MB, their index at most as much."""

    friend_segments: int = 8
    stranger_segments: int = 2
    segment_size: int = 16_384
    quota_share: float = 1 / 16
    index_every: int = 2_048
    most_people: int = 65_536
    most_items: int = 65_536


class _Ring:
    """One segment store with the newest version of every edge at hand and the quota of every author."""

    def __init__(self, segments: int, settings: GraphSettings) -> None:
        self.store = SegmentStore(segments, settings.segment_size)
        self.quota = max(16, int(segments * settings.segment_size * settings.quota_share))
        self._every = settings.index_every
        self._recent: dict[int, tuple[int, float]] = {}
        self._keys = np.zeros(0, np.uint64)
        self._ts = np.zeros(0, np.uint32)
        self._weights = np.zeros(0, np.float16)
        self._counts: Counter[int] = Counter()

    def versions(self, keys: Sequence[int]) -> list[tuple[int, float] | None]:
        """Return (time, weight) of the newest version held of each key."""
        found: list[tuple[int, float] | None] = [self._recent.get(key) for key in keys]
        if len(self._keys) and None in found:
            wanted = np.array(keys, np.uint64)
            at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            is_held = self._keys[at] == wanted
            for number in np.flatnonzero(is_held).tolist():
                if found[number] is None:
                    place = int(at[number])
                    found[number] = int(self._ts[place]), float(self._weights[place])
        return found

    def count(self, src: int) -> int:
        return self._counts[src]

    def append(self, edges: Edges) -> Edges:
        """Add edges that were checked; return what fell out."""
        gone = self.store.append(edges)
        self._counts.update(edges.src.tolist())
        self._counts.subtract(gone.src.tolist())
        for key, ts, weight in zip(
            edges.keys.tolist(), edges.ts.tolist(), edges.weight.tolist(), strict=True
        ):
            self._recent[key] = (ts, weight)
        if len(self._recent) >= self._every or len(gone):
            self.index()
        return gone

    def forget(self, edges: Edges) -> None:
        """Let exactly these versions count for nothing."""
        self.store.forget(edges)
        for key, ts in zip(edges.keys.tolist(), edges.ts.tolist(), strict=True):
            if key in self._recent:
                if self._recent[key][0] == ts:
                    self._recent[key] = (ts, 0.0)
                continue
            at = int(np.searchsorted(self._keys, np.uint64(key)))
            if at < len(self._keys) and self._keys[at] == key and self._ts[at] == ts:
                self._weights[at] = 0

    def load(self, edges: Edges) -> None:
        """Take edges in that were held before, none of them twice."""
        self.store.append(edges)
        self.index()

    def newest(self) -> Edges:
        if self._recent:
            self.index()
        src, dst = self._keys >> np.uint64(32), self._keys & np.uint64(0xFFFFFFFF)
        return Edges(src.astype(np.uint32), dst.astype(np.uint32), self._weights, self._ts)

    def index(self) -> None:
        live = self.store.live()
        held = live.newest()
        self._keys, self._ts, self._weights = held.keys, held.ts, held.weight
        self._recent = {}
        numbers, counts = np.unique(live.src, return_counts=True)
        self._counts = Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))

    @property
    def size_bytes(self) -> int:
        return self.store.size_bytes + len(self._keys) * 14 + len(self._recent) * 200


class Graph:
    """Take edges in and give them out as columns of numbers; `people` and `items` translate."""

    def __init__(self, settings: GraphSettings | None = None, *, own: Iterable[bytes] = ()) -> None:
        self.settings = settings or GraphSettings()
        self.people: Names[bytes] = Names(most=self.settings.most_people)
        self.items: Names[int] = Names(most=self.settings.most_items)
        self.own = set(own)
        self.generation = 0
        self.trust_generation = 0
        self._friends = _Ring(self.settings.friend_segments, self.settings)
        self._strangers = _Ring(self.settings.stranger_segments, self.settings)

    def __len__(self) -> int:
        return len(self._friends.store) + len(self._strangers.store)

    @property
    def size_bytes(self) -> int:
        """Memory of edges, their index and the names, about 120 bytes a name."""
        return (
            self._friends.size_bytes + self._strangers.size_bytes + 120 * (len(self.people) + len(self.items))
        )

    def add(self, edges: Sequence[Edge], *, is_friend: bool = True) -> Counter[str]:
        """Take edges in, all of them checked and signed; count what became of them.

        `taken`, or why not: `old` (replayed, or no newer than what is held), `quota`, `room` (too many names).
        """
        told: Counter[str] = Counter()
        if any(names.most - len(names) < 2 * len(edges) for names in (self.people, self.items)):
            self.compact()
        ring_of = {True: self._friends, False: self._strangers}
        named = [(edge, key) for edge in edges if (key := self._key(edge, told)) is not None]
        keys = [key for _, key in named]
        held = zip(*(ring.versions(keys) for ring in ring_of.values()), strict=True)
        taken: dict[int, tuple[int, int, float, int]] = {}
        counts: Counter[int] = Counter()
        for (edge, key), versions in zip(named, held, strict=True):
            src, weight = key >> 32, float(np.float16(edge.weight))
            newest = [version for version in versions if version is not None]
            newest += [(row[3], row[2]) for row in (taken.get(key),) if row is not None]
            is_own = edge.src in self.own
            ring = ring_of[is_friend or is_own]
            if newest and max(newest) >= (edge.ts, weight):
                told["old"] += 1
            elif not is_own and ring.count(src) + counts[src] >= ring.quota:
                told["quota"] += 1
            else:
                told["taken"] += 1
                counts[src] += 1
                taken[key] = (src, key & 0xFFFFFFFF, weight, edge.ts)
        if taken:
            self.generation += 1
            self.trust_generation += any(key & int(ITEM_BIT) == 0 for key in taken)
            self._append(Edges.of(*zip(*taken.values(), strict=True)), is_friend)
        return told

    def _key(self, edge: Edge, told: Counter[str]) -> int | None:
        """Return source and target as one number; None, with the reason told, for an edge that is not taken."""
        try:
            src = self.people.take(edge.src)
            if isinstance(edge.target, int):
                return src << 32 | int(ITEM_BIT) | self.items.take(edge.target)
            return src << 32 | self.people.take(edge.target)
        except ValueError:
            told["room"] += 1
            return None

    def _append(self, edges: Edges, is_friend: bool) -> None:
        own = np.array([n for who in self.own if (n := self.people.number(who)) is not None], np.uint32)
        mine = np.isin(edges.src, own)
        for ring, part in (
            (self._friends, edges[mine | is_friend]),
            (self._strangers, edges[~(mine | is_friend)]),
        ):
            if len(part):
                gone = ring.append(part)
                kept = gone[np.isin(gone.src, own)].newest()
                if len(kept):
                    held = ring.versions(kept.keys.tolist())
                    ring.append(kept[np.array([version is None for version in held])])

    def forget(self, edges: Sequence[Edge]) -> None:
        """Take back exactly these versions of edges; a newer version of one stays."""
        rows = []
        for edge in edges:
            src = self.people.number(edge.src)
            is_item = isinstance(edge.target, int)
            dst = (
                self.items.number(edge.target)
                if isinstance(edge.target, int)
                else self.people.number(edge.target)
            )
            if src is not None and dst is not None:
                rows.append((src, int(ITEM_BIT) | dst if is_item else dst, 0.0, edge.ts))
        if rows:
            gone = Edges.of(*zip(*rows, strict=True))
            for ring in (self._friends, self._strangers):
                ring.forget(gone)
            self.generation += 1
            self.trust_generation += any(not isinstance(edge.target, int) for edge in edges)

    def newest(self) -> Edges:
        """Return every edge in its newest version, of friends and strangers, withdrawn ones left out."""
        every = Edges.joined([self._friends.newest(), self._strangers.newest()]).newest()
        return every[every.weight != 0]

    def version(self, src: bytes, target: bytes | int) -> tuple[int, float] | None:
        """Return (time, weight) of the newest version of one edge, None when none is held."""
        first = self.people.number(src)
        if isinstance(target, int):
            item = self.items.number(target)
            second = None if item is None else int(ITEM_BIT) | item
        else:
            second = self.people.number(target)
        if first is None or second is None:
            return None
        key = first << 32 | second
        held = (*self._friends.versions([key]), *self._strangers.versions([key]))
        return max((version for version in held if version is not None), default=None)

    def edges_of(self, src: bytes) -> list[Edge]:
        """Return every edge of one author in its newest version, withdrawn ones too."""
        number = self.people.number(src)
        every = Edges.joined([self._friends.newest(), self._strangers.newest()]).newest()
        mine = every[every.src == (-1 if number is None else number)]
        return [
            Edge(src, self.items[d - int(ITEM_BIT)] if d >= ITEM_BIT else self.people[d], w, t)
            for d, w, t in zip(mine.dst.tolist(), mine.weight.tolist(), mine.ts.tolist(), strict=True)
        ]

    def trust(self) -> Edges:
        """Return the edges between people."""
        every = self.newest()
        return every[every.dst < ITEM_BIT]

    def affinity(self) -> Edges:
        """Return the edges from people to items, `dst` counting from 0 in `items`."""
        every = self.newest()
        every = every[every.dst >= ITEM_BIT]
        return Edges(every.src, every.dst - ITEM_BIT, every.weight, every.ts)

    def compact(self) -> bool:
        """Give back the numbers of people and items that no edge names; return whether there were any."""
        parts = [ring.store.live() for ring in (self._friends, self._strangers)]
        every = Edges.joined(parts)
        is_item = every.dst >= ITEM_BIT
        people = np.zeros(len(self.people), bool)
        people[every.src] = True
        people[every.dst[~is_item]] = True
        for who in self.own:
            if (number := self.people.number(who)) is not None:
                people[number] = True
        items = np.zeros(len(self.items), bool)
        items[every.dst[is_item] - ITEM_BIT] = True
        if people.all() and items.all():
            return False
        to_person, to_item = self.people.keep(people), self.items.keep(items)
        rings = []
        for segments, part in zip(
            (self.settings.friend_segments, self.settings.stranger_segments), parts, strict=True
        ):
            ring = _Ring(segments, self.settings)
            ring.load(_renumbered(part, to_person, to_item))
            rings.append(ring)
        self._friends, self._strangers = rings
        return True

    def state(self) -> State:
        """Return everything as plain arrays, for a snapshot."""
        friends, strangers = self._friends.newest(), self._strangers.newest()
        return {
            "people": np.frombuffer(b"".join(self.people.all()), np.uint8).copy(),
            "items": np.array(self.items.all(), np.uint64),
            **{
                f"{name}_{column}": getattr(edges, column).copy()
                for name, edges in (("friends", friends), ("strangers", strangers))
                for column in ("src", "dst", "weight", "ts")
            },
        }

    def load_state(self, state: State) -> None:
        """Replace everything by a snapshot; raise ValueError when it is not one of ours."""
        raw = state["people"].astype(np.uint8).tobytes()
        people = [raw[at : at + 16] for at in range(0, len(raw), 16)]
        items = [int(item) for item in state["items"].tolist()]
        rings = []
        for name, segments in (
            ("friends", self.settings.friend_segments),
            ("strangers", self.settings.stranger_segments),
        ):
            columns = [state[f"{name}_{column}"] for column in ("src", "dst", "weight", "ts")]
            edges = Edges.of(*columns)
            targets = np.where(edges.dst >= ITEM_BIT, edges.dst - ITEM_BIT, edges.dst)
            limits = np.where(edges.dst >= ITEM_BIT, len(items), len(people))
            if (
                len({len(c) for c in columns}) != 1
                or (edges.src >= len(people)).any()
                or (targets >= limits).any()
            ):
                raise ValueError("a snapshot of the graph is torn")
            ring = _Ring(segments, self.settings)
            ring.load(edges[np.argsort(edges.ts, kind="stable")])
            rings.append(ring)
        self.people = Names(people, most=self.settings.most_people)
        self.items = Names(items, most=self.settings.most_items)
        self._friends, self._strangers = rings
        self.generation += 1
        self.trust_generation += 1


def _renumbered(edges: Edges, people: NDArray[np.uint32], items: NDArray[np.uint32]) -> Edges:
    is_item = edges.dst >= ITEM_BIT
    dst = edges.dst.copy()
    dst[~is_item] = people[edges.dst[~is_item]]
    dst[is_item] = items[edges.dst[is_item] - ITEM_BIT] | ITEM_BIT
    return Edges(people[edges.src], dst, edges.weight, edges.ts)
