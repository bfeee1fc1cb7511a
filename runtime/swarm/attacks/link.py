"""Scripts of peers that misuse the protocol: one wrapper around a `Link`, the same in the simulator and on real links.

Each script changes what goes out; nothing that comes in is touched. Every one of them is refused by a named reason,
which the receiver counts and logs once per sender, or is harmless; `EXPECTED` says which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flocklet.errors import UsageError
from flocklet.swarm.protocols import Link, Message, PeerId
from flocklet.swarm.samplers import hash_order
from flocklet.wire.arrays import Quantised

__all__ = ["EXPECTED", "HOSTILE", "HostileLink", "ground_id"]

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "replay": ("late", "twice"),  # old messages of its own, sent again
    "twice": ("twice", "late"),
    "schema": ("schema",),  # a tensor of another shape
    "dtype": ("dtype",),  # float64 tensors: twice the memory
    "oversize": ("schema",),  # four times the model
    "bomb": ("schema",),  # 200 bytes that say they are a million values
    "overflow": ("finite",),  # finite scales whose products are infinite
    "denormal": (),  # legal numbers; slow on some processors, harmless otherwise
    "stalebase": ("base",),
    "nosamples": (),  # a hand-in from no rows counts for nothing; between neighbours counts do not matter
    "views": ("field", "news"),  # ghosts in the view and membership changes that nobody signed
    "mute": (),  # answers pings, says nothing else: a peer that hangs
}
"""Script -> the reasons by which receivers refuse it; none: nothing to refuse."""

HOSTILE = tuple(EXPECTED)
_MODELS = ("send", "trained", "aggregated", "swap")


class HostileLink:
    """A `Link` whose model messages are twisted by the script `kind`."""

    def __init__(self, link: Link, kind: str, rng: np.random.Generator) -> None:
        if kind not in EXPECTED:
            raise UsageError(f"no script {kind!r}", remedy=", ".join(EXPECTED))
        self.me = link.me
        self._link, self._kind, self._rng = link, kind, rng
        self._old: deque[Message] = deque(maxlen=32)

    @property
    def bytes_out(self) -> int:
        """What went out, forged or not."""
        return self._link.bytes_out

    def peers(self) -> list[PeerId]:
        """Return who can be reached."""
        return self._link.peers()

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Send what the script makes of a message."""
        for one in self._twisted(message) if message.type in _MODELS else [message]:
            self._link.send(peers, one)

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
        """Hear every message."""
        self._link.listen(handler)

    def _twisted(self, message: Message) -> list[Message]:
        match self._kind:
            case "mute":
                return []
            case "twice":
                return [message, message]
            case "replay":
                old = self._old[int(self._rng.integers(len(self._old)))] if self._old else None
                self._old.append(message)
                return [message] if old is None else [message, old]
            case "stalebase":
                return [replace(message, base=bytes(16))]
            case "nosamples":
                return [replace(message, n=0)]
            case "views":
                ghosts = self._rng.bytes(10 * 64)
                return [_with(message, view=ghosts, news=[self._rng.bytes(80)])]
        return [_with(message, **self._tensors(message))]

    def _tensors(self, message: Message) -> dict[str, Any]:
        first, value = next(iter(message.tensors.items()))
        shape = value.shape
        match self._kind:
            case "schema":
                return {first: np.zeros((3, *shape), np.float32)}
            case "oversize":
                return {first: np.zeros((4 * shape[0], *shape[1:]), np.float32)}
            case "bomb":
                size = 1 << 20
                ones = np.full(size, -1, np.int8)
                return {first: Quantised((size,), 1, size, np.ones(1, np.float32), ones)}
            case "overflow":
                size = int(np.prod(shape))
                large = np.full(1, 3e38, np.float32)
                return {first: Quantised(shape, 8, size, large, np.full(size, 127, np.int8))}
            case "dtype":
                return {name: np.zeros(v.shape, np.float64) for name, v in message.tensors.items()}
        return {name: np.full(v.shape, 1e-42, np.float32) for name, v in message.tensors.items()}


def _with(message: Message, **changes: Any) -> Message:
    return replace(message, body={**message.body, **changes})


def ground_id(members: Sequence[PeerId], round: int, tries: int, rng: np.random.Generator) -> PeerId:
    """Return the best of `tries` random ids for being first in the hash order of one round: id grinding.

    It buys one chosen round. In every other round the id is as likely to win as anybody's, and it must be paired
    before it counts, so grinding for all rounds to come means pairing anew for each of them.
    """
    drawn = [rng.bytes(32) for _ in range(tries)]
    return next(peer for peer in hash_order([*members, *drawn], round) if peer in set(drawn))
