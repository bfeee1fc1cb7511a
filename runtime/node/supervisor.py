"""Own every background task of the peer: none dies silently, and none that the peer needs stays dead.

    supervisor.keep("gossip", self.gossip.run)                        # the peer's own: begun again after an error
    supervisor.spawn("serve 1a2b3c", self._serve(link))               # belongs to a link: ends with its error

An unexpected exception is logged once per cause (type, file and line) with its traceback, then counted. A task of the
peer's own begins again after 1, 2, 4 ... 60 s (a fifth of it jitter), and after 1 s again once it ran for 10 minutes. One
that belongs to a peer is not begun again: it has charged the peer and ended its link, which is dialled anew with the
dialler's back-off. Cancellation passes through. Link, discovery and swarm get `spawn` as an argument.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.clock import Clock
from flocklet.errors import FlockletError

__all__ = ["Supervisor", "TaskState"]

_log = logging.getLogger("flocklet.node")
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_HEALTHY_S = 600.0
_CAUSES_KEPT = 64


@dataclass(slots=True)
class TaskState:
    """What `status` shows of one task of the peer's own."""

    name: str
    state: str = "running"  # or `restarting`
    restarts: int = 0
    cause: str = ""  # of the last failure
    begun_s: float = 0.0


class Supervisor:
    """Begin, watch, begin again and end background tasks; use it on one event loop."""

    def __init__(self, clock: Clock, rng: np.random.Generator) -> None:
        self._clock = clock
        self._rng = rng
        self._tasks: set[asyncio.Task[None]] = set()
        self._kept: dict[str, TaskState] = {}
        self.failures: Counter[str] = Counter()  # by cause
        self._is_stopping = False

    def keep(self, name: str, make: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Run `make()` for ever: whenever it fails or returns, it begins again a little later."""
        state = self._kept[name] = TaskState(name, begun_s=self._clock.monotonic())
        return self._begin(name, self._keep(state, make))

    def spawn(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine once; an unexpected exception is noted, a `FlockletError` is a line in the log."""
        task = self._begin(name, self._run(name, coroutine))
        task.add_done_callback(
            lambda _: coroutine.close()
        )  # it was never begun when the task ended before it ran
        return task

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per task of the peer's own: name, state, restarts, last cause, seconds since it began."""
        now_s = self._clock.monotonic()
        return [
            {
                "name": task.name,
                "state": task.state,
                "restarts": task.restarts,
                "cause": task.cause,
                "running_s": round(now_s - task.begun_s, 1) if task.state == "running" else 0.0,
            }
            for task in self._kept.values()
        ]

    def problems(self) -> list[str]:
        """Return one line per sick task and per cause of failures."""
        sick = [
            f"the task {t.name!r} begins again: {t.cause}"
            for t in self._kept.values()
            if t.state != "running"
        ]
        return sick + [f"{count} times: {cause}" for cause, count in self.failures.most_common(8)]

    async def stop(self) -> None:
        """Cancel every task and wait until it is gone."""
        self._is_stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def failed(self, name: str, error: BaseException) -> str:
        """Note an unexpected exception; return its cause in one line. The first of a kind is logged with its traceback."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
        cause = f"{name.partition(' ')[0]}: {type(error).__name__}{where}: {str(error)[:120]}".rstrip(": ")
        if cause not in self.failures:
            if len(self.failures) >= _CAUSES_KEPT:
                del self.failures[self.failures.most_common()[-1][0]]
            _log.error("%s failed: %s", name, error, exc_info=error)
        self.failures[cause] += 1
        return cause

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except FlockletError as error:  # expected: the disk is full, a link ended
            _log.warning("%s: %s", name, error)
        except Exception as error:
            self.failed(name, error)

    async def _keep(self, state: TaskState, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._is_stopping:
            state.state, state.begun_s = "running", self._clock.monotonic()
            try:
                await make()
                state.cause = f"{state.name}: it ended by itself"
            except Exception as error:
                state.cause = self.failed(state.name, error)
            if self._clock.monotonic() - state.begun_s >= _HEALTHY_S:
                wait_s = _FIRST_WAIT_S
            state.state = "restarting"
            state.restarts += 1
            await self._clock.sleep(wait_s * (0.9 + 0.2 * float(self._rng.random())))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
