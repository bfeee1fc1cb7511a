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
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flocklet.errors import UsageError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Fp32
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update
from flocklet.swarm.samplers import Hashed
from flocklet.swarm.schedules.liveness import Liveness
from flocklet.swarm.schedules.members import Members
from flocklet.swarm.schedules.membership_view import PREFIX, View

__all__ = ["Modest"]


@dataclass(frozen=True)
class Modest:
    """A round goes on with `success` of its sample. Times in seconds."""

    success: float = 1.0
    ping_s: float = 1.0
    aggregation_s: float = 10.0
    minimum: int = 3
    inactivity: int = 50
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
        self.collected: dict[int, dict[PeerId, Message | Update]] = {}
        self.arrived_s = 0.0  # when the last model to merge came
        self.aggregated = 1  # newest round that we aggregated
        self.confirmed = 0  # newest round that a successor told us of
        self.answered: dict[int, asyncio.Future[bool]] = {}
        self.senders: list[PeerId] = []  # whose models we merged last
        self.whole: Message | None = None  # the newest model that we pushed
        self.training: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # -- living

    async def run(self) -> None:
        peer = self.peer
        peer.listen(self._received)
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
        tasks = [task for task in (*self.tasks, self.training) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _sample(self, round: int) -> list[PeerId]:
        order = self.view.candidates(round)
        return order[: self.s] if self.s else order

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.done.done():
            self.done.set_exception(error)

    # -- training

    def _spawn_training(self, round: int) -> None:
        if self.training is not None:
            self.training.cancel()  # stale work
        self.training = asyncio.ensure_future(self._train(round, self.view.candidates(round + 1)))
        self.training.add_done_callback(self._ended)

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
            if aggregator == peer.me:
                self._take(round + 1, Update(peer.me, trained, peer.claimed, round=round + 1))
                return
            message = whole
            if not self.is_lossless and aggregator in near:
                if delta is None:
                    body, _ = peer.encoder.encode(trained - start)
                    delta = self._trained(round + 1, body, self.base)
                message = delta
            if await self._hand_in(aggregator, message, whole):
                # Whoever took it may die with the whole next sample: hand in again unless a later round is heard of.
                await peer.clock.sleep(3 * self.schedule.aggregation_s)
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
        for attempt in (message, whole):
            answer = self.answered[message.round] = asyncio.get_running_loop().create_future()
            peer.link.send([aggregator], attempt)
            until_s = peer.clock.now() + 2 * self.schedule.aggregation_s
            while not answer.done():
                await asyncio.wait([answer], timeout=self.schedule.ping_s / 2)
                if not answer.done() and peer.clock.now() > until_s:
                    peer.note(aggregator, "alive but does not merge; handing in to the next")
                    return False
                if not answer.done() and not await self.liveness.answers(aggregator, message.round):
                    return False
            if answer.result():
                return True
            if attempt is whole:
                break
        return False

    # -- aggregating

    def _take(self, round: int, item: Message | Update) -> None:
        if round <= self.aggregated:
            return
        held = self.collected.setdefault(round, {})
        if not held:
            self._spawn(self._hurry(round))
        held[item.sender] = item
        self.arrived_s = self.peer.clock.now()
        wanted = len(self._expected(held))
        if len(held) >= max(1, int(wanted * self.schedule.success)):
            self._close(round)

    def _expected(self, held: Mapping[PeerId, Message | Update]) -> set[PeerId]:
        """Return who trains for this merge, as those say who handed in; at most `s` members each."""
        limit = self.s or len(self.view)
        found = set(held)
        for item in held.values():
            packed = item.body.get("of") if isinstance(item, Message) else self.sample
            if isinstance(packed, bytes) and len(packed) <= limit * PREFIX:
                names = (self.view.find(packed[at : at + PREFIX]) for at in range(0, len(packed), PREFIX))
                found |= {peer for peer in names if peer is not None}
        return found

    async def _hurry(self, round: int) -> None:
        """Close a merge when all who are missing are dead, or after `aggregation_s` with `minimum` models.

        With four in five of them it is closed as soon as nothing came for a ping's time and twice as long as all
        those took to come: when the membership changes, some hand in to another peer and are waited for in vain.
        """
        clock, began = self.peer.clock, self.peer.clock.now()
        while True:
            await clock.sleep(self.schedule.ping_s / 2)
            if round not in self.collected:
                return
            held = self.collected[round]
            missing = sorted(self._expected(held) - held.keys())
            alive = any(await asyncio.gather(*(self.liveness.answers(peer, round) for peer in missing)))
            now_s = clock.now()
            is_late = now_s - began > self.schedule.aggregation_s
            is_quiet = now_s - self.arrived_s >= self.schedule.ping_s + 2 * (self.arrived_s - began)
            if len(held) >= 0.8 * (len(held) + len(missing)):
                is_late = is_late or is_quiet
            if round in self.collected and (not alive or (is_late and len(held) >= self.schedule.minimum)):
                self._close(round)

    def _close(self, round: int) -> None:
        self.aggregated = round
        held = self.collected.pop(round)
        for old in [key for key in self.collected if key <= round]:
            del self.collected[old]
        self._spawn(self._aggregate(round, held))

    async def _aggregate(self, round: int, held: dict[PeerId, Message | Update]) -> None:
        peer = self.peer
        if self.aggregated != round:
            return
        updates, bases = [], {}
        for sender, item in held.items():
            self.view.seen(sender, round - 1)
            update = self._opened(item)
            if update is not None:
                updates.append(update)
                on = (item.base or item.body.get("on")) if isinstance(item, Message) else self.base
                bases[sender] = on
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
        whole = self._aggregated(round, peer.encoder.whole(merged), b"")
        delta = self._aggregated(round, small, old) if holders else whole
        is_last = peer.is_last(round - 1, merged)
        sample = await self._push(round, delta, whole, holders, is_last)
        ok = Message("agg_ack", round, {"ok": True})
        before = {
            self.view.find(m.body["by"]) for m in held.values() if isinstance(m, Message) and self._is_by(m)
        }
        self.senders = sorted(set(held) - {peer.me})
        told = {*held, *(p for p in before if p is not None)} - set(sample) - {peer.me}
        peer.link.send(sorted(told), ok)
        if is_last:
            self._finish()
        else:
            if peer.me in sample:
                self._spawn_training(round)
            await self._watch(round, whole, sample)

    @staticmethod
    def _is_by(message: Message) -> bool:
        by = message.body.get("by")
        return isinstance(by, bytes) and len(by) == PREFIX

    def _opened(self, item: Message | Update) -> Update | None:
        if isinstance(item, Update):
            return item
        if item.base and item.base != self.base:  # we took another model since
            self.peer.refuse(item.sender, "base")
            return None
        return self.peer.update(item, self.peer.x if item.base else None)

    def _aggregated(self, round: int, tensors: Mapping[str, Any], base: bytes) -> Message:
        news = self.members.news()
        facts = {"news": news} if news else {}
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

    def _received(self, message: Message) -> None:
        if message.type == "trained":
            self._on_trained(message)
        elif message.type == "aggregated":
            self._on_aggregated(message)
        elif message.type == "agg_ack":
            self._on_ack(message)
        elif message.type == "member":
            self.members.heard(message)
        else:
            self.peer.refuse(message.sender, "type")

    def _on_trained(self, message: Message) -> None:
        if message.round <= self.aggregated or message.round <= self.round:
            self.peer.link.send([message.sender], Message("agg_ack", message.round, {"ok": True}))
            self.peer.refuse(message.sender, "late")
        elif message.round > self.round + 1000:
            self.peer.refuse(message.sender, "early")
        elif message.sender in self.collected.get(message.round, {}):
            self.peer.refuse(message.sender, "twice")
        elif message.base and message.base != self.base:
            self.peer.refuse(message.sender, "base")
            self.peer.link.send([message.sender], Message("agg_ack", message.round, {"ok": False}))
        else:
            self.members.merge(message, self.round)
            self._take(message.round, message)

    def _on_aggregated(self, message: Message) -> None:
        if message.round <= self.round:
            if message.round < self.round or message.sender == self.aggregator:
                self.peer.refuse(message.sender, "late")
            return
        if message.base and message.base != self.base:
            self.peer.refuse(message.sender, "base")
            self.peer.link.send([message.sender], Message("agg_ack", message.round, {"ok": False}))
            return
        update = self.peer.update(message, self.peer.x if message.base else None)
        if update is None:
            return
        self.members.merge(message, self.round)
        packed = message.body.get("of")
        self.sample = packed if isinstance(packed, bytes) and len(packed) <= PREFIX * len(self.view) else b""
        self._hold(message.round, update.vector, message.sender)
        if self.peer.is_last(message.round - 1, update.vector):
            self._finish()
        else:
            self._spawn_training(message.round)

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _on_ack(self, message: Message) -> None:
        is_ok = message.body.get("ok") is True
        if is_ok:
            self.confirmed = max(self.confirmed, message.round)
            if message.round == self.aggregated + 1 and self.senders:
                self.peer.link.send(self.senders, Message("agg_ack", message.round, {"ok": True}))
                self.senders = []
        answer = self.answered.get(message.round)
        if answer is not None and not answer.done():
            answer.set_result(is_ok)
        elif not is_ok and self.whole is not None and self.whole.round == message.round:
            self.peer.link.send([message.sender], self.whole)

    def _hold(self, round: int, vector: Vector, source: PeerId) -> None:
        """Take the model of a round as ours; whoever waits for an acknowledgement up to it has one."""
        self.round, self.base, self.aggregator = round, vector_id(vector), source
        for waiting in [key for key in self.answered if key <= round]:
            answer = self.answered.pop(waiting)
            if not answer.done():
                answer.set_result(True)
        self.peer.finish(round - 1, vector)


def _prefixes(peers: list[PeerId]) -> bytes:
    return b"".join(peer[:PREFIX] for peer in peers)
