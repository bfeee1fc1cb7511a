"""Who trusts whom and who likes what, exchanged with peers: signed pages, newest authors first.

Edges name items by number only. With each exchange a device asks for some names that it lacks; an answer's names prove
themselves, since an item's number is the hash of its name. Paths of documents are never told.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import numpy as np

from flocklet.device.ratings_file import is_name
from flocklet.device.recommender import Taste
from flocklet.errors import WireError
from flocklet.events.edge_sync import (
    MAX_NAMES_BYTES,
    MAX_WANTED,
    Absorbed,
    EdgeAnswer,
    EdgeQuestion,
    absorb_steps,
    answer_steps,
    question,
)
from flocklet.events.feed import Steps, Turn
from flocklet.events.item import item_id_of
from flocklet.wire.schema import Message

__all__ = ["EdgeFeed", "EdgeTurn"]

_NAME_BYTES = 512
_SAVED_AT_ONCE = 4  # pages of up to 128 edges


@dataclass(slots=True, kw_only=True)
class EdgeTurn(Turn):
    """One question for edges and its answer."""

    is_asked: bool = False
    got: Absorbed = field(default_factory=Absorbed)
    names: list[str] = field(default_factory=list)


class EdgeFeed:
    """Give away and take in the pages that `Taste` holds."""

    name = "edges"
    kinds: tuple[type[Message], ...] = (EdgeQuestion, EdgeAnswer)

    def __init__(self, taste: Taste, rng: np.random.Generator | None = None) -> None:
        self._taste = taste
        self._rng = rng or np.random.default_rng()

    def is_due(self, turns: int) -> bool:
        """Ask every time."""
        return True

    def start(self, peer: bytes, linked: int) -> EdgeTurn:
        """Begin an exchange, which is one question."""
        return EdgeTurn(peer, linked)

    def request(self, turn: EdgeTurn) -> Message | None:
        """Ask for pages that we lack, and for names of some items that have none here."""
        if turn.is_asked:
            return None
        turn.is_asked = True
        taste = self._taste
        items = taste.graph.items.all()
        some = self._rng.permutation(len(items))[: 4 * MAX_WANTED].tolist()
        unnamed = [items[n] for n in some if taste.store.item_name(items[n]) is None][:MAX_WANTED]
        want = b"".join(item.to_bytes(8, "big") for item in unnamed)
        return question(taste.pool, secrets.token_bytes(8), want=want)

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer with pages that the asker lacks and with names that peers may know."""
        if not isinstance(request, EdgeQuestion):
            raise WireError(f"{request.kind!r} asks for no edges", reason="type")
        told = yield from answer_steps(self._taste.pool, request, self._rng)
        want = request.want
        items = (int.from_bytes(want[at : at + 8], "big") for at in range(0, len(want), 8))
        names = [name for item in items if (name := self._public_name(item)) is not None]
        packed = "\0".join(names).encode()
        while len(packed) > MAX_NAMES_BYTES:
            packed = packed[: packed.rindex(b"\0")]
        return EdgeAnswer(told.p, told.k, packed)

    def absorb(self, turn: EdgeTurn, answer: Message | bytes | None) -> Steps[None]:
        """Check an answer, which is taken as a whole or not at all."""
        if not isinstance(answer, EdgeAnswer):
            raise WireError("a pull of edges was answered by something else", reason="type")
        got, names = Absorbed(), _names_in(answer.n)
        yield from absorb_steps(answer, got)
        turn.names = names
        turn.got.keys.update(got.keys)
        for page in got.pages:
            turn.got.pages.append(page)
            if len(turn.got.pages) >= _SAVED_AT_ONCE:
                yield

    def save(self, turn: EdgeTurn) -> None:
        """Put the pages that were checked into the graph and the store."""
        pages, turn.got.pages = turn.got.pages, []
        if pages:
            keys = {page.src: turn.got.keys[page.src] for page in pages}
            taken = self._taste.keep(pages, keys, via=turn.peer)
            turn.new += taken.pop("taken", 0)
            turn.outcomes += taken
        names, turn.names = turn.names, []
        if names:
            self._taste.name_items(names)

    def _public_name(self, item_id: int) -> str | None:
        """Return the name that peers may know: of an item that somebody rated and that is no document here."""
        taste = self._taste
        if item_id not in taste.graph.items or taste.store.document(item_id) is not None:
            return None
        name = taste.store.item_name(item_id)
        is_public = name is not None and is_name(name, _NAME_BYTES) and item_id_of(name) == item_id
        return name if is_public else None


def _names_in(packed: bytes) -> list[str]:
    try:
        names = packed.decode().split("\0") if packed else []
    except UnicodeDecodeError as error:
        raise WireError("an answer with edges has a name that is not UTF-8") from error
    if not all(is_name(name, _NAME_BYTES) for name in names):
        raise WireError("an answer with edges has an empty, too long or unprintable name")
    return names
