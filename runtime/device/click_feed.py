"""The clicks that this device gives to peers and takes from them: a log per person, compared by version vectors.

Every entry is signed by the person who clicked (`flocklet.events.click`); what travels is `flocklet.events.click_sync`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flocklet.clock import Clock
from flocklet.device.ranker import Ranker
from flocklet.errors import WireError
from flocklet.events.click_log import ClickLog
from flocklet.events.click_outcome import Absorbed, Proof
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
from flocklet.identity.key import origin_of
from flocklet.store.store import Click, Store
from flocklet.wire.frame import content_id
from flocklet.wire.schema import Message

__all__ = ["ClickFeed", "ClickTurn", "proof_of"]


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
        self,
        store: Store,
        log: ClickLog,
        ranker: Ranker,
        clock: Clock,
        regard: Callable[[], None],
    ) -> None:
        self._store = store
        self._log = log
        self._ranker = ranker
        self._clock = clock
        self._regard = regard

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
            with self._store.transaction():
                self._settle(got, turn.peer)
                if got.accepted and turn.source is not None:
                    self._store.add_delta(turn.source[0], turn.peer, turn.source[1], self._clock.time())
                    turn.source = None
        turn.new += len(got.accepted)
        turn.outcomes = turn.pull.absorbed.refused

    def _settle(self, got: Absorbed, via: bytes) -> None:
        for entry in got.accepted:
            self._ranker.learn(entry)
        for entry in got.evicted:
            self._ranker.unlearn(entry)
        self._store.add_origins([(origin_of(key), key) for key in got.keys], via=via)
        self._store.add_clicks([Click(e.origin, e.seq, e.encode()) for e in got.accepted])
        self._store.remove_clicks([(e.origin, e.seq) for e in got.evicted])
        self._store.remove_origins([origin for origin in got.forgotten if self._log.key_of(origin) is None])
        for proof in got.proofs:
            packed = len(proof.first).to_bytes(2, "big") + proof.first + proof.second
            self._store.condemn_origin(origin_of(proof.public_key), proof.public_key, packed)


def proof_of(public_key: bytes, packed: bytes) -> Proof:
    """Return an equivocation proof as the store keeps it."""
    size = int.from_bytes(packed[:2], "big")
    return Proof(public_key, packed[2 : 2 + size], packed[2 + size :])
