"""The feed of flock records, and the secret for those who may have it (PROTOCOL.md, "Flock").

    flock?  have: the 16-byte hashes of the records held; token: 32 bytes that show the token of an invitation, or empty
    flock!  records: each with two bytes of length before it; secret: 16 bytes or empty; is_more

    news?   (nothing): there are records that you may lack; answered by `ok`, and the peer asks at once

The secret is handed to a device that is named and not out here, after the records; it is taken only if a record that
holds here announces it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from flocklet.device.devices import Devices
from flocklet.errors import UsageError, WireError
from flocklet.events.feed import Steps, Turn
from flocklet.identity.flock_record import MAX_RECORD_BYTES
from flocklet.identity.invitation import prove_token
from flocklet.identity.removal import name_device
from flocklet.wire.schema import Message, Within

__all__ = ["FlockAnswer", "FlockFeed", "FlockNews", "FlockQuestion"]

_MAX_HAVE = 4096
_MAX_RECORDS_BYTES = 48 * 1024
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class FlockQuestion:
    """Ask for the flock records that are not held, and for the newest secret."""

    kind: ClassVar[str] = "flock?"
    have: Annotated[bytes, Within(0, _MAX_HAVE * _HASH_BYTES)]
    token: Annotated[bytes, Within(0, 32)]


@dataclass(frozen=True, slots=True)
class FlockAnswer:
    """Answer with records, and with the newest secret where the asker may have it."""

    kind: ClassVar[str] = "flock!"
    records: Annotated[bytes, Within(0, _MAX_RECORDS_BYTES + MAX_RECORD_BYTES + 2)]
    secret: Annotated[bytes, Within(0, 16)]
    is_more: bool


@dataclass(frozen=True, slots=True)
class FlockNews:
    """Tell a peer that there are flock records that it may lack, so that it asks at once."""

    kind: ClassVar[str] = "news?"


@dataclass(slots=True, kw_only=True)
class FlockTurn(Turn):
    """One exchange: whether there is nothing left to ask."""

    is_done: bool = False


class FlockFeed:
    """Exchange who is named, who is out, and the newest secret."""

    name = "flock"
    kinds: tuple[type[Message], ...] = (FlockQuestion, FlockAnswer)

    def __init__(self, devices: Devices, key_of: Callable[[bytes], bytes | None] = lambda id: None) -> None:
        self._devices = devices
        self._is_changed = False
        self.key_of = key_of
        """The public key of a linked device, to name who shows a token; the node sets it."""

    def is_due(self, turns: int) -> bool:
        """Always: what it costs when nothing is new is one small question."""
        return not self._devices.roster.is_open

    def start(self, peer: bytes, linked: int) -> FlockTurn:
        """Begin an exchange."""
        return FlockTurn(peer, linked)

    def request(self, turn: FlockTurn) -> Message | None:
        """Ask until the peer says that there is no more."""
        roster = self._devices.roster
        if turn.is_done or roster.is_open:
            return None
        shown = prove_token(roster.ticket, roster.own_id, turn.peer) if roster.ticket else b""
        return FlockQuestion(b"".join(list(roster.records)[-_MAX_HAVE:]), shown)

    def answer(self, request: Message, peer: bytes) -> Steps[Message]:
        """Answer a member; name it first where it shows the token of the open invitation."""
        if not isinstance(request, FlockQuestion) or len(request.have) % _HASH_BYTES:
            raise WireError("this is no question for flock records", reason="field")
        yield
        roster = self._devices.roster
        if request.token:
            self._name(peer, request.token)
        have = {request.have[i : i + _HASH_BYTES] for i in range(0, len(request.have), _HASH_BYTES)}
        lacking = [r.encoded for hash, r in roster.records.items() if hash not in have]
        packed, count = b"", 0
        for encoded in lacking:
            if len(packed) + len(encoded) > _MAX_RECORDS_BYTES:
                break
            packed += len(encoded).to_bytes(2, "big") + encoded
            count += 1
        is_more = count < len(lacking)
        secret = roster.newest() if roster.may_hear_secret(peer) and not is_more else None
        return FlockAnswer(packed, secret or b"", is_more)

    def absorb(self, turn: FlockTurn, answer: Message | bytes | None) -> Steps[None]:
        """Take records and the secret; what is refused is counted and costs the peer nothing unless it is forged."""
        if not isinstance(answer, FlockAnswer):
            raise WireError("a question for flock records was answered by something else", reason="type")
        roster, now_s, at = self._devices.roster, self._devices.roster.running_s, 0
        news = 0
        while at < len(answer.records):
            size = int.from_bytes(answer.records[at : at + 2], "big")
            encoded = answer.records[at + 2 : at + 2 + size]
            at += 2 + size
            if at > len(answer.records):
                raise WireError("a flock record is cut off")
            try:
                taken = roster.take(encoded, now_s) is not None
            except WireError as error:
                if error.reason != "full":
                    raise
                turn.outcomes["full"] += 1
                taken = False
            news += taken
            self._is_changed |= taken
            yield
        turn.new += news
        if answer.secret and answer.secret not in roster.secrets and roster.may_hold(answer.secret):
            roster.hold(answer.secret)
            self._is_changed = True
        if roster.ticket and roster.own_id in roster.named:
            roster.ticket = b""
            self._is_changed = True
        turn.is_done = not (answer.is_more and news)
        yield

    def save(self, turn: FlockTurn) -> None:
        """Keep the roster when it changed."""
        if self._is_changed:
            self._is_changed = False
            self._devices.save()

    def _name(self, peer: bytes, shown: bytes) -> None:
        """Name the newcomer that shows the token, once, within its ten minutes."""
        devices = self._devices
        roster, key = devices.roster, self.key_of(peer)
        if roster.token is None or roster.running_s > roster.token[1] or key is None or peer in roster.named:
            return
        if not hmac.compare_digest(prove_token(roster.token[0], peer, roster.own_id), shown):
            return
        roster.token = None
        try:
            name_device(roster, devices.identity, key, f"device {peer.hex()[:4]}")
        except UsageError:
            return  # sixteen are named here: it stays a guest, and 'devices' shows it as one
        devices.save()
