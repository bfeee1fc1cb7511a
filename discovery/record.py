"""Hold what is known about one peer: who it claims to be, who it proved to be, and how each address
behaved.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from flocklet.discovery.address import Address
from flocklet.discovery.source import SourceKind

__all__ = ["AddressState", "Liveness", "PeerRecord", "short_hint"]


class Liveness(enum.StrEnum):
    """What our heartbeats say; mDNS has no vote (its host records live 120 s, its pointers 75 minutes)."""

    NEVER = "never heard"
    ALIVE = "alive"
    SILENT = "silent"
    LOST = "lost"


def short_hint(device_id: bytes) -> str:
    """Return the first 12 hex digits of a device id: for names and logs, never for trust (wire.md section
    1).
    """
    return device_id[:6].hex()


@dataclass
class AddressState:
    """How one address of one peer behaved. Times are seconds of the caller's monotonic clock."""

    address: Address
    sources: set[SourceKind] = field(default_factory=set)
    first_seen_s: float = 0.0
    last_seen_s: float = 0.0
    failures: int = 0
    reason: str = ""
    retry_at_s: float = 0.0
    proven_s: float | None = None
    is_barred: bool = False

    @property
    def is_proven(self) -> bool:
        """Tell whether a handshake with this peer succeeded here."""
        return self.proven_s is not None


@dataclass
class PeerRecord:
    """One peer. The table owns it: read it, change it only through the table's methods.

    `device_id` is proven (handshake now, or remembered from one); `claimed_id` is only said. Before either is
    known (a static peer) `label` names the record. `problem` is the latest reason why we are not linked.
    """

    key: str
    label: str = ""
    device_id: bytes | None = None
    claimed_id: bytes | None = None
    name: str = ""
    flock_tag: str | None = None
    version: int | None = None
    run: str = ""
    addresses: dict[Address, AddressState] = field(default_factory=dict)
    first_seen_s: float = 0.0
    last_seen_s: float = 0.0
    heard_s: float | None = None
    is_authenticated: bool = False
    is_linked: bool = False
    is_foreign: bool = False
    dialling_until_s: float | None = None
    not_before_s: float = 0.0
    nudged_s: float | None = None
    problem: str = ""

    @property
    def hint(self) -> str | None:
        """Return the 12 hex digits of the proven, else the claimed id; None before either is known."""
        known = self.device_id or self.claimed_id
        return None if known is None else short_hint(known)

    @property
    def sources(self) -> frozenset[SourceKind]:
        """Return every source that vouches for an address of this peer."""
        return frozenset(kind for state in self.addresses.values() for kind in state.sources)

    @property
    def is_protected(self) -> bool:
        """Tell whether no announcement of a stranger may evict this record: proven ids and the owner's
        peers.
        """
        return self.device_id is not None or bool(self.label)

    @property
    def failures(self) -> int:
        """Return the failed attempts since the last success, over all addresses."""
        return sum(state.failures for state in self.addresses.values())

    def display(self) -> str:
        """Return the shortest thing a person recognises."""
        return self.name or self.label or self.hint or self.key
