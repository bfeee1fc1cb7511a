"""Models of this device and of its peers, exchanged as signed deltas; `flocklet.device.rerankers` learns and judges them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from flocklet.device.rerankers import MODEL_LIMITS, Lessons, StaleBase
from flocklet.errors import WireError
from flocklet.events.delta_sync import DeltaAnswer, DeltaQuestion
from flocklet.events.feed import Content, Steps, Turn
from flocklet.wire.frame import Frame
from flocklet.wire.schema import Message

__all__ = ["QUORUM_MOST", "DeltaFeed", "DeltaTurn"]

QUORUM_MOST = 5
"""As many peers' models are merged at once, their median; fewer when fewer are linked."""


@dataclass(slots=True, kw_only=True)
class DeltaTurn(Turn):
    """One question for deltas, the frames of its answer that wait, and the delta whose base is not here."""

    is_asked: bool = False
    frames: deque[bytes] = field(default_factory=deque)
    stale: Frame | None = None


class DeltaFeed:
    """Give away and take in model deltas; `trust_in(device id)` weighs a peer's."""

    name = "deltas"
    kinds: tuple[type[Message], ...] = (DeltaQuestion, DeltaAnswer)

    def __init__(self, lessons: Lessons, trust_in: Callable[[bytes], float]) -> None:
        self._lessons = lessons
        self._trust_in = trust_in

    def is_due(self, turns: int) -> bool:
        """Ask once enough was learnt here since the last time."""
        return self._lessons.is_due

    def start(self, peer: bytes, linked: int) -> DeltaTurn:
        """Begin an exchange, which is one question and the whole models that its answer makes necessary."""
        return DeltaTurn(peer, linked)

    def request(self, turn: DeltaTurn) -> Message | Content | None:
        """Ask for deltas, then for the whole of one whose base is not here."""
        if not turn.is_asked:
            turn.is_asked = True
            return self._lessons.ask(turn.peer)
        if turn.stale is not None:
            return Content(turn.stale.body["content"], MODEL_LIMITS.max_bytes)
        return None

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer with what is newer here."""
        if not isinstance(request, DeltaQuestion):
            raise WireError(f"{request.kind!r} asks for no deltas", reason="type")
        yield
        return self._lessons.answer(request)

    def absorb(self, turn: DeltaTurn, answer: Message | bytes | None) -> Steps[None]:
        """Judge one delta after the other; a refused one is counted, the others are still taken."""
        refused: WireError | None = None
        if isinstance(answer, DeltaAnswer):
            turn.frames.extend(answer.frames)
        elif answer is not None and not isinstance(answer, bytes):
            raise WireError("a question for deltas was answered by something else", reason="type")
        stale, turn.stale = turn.stale, None
        while stale is not None or turn.frames:
            try:
                self._take(turn, stale, answer if isinstance(answer, bytes) else None)
            except StaleBase as missing:
                turn.stale = missing.frame
                break
            except WireError as error:
                self._lessons.refuse(turn.peer, error)
                turn.outcomes["refused"] += 1
                refused = error
            stale = None
            yield
        if refused is not None:
            raise refused

    def save(self, turn: DeltaTurn) -> None:
        """Do nothing: what a delta changed is kept together with the delta."""

    def _take(self, turn: DeltaTurn, stale: Frame | None, whole: bytes | None) -> None:
        trust = self._trust_in(turn.peer)
        quorum = min(QUORUM_MOST, max(1, turn.linked))
        if stale is None:
            outcome = self._lessons.receive(turn.frames.popleft(), turn.peer, trust=trust, quorum=quorum)
        elif whole is None:
            raise WireError("the whole model behind a delta cannot be had", reason="base")
        else:
            outcome = self._lessons.receive_whole(stale, whole, trust=trust, quorum=quorum)
        turn.outcomes[outcome] += 1
        turn.new += outcome in ("merged", "waiting")
