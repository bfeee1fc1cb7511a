"""Synchronous gossip (D-PSGD): train, send to the neighbours, wait for theirs, merge; Q merges per round.

A lossless codec sends models. Any other sends the difference to what the neighbours hold of us already (our *public
copy*, Koloskova et al. 2019, CHOCO-SGD): what the codec left out comes with the next difference, so no separate error
memory is needed. A receiver whose copy is not the announced base refuses the frame and asks for a whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Encoder, Fp32
from flocklet.swarm.kinds import Ack, Send, Told
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update
from flocklet.swarm.samplers import Healing
from flocklet.swarm.schedules.inbox import Inbox
from flocklet.swarm.schedules.second_hand import GossipStore

__all__ = ["Gossip"]


@dataclass(frozen=True)
class Gossip:
    """Exchange with the neighbours in a graph, `q` times per round; wait for each at most `deadline_s`.

    A neighbour that misses two deadlines in a row is silent: nobody waits for it until it is heard again.
    """

    q: int = 1
    deadline_s: float = 5.0
    name = "gossip"

    def fewest(self, sampled: int) -> int:
        """Return everybody: the graph says who meets."""
        return sampled

    async def run(self, peer: Participant) -> None:
        """Live for `peer.rounds` rounds."""
        await _Exchange(self, peer).run()


class _Exchange:
    def __init__(self, schedule: Gossip, peer: Participant) -> None:
        self.schedule = schedule
        self.peer = peer
        self.sampler = peer.sampler
        self.inbox = Inbox(peer.refuse)
        self.is_lossless = isinstance(peer.codec, Fp32)
        self.encoder = Encoder(peer.codec, peer.layout, peer.clock.rng("codec"))
        self.encoder.forget()
        self.public: Vector | None = None  # what neighbours hold of us
        self.copies: dict[PeerId, tuple[bytes, Vector]] = {}  # what we hold of them
        self.misses: dict[PeerId, int] = {}
        self.records = GossipStore(peer) if "gossip" in peer.aggregator.needs else None

    async def run(self) -> None:
        peer = self.peer
        peer.listen(self._received, Send, Ack, *((Told,) if self.records is not None else ()))
        for round in range(1, peer.rounds + 1):
            x = await peer.train(round)
            for q in range(self.schedule.q):
                x = await self._exchange(x, round, (round - 1) * self.schedule.q + q)
            peer.finish(round, x)

    async def _exchange(self, x: Vector, round: int, step: int) -> Vector:
        peer = self.peer
        neighbours = self.sampler.neighbours(peer, step)
        message = self._message(x, step, len(neighbours))
        if self.records is not None:
            self.records.send(neighbours, step)
        peer.link.send(neighbours, message)
        expected = self.sampler.senders(peer, step)
        # Whoever was asked only now (healing) does not answer before it heard of us.
        is_agreed = step == 0 or not isinstance(self.sampler, Healing)
        wanted = [p for p in expected if p not in peer.silent and (is_agreed or p in peer.heard)]
        found = await self.inbox.collect(step, wanted, self.schedule.deadline_s)
        self._note_silence(wanted, {message.sender for message in found}, step)
        updates = [update for message in found if (update := self._update(message)) is not None]
        told = self.records.told() if self.records is not None else ()
        return peer.merge(x, updates, round, degree=len(neighbours), gossip=told)

    def _received(self, message: Message, body: Any) -> None:
        if isinstance(body, Send):
            self.inbox.put(message)
        elif isinstance(body, Told) and self.records is not None:
            self.records.received(message, body)
        elif isinstance(body, Ack):
            self.public = None  # a neighbour lacks our base: the next message is whole

    def _message(self, x: Vector, step: int, degree: int) -> Message:
        peer, base = self.peer, b""
        if self.is_lossless:
            body, _ = self.encoder.encode(x)
        elif self.public is None:
            body, self.public = peer.encoder.whole(x), x
        else:
            base = vector_id(self.public)
            body, seen = self.encoder.encode(x - self.public)
            self.public = self.public + seen
        codec = peer.codec.name if base else "fp32"
        facts = {"d": degree, "c": len(peer.classes)}
        message = Message("send", step, {**body, **facts}, base=base, codec=codec, n=peer.claimed)
        if self.is_lossless:
            message.__dict__["_vector"] = x
        return message

    def _update(self, message: Message) -> Update | None:
        peer, reference = self.peer, None
        if message.base:
            known = self.copies.get(message.sender)
            if known is None or known[0] != message.base:
                peer.refuse(message.sender, "base")
                peer.link.send([message.sender], Message("agg_ack", message.round, {"ok": False}))
                return None
            reference = known[1]
        facts = message.body  # checked against `Send` when it came
        update = peer.update(message, reference, degree=facts["d"], classes=facts["c"])
        if update is not None and not self.is_lossless:
            self.copies[message.sender] = (vector_id(update.vector), update.vector)
        if update is not None and self.records is not None:
            self.records.heard_directly(message, update)
        return update

    def _note_silence(self, wanted: list[PeerId], came: set[PeerId], step: int) -> None:
        for other in wanted:
            self.misses[other] = 0 if other in came else self.misses.get(other, 0) + 1
            if self.misses[other] >= 2:
                self.peer.silent.add(other)
                self.peer.heard.discard(other)
                self.peer.note(other, f"silent since step {step - 1}; going on without it")
