"""Scripts against who may merge and push: usurp, early, ack, time. A wrapper around a `Link`, like the other scripts.

usurp pushes a model of zeros as if it had merged a round: a far one, and the next one, with a ticket of its own stamp.
early hands in zeros at once, naming nobody else in the sample: alone it would end every merge.
ack confirms rounds that nobody merged. time says that it trained for weeks, which is its weight where time weighs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flocklet.swarm.protocols import Link, Message, PeerId
from flocklet.swarm.samplers import hash_order
from flocklet.swarm.schedules.authority import Authority, statement
from flocklet.wire.arrays import ArrayValue

__all__ = ["AUTHORITY", "AuthorityLink"]

AUTHORITY: Mapping[str, tuple[str, ...]] = {
    "usurp": ("order", "round"),
    "early": (),  # a hand-in like another: it ends nothing
    "ack": ("round",),
    "time": (),  # cut, not refused
}
"""Script -> the reasons by which receivers refuse it; none: nothing to refuse."""

_FAR = 10**9


class AuthorityLink:
    """A `Link` of one that claims what is not its own to say."""

    def __init__(self, link: Link, kind: str) -> None:
        self.me = link.me
        self._link, self._kind = link, kind

    @property
    def bytes_out(self) -> int:
        """What went out."""
        return self._link.bytes_out

    def peers(self) -> list[PeerId]:
        """Return who can be reached."""
        return self._link.peers()

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Send a message, and what the script adds to it or makes of it."""
        has_time = "ms" in message.body
        if message.type == "trained" and self._kind == "time" and has_time:
            message = replace(message, body={**message.body, "ms": (1 << 32) - 1})
        if message.type == "trained" and self._kind == "early" and not has_time:
            return  # it has handed in already
        self._link.send(peers, message)
        if message.type == "trained" and self._kind == "usurp":
            for round in (_FAR, message.round):
                self._link.send(self.peers(), self._pushed(round, message.tensors, has_time))
        if message.type == "trained" and self._kind == "ack":
            for round in (1 << 60, message.round + 1):
                self._link.send(self.peers(), Message("agg_ack", round, {"ok": True}))

    def _pushed(self, round: int, like: Mapping[str, ArrayValue], is_plain: bool) -> Message:
        zeros = {name: np.zeros(value.shape, np.float32) for name, value in like.items()}
        if is_plain:
            return Message("aggregated", round, zeros, codec="fp32", n=1)
        ticket = Authority.ticket({self.me: self._link.sign(statement(round, self.me))})
        facts = {"view": b"", "of": self.me[:8], "ticket": ticket}
        return Message("aggregated", round, {**zeros, **facts}, codec="fp32", n=1)

    async def ping(self, peer: PeerId, round: int, timeout_s: float) -> bool:
        """Ask honestly."""
        return await self._link.ping(peer, round, timeout_s)

    def open(self, sealed: bytes) -> Message:
        """Return a relayed message."""
        return self._link.open(sealed)

    def sign(self, statement: bytes) -> bytes:
        """Sign."""
        return self._link.sign(statement)

    def is_signed(self, author: PeerId, statement: bytes, proof: bytes) -> bool:
        """Return whether that peer signed it."""
        return self._link.is_signed(author, statement, proof)

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Hear every message; early answers a model at once."""

        def heard(message: Message) -> None:
            handler(message)
            if (
                self._kind == "early"
                and message.type == "aggregated"
                and not message.base
                and "of" in message.body
            ):
                self._hand_in(message)

        self._link.listen(heard)

    def _hand_in(self, message: Message) -> None:
        round = message.round + 1
        first = next(peer for peer in hash_order([*self.peers(), self.me], round) if peer != self.me)
        proof = self._link.sign(statement(round, first))
        facts: dict[str, Any] = {"view": b"", "of": b"", "by": b"", "proof": proof}
        zeros = {name: np.zeros(value.shape, np.float32) for name, value in message.tensors.items()}
        self._link.send([first], Message("trained", round, {**zeros, **facts}, codec="fp32", n=1))
