"""Learn without rounds: whoever is ready reports its change to a keeper, which applies changes when it is time.

    x <- x + rate * sum over the reports of d_i (trained_i - start_i)

Window(dt) is FedFix (arXiv 2206.10189): every `dt` seconds, d_i = ceil(tau_i / dt) / M, with tau_i how long the peer
trained and M how many members there are. Buffer(c) is FedBuff and AFA-CD (arXiv 2108.09875): after c reports,
d_i = 1/c. Buffer(1) is asynchronous SGD: d_i = tau_i sum_j (1/tau_j) / M, rate 1/M. `memory` is AFA-CS: each step takes
the newest change of every peer that ever reported, d_i = 1/c of the arrivals' share, rate c/M.

There is no server: the keeper is the first live peer in hash order, and learns like everybody else. Who gets no
answer pings it and, when it is gone, reports to the next, which goes on from the newest model that it holds. A report
carries the id of its base; one on a base that the keeper does not know is refused and answered with the whole model.
Downwards each peer gets the change since what it holds, encoded, so the keeper holds one vector per peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Encoder, Fp32
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update

__all__ = ["Buffer", "Window"]

_MOST_MS = 1 << 32


@dataclass(frozen=True)
class Window:
    """Apply what has come every `dt` seconds; `rate` scales the step; an answer is waited for `deadline` seconds."""

    dt: float = 0.5
    rate: float = 1.0
    deadline: float = 10.0
    name = "window"
    count = 0
    memory = 0

    def __post_init__(self) -> None:
        if self.dt <= 0 or self.rate <= 0:
            raise UsageError("a window needs dt > 0 and rate > 0", remedy="window(0.5)")

    def fewest(self, sampled: int) -> int:
        """Return everybody: a window takes what comes."""
        return sampled

    async def run(self, peer: Participant) -> None:
        """Take part until the last version is known."""
        await _Reports(peer, self).run()


@dataclass(frozen=True)
class Buffer:
    """Apply what has come after `count` reports; `memory` = 1 keeps the newest change of everybody in the sum."""

    count: int = 5
    rate: float = 0.0
    memory: int = 0
    deadline: float = 10.0
    name = "buffer"
    dt = 0.0

    def __post_init__(self) -> None:
        if self.count < 1 or self.rate < 0:
            raise UsageError("a buffer needs count >= 1 and rate >= 0", remedy="buffer(5)")

    def fewest(self, sampled: int) -> int:
        """Return the reports of one step."""
        return min(self.count, sampled)

    async def run(self, peer: Participant) -> None:
        """Take part until the last version is known."""
        await _Reports(peer, self).run()


@dataclass
class _Report:
    sender: PeerId
    change: Vector
    seconds: float


class _Reports:
    """One peer: it trains and reports; if others report to it, it keeps."""

    def __init__(self, peer: Participant, schedule: Window | Buffer) -> None:
        self.peer, self.schedule = peer, schedule
        self.members = peer.members
        self.order = peer.sampler.neighbours(peer, 0)
        self.version = 1  # of the model that we hold
        self.encoder = Encoder(peer.codec, peer.layout, peer.clock.rng("down"))
        self.encoder.forget()
        self.is_lossless = isinstance(peer.codec, Fp32)
        self.held: dict[PeerId, Vector] = dict.fromkeys(
            self.members, peer.x
        )  # what the others hold, if we keep
        self.waiting: dict[PeerId, _Report] = {}
        self.newest: dict[PeerId, Vector] = {}
        self.seconds: dict[PeerId, float] = {}
        self.answer: asyncio.Future[None] | None = None
        self.window: asyncio.Task[None] | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        peer = self.peer
        peer.listen(self._received)
        learning = asyncio.ensure_future(self._learn())
        try:
            await asyncio.wait([learning, self.done], return_when=asyncio.FIRST_COMPLETED)
            if learning.done():
                learning.result()
        finally:
            tasks = [task for task in (learning, self.window) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _learn(self) -> None:
        peer, at, count = self.peer, 0, 0
        while not self.done.done():
            count += 1
            start, base, began = peer.x, vector_id(peer.x), peer.clock.now()
            trained = await peer.train(count)
            if not len(peer.share):  # nothing to report: ask for the newest model now and then
                await peer.clock.sleep(self.schedule.deadline / 10)
            report = _Report(peer.me, trained - start, max(peer.clock.now() - began, 1e-3))
            body, _ = peer.encoder.encode(report.change)
            milliseconds = min(round(report.seconds * 1000), _MOST_MS - 1)
            message = Message(
                "trained", count, {**body, "ms": milliseconds}, base=base, codec=peer.codec.name, n=peer.claimed
            )  # fmt: skip
            while True:
                self.answer = asyncio.get_running_loop().create_future()
                if self.order[at] == peer.me and not peer.claimed:
                    break
                if self.order[at] == peer.me:
                    self._take(report)
                else:
                    peer.link.send([self.order[at]], message)
                if await self._is_answered(self.order[at]):
                    break
                at = (at + 1) % len(self.order)

    async def _is_answered(self, keeper: PeerId) -> bool:
        """Return whether an answer came; False once the keeper is gone."""
        answer = self.answer
        if answer is None:
            return False
        while not answer.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.schedule.deadline):
                    await asyncio.shield(answer)
            if answer.done() or keeper == self.peer.me:
                continue
            if not await self.peer.link.ping(keeper, self.version, 1.0):
                return answer.done()
        return True

    # -- keeping

    def _take(self, report: _Report) -> None:
        if report.sender in self.waiting:
            self.peer.refuse(report.sender, "twice")
            return
        self.waiting[report.sender] = report
        self.seconds[report.sender] = report.seconds
        if self.schedule.count:
            if len(self.waiting) >= min(self.schedule.count, len(self.members)):
                self._apply()
        elif self.window is None:
            self.window = asyncio.ensure_future(self._windows())

    async def _windows(self) -> None:
        while not self.done.done():
            await self.peer.clock.sleep(self.schedule.dt)
            if self.waiting:
                self._apply()

    def _weights(self, reports: list[_Report]) -> list[float]:
        """Return rate * d_i of each report."""
        schedule, members = self.schedule, len(self.members)
        if schedule.dt:
            return [schedule.rate * math.ceil(r.seconds / schedule.dt - 1e-9) / members for r in reports]
        if schedule.count == 1 and not schedule.memory:
            pace = sum(1 / self.seconds.get(peer, reports[0].seconds) for peer in self.members)
            return [(schedule.rate or 1 / members) * r.seconds * pace / members for r in reports]
        rate = schedule.rate or (schedule.count / members if schedule.memory else 1.0)
        return [rate / len(reports)] * len(reports)

    def _apply(self) -> None:
        peer = self.peer
        came = [self.waiting[sender] for sender in sorted(self.waiting)]
        self.waiting = {}
        reports = came
        if self.schedule.memory:
            self.newest |= {report.sender: report.change for report in came}
            reports = [_Report(p, self.newest[p], self.seconds[p]) for p in sorted(self.newest)]
        weights = self._weights(reports)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused where it arrives
            updates = [
                Update(r.sender, peer.x + np.float32(len(reports) * w) * r.change)
                for r, w in zip(reports, weights, strict=True)
            ]
        peer.start = peer.x
        merged = peer.merge(None, updates, self.version)
        self._hold(self.version + 1, merged)
        is_last = peer.is_last(self.version - 1, merged)
        for other in self.members if is_last else [report.sender for report in came]:
            if other == peer.me:
                self._answered()
            else:
                self._answer(other)
        if is_last and not self.done.done():
            self.done.set_result(None)

    def _answer(self, other: PeerId, *, is_whole: bool = False) -> None:
        peer, base = self.peer, b""
        body: Mapping[str, Any]
        if self.is_lossless or is_whole:
            body, self.held[other] = peer.encoder.whole(peer.x), peer.x
        else:
            before = self.held[other]
            base = vector_id(before)
            body, seen = self.encoder.encode(peer.x - before)
            self.held[other] = before + seen
        codec = peer.codec.name if base else "fp32"
        peer.link.send([other], Message("aggregated", self.version, body, base=base, codec=codec, n=1))

    # -- hearing

    def _received(self, message: Message) -> None:
        peer = self.peer
        if message.type == "trained":
            self._on_trained(message)
        elif message.type == "agg_ack":  # somebody lacks the base of our answer
            if message.sender in self.held:
                self._answer(message.sender, is_whole=True)
        elif message.type != "aggregated":
            peer.refuse(message.sender, "type")
        elif message.round <= self.version:
            peer.refuse(message.sender, "late")
            self._answered()
        elif message.base and message.base != vector_id(peer.x):
            peer.refuse(message.sender, "base")
            peer.link.send([message.sender], Message("agg_ack", message.round, {"ok": False}))
        elif (update := peer.update(message, peer.x if message.base else None)) is not None:
            self._hold(message.round, update.vector)
            self._answered()
            if peer.is_last(message.round - 1, update.vector) and not self.done.done():
                self.done.set_result(None)

    def _on_trained(self, message: Message) -> None:
        peer, body = self.peer, dict(message.body)
        milliseconds = body.get("ms")
        if type(milliseconds) is not int or not 0 <= milliseconds < _MOST_MS:
            peer.refuse(message.sender, "body")
            return
        if message.sender not in self.held:
            peer.refuse(message.sender, "stranger")
            return
        if message.base != vector_id(self.held[message.sender]):
            peer.refuse(message.sender, "base")
            self._answer(message.sender, is_whole=True)
            return
        update = peer.update(message, None)
        if update is not None and not update.n:
            self._answer(message.sender)
        elif update is not None:
            self._take(_Report(message.sender, update.vector, max(milliseconds / 1000, 1e-3)))

    def _answered(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def _hold(self, version: int, vector: Vector) -> None:
        self.version = version
        self.peer.finish(version - 1, vector)
