"""Time as an argument: the system's clock, and a virtual one for tests and simulation."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock"]


class Clock(Protocol):
    """What flocklet may ask of time."""

    def time(self) -> float:
        """Return seconds since 1970-01-01 UTC; may jump, never decides trust."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back; for deadlines and intervals."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds of this clock."""
        ...


class SystemClock:
    """The clock of the machine."""

    def time(self) -> float:
        """Return the wall clock in seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the monotonic clock in seconds."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(delay_s)


class VirtualClock:
    """A clock that moves only when told to: `await clock.advance(5)` wakes every sleeper due by then, in order.

    Sleepers due at the same instant wake in the order in which they went to sleep, so a run is reproducible.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now_s

    def monotonic(self) -> float:
        """Return the virtual time in seconds."""
        return self._now_s

    async def sleep(self, delay_s: float) -> None:
        """Wait until someone advances this clock by `delay_s` seconds."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + delay_s, next(self._order), future))
        await future

    async def advance(self, delay_s: float, *, settle: int = 20) -> None:
        """Move time forward by `delay_s`, waking sleepers in order; `settle` loop turns after each."""
        end_s = self._now_s + delay_s
        await self._settle(settle)
        while self._sleepers and self._sleepers[0][0] <= end_s:
            due_s, _, future = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, due_s)
            if not future.done():
                future.set_result(None)
            await self._settle(settle)
        self._now_s = end_s
        await self._settle(settle)

    @staticmethod
    async def _settle(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
