"""Where other peers are, told by peers: hints that a handshake must confirm. Not signed, not stored, not passed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from flocklet.discovery import MAX_TOLD, PeerTable, ToldSource, encode_told
from flocklet.errors import WireError
from flocklet.events.feed import Steps, Turn
from flocklet.wire.schema import Message, Within

__all__ = ["PeersAnswer", "PeersQuestion", "ToldFeed"]

_EVERY = 6  # one exchange in so many also asks who else is there
_ENTRY_BYTES = 64


@dataclass(frozen=True, slots=True)
class PeersQuestion:
    """Ask who else is there."""

    kind: ClassVar[str] = "peers?"


@dataclass(frozen=True, slots=True)
class PeersAnswer:
    """Answer with addresses (`flocklet.discovery.encode_told`)."""

    kind: ClassVar[str] = "peers!"
    peers: Annotated[bytes, Within(0, 1 + MAX_TOLD * _ENTRY_BYTES)]


@dataclass(slots=True, kw_only=True)
class ToldTurn(Turn):
    """One question."""

    is_asked: bool = False


class ToldFeed:
    """Ask peers for peers. Unlike every other feed it lives on the event loop, as the table of peers does."""

    name = "peers"
    kinds: tuple[type[Message], ...] = (PeersQuestion, PeersAnswer)

    def __init__(self, table: PeerTable, told: ToldSource) -> None:
        self._table = table
        self._told = told

    def is_due(self, turns: int) -> bool:
        """Ask now and then."""
        return turns % _EVERY == 1

    def start(self, peer: bytes, linked: int) -> ToldTurn:
        """Begin with the one question."""
        return ToldTurn(peer, linked)

    def request(self, turn: ToldTurn) -> Message | None:
        """Ask once."""
        if turn.is_asked:
            return None
        turn.is_asked = True
        return PeersQuestion()

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer with peers that proved themselves here."""
        yield
        return PeersAnswer(encode_told(self._table.shareable(MAX_TOLD)))

    def absorb(self, turn: ToldTurn, answer: Message | bytes | None) -> Steps[None]:
        """Hand the hints to discovery."""
        if not isinstance(answer, PeersAnswer):
            raise WireError("a question for peers was answered by something else", reason="type")
        self._told.receive(turn.peer, answer.peers)
        yield

    def save(self, turn: ToldTurn) -> None:
        """Keep nothing."""
