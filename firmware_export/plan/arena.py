"""Place the values of a graph in one block of memory: two values may share words where they never live together.

Greedy by size and by time, then by exchanging the order of placing. `bound` is what no plan can go
below: the most that lives at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from flocklet.firmware_export.read.graph import Graph

__all__ = ["Arena", "Life", "lives", "place", "plan_arena"]

_EXACT = 6  # values: 720 orders
_EXCHANGES = 500


@dataclass(frozen=True)
class Life:
    """Hold a value's size in words and the first and last step that need it."""

    value: int
    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Return whether both are needed at one step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Arena:
    """Hold the offset of each value, the words of the whole block, and the bound."""

    offsets: dict[int, int]
    words: int
    bound: int


def lives(graph: Graph) -> list[Life]:
    """Return the lives of all values but the input and the output, which the caller owns."""
    first = {step.output: i for i, step in enumerate(graph.steps)}
    last = dict(first)
    for i, step in enumerate(graph.steps):
        for value in step.inputs:
            last[value] = i
    return [
        Life(value, graph.sizes[value], first[value], last[value])
        for value in sorted(first)
        if value not in {0, graph.output}
    ]


def place(order: Sequence[Life]) -> Arena:
    """Place values one by one at the lowest offset that is free for their whole life."""
    placed: list[tuple[int, Life]] = []
    for life in order:
        at = 0
        busy = [(offset, other) for offset, other in placed if other.meets(life)]
        for offset, other in sorted(busy, key=lambda pair: pair[0]):
            if at + life.size <= offset:
                break
            at = max(at, offset + other.size)
        placed.append((at, life))
    words = max((offset + life.size for offset, life in placed), default=0)
    steps = range(max((life.last for life in order), default=-1) + 1)
    bound = max((sum(p.size for p in order if p.first <= i <= p.last) for i in steps), default=0)
    return Arena({life.value: offset for offset, life in placed}, words, bound)


def plan_arena(graph: Graph) -> Arena:
    """Return the smallest plan found: large values first, by time, and where both miss the bound, by exchanging values.

    Few values are tried in every order, which is exact; more of them in 500 seeded exchanges.
    """
    found = lives(graph)
    by_size = sorted(found, key=lambda life: (-life.size, life.first))
    by_time = sorted(found, key=lambda life: (life.first, -life.size))
    order = min((by_size, by_time), key=lambda order: place(order).words)
    best = place(order)
    if best.words > best.bound and len(found) <= _EXACT:
        return min((place(tried) for tried in permutations(found)), key=lambda arena: arena.words)
    rng = np.random.default_rng(0)
    for _ in range(_EXCHANGES):
        if best.words == best.bound:
            break
        tried = list(order)
        i, j = rng.integers(0, len(tried), 2)
        tried[i], tried[j] = tried[j], tried[i]
        arena = place(tried)
        if arena.words <= best.words:
            order, best = tried, arena
    return best
