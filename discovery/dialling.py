"""Decide whom to dial, when and in which order of addresses; pure, time and randomness come in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from flocklet.discovery.address import Address, race_order
from flocklet.discovery.bounds import TableSettings
from flocklet.discovery.bucket import TokenBucket
from flocklet.discovery.record import AddressState, PeerRecord

__all__ = ["DialCandidate", "DialPlan"]

_POSTPONED_S = 0.25


@dataclass(frozen=True)
class DialCandidate:
    """A peer to dial now: try `addresses` in order (happy eyeballs); `expected_id` None means any id is news.

    Report every failed address with `PeerTable.failed`, success with `authenticated`, and the end of a
    fruitless attempt with `dial_ended`; without any report the peer is offered again after `dial_lease_s`.
    """

    key: str
    expected_id: bytes | None
    addresses: tuple[Address, ...]


class DialPlan:
    """Choose among records. Proven peers come before the owner's, those before strangers.

    Among equals the fewest failures come first. Strangers are limited to `dials_per_s` in all, so
    announcements cannot turn us into somebody's port scanner; and no address is dialled for two records at
    the same time.
    """

    def __init__(self, settings: TableSettings, rng: np.random.Generator) -> None:
        self._settings = settings
        self._rng = rng
        self._strangers = TokenBucket(settings.dials_per_s, settings.dial_burst)

    def backoff_s(self, failures: int) -> float:
        """Double from the first delay to the longest; jitter (half to all of it) keeps a flock apart."""
        doubled = self._settings.backoff_first_s * 2.0 ** min(failures - 1, 30)
        return min(self._settings.backoff_max_s, doubled) * (0.5 + 0.5 * float(self._rng.random()))

    def due_s(self, record: PeerRecord) -> float:
        """Return from when on `record` may be dialled; infinity while it need not or must not be."""
        if record.is_linked or record.is_foreign:
            return math.inf
        ready_s = min((state.retry_at_s for state in record.addresses.values()), default=math.inf)
        return max(ready_s, record.not_before_s, record.dialling_until_s or -math.inf)

    def next_due_s(self, records: Iterable[PeerRecord]) -> float | None:
        """Return the earliest `due_s`; None if there is none."""
        due_s = min((self.due_s(record) for record in records), default=math.inf)
        return None if math.isinf(due_s) else due_s

    def candidates(self, records: Iterable[PeerRecord], now_s: float, limit: int) -> list[DialCandidate]:
        """Return at most `limit` peers to dial now and lease each for `dial_lease_s`."""
        known = list(records)
        taken = {
            address
            for record in known
            if record.dialling_until_s is not None and record.dialling_until_s > now_s
            for address, state in record.addresses.items()
            if state.retry_at_s <= now_s
        }
        due = [record for record in known if self.due_s(record) <= now_s]
        due.sort(key=lambda r: (r.device_id is None, not r.label, r.failures, r.first_seen_s, r.key))
        chosen: list[DialCandidate] = []
        for record in due:
            if len(chosen) >= limit:
                break
            ready = [s for s in record.addresses.values() if s.retry_at_s <= now_s and s.address not in taken]
            if not ready or not (record.is_protected or self._strangers.take(now_s)):
                record.not_before_s = now_s + _POSTPONED_S
                continue
            order = _order(ready)
            taken.update(order)
            record.dialling_until_s = now_s + self._settings.dial_lease_s
            chosen.append(DialCandidate(record.key, record.device_id or record.claimed_id, order))
        return chosen


def _order(states: list[AddressState]) -> tuple[Address, ...]:
    """Proven addresses first, each part in happy-eyeballs order."""
    states.sort(key=lambda state: (not state.is_proven, state.failures))
    proven = [state.address for state in states if state.is_proven]
    others = [state.address for state in states if not state.is_proven]
    return tuple(race_order(proven) + race_order(others))
