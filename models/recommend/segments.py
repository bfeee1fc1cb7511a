"""Hold edges in a ring of segments: constant memory, append only, the oldest segment is dropped whole.

The idea is GraphJet's (Sharma et al., VLDB 2016, section 4). An edge takes 14 bytes: source and target u32, weight
binary16, time u32 (seconds). Segments that are not needed yet are not allocated. Several versions of an edge may
be held; `newest` resolves them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EDGE_BYTES", "Edges", "SegmentStore"]

EDGE_BYTES = 14


@dataclass(frozen=True, slots=True)
class Edges:
    """Columns of edges of equal length: `src`, `dst` uint32, `weight` float16, `ts` uint32."""

    src: NDArray[np.uint32]
    dst: NDArray[np.uint32]
    weight: NDArray[np.float16]
    ts: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.src)

    def __getitem__(self, chosen: slice | NDArray[np.generic]) -> Edges:
        return Edges(self.src[chosen], self.dst[chosen], self.weight[chosen], self.ts[chosen])

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Source and target as one number."""
        return self.src.astype(np.uint64) << np.uint64(32) | self.dst.astype(np.uint64)

    @classmethod
    def of(cls, src: object, dst: object, weight: object, ts: object) -> Edges:
        """Return columns of the right types."""
        return cls(
            np.asarray(src, np.uint32),
            np.asarray(dst, np.uint32),
            np.asarray(weight, np.float16),
            np.asarray(ts, np.uint32),
        )

    @classmethod
    def joined(cls, parts: list[Edges]) -> Edges:
        """Return the parts one after the other."""
        if not parts:
            return cls.of([], [], [], [])
        return cls(
            np.concatenate([p.src for p in parts]),
            np.concatenate([p.dst for p in parts]),
            np.concatenate([p.weight for p in parts]),
            np.concatenate([p.ts for p in parts]),
        )

    def newest(self) -> Edges:
        """Return one version of every (source, target): the newest, on a tie the larger weight."""
        if not len(self):
            return self
        keys = self.keys
        order = np.lexsort((self.weight, self.ts, keys))
        keys = keys[order]
        last = np.append(keys[1:] != keys[:-1], True)
        return self[order[last]]


class SegmentStore:
    """Keep the last `segments * size` edges; `dropped` counts those that went with their segment."""

    def __init__(self, segments: int = 8, size: int = 16_384) -> None:
        if segments < 2 or size < 1:
            raise ValueError("a segment store needs two segments of at least one edge")
        self.segments, self.size = segments, size
        self._ring: list[Edges] = []
        self._fill = size
        self.dropped = 0

    def __len__(self) -> int:
        return max(0, (len(self._ring) - 1) * self.size + self._fill) if self._ring else 0

    @property
    def size_bytes(self) -> int:
        """Memory of the edges; never above segments * size * 14."""
        return len(self._ring) * self.size * EDGE_BYTES

    def append(self, edges: Edges) -> Edges:
        """Add edges, the newest last; return those that were dropped to make room."""
        gone: list[Edges] = []
        at = 0
        while at < len(edges):
            if self._fill == self.size:
                if len(self._ring) == self.segments:
                    gone.append(self._ring.pop(0))
                    self.dropped += self.size
                self._ring.append(_blank(self.size))
                self._fill = 0
            take = min(self.size - self._fill, len(edges) - at)
            segment = self._ring[-1]
            to, source = slice(self._fill, self._fill + take), slice(at, at + take)
            segment.src[to], segment.dst[to] = edges.src[source], edges.dst[source]
            segment.weight[to], segment.ts[to] = edges.weight[source], edges.ts[source]
            self._fill += take
            at += take
        return Edges.joined(gone)

    def forget(self, edges: Edges) -> None:
        """Set the weight of exactly these versions of edges to 0; they fall out with their segments."""
        for number, segment in enumerate(self._ring):
            used = self._used(number)
            at = np.flatnonzero(np.isin(segment.src[:used], np.unique(edges.src)))
            held = segment[at]
            gone = np.isin(held.keys, edges.keys) & np.isin(held.ts, edges.ts)
            for place in at[gone].tolist():
                key = int(segment.src[place]) << 32 | int(segment.dst[place])
                if (edges.ts[edges.keys == key] == segment.ts[place]).any():
                    segment.weight[place] = 0

    def live(self) -> Edges:
        """Return every edge that is held, oldest arrival first, with all its versions."""
        return Edges.joined([*self._ring[:-1], *(s[: self._fill] for s in self._ring[-1:])])

    def sample(self, src: int, count: int, rng: np.random.Generator) -> NDArray[np.uint32]:
        """Return `count` targets of `src`, each drawn uniformly from its edges in the whole window."""
        targets = [s.dst[: self._used(n)][s.src[: self._used(n)] == src] for n, s in enumerate(self._ring)]
        every = np.concatenate(targets) if targets else np.zeros(0, np.uint32)
        return every[rng.integers(0, len(every), count)] if len(every) else every

    def _used(self, number: int) -> int:
        return self._fill if number == len(self._ring) - 1 else self.size


def _blank(size: int) -> Edges:
    return Edges(
        np.zeros(size, np.uint32),
        np.zeros(size, np.uint32),
        np.zeros(size, np.float16),
        np.zeros(size, np.uint32),
    )
