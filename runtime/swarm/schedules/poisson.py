"""Randomised gossip: each peer has two Poisson clocks, one for training and one for exchanging with a neighbour.

The schedule of DADAO (arXiv 2208.00779) and of Boyd et al. 2006: no rounds, nobody waits for anybody. When the second
clock fires, i sends x_i to a random neighbour j, which answers with its own x_j and takes the mean; i then adds
(x_j - x_i as it was sent)/2, so the sum of all models stays what it was although both went on training meanwhile. The
acceleration of DADAO needs the constants L and mu of a convex loss and is not part of this.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.layout import Vector
from flocklet.swarm.kinds import Swap
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId

__all__ = ["PoissonPairs"]


@dataclass(frozen=True)
class PoissonPairs:
    """Train `rounds` times, at mean intervals of `train` seconds, and start exchanges at mean intervals of `swap`."""

    train: float = 1.0
    swap: float = 0.5
    name = "poisson"

    def __post_init__(self) -> None:
        if self.train <= 0 or self.swap <= 0:
            raise UsageError("Poisson clocks need intervals above 0", remedy="poisson(train=1,swap=0.5)")

    def fewest(self, sampled: int) -> int:
        """Return two: pairs meet."""
        return min(2, sampled)

    async def run(self, peer: Participant) -> None:
        """Live for `peer.rounds` trainings, and answer exchanges all the while."""
        await _Pairs(self, peer).run()


class _Pairs:
    def __init__(self, schedule: PoissonPairs, peer: Participant) -> None:
        self.schedule, self.peer = schedule, peer
        self.sent: dict[int, tuple[PeerId, Vector]] = {}  # our open exchanges by number
        self.taken: dict[PeerId, int] = {}  # the newest exchange that each peer began
        self.number = 0

    async def run(self) -> None:
        peer, clock = self.peer, self.peer.clock
        peer.listen(self._received, Swap)
        swapping = asyncio.ensure_future(self._swap())
        try:
            for round in range(1, peer.rounds + 1):
                await clock.sleep(float(clock.rng("train").exponential(self.schedule.train)))
                start = peer.x
                trained = await peer.train(round)
                peer.finish(round, peer.x + (trained - start))  # exchanges went on meanwhile
            await clock.sleep(4 * self.schedule.train)  # the others still need us
        finally:
            swapping.cancel()
            await asyncio.gather(swapping, return_exceptions=True)

    async def _swap(self) -> None:
        peer, clock = self.peer, self.peer.clock
        while True:
            await clock.sleep(float(clock.rng("swap").exponential(self.schedule.swap)))
            neighbours = peer.sampler.neighbours(peer, 0)
            if neighbours:
                other = neighbours[int(clock.rng("pick").integers(len(neighbours)))]
                self.number += 1
                self.sent = {key: value for key, value in self.sent.items() if key > self.number - 16}
                self.sent[self.number] = other, peer.x
                peer.link.send([other], self._message(self.number, is_answer=False))

    def _message(self, number: int, *, is_answer: bool) -> Message:
        peer = self.peer
        body = {**peer.encoder.whole(peer.x), "answer": is_answer}
        return Message("swap", number, body, codec="fp32", n=peer.claimed)

    def _received(self, message: Message, body: Swap) -> None:
        peer = self.peer
        if body.answer:
            begun = self.sent.get(message.round)
            if begun is None or begun[0] != message.sender:
                peer.refuse(message.sender, "late")
            elif (update := peer.update(message, None)) is not None:
                del self.sent[message.round]
                self._mix(peer.x + np.float32(0.5) * (update.vector - begun[1]))
        elif message.round <= self.taken.get(message.sender, 0):
            peer.refuse(message.sender, "twice")
        elif (update := peer.update(message, None)) is not None:
            self.taken[message.sender] = message.round
            peer.link.send([message.sender], self._message(message.round, is_answer=True))
            self._mix(peer.merge(peer.x, [update], peer.round))

    def _mix(self, vector: Vector) -> None:
        self.peer.x = vector
