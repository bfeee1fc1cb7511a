"""Bound the memory of a link by frames: whoever receives grants credits, whoever sends spends them.

Control and data messages have a window each, so a full data window does not block control. Replies need no credit:
at most one comes per request. The link's own messages (ping, pong, credit, bye) are used up on arrival.
The idea is that of the actors of OneFlow (Yuan et al. 2021, section 4.2).
"""

from __future__ import annotations

import asyncio
from collections import deque

from flocklet.errors import WireError
from flocklet.wire.frame import Size
from flocklet.wire.kinds import MAX_CREDITS

__all__ = ["Credits"]


class Credits:
    """Count what one link may still send (`theirs`) and may still receive (`ours`), per size of message."""

    def __init__(self, theirs: dict[Size, int], ours: dict[Size, int]) -> None:
        self._may_send = dict(theirs)
        self._window = dict(ours)
        self._may_receive = dict(ours)
        self._used_up = dict.fromkeys(ours, 0)
        self._waiting: dict[Size, deque[asyncio.Future[None]]] = {size: deque() for size in theirs}

    def spend(self, size: Size) -> bool:
        """Take one credit for sending; return False if there is none, or others wait before us."""
        if self._may_send[size] <= 0:
            return False
        self._may_send[size] -= 1
        return True

    async def wait(self, size: Size) -> None:
        """Wait until a credit may be there; first come, first served."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[size].append(future)
        try:
            await future
        finally:
            if not future.done() or future.cancelled():
                self._waiting[size].remove(future)

    def granted(self, size: Size, count: int) -> None:
        """Add what the peer granted; never more than 65,536 in hand."""
        self._may_send[size] = min(self._may_send[size] + count, MAX_CREDITS)
        for _ in range(min(count, len(self._waiting[size]))):
            self._wake(self._waiting[size])

    def received(self, size: Size) -> None:
        """Count a frame that came in; raise WireError with reason `credit` if it was not granted."""
        if self._may_receive[size] <= 0:
            raise WireError("the peer sent more than it was allowed", reason="credit")
        self._may_receive[size] -= 1

    def used_up(self, size: Size) -> int:
        """Count a frame that was taken; return how many to grant now (in batches of half a window)."""
        self._used_up[size] += 1
        count = self._used_up[size]
        if 2 * count < self._window[size]:
            return 0
        self._used_up[size] = 0
        self._may_receive[size] += count
        return count

    def wake_all(self) -> None:
        """Let all waiters look again: the link is closed."""
        for waiting in self._waiting.values():
            while waiting:
                self._wake(waiting)

    @staticmethod
    def _wake(waiting: deque[asyncio.Future[None]]) -> None:
        future = waiting.popleft()
        if not future.done():
            future.set_result(None)
