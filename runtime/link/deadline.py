"""A deadline on any clock: `async with deadline(clock, 5.0): ...` raises TimeoutError when the time is up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flocklet.clock import Clock, SystemClock

__all__ = ["deadline"]


@asynccontextmanager
async def deadline(clock: Clock, timeout_s: float) -> AsyncIterator[None]:
    """Cancel the block after `timeout_s` seconds of `clock` and raise TimeoutError."""
    if isinstance(clock, SystemClock):
        async with asyncio.timeout(timeout_s):
            yield
        return
    async with asyncio.timeout(None) as scope:

        async def watch() -> None:
            await clock.sleep(timeout_s)
            scope.reschedule(0.0)

        watcher = asyncio.ensure_future(watch())
        try:
            yield
        finally:
            watcher.cancel()
