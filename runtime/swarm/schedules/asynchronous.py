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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Encoder, Fp32
from flocklet.swarm.kinds import Ack, Merged, Report
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update
from flocklet.swarm.schedules.background import Background

__all__ = ["Buffer", "Window"]

_MOST_MS = 1 << 32
_MOST_AHEAD = 1000  # versions that a keeper may be ahead of a slow peer
_MOST_PACE = 8.0  # a told number of steps is worth at most this factor


@dataclass(frozen=True)
class Window:
    """Apply what has come every `dt` seconds; `rate` scales the step; an answer is waited for `deadline` seconds.

    A report weighs at most `cap` windows. `rules` and `judge` as in `modest`.
    """

    dt: float = 0.5
    rate: float = 1.0
    deadline: float = 10.0
    cap: int = 8
    rules: bool = True
    judge: float = 0.5
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
    rules: bool = True
    judge: float = 0.5
    name = "buffer"
    dt = 0.0
    cap = 0

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
    steps: int = 0  # local steps that made the change; 0: not said


class _Reports:
    """One peer: it trains and reports; if others report to it, it keeps."""

    def __init__(self, peer: Participant, schedule: Window | Buffer) -> None:
        self.peer, self.schedule = peer, schedule
        self.members = peer.members
        self.order = peer.sampler.neighbours(peer, 0)
        self.at = 0  # the place of our keeper in the order
        self.disbelieved: set[PeerId] = set()  # keepers whose model we did not believe
        self.told_s: dict[PeerId, float] = {}  # when we answered each peer last, if we keep
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
        self.background = Background(self.done)

    async def run(self) -> None:
        peer = self.peer
        peer.listen(self._received, Report, Merged, Ack)
        learning = asyncio.ensure_future(self._learn())
        try:
            await asyncio.wait([learning, self.done], return_when=asyncio.FIRST_COMPLETED)
            if learning.done():
                learning.result()
        finally:
            tasks = [task for task in (learning, self.window) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, self.background.stop(), return_exceptions=True)

    async def _learn(self) -> None:
        peer, count = self.peer, 0
        while not self.done.done():
            count += 1
            start, base, began = peer.x, vector_id(peer.x), peer.clock.now()
            trained = await peer.train(count)
            if not len(peer.share):  # nothing to report: ask for the newest model now and then
                await peer.clock.sleep(self.schedule.deadline / 10)
            report = _Report(peer.me, trained - start, max(peer.clock.now() - began, 1e-3), peer.steps)
            body, _ = peer.encoder.encode(report.change)
            milliseconds = min(round(report.seconds * 1000), _MOST_MS - 1)
            message = Message(
                "trained", count, {**body, "ms": milliseconds}, base=base, codec=peer.codec.name, n=peer.claimed,
                steps=peer.steps,
            )  # fmt: skip
            while True:
                self.answer = asyncio.get_running_loop().create_future()
                keeper = self.order[self.at]
                if keeper == peer.me and not peer.claimed:
                    break
                if keeper == peer.me:
                    self._take(report)
                else:
                    peer.link.send([keeper], message)
                if await self._is_answered(keeper):
                    break
                if self.order[self.at] == keeper:
                    self.at = (self.at + 1) % len(self.order)

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
        return keeper not in self.disbelieved

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
        """Return rate * d_i of each report; time gives at most `cap` windows and three times the median."""
        schedule, members = self.schedule, len(self.members)
        if schedule.dt:
            counts = np.array([math.ceil(r.seconds / schedule.dt - 1e-9) for r in reports], np.float64)
            if schedule.rules:
                counts = np.minimum(counts, schedule.cap)
                counts = np.minimum(counts, 3 * np.median(counts))
            return [schedule.rate * float(count) / members for count in counts]
        if schedule.count == 1 and not schedule.memory:
            known = self.seconds
            if schedule.rules:
                most = 3 * float(np.median(list(known.values())))
                known = {peer: min(seconds, most) for peer, seconds in known.items()}
            pace = sum(1 / known.get(peer, known[reports[0].sender]) for peer in self.members)
            return [(schedule.rate or 1 / members) * known[r.sender] * pace / members for r in reports]
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
        if not self.schedule.dt:
            reports = _at_one_pace(reports)
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
        self.told_s[other] = peer.clock.now()
        codec = peer.codec.name if base else "fp32"
        peer.link.send([other], Message("aggregated", self.version, body, base=base, codec=codec, n=1))

    # -- hearing

    def _received(self, message: Message, body: Any) -> None:
        peer, sender = self.peer, message.sender
        if isinstance(body, Report):
            self._on_report(message, body)
        elif isinstance(body, Ack):  # somebody lacks the base of our answer
            if sender in self.held:
                self._answer(sender, is_whole=True)
        elif message.round <= self.version:
            peer.refuse(sender, "late")
            if sender == self.order[self.at]:
                self._answered()
        elif not self.schedule.rules or sender == self.order[self.at]:
            self._on_merged(message)
        elif sender not in self.order:
            peer.refuse(sender, "order")
        else:
            self.background.spawn(self._ask(message))

    async def _ask(self, message: Message) -> None:
        """Take a model from another keeper than ours if ours, and those between, do not answer; three are asked."""
        peer, place = self.peer, self.order.index(message.sender)
        before = [other for other in self.order[:place] if other not in self.disbelieved][-3:]
        if self.order[self.at] not in before and place > self.at:
            before.append(self.order[self.at])
        alive = [other == peer.me or await peer.link.ping(other, self.version, 1.0) for other in before]
        if any(alive) or message.sender in self.disbelieved:
            peer.refuse(message.sender, "order")
        elif message.round > self.version:
            self.at = place
            self._on_merged(message)

    def _on_merged(self, message: Message) -> None:
        peer, sender = self.peer, message.sender
        if self.schedule.rules and message.round > self.version + _MOST_AHEAD:
            peer.refuse(sender, "round")
        elif message.base and message.base != vector_id(peer.x):
            peer.refuse(sender, "base")
            peer.link.send([sender], Message("agg_ack", message.round, {"ok": False}))
        elif (update := peer.update(message, peer.x if message.base else None)) is None:
            return
        elif not peer.believes(update.vector, self.schedule.judge):
            peer.refuse(sender, "audit")
            self.disbelieved.add(sender)
            if 2 * len(self.disbelieved) > len(self.members):
                self.disbelieved.clear()  # most of them cannot lie: it is our own model that is odd
            self._answered()
        else:
            self._hold(message.round, update.vector)
            self._answered()
            if peer.is_last(message.round - 1, update.vector) and not self.done.done():
                self.done.set_result(None)

    def _on_report(self, message: Message, body: Report) -> None:
        peer = self.peer
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
            seconds = body.ms / 1000
            if self.schedule.rules:  # what it says is a hint; our own clock saw at most this
                seconds = min(seconds, peer.clock.now() - self.told_s.get(message.sender, 0.0))
            self._take(_Report(message.sender, update.vector, max(seconds, 1e-3), message.steps))

    def _answered(self) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(None)

    def _hold(self, version: int, vector: Vector) -> None:
        self.version = version
        self.peer.finish(version - 1, vector)


def _at_one_pace(reports: list[_Report]) -> list[_Report]:
    """Return the reports with each change as if made in the mean number of local steps (AFA-CD divides by K_i)."""
    known = [report.steps for report in reports if report.steps]
    if len(set(known)) <= 1:
        return reports
    mean = sum(known) / len(known)
    scales = [
        min(max(mean / report.steps, 1 / _MOST_PACE), _MOST_PACE) if report.steps else 1.0
        for report in reports
    ]
    return [replace(r, change=np.float32(scale) * r.change) for r, scale in zip(reports, scales, strict=True)]
