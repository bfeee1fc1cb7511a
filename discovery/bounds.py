"""Bound the peer table: its settings, and the words for what became of a sighting."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Outcome", "TableSettings"]


class Outcome(enum.StrEnum):
    """What became of a sighting: the keys of `PeerTable.counts`."""

    NEW = "new"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    GONE = "gone"
    OWN = "own"
    CLONE = "clone"
    INVALID = "invalid"
    LIMITED = "limited"
    FULL = "full"


@dataclass(frozen=True)
class TableSettings:
    """Bounds of the table; seconds unless the name says otherwise. py-ipv8 pings at 27.5 s and drops at
    57.5 s.
    """

    max_peers: int = 512
    max_foreign: int = 64
    max_addresses: int = 8
    new_per_s: float = 8.0
    new_burst: float = 64.0
    dials_per_s: float = 8.0
    dial_burst: float = 32.0
    dial_lease_s: float = 30.0
    patience_s: float = 0.5
    backoff_first_s: float = 1.0
    backoff_max_s: float = 300.0
    barred_s: float = 3600.0
    nudge_every_s: float = 5.0
    silent_after_s: float = 15.0
    lost_after_s: float = 60.0
    allow_loopback: bool = False
