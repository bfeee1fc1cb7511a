"""Replicate one kind of signed record between peers: what a feed is, and one exchange between two of them.

Peers only pull. The asking side starts a `Turn`, asks, absorbs the answer and asks again until nothing is missing; the
answering side keeps nothing between messages. `flocklet.node.gossip` runs the turns over links, with a budget each, for
every feed of the list in `flocklet.device.feeds`; docs/add-an-event.md shows how to add one. How a feed finds out what is
missing is its own affair: a version vector for logs (`click_sync`), digests for sets that only grow (`record_set`).

Feeds are sans-I/O. Long work is a generator that yields at least every few milliseconds, so that the owner's own work
comes in between (`flocklet.node.owner`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

from flocklet.wire.schema import Message, body_of, schema_of

__all__ = ["Content", "Feed", "Steps", "Turn", "exchange", "finish", "take"]

R = TypeVar("R")
Steps: TypeAlias = Generator[None, None, R]
"""Work in slices: yields after each, returns the result."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a feed asks for that is too large for an answer: content by its id, to be fetched from the same peer."""

    id: bytes
    max_bytes: int


@dataclass(slots=True)
class Turn:
    """One side of one exchange: with which peer, and what became of it. Feeds extend it by what they remember.

    `linked` counts the peers that are linked now. `new` counts what was taken in, `outcomes` everything else by name.
    """

    peer: bytes
    linked: int = 1
    new: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


T = TypeVar("T", bound=Turn)


class Feed(Protocol[T]):
    """One kind of record. All methods run on the thread that owns the device."""

    name: str
    """The word of `status`, and of the counts of the gossip."""

    kinds: tuple[type[Message], ...]
    """Every message of the feed: what it asks (kind `name?`) and what answers that (`name!`)."""

    def is_due(self, turns: int) -> bool:
        """Tell whether the background exchange number `turns` should ask for this kind."""
        ...

    def start(self, peer: bytes, linked: int) -> T:
        """Begin an exchange with the peer of this device id."""
        ...

    def request(self, turn: T) -> Message | Content | None:
        """Return what to ask next, None at the end."""
        ...

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer what the peer of this device id asks; raise WireError when no honest peer asks that."""
        ...

    def absorb(self, turn: T, answer: Message | bytes | None) -> Steps[None]:
        """Take an answer in: a message, the bytes of a `Content`, None for one that the peer no longer has.

        Raises WireError for what no honest peer sends; what was sound before it is kept.
        """
        ...

    def save(self, turn: T) -> None:
        """Keep what was absorbed since the last call, in one transaction; raise StoreError when that fails."""
        ...


def take(feed: Feed[T], turn: T, answer: Message | bytes | None) -> Steps[None]:
    """Absorb an answer slice by slice and keep each slice, also the sound part of a malformed answer."""
    try:
        for _ in feed.absorb(turn, answer):
            feed.save(turn)
            yield
    finally:
        feed.save(turn)


def finish(steps: Steps[R]) -> R:
    """Do all slices at once and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: R = end.value
            return result


def exchange(asker: Feed[T], asked: Feed[Any], *, peer: bytes = b"peer", linked: int = 1) -> T:
    """Pull once from one feed into another in memory, through the form that messages have on the wire."""
    turn = asker.start(peer, linked)
    while (request := asker.request(turn)) is not None:
        if isinstance(request, Content):
            finish(take(asker, turn, None))
            continue
        told = finish(asked.answer(_carried(asked, request), peer))
        finish(take(asker, turn, _carried(asker, told)))
    return turn


def _carried(feed: Feed[Any], message: Message) -> Message:
    kind = next(kind for kind in feed.kinds if kind.kind == message.kind)
    carried: Message = schema_of(kind).read(body_of(message))
    return carried
