"""Count what peers do wrong, by reason, and ban those who do it too often.

Only what no honest peer does counts towards a ban: bad bytes, bad signatures, equivocation (`flocklet.wire.door.BLAMED`).
What an honest one can run into - our clock or its own, a message late or twice, a budget - is counted and refused, no more.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from flocklet.clock import Clock
from flocklet.identity.key import short_id
from flocklet.wire.door import BLAMED

__all__ = ["Ban", "Guard"]

log = logging.getLogger("flocklet.link")

LONGEST_BAN_S = 86_400.0
FORGIVEN_S = 60.0  # one reject is given back in that time


class Ban(NamedTuple):
    """Why a peer is banned, and for how long in seconds of the process's own time."""

    reason: str
    for_s: float


@dataclass
class _Record:
    rejects: Counter[str] = field(default_factory=Counter)
    strikes: float = 0.0
    struck_s: float = 0.0
    banned_until_s: float | None = None
    ban: Ban | None = None  # the last one, also after its end: the next is twice as long


class Guard:
    """Keep one record per device id: rejects by reason, and a ban after `max_rejects` of them that are blamed.

    A ban lasts `ban_s`, each further one twice the one before, at most a day. Bounded: of more than `max_peers` records the
    one touched longest ago is forgotten, banned ones last. Only ids that were proved on a link get a record, so a stranger
    cannot have somebody else banned. `on_change(device_id, ban)` hears of each ban and (None) of its end.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        max_rejects: int = 16,
        ban_s: float = 600.0,
        max_peers: int = 4096,
        on_change: Callable[[bytes, Ban | None], None] = lambda device_id, ban: None,
    ) -> None:
        self._clock = clock
        self._max_rejects = max_rejects
        self._ban_s = ban_s
        self._max_peers = max_peers
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.on_change = on_change
        self.strangers: Counter[str] = Counter()  # refusals before anybody proved an identity

    def reject(self, device_id: bytes, reason: str) -> bool:
        """Count one more; return whether the peer is banned by now."""
        record, now_s = self._record(device_id), self._clock.monotonic()
        record.rejects[reason] += 1
        if reason in BLAMED and not self.is_banned(device_id):
            record.strikes = max(0.0, record.strikes - (now_s - record.struck_s) / FORGIVEN_S) + 1.0
            record.struck_s = now_s
            if record.strikes > self._max_rejects - 1:  # a little of the first is given back already
                blamed = Counter({why: count for why, count in record.rejects.items() if why in BLAMED})
                for_s = self._ban_s if record.ban is None else min(2 * record.ban.for_s, LONGEST_BAN_S)
                self._ban(device_id, record, Ban(blamed.most_common(1)[0][0], for_s))
                self.on_change(device_id, record.ban)
        return self.is_banned(device_id)

    def restore(self, device_id: bytes, ban: Ban) -> None:
        """Ban again who was banned when the process ended: in full, since no clock tells how long that was ago."""
        self._ban(device_id, self._record(device_id), ban)

    def sweep(self) -> None:
        """End the bans whose time is over; those who were banned start with a clean record."""
        for device_id, record in self._records.items():
            if record.banned_until_s is not None and not self.is_banned(device_id):
                record.banned_until_s = None
                self.on_change(device_id, None)

    def is_banned(self, device_id: bytes) -> bool:
        """Return whether this id may not connect now."""
        record = self._records.get(device_id)
        until_s = record.banned_until_s if record is not None else None
        return until_s is not None and self._clock.monotonic() < until_s

    def why_banned(self, device_id: bytes) -> str:
        """Return the most frequent reject before the ban, or an empty text."""
        ban = self._records[device_id].ban if self.is_banned(device_id) else None
        return ban.reason if ban is not None else ""

    def banned(self) -> dict[bytes, Ban]:
        """Return everybody who is banned now."""
        return {id: record.ban for id, record in self._records.items() if record.ban and self.is_banned(id)}

    def rejects(self, device_id: bytes) -> Counter[str]:
        """Return the rejects of a peer since its last ban, by reason."""
        record = self._records.get(device_id)
        return Counter(record.rejects) if record else Counter()

    def _ban(self, device_id: bytes, record: _Record, ban: Ban) -> None:
        record.ban, record.banned_until_s = ban, self._clock.monotonic() + ban.for_s
        record.strikes = 0.0
        record.rejects.clear()
        log.warning("peer %s is banned for %.0f s: %s", short_id(device_id), ban.for_s, ban.reason)

    def _record(self, device_id: bytes) -> _Record:
        record = self._records.setdefault(device_id, _Record())
        self._records.move_to_end(device_id)
        if len(self._records) > self._max_peers:
            free = (id for id in self._records if id != device_id and not self.is_banned(id))
            del self._records[next(free, next(iter(self._records)))]
        return record
