"""Turns with several peers: a slow or endless peer ends its own turn and nobody else's."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest

from flocklet.clock import VirtualClock
from flocklet.errors import LinkError, PeerRefused, StoreError, WireError
from flocklet.events.feed import Steps, Turn, finish
from flocklet.node.gossip import Budget, Gossip
from flocklet.wire.frame import Frame
from flocklet.wire.schema import Message, Within


@dataclass(frozen=True, slots=True)
class Question:
    kind: ClassVar[str] = "drops?"


@dataclass(frozen=True, slots=True)
class Drops:
    kind: ClassVar[str] = "drops!"
    more: bool
    number: Annotated[int, Within(0, 1 << 20)]


@dataclass(slots=True, kw_only=True)
class DropTurn(Turn):
    is_over: bool = False


class DropFeed:
    """A feed that asks until it hears that there is no more."""

    name = "drops"
    kinds: tuple[type[Message], ...] = (Question, Drops)

    def __init__(self) -> None:
        self.saved: Counter[bytes] = Counter()
        self.fails: Exception | None = None

    def is_due(self, turns: int) -> bool:
        return True

    def start(self, peer: bytes, linked: int) -> DropTurn:
        return DropTurn(peer, linked)

    def request(self, turn: DropTurn) -> Message | None:
        return None if turn.is_over else Question()

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        yield
        if self.fails is not None:
            raise self.fails
        return Drops(False, 1)

    def absorb(self, turn: DropTurn, answer: Message | bytes | None) -> Steps[None]:
        assert isinstance(answer, Drops)
        turn.new += answer.number
        turn.is_over = not answer.more
        yield
        if self.fails is not None:
            raise self.fails

    def save(self, turn: DropTurn) -> None:
        self.saved[turn.peer] = turn.new


class Inline:
    """An owner without a thread."""

    async def serve(self, peer: bytes, steps: Steps[Any]) -> Any:
        return finish(steps)


@dataclass
class Peer:
    device_id: bytes
    name: str = "peer"


class FakeLink:
    """A link to a peer that needs so long for each answer, has more or not, and is asked how often."""

    def __init__(
        self, number: int, clock: VirtualClock, delay_s: float = 0.01, *, more: bool = False
    ) -> None:
        self.peer = Peer(bytes([number]) * 32)
        self.is_closed = False
        self.rejects: list[str] = []
        self.replies: list[tuple[str, Any]] = []
        self.asked = 0
        self.refuses = ""
        self.is_old = False
        self._clock, self._delay_s, self._more = clock, delay_s, more

    def speaks(self, kind: type[Message]) -> bool:
        return not self.is_old

    async def ask(self, message: Message, *, timeout_s: float) -> Message:
        self.asked += 1
        if self.refuses:
            raise PeerRefused("no", reason=self.refuses)
        await self._clock.sleep(min(self._delay_s, timeout_s))
        if self._delay_s > timeout_s:
            raise LinkError("too slow")
        return Drops(self._more, 1)

    async def answer(self, frame: Frame, message: Message) -> None:
        self.replies.append((message.kind, message))

    async def fail(self, frame: Frame, reason: str) -> None:
        self.replies.append(("fail", reason))

    def reject(self, reason: str) -> None:
        self.rejects.append(reason)


def made(links: list[FakeLink], clock: VirtualClock, feed: DropFeed, **options: Any) -> Gossip:
    by_id = {link.peer.device_id: link for link in links}
    return Gossip([feed], Inline(), by_id, clock, np.random.default_rng(1), every_s=1.0, **options)  # type: ignore[arg-type]


async def turns_of_honest(slow_s: float | None, *, more: bool = True, **options: Any) -> int:
    """Return how often nine honest peers were asked in 120 s beside a slow one (None: an honest one)."""
    clock, feed = VirtualClock(), DropFeed()
    links = [FakeLink(number, clock) for number in range(9)]
    links.append(FakeLink(9, clock) if slow_s is None else FakeLink(9, clock, slow_s, more=more))
    gossip = made(links, clock, feed, **options)
    task = asyncio.ensure_future(gossip.run())
    for _ in range(240):
        await clock.advance(0.5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sum(link.asked for link in links[:9])


@pytest.mark.parametrize("slow_s", [1.9, 5.0, 0.4])
async def test_a_slow_peer_leaves_the_others_their_turns(slow_s: float) -> None:
    undisturbed = await turns_of_honest(None)
    assert undisturbed > 80
    assert await turns_of_honest(slow_s) >= 0.9 * undisturbed


async def test_one_turn_at_a_time_without_a_budget_is_starved() -> None:
    """The control: what one lock for all turns did."""
    undisturbed = await turns_of_honest(None)
    assert await turns_of_honest(14.0, at_once=1, budget=Budget.patient()) < 0.5 * undisturbed


async def test_who_uses_up_its_time_waits_longer_each_time_and_is_not_refused() -> None:
    clock = VirtualClock()
    link, gossip = FakeLink(1, clock, 3.0, more=True), None
    gossip = made([link], clock, DropFeed())
    task = asyncio.ensure_future(gossip.run())
    counts = []
    for _ in range(4):
        for _ in range(60):
            await clock.advance(1.0)
        counts.append(link.asked)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gaps = np.diff([0, *counts])
    assert counts[-1] <= 6 and gaps[0] >= gaps[-1]
    assert gossip.counts["slow"] == link.asked
    assert link.rejects == []


async def test_a_peer_without_end_is_left_after_its_records_and_nothing_is_lost() -> None:
    clock, feed = VirtualClock(), DropFeed()
    link, other = FakeLink(1, clock, 0.0, more=True), FakeLink(2, clock)
    gossip = made([link, other], clock, feed, budget=Budget(questions=5), at_once=1)
    gossip.begin(link)  # type: ignore[arg-type]
    await clock.advance(1.0)
    assert link.asked == 5
    assert feed.saved[link.peer.device_id] == 5


@pytest.mark.parametrize(
    ("error", "count", "rejects"),
    [
        (WireError("bad", reason="signature"), "rejected signature", ["signature"]),
        (StoreError("disk full"), "not kept", []),
        (KeyError("rid"), "rejected internal", ["internal"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "rejected internal", ["internal"]),
    ],
)
async def test_one_ladder_of_errors_for_asking_and_for_answering(
    error: Exception, count: str, rejects: list[str]
) -> None:
    clock, feed = VirtualClock(), DropFeed()
    feed.fails = error
    link = FakeLink(1, clock, 0.0)
    gossip = made([link], clock, feed)
    turn = await gossip.pull(link)  # type: ignore[arg-type]
    assert (turn.new, gossip.counts[count], link.rejects) == (1, 1, rejects)
    assert await gossip.answer(link, Frame("drops?", {"rid": 1}, {}))  # type: ignore[arg-type]
    assert (gossip.counts[count], link.rejects, link.replies) == (2, rejects * 2, [])
    feed.fails = None
    assert (await gossip.pull(link)).new == 1, "the loop goes on"  # type: ignore[arg-type]


async def test_a_feed_that_the_peer_did_not_announce_is_not_asked() -> None:
    clock, feed = VirtualClock(), DropFeed()
    link = FakeLink(1, clock, 0.0)
    gossip = made([link], clock, feed)
    link.is_old = True
    await gossip.pull(link)  # type: ignore[arg-type]
    assert link.asked == 0
    link.is_old = False
    await gossip.pull(link)  # type: ignore[arg-type]
    assert link.asked == 1  # the control


async def test_questions_of_no_feed_are_left_to_others() -> None:
    clock = VirtualClock()
    link = FakeLink(1, clock)
    gossip = made([link], clock, DropFeed())
    assert not await gossip.answer(link, Frame("nothing?", {"rid": 5}, None))  # type: ignore[arg-type]
    assert await gossip.answer(link, Frame("drops?", {"rid": 6}, Question()))  # type: ignore[arg-type]
    assert link.replies == [("drops!", Drops(False, 1))]
    assert not await gossip.answer(link, Frame("drops!", {}, Drops(False, 1)))  # type: ignore[arg-type]
