"""MoDeST (arXiv 2302.13837): in each round a hash picks a sample that trains and one peer that averages.

Round k: the sample of k trains on the model of k and hands it to the first live peer in the hash order of k + 1. That
aggregator waits for the sample (or for a timeout and at least `minimum` models), merges, pings the order of k + 1
until `s` live peers are found, pushes the new model to them and acknowledges the senders. A sender without
acknowledgement goes to the next peer of the order. While a merge waits, who is missing is pinged: the dead are not
waited for. An aggregator whose successor is not heard of pushes once more, and its senders hand in once more.

A lossy codec sends changes where the receiver holds the base: up to an aggregator that trained too, down to peers that
trained on the same base; everybody else gets the whole model. The change is applied as it was encoded, by everybody,
so all hold the same bits. What the downlink's codec leaves out goes into the aggregator's own uplink memory.

`s` = 0 takes everybody: federated averaging with a rotating aggregator. Departures: candidates are pinged in waves
that double, so that many crashed peers cost few timeouts; a = 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flocklet.errors import UsageError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Fp32
from flocklet.swarm.kinds import Ack, Aggregated, Member, Trained
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update
from flocklet.swarm.samplers import Hashed
from flocklet.swarm.schedules.authority import Authority, names_of
from flocklet.swarm.schedules.background import Background
from flocklet.swarm.schedules.collector import Collector, Handed
from flocklet.swarm.schedules.liveness import Liveness
from flocklet.swarm.schedules.members import Members
from flocklet.swarm.schedules.membership_view import PREFIX, View

__all__ = ["Modest"]


@dataclass(frozen=True)
class Modest:
    """A round goes on with `success` of its sample. Times in seconds.

    `rules` off lets anybody merge and push (the control of the attacks). A model that gets fewer than `judge` times as
    many of our own rows right as the one we hold is not taken, and who pushed it merges nothing of ours for
    `inactivity` rounds; 0 believes everything.
    """

    success: float = 1.0
    ping_s: float = 1.0
    aggregation_s: float = 10.0
    minimum: int = 3
    inactivity: int = 50
    rules: bool = True
    judge: float = 0.5
    name = "modest"

    def fewest(self, sampled: int) -> int:
        """Return what a whole sample gives: a round may go on with `success` of it."""
        return max(1, int(sampled * self.success))

    async def run(self, peer: Participant) -> None:
        """Take part until the last round is known."""
        rounds = _Rounds(self, peer)
        try:
            await rounds.run()
        finally:
            await rounds.stop()


class _Rounds:
    def __init__(self, schedule: Modest, peer: Participant) -> None:
        self.schedule, self.peer = schedule, peer
        if not isinstance(peer.sampler, Hashed):
            raise UsageError("modest samples by hash order", remedy="modest(s=10)")
        self.s = peer.sampler.s
        self.view = View(peer.members, inactivity=schedule.inactivity)
        self.members = Members(peer, self.view)
        self.liveness = Liveness(peer.me, peer.link, self.members, schedule.ping_s)
        self.is_lossless = isinstance(peer.codec, Fp32)
        self.round = 1  # of the model that we hold
        self.base = vector_id(peer.x)
        self.aggregator: PeerId = b""  # who gave us that model
        self.sample = b""  # who trains on that model: 8 bytes of each id
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.background = Background(self.done)
        self.authority = Authority(peer, self.view, self.liveness, self.s, schedule.success)
        self.collector = Collector(peer, self.view, self.liveness, self.authority, schedule, self)
        self.asked: dict[int, PeerId] = {}  # whom we handed in to, by round
        self.disbelieved: dict[
            PeerId, int
        ] = {}  # who pushed a model that we did not believe, until which round
        self.confirmed = 0  # newest round that a successor told us of
        self.answered: dict[int, asyncio.Future[bool]] = {}
        self.senders: list[PeerId] = []  # whose models we merged last
        self.whole: Message | None = None  # the newest model that we pushed
        self.training: asyncio.Task[None] | None = None

    # -- living

    async def run(self) -> None:
        peer = self.peer
        peer.listen(self._received, Trained, Aggregated, Ack, Member)
        if peer.is_joining:
            self.members.announce(True, self.round, 10 * self.s)
        else:
            first = self._sample(1)
            self.sample = _prefixes(first)
            if peer.me in first:
                self._spawn_training(1)
        await self.done

    async def stop(self) -> None:
        """Say goodbye and end all tasks."""
        if not self.done.done() or self.done.cancelled():
            self.members.announce(False, self.round, 10 * self.s)
        await self.background.stop()

    def _sample(self, round: int) -> list[PeerId]:
        order = self.view.candidates(round)
        return order[: self.s] if self.s else order

    # -- training

    def _spawn_training(self, round: int) -> None:
        if self.training is not None:
            self.training.cancel()  # stale work
        self.training = self.background.spawn(self._train(round, self.view.candidates(round + 1)))

    async def _train(self, round: int, order: list[PeerId]) -> None:
        peer, start = self.peer, self.peer.x
        trained = await peer.train(round)
        delta: Message | None = None
        whole = self._trained(round + 1, trained, b"")
        near = set(self._sample(round))  # who trains on the same model, if all of them live
        skip = 0
        while skip < len(order):
            skip, aggregator = await self.liveness.first(order, skip, round + 1)
            if aggregator is None:
                return
            if self.disbelieved.get(aggregator, 0) > round:
                skip += 1
                continue
            stamp = self.authority.stamp(round + 1, aggregator)
            if aggregator == peer.me:
                mine = Update(peer.me, trained, peer.claimed, round=round + 1)
                self.collector.take(round + 1, peer.me, Handed(mine, stamp, self.sample, on=self.base))
                return
            message = whole
            if not self.is_lossless and aggregator in near:
                if delta is None:
                    body, _ = peer.encoder.encode(trained - start)
                    delta = self._trained(round + 1, body, self.base)
                message = delta
            stamped = [replace(one, body={**one.body, "proof": stamp}) for one in (message, whole)]
            if await self._hand_in(aggregator, *stamped):
                # Whoever took it may die with the whole next sample: hand in again unless a later round is heard of.
                until_s = peer.clock.now() + 3 * self.schedule.aggregation_s
                while peer.clock.now() < until_s and aggregator not in self.disbelieved:
                    await peer.clock.sleep(3 * self.schedule.aggregation_s / 8)
                if self.confirmed > round + 1 or self.round > round + 1:
                    return
                skip = order.index(aggregator)  # whoever took it did nothing with it
            skip += 1

    def _trained(self, round: int, what: Vector | Mapping[str, Any], base: bytes) -> Message:
        peer = self.peer
        tensors = what if isinstance(what, Mapping) else peer.encoder.whole(what)
        facts: dict[str, Any] = {
            "view": self.view.pack(round, self.sample),
            "of": self.sample,
            "by": self.aggregator[:PREFIX],
        }
        if not base and not self.is_lossless:
            facts["on"] = self.base
        codec = peer.codec.name if base else "fp32"
        return Message("trained", round, {**tensors, **facts}, base=base, codec=codec, n=peer.claimed)

    async def _hand_in(self, aggregator: PeerId, message: Message, whole: Message) -> bool:
        """Return whether the aggregator, which answers pings all the while, took the model."""
        peer = self.peer
        self.asked[message.round] = aggregator
        for attempt in (message, whole):
            answer = self.answered[message.round] = asyncio.get_running_loop().create_future()
            peer.link.send([aggregator], attempt)
            until_s = peer.clock.now() + 2 * self.schedule.aggregation_s
            while not answer.done():
                await asyncio.wait([answer], timeout=self.schedule.ping_s / 2)
                if not answer.done() and peer.clock.now() > until_s:
                    peer.note(aggregator, "alive but does not merge; handing in to the next")
                    return False
                if not answer.done() and (
                    aggregator in self.disbelieved
                    or not await self.liveness.answers(aggregator, message.round)
                ):
                    return False
            if answer.result():
                return True
            if attempt.base == whole.base:
                break
        return False

    # -- aggregating

    def known(self, round: int) -> set[bytes] | None:
        """Return who trains for a merge, if we hold the model that they train on: ids cut to 8 bytes."""
        return set(names_of(self.sample)) if self.round == round - 1 and self.sample else None

    def merge(self, round: int, held: dict[PeerId, Handed]) -> None:
        """Merge what was collected."""
        self.background.spawn(self._aggregate(round, held))

    async def _aggregate(self, round: int, held: dict[PeerId, Handed]) -> None:
        peer = self.peer
        if self.collector.closed != round:
            return
        updates, bases = [], {}
        for sender, handed in held.items():
            self.view.seen(sender, round - 1)
            update = self._opened(handed.what)
            if update is not None:
                updates.append(update)
                bases[sender] = handed.on
        if not updates:
            return
        merged = peer.merge(None, updates, round - 1)
        holders: set[PeerId] = set()
        small: dict[str, Any] = {}
        old = self.base
        if not self.is_lossless and self.round == round - 1:
            holders = {sender for sender, on in bases.items() if on == self.base}
            small, seen = peer.encoder.encode_once(merged - peer.x)
            fresh = peer.x + seen
            peer.encoder.feed_back((merged - fresh) * len(updates))
            merged = fresh
        self.members.admit(self.round)
        self._hold(round, merged, peer.me)
        ticket = self.authority.shown({sender: handed.proof for sender, handed in held.items()}, round)
        whole = self._aggregated(round, peer.encoder.whole(merged), b"", ticket)
        delta = self._aggregated(round, small, old, ticket) if holders else whole
        is_last = peer.is_last(round - 1, merged)
        sample = await self._push(round, delta, whole, holders, is_last)
        ok = Message("agg_ack", round, {"ok": True})
        before = {self.view.find(handed.by) for handed in held.values() if handed.by}
        self.senders = sorted(set(held) - {peer.me})
        told = {*held, *(p for p in before if p is not None)} - set(sample) - {peer.me}
        peer.link.send(sorted(told), ok)
        if is_last:
            self.background.finish()
        else:
            if peer.me in sample:
                self._spawn_training(round)
            await self._watch(round, whole, sample)

    def _opened(self, item: Message | Update) -> Update | None:
        if isinstance(item, Update):
            return item
        if item.base and item.base != self.base:  # we took another model since
            self.peer.refuse(item.sender, "base")
            return None
        return self.peer.update(item, self.peer.x if item.base else None)

    def _aggregated(self, round: int, tensors: Mapping[str, Any], base: bytes, ticket: bytes) -> Message:
        news = self.members.news()
        facts: dict[str, Any] = {"ticket": ticket, **({"news": news} if news else {})}
        codec = self.peer.codec.name if base else "fp32"
        return Message("aggregated", round, {**tensors, **facts}, base=base, codec=codec, n=1)

    async def _push(
        self, round: int, delta: Message, whole: Message, holders: set[PeerId], is_last: bool
    ) -> list[PeerId]:
        """Send the model of `round` to its sample (the last one: to everybody) and return the sample."""
        peer = self.peer
        if is_last:
            sample = self.view.members()
        else:
            order = self.view.candidates(round)
            sample = await self.liveness.live(order, self.s or len(order), round)
        self.sample = _prefixes(sample)
        self.view.sampled(self.sample, round)
        facts = {"view": self.view.pack(round, self.sample), "of": self.sample}
        self.whole = replace(whole, body={**whole.body, **facts})
        receivers = [p for p in sample if p != peer.me]
        for message, group in (
            (delta, [p for p in receivers if p in holders]),
            (whole, [p for p in receivers if p not in holders]),
        ):
            if group:
                peer.link.send(group, replace(message, body={**message.body, **facts}))
        return sample

    async def _watch(self, round: int, whole: Message, sample: list[PeerId]) -> None:
        """Push again, to whoever lives then, until a successor is heard of."""
        while True:
            await self.peer.clock.sleep(2 * self.schedule.aggregation_s)
            if self.confirmed > round or self.round > round or self.done.done():
                return
            sample = await self._push(round, whole, whole, set(), False)
            if self.peer.me in sample:
                self._spawn_training(round)

    # -- hearing

    def _received(self, message: Message, body: Any) -> None:
        if isinstance(body, Member):
            self.members.heard(message)
        elif isinstance(body, Ack):
            self._on_ack(message, body)
        elif not self.members.fits(body):
            self.peer.refuse(message.sender, "field")
        elif isinstance(body, Trained):
            self._on_trained(message, body)
        else:
            self._on_aggregated(message, body)

    def _is_early(self, round: int) -> bool:
        return self.schedule.rules and round > self.round + 2 * self.schedule.inactivity

    def _on_trained(self, message: Message, body: Trained) -> None:
        peer, sender, round = self.peer, message.sender, message.round
        if round <= self.collector.closed or round <= self.round:
            peer.link.send([sender], Message("agg_ack", round, {"ok": True}))
            peer.refuse(sender, "late")
        elif self._is_early(round):
            peer.refuse(sender, "round")
        elif self.collector.has(sender, round):
            peer.refuse(sender, "twice")
        elif message.base and message.base != self.base:
            peer.refuse(sender, "base")
            peer.link.send([sender], Message("agg_ack", round, {"ok": False}))
        elif self.schedule.rules and not self.authority.is_stamp(sender, round, peer.me, body.proof):
            peer.refuse(sender, "order")
        else:
            self.members.merge(message, body, self.round)
            on = message.base or body.on or b""
            self.collector.take(round, sender, Handed(message, body.proof, body.of, body.by, on))

    def _on_aggregated(self, message: Message, body: Aggregated) -> None:
        if message.round <= self.round:
            if message.round == self.round and message.sender == self.aggregator:
                self.sample = body.of  # pushed again, to whoever lives now
            else:
                self.peer.refuse(message.sender, "late")
            return
        self.members.hear(message.sender, body.news or (), self.round)
        if not self.schedule.rules:
            self._accept(message, body)
            return
        vouchers = self.authority.vouchers(body.ticket, message.round, message.sender)
        sampled = len(self.authority.sample(message.round - 1, self.round))
        if vouchers >= self.authority.quorum(sampled):
            self._accept(message, body)
        elif not vouchers or self._is_early(message.round):
            self.peer.refuse(message.sender, "round" if self._is_early(message.round) else "order")
        else:
            self.background.spawn(self._ask(message, body, vouchers))

    async def _ask(self, message: Message, body: Aggregated, vouchers: int) -> None:
        """Take a model that few vouch for if few live."""
        if not await self.authority.is_enough(vouchers, message.round, self.round):
            self.peer.refuse(message.sender, "order")
        elif message.round > self.round:
            self._accept(message, body)

    def _accept(self, message: Message, body: Aggregated) -> None:
        peer, sender = self.peer, message.sender
        if message.base and message.base != self.base:
            peer.refuse(sender, "base")
            peer.link.send([sender], Message("agg_ack", message.round, {"ok": False}))
            return
        update = peer.update(message, peer.x if message.base else None)
        if update is None:
            return
        if not peer.believes(update.vector, self.schedule.judge):
            peer.refuse(sender, "audit")
            self.disbelieved[sender] = self.round + self.schedule.inactivity
            if 2 * len(self.disbelieved) <= len(self.view):
                return
            self.disbelieved.clear()  # most of them cannot lie: it is our own model that is odd
        self.members.merge(message, body, self.round)
        self.sample = body.of
        self._hold(message.round, update.vector, sender)
        if peer.is_last(message.round - 1, update.vector):
            self.background.finish()
        else:
            self._spawn_training(message.round)

    def _on_ack(self, message: Message, body: Ack) -> None:
        if self._is_early(message.round):
            self.peer.refuse(message.sender, "round")
            return
        if body.ok:
            self.confirmed = max(self.confirmed, message.round)
            if message.round == self.collector.closed + 1 and self.senders:
                self.peer.link.send(self.senders, Message("agg_ack", message.round, {"ok": True}))
                self.senders = []
        answer = self.answered.get(message.round)
        is_asked = not self.schedule.rules or self.asked.get(message.round) == message.sender
        if answer is not None and not answer.done() and is_asked:
            answer.set_result(body.ok)
        elif not body.ok and self.whole is not None and self.whole.round == message.round:
            self.peer.link.send([message.sender], self.whole)

    def _hold(self, round: int, vector: Vector, source: PeerId) -> None:
        """Take the model of a round as ours; whoever waits for an acknowledgement up to it has one."""
        self.round, self.base, self.aggregator = round, vector_id(vector), source
        self.asked = {key: peer for key, peer in self.asked.items() if key >= round}
        self.disbelieved = {peer: until for peer, until in self.disbelieved.items() if until > round}
        for waiting in [key for key in self.answered if key <= round]:
            answer = self.answered.pop(waiting)
            if not answer.done():
                answer.set_result(True)
        self.peer.finish(round - 1, vector)


def _prefixes(peers: list[PeerId]) -> bytes:
    return b"".join(peer[:PREFIX] for peer in peers)
