"""What became of click entries that a peer sent: taken, refused, given way; and the proof that an origin is two-faced."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flocklet.errors import WireError
from flocklet.events.click import ClickEntry

__all__ = ["Absorbed", "Proof"]


@dataclass(frozen=True, slots=True)
class Proof:
    """Show that an origin signed two different entries under one number."""

    public_key: bytes
    first: bytes
    second: bytes

    def holds(self) -> bool:
        """Return whether the two entries really condemn the owner of the key."""
        try:
            first, second = ClickEntry.decode(self.first), ClickEntry.decode(self.second)
        except WireError:
            return False
        return (
            (first.origin, first.seq) == (second.origin, second.seq)
            and first.message() != second.message()
            and first.verify(self.public_key)
            and second.verify(self.public_key)
        )


@dataclass(slots=True)
class Absorbed:
    """Say what became of received entries: `accepted` and `evicted` go to the models and the store.

    `forgotten` are origins that gave way with all that they had. `refused` counts by reason: duplicate, condemned, old,
    key, rate, gaps, origins, signature, equivocation.
    """

    accepted: list[ClickEntry] = field(default_factory=list)
    evicted: list[ClickEntry] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    proofs: list[Proof] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    stuck: int = 0  # mask of the buckets with a refusal
