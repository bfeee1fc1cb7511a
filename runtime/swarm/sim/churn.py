"""Scripts of disasters: at a round, peers crash, leave, join, or the network splits and heals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flocklet.errors import UsageError
from flocklet.swarm.topologies import Graph

__all__ = ["Happening", "at_random", "hubs"]

KINDS = ("crash", "leave", "join", "split", "heal")


@dataclass(frozen=True)
class Happening:
    """When the first peer reaches `round`, do `kind` to `peers` (indices); a split gives one island to them."""

    round: int
    kind: str
    peers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"nothing called {self.kind!r} happens here", remedy=", ".join(KINDS))


def hubs(graph: Graph, count: int) -> tuple[int, ...]:
    """Return the `count` vertices of highest degree (ties: the lower index)."""
    order = sorted(range(len(graph)), key=lambda i: (-len(graph[i]), i))
    return tuple(sorted(order[:count]))


def at_random(n: int, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Return `count` of n vertices."""
    chosen: Sequence[int] = rng.choice(n, count, replace=False).tolist()
    return tuple(sorted(chosen))
