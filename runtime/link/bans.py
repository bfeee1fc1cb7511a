"""Count what peers do wrong, by reason, and ban those who do it too often."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from flocklet.clock import Clock
from flocklet.identity.key import short_id

__all__ = ["Guard"]

log = logging.getLogger("flocklet.link")


@dataclass
class _Record:
    rejects: Counter[str] = field(default_factory=Counter)
    banned_until_s: float = 0.0
    reason: str = ""


class Guard:
    """Keep one record per device id: rejects by reason, and a ban of `ban_s` after `max_rejects` of them.

    Bounded: of more than `max_peers` records the one touched longest ago is forgotten. Only ids that were proved on
    a link get a record, so a stranger cannot have somebody else banned.
    """

    def __init__(
        self, clock: Clock, *, max_rejects: int = 16, ban_s: float = 600.0, max_peers: int = 4096
    ) -> None:
        self._clock = clock
        self._max_rejects = max_rejects
        self._ban_s = ban_s
        self._max_peers = max_peers
        self._records: OrderedDict[bytes, _Record] = OrderedDict()
        self.strangers: Counter[str] = Counter()  # refusals before anybody proved an identity

    def reject(self, device_id: bytes, reason: str) -> bool:
        """Count one more; return whether the peer is banned by now."""
        record = self._records.setdefault(device_id, _Record())
        self._records.move_to_end(device_id)
        if len(self._records) > self._max_peers:
            self._records.popitem(last=False)
        record.rejects[reason] += 1
        if record.rejects.total() >= self._max_rejects and not self.is_banned(device_id):
            record.banned_until_s = self._clock.monotonic() + self._ban_s
            record.reason = record.rejects.most_common(1)[0][0]
            log.warning("peer %s is banned for %.0f s: %s", short_id(device_id), self._ban_s, record.reason)
            record.rejects.clear()
        return self.is_banned(device_id)

    def is_banned(self, device_id: bytes) -> bool:
        """Return whether this id may not connect now."""
        record = self._records.get(device_id)
        return record is not None and self._clock.monotonic() < record.banned_until_s

    def why_banned(self, device_id: bytes) -> str:
        """Return the most frequent reject before the ban, or an empty text."""
        return self._records[device_id].reason if self.is_banned(device_id) else ""

    def rejects(self, device_id: bytes) -> Counter[str]:
        """Return the rejects of a peer since its last ban, by reason."""
        record = self._records.get(device_id)
        return Counter(record.rejects) if record else Counter()
