"""Exchange with peers over links, whatever the feeds are: one loop, one budget a turn, one ladder of errors.

In a turn this peer asks one other for what it lacks, feed after feed (`flocklet.events.feed`). Several turns run at once,
with different peers, and each has a budget: a peer that answers slowly, or without end, ends its own turn and nobody
else's, and has its next one later. Nothing that was not asked for is taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.clock import Clock
from flocklet.errors import FlockletError, LinkError, PeerRefused, StoreError, WireError
from flocklet.events.feed import Content, Feed, Steps, Turn, finish, take
from flocklet.link.link import Link
from flocklet.link.transfer import MemorySink, fetch
from flocklet.node.owner import Owner
from flocklet.node.told_feed import ToldFeed
from flocklet.wire.frame import Frame
from flocklet.wire.schema import Message, body_of

__all__ = ["Budget", "Gossip"]

_log = logging.getLogger("flocklet.node")
_PENALTY_S = 5.0
_LOOKED_S = 1.0  # so often a changed pace is looked for
_PENALTY_MOST = 6
_SLOW_KEPT = 512
_CAUSES_KEPT = 64


@dataclass(frozen=True, slots=True)
class Budget:
    """What one turn may take: seconds of waiting for the peer, in all and for one answer, questions, new records, bytes."""

    waited_s: float = 5.0
    answer_s: float = 2.0
    questions: int = 16
    records: int = 4_096
    size_bytes: int = 1 << 20

    @classmethod
    def patient(cls) -> Budget:
        """Return the budget of a pull that the owner asked for."""
        return cls(waited_s=600.0, answer_s=30.0, questions=1 << 14, records=1 << 24, size_bytes=1 << 32)


@dataclass(slots=True)
class _Spent:
    """What a turn has used of its budget."""

    budget: Budget
    waited_s: float = 0.0
    questions: int = 0
    records: int = 0
    size_bytes: int = 0

    def is_over(self) -> bool:
        limit = self.budget
        return (
            self.questions >= limit.questions
            or self.records >= limit.records
            or self.size_bytes >= limit.size_bytes
        )


class _Slow(Exception):
    """The peer used up the time of its turn."""


class Gossip:
    """Exchange with the linked peers every `every_s` seconds (0: only answer)."""

    def __init__(
        self,
        feeds: Sequence[Feed[Any]],
        owner: Owner,
        links: Mapping[bytes, Link],
        clock: Clock,
        rng: np.random.Generator,
        *,
        every_s: float,
        at_once: int = 4,
        budget: Budget | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.feeds = tuple(feeds)
        self._owner = owner
        self._links = links
        self._clock = clock
        self._rng = rng
        self._every_s = every_s
        self._at_once = at_once
        self._budget = budget or Budget()
        self._changed = asyncio.Event()
        self._turns = 0
        self._busy: dict[bytes, asyncio.Task[None]] = {}
        self._slow: dict[bytes, tuple[int, float]] = {}  # device id -> (times in a row, not before)
        self._asked = {name: feed for feed in self.feeds for name in (k.kind for k in feed.kinds)}
        self._causes: set[str] = set()

    @property
    def every_s(self) -> float:
        """Seconds between two exchanges; 0 while this peer only answers."""
        return self._every_s

    def set_every(self, every_s: float) -> None:
        """Change the pace, within a second."""
        self._every_s = max(0.0, every_s)
        self._changed.set()

    # -- turns --

    async def run(self) -> None:
        """Begin a turn with a random peer for ever, at a pace with a jitter of a fifth, so that peers do not march."""
        try:
            while True:
                if await self._pause() and (link := self._next_link()) is not None:
                    self.begin(link)
        finally:
            turns = list(self._busy.values())
            for turn in turns:
                turn.cancel()
            await asyncio.gather(*turns, return_exceptions=True)

    def begin(self, link: Link) -> None:
        """Begin a turn with a peer, beside those that run, unless it has one."""
        peer = link.peer.device_id
        if peer not in self._busy:
            self._turns += 1
            self._busy[peer] = task = asyncio.ensure_future(self._background(link, self._turns))
            task.add_done_callback(lambda _: self._busy.pop(peer, None))

    async def pull(self, link: Link, *names: str) -> Turn:
        """Ask one peer until nothing is missing, of the feeds with these names or of all that are due; sum their turns.

        Never raises for the peer.
        """
        total = Turn(link.peer.device_id)
        await self._turn(link, names, 0, _Spent(Budget.patient()), total)
        return total

    async def _background(self, link: Link, number: int) -> None:
        peer = link.peer.device_id
        while True:
            ended = await self._turn(link, (), number, _Spent(self._budget), Turn(peer))
            if ended == "slow":
                self.counts["slow"] += 1
                times = min(self._slow.get(peer, (0, 0.0))[0] + 1, _PENALTY_MOST)
                if len(self._slow) >= _SLOW_KEPT:
                    self._slow.pop(next(iter(self._slow)))
                self._slow[peer] = (times, self._clock.monotonic() + _PENALTY_S * 2**times)
                return
            self._slow.pop(peer, None)
            if ended != "more" or len(self._busy) >= self._at_once:
                return

    async def _turn(self, link: Link, names: Sequence[str], number: int, spent: _Spent, total: Turn) -> str:
        """Ask feed after feed; return how it ended: `done`, `more` (the budget did), `slow` or `broken`."""
        self.counts["turns"] += 1
        for feed in self.feeds:
            if not all(link.speaks(kind) for kind in feed.kinds):
                continue  # an older version: it announced what it answers
            if feed.name in names or (not names and feed.is_due(number)):
                ended = await self._ask(link, feed, spent, total)
                if ended in ("more", "slow") or link.is_closed:
                    return ended
        return "done"

    async def _ask(self, link: Link, feed: Feed[Any], spent: _Spent, total: Turn) -> str:
        turn = await self._do(feed, link, feed.start, link.peer.device_id, len(self._links))
        ended = "broken"
        try:
            async with self._ladder(link, feed.name):
                ended = await self._until_done(link, feed, turn, spent)
        except _Slow:
            ended = "slow"
        self.counts[feed.name] += turn.new
        for outcome, number in turn.outcomes.items():
            self.counts[f"{feed.name}: {outcome}"] += number
        total.new += turn.new
        total.outcomes += turn.outcomes
        return ended

    async def _until_done(self, link: Link, feed: Feed[Any], turn: Turn, spent: _Spent) -> str:
        while (request := await self._do(feed, link, feed.request, turn)) is not None:
            if spent.is_over():
                return "more"
            before = turn.new
            answer = await self._answer_to(link, request, spent)
            await self._steps(feed, link, take(feed, turn, answer))
            spent.questions += 1
            spent.records += turn.new - before
        return "done"

    async def _answer_to(
        self, link: Link, request: Message | Content, spent: _Spent
    ) -> Message | bytes | None:
        """Return what the peer says, None for content that it does not have; raise _Slow when the turn's time is up."""
        left_s = min(spent.budget.answer_s, spent.budget.waited_s - spent.waited_s)
        begun_s = self._clock.monotonic()
        try:
            if isinstance(request, Content):
                return await self._content(link, request, left_s)
            answer: Message = await link.ask(request, timeout_s=max(0.0, left_s))
        except PeerRefused:
            raise
        except LinkError as error:
            if not link.is_closed and self._clock.monotonic() - begun_s >= left_s:
                _log.info("peer %s is slow: %s", link.peer.name, error)
                raise _Slow from error
            raise
        finally:
            spent.waited_s += self._clock.monotonic() - begun_s
        spent.size_bytes += sum(len(v) for v in body_of(answer).values() if isinstance(v, bytes))
        return answer

    async def _content(self, link: Link, wanted: Content, timeout_s: float) -> bytes | None:
        sink = MemorySink()
        try:
            await fetch(link, wanted.id, sink, max_bytes=wanted.max_bytes, timeout_s=timeout_s)
        except PeerRefused:
            return None
        return bytes(sink.data)

    # -- answers --

    async def answer(self, link: Link, frame: Frame) -> bool:
        """Answer a question of one of the feeds; False when it is none of theirs. Never raises for the peer."""
        feed = self._asked.get(frame.type)
        if feed is None or not frame.type.endswith("?"):
            return False
        async with self._ladder(link, feed.name):
            told = await self._steps(feed, link, feed.answer(frame.body, link.peer.device_id))
            self.counts["answers"] += 1
            await link.answer(frame, told)
        return True

    @asynccontextmanager
    async def _ladder(self, link: Link, name: str) -> AsyncIterator[None]:
        """Decide what an error in an exchange costs whom; nothing but a cancellation and `_Slow` passes."""
        try:
            yield
        except WireError as error:
            _log.info("peer %s, %s: %s", link.peer.name, name, error)
            self.counts[f"rejected {error.reason}"] += 1
            link.reject(error.reason)
        except StoreError as error:
            _log.warning("%s of peer %s cannot be kept: %s", name, link.peer.name, error)
            self.counts["not kept"] += 1
        except FlockletError as error:  # the link ended, or the peer has no answer
            _log.debug("%s of peer %s broken off: %s", name, link.peer.name, error)
            self.counts["broken"] += 1
        except _Slow:
            raise
        except Exception as error:
            self.counts["rejected internal"] += 1
            cause = f"{type(error).__name__}: {error}"
            if cause not in self._causes and len(self._causes) < _CAUSES_KEPT:
                self._causes.add(cause)
                _log.exception("%s with peer %s failed", name, link.peer.name)
            link.reject("internal")

    # -- inside --

    async def _do(self, feed: Feed[Any], link: Link, function: Any, *args: Any) -> Any:
        return await self._steps(feed, link, _one(function, args))

    async def _steps(self, feed: Feed[Any], link: Link, steps: Steps[Any]) -> Any:
        if isinstance(feed, ToldFeed):
            return finish(steps)
        return await self._owner.serve(link.peer.device_id, steps)

    async def _pause(self) -> bool:
        """Wait for the next exchange; False when the pace changed meanwhile, which is noticed within a second."""
        every_s = self._every_s
        if not every_s:
            self._changed.clear()
            await self._changed.wait()
            return False
        end_s = self._clock.monotonic() + every_s * (0.8 + 0.4 * float(self._rng.random()))
        while (left_s := end_s - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left_s, _LOOKED_S))
            if self._every_s != every_s:
                return False
        return True

    def _next_link(self) -> Link | None:
        """Return a random link whose peer has no turn and is not kept waiting; None while all turns are taken."""
        if len(self._busy) >= self._at_once:
            return None
        now_s = self._clock.monotonic()
        free = [
            link
            for peer, link in sorted(self._links.items())
            if not link.is_closed and peer not in self._busy and self._slow.get(peer, (0, 0.0))[1] <= now_s
        ]
        return free[int(self._rng.integers(len(free)))] if free else None


def _one(function: Any, args: Any) -> Steps[Any]:
    yield from ()  # a generator of one slice
    return function(*args)
