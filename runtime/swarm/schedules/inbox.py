"""Hold messages until their round comes: idempotent in (round, sender), bounded in rounds and senders."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from flocklet.swarm.protocols import Message, PeerId

__all__ = ["Inbox"]


class Inbox:
    """Messages by step and sender; `refuse(sender, reason)` hears of what is dropped."""

    def __init__(
        self, refuse: Callable[[PeerId, str], None], *, window: int = 16, senders: int = 4096
    ) -> None:
        self._refuse = refuse
        self._window = window
        self._senders = senders
        self._steps: dict[int, dict[PeerId, Message]] = {}
        self._step = 0
        self._missing: set[PeerId] = set()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, message: Message) -> None:
        """Keep a message for its step; the first one of a sender counts."""
        step = message.round
        if not self._step <= step < self._step + self._window:
            self._refuse(message.sender, "late" if step < self._step else "early")
            return
        held = self._steps.setdefault(step, {})
        if message.sender in held:
            self._refuse(message.sender, "twice")
        elif len(held) >= self._senders:
            self._refuse(message.sender, "full")
        else:
            held[message.sender] = message
            if step == self._step and self._waiter is not None:
                self._missing.discard(message.sender)
                if not self._missing and not self._waiter.done():
                    self._waiter.set_result(None)

    async def collect(self, step: int, wanted: Collection[PeerId], deadline_s: float) -> list[Message]:
        """Return the messages of a step, sorted by sender, when all `wanted` have come or time is up.

        Earlier steps are forgotten; whoever sends for them is late.
        """
        self._step = step
        for old in [key for key in self._steps if key < step]:
            del self._steps[old]
        self._missing = set(wanted) - self._steps.get(step, {}).keys()
        if self._missing:
            loop = asyncio.get_running_loop()
            self._waiter, self._deadline_s = loop.create_future(), loop.time() + deadline_s
            if self._timer is None:
                self._timer = loop.call_at(self._deadline_s, self._is_late, loop)
            elif self._timer.when() > self._deadline_s:
                self._timer.cancel()
                self._timer = loop.call_at(self._deadline_s, self._is_late, loop)
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._step = step + 1
        held = self._steps.pop(step, {})
        return [held[sender] for sender in sorted(held)]

    def _is_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """End the wait whose time is up. One timer serves many waits: most end long before it fires."""
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() >= self._deadline_s:
            self._waiter.set_result(None)
        else:
            self._timer = loop.call_at(self._deadline_s, self._is_late, loop)
