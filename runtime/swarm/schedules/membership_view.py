"""Who takes part, as a conflict-free replicated map: peer -> (last active round, membership counter, in or out).

Merging takes the larger round and the larger counter, so order and repetition do not matter. A change of membership
is a frame signed by its subject and travels as it is; activity is hearsay of 10 bytes per peer and can only make a
peer look alive, which a ping checks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from flocklet.swarm.protocols import PeerId
from flocklet.swarm.samplers import hash_order

__all__ = ["View"]

_ENTRY = struct.Struct(">8sH")
PREFIX = 8
MAX_PEERS = 1 << 16


@dataclass
class _Entry:
    active: int = 0
    counter: int = 0
    is_in: bool = True


class View:
    """What one peer knows of the members."""

    def __init__(self, members: Iterable[PeerId], *, inactivity: int) -> None:
        self._inactivity = inactivity
        self._entries = {peer: _Entry() for peer in sorted(members)}
        self._names = {peer[:PREFIX]: peer for peer in self._entries}

    def __len__(self) -> int:
        return len(self._entries)

    def members(self) -> list[PeerId]:
        """Return everybody who has not left, sorted."""
        return sorted(peer for peer, entry in self._entries.items() if entry.is_in)

    def candidates(self, round: int, *, at: int | None = None) -> list[PeerId]:
        """Return the members that were active shortly before round `at` (default: `round`), in the order of `round`."""
        oldest = (round if at is None else min(at, round)) - self._inactivity
        return hash_order(
            (peer for peer, entry in self._entries.items() if entry.is_in and entry.active >= oldest), round
        )

    def seen(self, peer: PeerId, round: int) -> None:
        """Note that a member was active in a round."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.active = max(entry.active, round)

    def change(self, peer: PeerId, counter: int, is_in: bool, round: int) -> bool:
        """Take in a membership change; return whether it was news."""
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= MAX_PEERS:
                return False
            entry = self._entries[peer] = _Entry(round, -1)
            self._names[peer[:PREFIX]] = peer
        if counter <= entry.counter:
            return False
        entry.counter, entry.is_in = counter, is_in
        entry.active = max(entry.active, round)
        return True

    def find(self, prefix: bytes) -> PeerId | None:
        """Return the member whose id begins so."""
        return self._names.get(prefix)

    def pack(self, round: int, sample: bytes = b"") -> bytes:
        """Return the activity of the active members at this round: 8 bytes of id and rounds ago, each.

        Whoever is in `sample` (8 bytes each) is left out: who reads of a sample knows that it lived (`sampled`).
        """
        told = {sample[at : at + PREFIX] for at in range(0, len(sample), PREFIX)}
        return b"".join(
            _ENTRY.pack(peer[:PREFIX], max(0, round - entry.active))
            for peer, entry in sorted(self._entries.items())
            if entry.is_in and entry.active >= round - self._inactivity and peer[:PREFIX] not in told
        )

    def sampled(self, sample: bytes, round: int) -> None:
        """Note that the members of a sample (8 bytes of id each) answered before this round; strangers are skipped."""
        for at in range(0, min(len(sample), PREFIX * len(self._entries)), PREFIX):
            peer = self._names.get(sample[at : at + PREFIX])
            if peer is not None:
                self.seen(peer, round - 1)

    def merge(self, packed: bytes, round: int) -> None:
        """Take in what another peer packed at that round; strangers and cut entries are skipped."""
        for at in range(0, len(packed) - _ENTRY.size + 1, _ENTRY.size):
            prefix, ago = _ENTRY.unpack_from(packed, at)
            peer = self._names.get(prefix)
            if peer is not None:
                self.seen(peer, max(0, round - ago))
