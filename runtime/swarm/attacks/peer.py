"""An attacker in place of an honest peer: it is wrapped around the honest code, which knows nothing of attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flocklet.models.layout import Layout, Vector
from flocklet.swarm.attacks.authority import AUTHORITY, AuthorityLink
from flocklet.swarm.attacks.link import HOSTILE, HostileLink
from flocklet.swarm.attacks.model import Attack
from flocklet.swarm.peer import Peer
from flocklet.swarm.protocols import Clock, Link, Message, PeerId, Update

__all__ = ["Attacker", "TwoFacedLink", "hostile_link"]


class Attacker(Peer):
    """A peer that sends what its attack crafts, and learns from others only if the attack does."""

    def __init__(self, attack: Attack, **settings: Any) -> None:
        super().__init__(**settings)
        self.attack = attack

    async def train(self, round: int) -> Vector:
        """Return what the others are to believe."""
        if self.attack.trains:
            trained = await super().train(round)
        else:
            self.start = trained = self.x
        crafted = self.attack.craft(trained, self.x, self.clock.rng("attack"))
        self.attack.sending = crafted
        return crafted

    def merge(
        self,
        own: Vector | None,
        updates: list[Update],
        round: int,
        *,
        degree: int = 0,
        gossip: Sequence[Update] = (),
    ) -> Vector:
        """Look at what the others sent, and take it in if the attack learns from others."""
        if own is None:
            merged = super().merge(own, updates, round, degree=degree, gossip=gossip)
            is_false = self.attack.kind == "falsemerge" and round >= (self.attack.strength or 0)
            return merged * np.float32(0) if is_false else merged
        self.attack.saw(updates)
        if self.attack.merges:
            own = super().merge(own, updates, round, degree=degree, gossip=gossip)
        self.attack.sending = own
        return own

    @property
    def claimed(self) -> int:
        """The number of rows that the attacker says it has."""
        return self.attack.claim(len(self.share))


def hostile_link(link: Link, attack: Attack, layout: Layout, clock: Clock) -> Link:
    """Return the link as the attack uses it."""
    if attack.kind in HOSTILE:
        return HostileLink(link, attack.kind, clock.rng("hostile"))
    if attack.kind in AUTHORITY:
        return AuthorityLink(link, attack.kind)
    return TwoFacedLink(link, attack, layout) if attack.is_two_faced else link


class TwoFacedLink:
    """A `Link` over which every neighbour is told another model, whole."""

    def __init__(self, link: Link, attack: Attack, layout: Layout) -> None:
        self.me = link.me
        self._link, self._attack, self._layout = link, attack, layout

    @property
    def bytes_out(self) -> int:
        """What went out."""
        return self._link.bytes_out

    def peers(self) -> list[PeerId]:
        """Return who can be reached."""
        return self._link.peers()

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Send each receiver of a model a face of its own."""
        x = self._attack.sending
        if message.type != "send" or x is None:
            self._link.send(peers, message)
            return
        for other in peers:
            face = self._layout.split(self._attack.face(x, other))
            body = {**message.body, **face}
            self._link.send([other], replace(message, body=body, base=b"", codec="fp32"))

    async def ping(self, peer: PeerId, round: int, timeout_s: float) -> bool:
        """Ask honestly."""
        return await self._link.ping(peer, round, timeout_s)

    def open(self, sealed: bytes) -> Message:
        """Return a relayed message."""
        return self._link.open(sealed)

    def sign(self, statement: bytes) -> bytes:
        """Sign."""
        return self._link.sign(statement)

    def is_signed(self, author: PeerId, statement: bytes, proof: bytes) -> bool:
        """Return whether that peer signed it."""
        return self._link.is_signed(author, statement, proof)

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Hear every message."""
        self._link.listen(handler)
