"""Who of an ordered list is alive: pings in waves that double, so that many dead peers cost few timeouts."""

from __future__ import annotations

import asyncio

from flocklet.swarm.protocols import Link, PeerId
from flocklet.swarm.schedules.members import Members

__all__ = ["Liveness"]


class Liveness:
    """Ask peers whether they are there; `me` always is, and who said goodbye is not asked."""

    def __init__(self, me: PeerId, link: Link, members: Members, ping_s: float) -> None:
        self._me, self._link, self._members, self._ping_s = me, link, members, ping_s

    async def answers(self, peer: PeerId, round: int) -> bool:
        """Return whether one peer is there."""
        if peer == self._me:
            return True
        if self._members.has_left(peer):
            return False
        return await self._link.ping(peer, round, self._ping_s)

    async def live(self, order: list[PeerId], count: int, round: int) -> list[PeerId]:
        """Return the first `count` live peers of an order."""
        live: list[PeerId] = []
        at, wave = 0, 0
        while at < len(order) and len(live) < count:
            size = (count - len(live)) << wave
            batch, at, wave = order[at : at + size], at + size, wave + 1
            answers = await asyncio.gather(*(self.answers(peer, round) for peer in batch))
            live += [peer for peer, answer in zip(batch, answers, strict=True) if answer]
        return live[:count]

    async def first(self, order: list[PeerId], skip: int, round: int) -> tuple[int, PeerId | None]:
        """Return the first live peer of an order from place `skip` on, and its place."""
        wave = 1
        while skip < len(order):
            batch = order[skip : skip + wave]
            answers = await asyncio.gather(*(self.answers(peer, round) for peer in batch))
            for place, answer in enumerate(answers):
                if answer:
                    return skip + place, batch[place]
            skip, wave = skip + wave, 2 * wave
        return skip, None
