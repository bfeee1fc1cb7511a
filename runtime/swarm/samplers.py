"""Whom to talk to: fixed graphs, the one-peer exponential graph, a healing graph, and hash order.

A graph is drawn from the run's seed, so every peer that knows the list of members draws the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from flocklet.errors import UsageError
from flocklet.swarm.protocols import PeerId, PeerSampler, Surroundings, generator
from flocklet.swarm.topologies import (
    Graph,
    barabasi_albert,
    exponential_hop,
    full,
    geometric,
    regular,
    ring,
)

__all__ = ["Fixed", "HashOrder", "Hashed", "Healing", "OnePeer", "Topology", "hash_order"]


def hash_order(candidates: Iterable[PeerId], round: int) -> list[PeerId]:
    """Return the candidates by BLAKE2b(id - round): everybody who knows them gets the same order (MoDeST, 2.1)."""
    salt = b"-%d" % round
    return sorted(candidates, key=lambda peer: hashlib.blake2b(peer + salt, digest_size=16).digest())


@dataclass(frozen=True)
class HashOrder:
    """The first `s` of all members by the hash of the round (MoDeST); 0: everybody."""

    s: int = 0

    def __post_init__(self) -> None:
        if self.s < 0:
            raise UsageError(f"a sample of {self.s} peers", remedy="modest(s=10), or s=0 for everybody")

    def draw(self, members: list[PeerId], seed: int) -> Hashed:
        """Return the sampler: the order needs no seed."""
        return Hashed(members, self.s)

    def fewest(self, peers: int) -> int:
        """Return the size of a whole sample."""
        return min(self.s or peers, peers)


class Hashed:
    """Members in the hash order of a step. Who of them lives is the schedule's business."""

    def __init__(self, members: list[PeerId], s: int) -> None:
        self._members, self.s = members, s

    def neighbours(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the sample of a step, in its order."""
        return hash_order(self._members, step)[: self.s or len(self._members)]

    def senders(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the same."""
        return self.neighbours(peer, step)


@dataclass(frozen=True)
class Topology:
    """A graph by name: full, ring, regular (degree), ba (m), geometric (radius), onepeer.

    With `heal` > 0 a peer with fewer living neighbours asks new ones.
    """

    kind: str = "regular"
    degree: int = 8
    m: int = 2
    radius: float = 0.25
    heal: int = 0

    def __post_init__(self) -> None:
        if min(self.degree, self.m) < 1 or not 0 < self.radius <= 2 or self.heal < 0:
            raise UsageError("a graph needs degree >= 1, m >= 1, radius > 0", remedy="regular(8)")

    def draw(self, members: list[PeerId], seed: int) -> PeerSampler:
        """Return the sampler for these members; all peers compute the same graph."""
        if self.kind == "onepeer":
            return OnePeer(members)
        return self.over(self.graph(len(members), seed), members)

    def over(self, graph: Graph, members: list[PeerId]) -> PeerSampler:
        """Return the sampler of a graph that is given."""
        return Healing(graph, members, self.heal) if self.heal else Fixed(graph, members)

    def fewest(self, peers: int) -> int:
        """Return how many models meet at the least: a neighbourhood of the smallest degree and ourselves."""
        if self.kind == "geometric":
            return 1  # as it is drawn
        least = {"full": peers - 1, "ring": 2, "regular": self.degree, "ba": self.m, "onepeer": 1}
        return 1 + min(least.get(self.kind, 1), peers - 1)

    def graph(self, n: int, seed: int) -> Graph:
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

    def neighbours(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the neighbours of this peer, sorted."""
        return sorted(self._row.get(peer.me, ()))

    def senders(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the same: neighbours hear each other."""
        return self.neighbours(peer, step)


class OnePeer:
    """Send to one peer per step: the one 2^step further in the list of members."""

    def __init__(self, members: list[PeerId]) -> None:
        self._members = members
        self._index = {peer: i for i, peer in enumerate(members)}

    def neighbours(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the one receiver of this step."""
        return [self._at(self._index[peer.me] + exponential_hop(len(self._members), step))]

    def senders(self, peer: Surroundings, step: int) -> list[PeerId]:
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
        self._edges: dict[PeerId, set[PeerId]] = {}

    def neighbours(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return the living neighbours of the graph, those who asked us, and new ones if they are too few."""
        mine = self._edges.setdefault(peer.me, set(self._row.get(peer.me, ())))
        mine |= peer.heard
        mine -= peer.silent
        if len(mine) < self._least:
            others = [other for other in peer.link.peers() if other not in mine and other not in peer.silent]
            missing = min(self._least - len(mine), len(others))
            if missing > 0:
                picked = peer.clock.rng("healing").choice(len(others), missing, replace=False)
                mine |= {others[int(i)] for i in picked}
        return sorted(mine)

    def senders(self, peer: Surroundings, step: int) -> list[PeerId]:
        """Return whom the last call of `neighbours` named."""
        return sorted(self._edges.get(peer.me, ()))
