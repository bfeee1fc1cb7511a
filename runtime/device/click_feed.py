"""The clicks that this device gives to peers and takes from them: a log per person, compared by version vectors.

Every entry is signed by the person who clicked (`flocklet.events.click`); what travels is `flocklet.events.click_sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flocklet.clock import Clock
from flocklet.device.clicks import Clicks
from flocklet.errors import WireError
from flocklet.events.click_sync import (
    ClickAnswer,
    ClickDigest,
    ClickQuestion,
    DifferingBuckets,
    Pull,
    answer_digest,
    answer_steps,
)
from flocklet.events.feed import Steps, Turn
from flocklet.wire.frame import content_id
from flocklet.wire.schema import Message

__all__ = ["ClickFeed", "ClickTurn"]


@dataclass(slots=True, kw_only=True)
class ClickTurn(Turn):
    """A pull of clicks; `source` is (content id, bytes) of the answer in work until it is noted."""

    pull: Pull
    source: tuple[bytes, int] | None = field(default=None)


class ClickFeed:
    """Answer peers' pulls and take in what our own bring; `regard()` tells the log who is a friend now."""

    name = "clicks"
    kinds: tuple[type[Message], ...] = (ClickDigest, DifferingBuckets, ClickQuestion, ClickAnswer)

    def __init__(
        self, clicks: Clicks, clock: Clock, regard: Callable[[], None], most_notes: int = 4_096
    ) -> None:
        self._clicks = clicks
        self._log = clicks.log
        self._clock = clock
        self._regard = regard
        self._most_notes = most_notes

    def is_due(self, turns: int) -> bool:
        """Ask every time: when nothing is new, it costs 528 bytes."""
        return True

    def start(self, peer: bytes, linked: int) -> ClickTurn:
        """Begin to ask a peer for the entries that we lack."""
        self._regard()
        return ClickTurn(peer, linked, pull=Pull(self._log, via=peer))

    def request(self, turn: ClickTurn) -> Message | None:
        """Return the next question of the pull."""
        return turn.pull.request

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer either question of a peer's pull."""
        if isinstance(request, ClickDigest):
            return answer_digest(self._log, request)
        if not isinstance(request, ClickQuestion):
            raise WireError(f"{request.kind!r} asks for no clicks", reason="type")
        return (yield from answer_steps(self._log, request))

    def absorb(self, turn: ClickTurn, answer: Message | bytes | None) -> Steps[None]:
        """Check what a peer's answer brings, a few entries at a time."""
        if not isinstance(answer, DifferingBuckets | ClickAnswer):
            raise WireError("a pull of clicks was answered by something else", reason="type")
        if isinstance(answer, ClickAnswer):
            content = answer.e + answer.s
            turn.source = (content_id(content), len(content))
        yield from turn.pull.take_steps(answer, self._clock.monotonic())

    def save(self, turn: ClickTurn) -> None:
        """Store and learn what was accepted, forget and unlearn what gave way for it."""
        got = turn.pull.news()
        if got.accepted or got.evicted or got.proofs or got.keys or got.forgotten:
            store = self._clicks.store
            with store.transaction():
                self._clicks.settle(got, turn.peer)
                if got.accepted and turn.source is not None:
                    (content, size), turn.source = turn.source, None
                    store.add_delta(content, turn.peer, size, self._clock.time(), most=self._most_notes)
        turn.new += len(got.accepted)
        turn.outcomes = turn.pull.absorbed.refused
