"""Who holds how much of a bounded table, and who gives way when it is full.

A table is shared by what peers brought: each entry belongs to an author, and each author to the device that brought it.
Made-up authors cost nothing and a device's key hardly more, so what counts is the device: whoever brought most gives way,
and of it the author with most. A few large shares cannot push out many small ones, whatever they call themselves.

Counts are kept in heaps with stale rows (O(log n) a change), so making room never looks at everybody.
"""

from __future__ import annotations

import heapq
from enum import IntEnum

__all__ = ["Shares", "Standing"]


class Standing(IntEnum):
    """How an author stands to the owner of this device: who gives way first, and who never does."""

    STRANGER = 0
    FRIEND = 1  # trusted, or reached by trust
    OWN = 2  # hosted here


class _Heap:
    """Keys by count, the largest first."""

    def __init__(self) -> None:
        self.counts: dict[bytes, int] = {}
        self._rows: list[tuple[int, bytes]] = []

    def add(self, key: bytes, amount: int) -> None:
        count = self.counts.get(key, 0) + amount
        if count > 0:
            self.counts[key] = count
            heapq.heappush(self._rows, (-count, key))
            if len(self._rows) > 4 * len(self.counts) + 64:
                self._rows = [(-held, name) for name, held in self.counts.items()]
                heapq.heapify(self._rows)
        else:
            self.counts.pop(key, None)

    def top(self) -> bytes | None:
        while self._rows:
            count, key = self._rows[0]
            if self.counts.get(key) == -count:
                return key
            heapq.heappop(self._rows)
        return None


class Shares:
    """Counts by author and by the device that brought the author."""

    def __init__(self) -> None:
        self.total = 0
        self._devices = _Heap()
        self._authors: dict[bytes, _Heap] = {}

    def of_device(self, device: bytes) -> int:
        """Return how much the authors that a device brought hold together."""
        return self._devices.counts.get(device, 0)

    def add(self, device: bytes, author: bytes, amount: int = 1) -> None:
        """Count that an author holds so much more (or less)."""
        self.total += amount
        self._devices.add(device, amount)
        self._authors.setdefault(device, _Heap()).add(author, amount)
        if device not in self._devices.counts:
            del self._authors[device]

    def worst_device(self) -> bytes | None:
        """Return the device whose authors hold most."""
        return self._devices.top()

    def worst(self, device: bytes | None = None) -> bytes | None:
        """Return the author that holds most, of `device` or of the device that holds most; None when nobody does."""
        device = self.worst_device() if device is None else device
        return None if device is None or device not in self._authors else self._authors[device].top()
