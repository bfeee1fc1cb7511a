"""Whom to talk to: fixed graphs, the one-peer exponential graph, a healing graph, and hash order.

A graph is drawn from the run's seed, so every peer that knows the list of members draws the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flocklet.errors import UsageError
from flocklet.swarm.protocols import PeerId, generator
from flocklet.swarm.topologies import (
    Graph,
    barabasi_albert,
    exponential_hop,
    full,
    geometric,
    regular,
    ring,
)

if TYPE_CHECKING:
    from flocklet.swarm.peer import Peer

__all__ = ["Fixed", "Healing", "OnePeer", "Topology", "hash_order"]


def hash_order(candidates: Iterable[PeerId], round: int) -> list[PeerId]:
    """Return the candidates by BLAKE2b(id - round): everybody who knows them gets the same order (MoDeST, 2.1)."""
    salt = b"-%d" % round
    return sorted(candidates, key=lambda peer: hashlib.blake2b(peer + salt, digest_size=16).digest())


@dataclass(frozen=True)
class Topology:
    """A graph by name: full, ring, regular (degree), ba (m), geometric (radius)."""

    kind: str = "regular"
    degree: int = 8
    m: int = 2
    radius: float = 0.25

    def draw(self, n: int, seed: int) -> Graph:
        """Return the graph on n vertices."""
        rng = generator(seed, b"", f"topology/{self.kind}")
        if self.kind == "full":
            return full(n)
        if self.kind == "ring":
            return ring(n)
        if self.kind == "regular":
            return regular(n, min(self.degree, n - 1), rng)
        if self.kind == "ba":
            return barabasi_albert(n, self.m, rng)
        if self.kind == "geometric":
            return geometric(n, self.radius, rng)
        raise UsageError(f"no topology {self.kind!r}", remedy="full, ring, regular, ba or geometric")


class Fixed:
    """Talk to the neighbours in one graph, whoever of them is alive."""

    def __init__(self, graph: Graph, members: list[PeerId]) -> None:
        self._row = {peer: [members[j] for j in graph[i]] for i, peer in enumerate(members)}

    def neighbours(self, peer: Peer, step: int) -> list[PeerId]:
        """Return the neighbours of this peer, sorted."""
        return sorted(self._row.get(peer.me, ()))


class OnePeer:
    """Send to one peer per step: the one 2^step further in the list of members."""

    is_directed = True

    def __init__(self, members: list[PeerId]) -> None:
        self._members = members
        self._index = {peer: i for i, peer in enumerate(members)}

    def neighbours(self, peer: Peer, step: int) -> list[PeerId]:
        """Return the one receiver of this step."""
        return [self._at(self._index[peer.me] + exponential_hop(len(self._members), step))]

    def senders(self, peer: Peer, step: int) -> list[PeerId]:
        """Return the one peer that sends to us at this step."""
        return [self._at(self._index[peer.me] - exponential_hop(len(self._members), step))]

    def _at(self, i: int) -> PeerId:
        return self._members[i % len(self._members)]


class Healing:
    """Start from a graph; when fewer than `least` neighbours answer, ask peers that discovery still shows.

    An edge is agreed by use: whoever hears from a new peer answers it from the next step on.
    """

    def __init__(self, graph: Graph, members: list[PeerId], least: int) -> None:
        self._row = {peer: [members[j] for j in graph[i]] for i, peer in enumerate(members)}
        self._least = least

    def neighbours(self, peer: Peer, step: int) -> list[PeerId]:
        """Return the living neighbours of the graph, those who asked us, and new ones if they are too few."""
        mine: set[PeerId] = peer.memory.setdefault("edges", set(self._row.get(peer.me, ())))
        mine |= peer.heard
        mine -= peer.silent
        if len(mine) < self._least:
            others = [other for other in peer.link.peers() if other not in mine and other not in peer.silent]
            missing = min(self._least - len(mine), len(others))
            if missing > 0:
                picked = peer.clock.rng("healing").choice(len(others), missing, replace=False)
                mine |= {others[int(i)] for i in picked}
        return sorted(mine)
