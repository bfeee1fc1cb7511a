"""The one thread that owns the device's state, and whose turn it is.

The rule: what belongs to the device (store, index, log, models, graph) is touched on this thread and nowhere else; what
belongs to the network (links, table, counts) is touched on the event loop and nowhere else. Between them go messages:
a coroutine hands a function over and waits for what it returns. So nothing is locked, and no lock can be forgotten.

Who waits is served in this order: the owner's verbs; what the device itself learns; peers; upkeep. Peers' work comes in
slices (`flocklet.events.feed.Steps`, a few milliseconds each), and after each slice everybody before them has the turn.
Among peers it goes round by the thread time that each has used (deficit round robin, Shreedhar & Varghese 1996), so that
one that asks much slows itself down and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from enum import IntEnum
from typing import Any, TypeVar

from flocklet.events.feed import Steps

__all__ = ["Owner", "Rank"]

R = TypeVar("R")
_QUANTUM_S = 0.002


class Rank(IntEnum):
    """Whose work goes first."""

    VERB = 0
    LEARNING = 1
    PEER = 2
    UPKEEP = 3


class _Job:
    """One function or generator that somebody on an event loop waits for."""

    def __init__(self, steps: Generator[None, None, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._steps = steps

    def advance(self) -> bool:
        """Do one slice; return whether that was the last."""
        if self.future.cancelled():
            with contextlib.suppress(Exception):  # nobody waits for it
                self._steps.close()
            return True
        try:
            next(self._steps)
        except StopIteration as end:
            self._settle(end.value, None)
        except BaseException as error:
            self._settle(None, error)
        else:
            return False
        return True

    def _settle(self, result: Any, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            self.loop.call_soon_threadsafe(self._tell, result, error)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class _Round:
    """Jobs of peers, served in turn by the thread time that each peer has used."""

    def __init__(self) -> None:
        self._jobs: dict[bytes, deque[_Job]] = {}
        self._credit_s: dict[bytes, float] = {}
        self._order: deque[bytes] = deque()

    def __bool__(self) -> bool:
        return bool(self._order)

    def put(self, peer: bytes, job: _Job) -> None:
        """Let a job of a peer wait."""
        if peer not in self._jobs:
            self._jobs[peer] = deque()
            self._order.append(peer)
        self._jobs[peer].append(job)

    def advance(self) -> None:
        """Do one slice of the peer whose turn it is."""
        while self._credit_s.setdefault(self._order[0], _QUANTUM_S) <= 0:
            self._credit_s[self._order[0]] += _QUANTUM_S
            self._order.rotate(-1)
        peer = self._order[0]
        begun_s = time.thread_time()
        is_done = self._jobs[peer][0].advance()
        self._credit_s[peer] -= time.thread_time() - begun_s
        if is_done:
            self._jobs[peer].popleft()
            if not self._jobs[peer]:
                self._order.popleft()
                del self._jobs[peer]
                if self._credit_s[peer] > 0 or len(self._credit_s) > 1024:
                    del self._credit_s[peer]  # what was not used is not saved up; a debt is


class Owner:
    """Run work on a thread of its own, the most important first. Coroutines of any event loop may wait for it."""

    def __init__(self, name: str = "flocklet-device") -> None:
        self._queues: dict[Rank, deque[_Job]] = {rank: deque() for rank in Rank if rank is not Rank.PEER}
        self._peers = _Round()
        self._wake = threading.Condition()  # guards the queues; never held while a job runs
        self._inbox: deque[tuple[Rank, bytes, _Job]] = deque()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._is_started = False

    async def run(self, function: Callable[..., R], *args: Any, rank: Rank = Rank.VERB, **options: Any) -> R:
        """Call a function of the device and return its result; it is not interrupted."""
        result: R = await self._wait(rank, b"", _once(function, args, options))
        return result

    async def serve(self, peer: bytes, steps: Steps[R]) -> R:
        """Do a peer's work slice by slice, when it is that peer's turn, and return its result."""
        result: R = await self._wait(Rank.PEER, peer, steps)
        return result

    async def stop(self) -> None:
        """Finish what waits and end the thread; safe to call twice."""
        if self._is_started:
            with self._wake:
                self._is_stopping = True
                self._wake.notify()
            await asyncio.to_thread(self._thread.join)

    async def _wait(self, rank: Rank, peer: bytes, steps: Generator[None, None, Any]) -> Any:
        job = _Job(steps)
        with self._wake:
            if self._is_stopping:
                raise RuntimeError("the device was closed")
            if not self._is_started:
                self._is_started = True
                self._thread.start()
            self._inbox.append((rank, peer, job))
            self._wake.notify()
        return await job.future

    def _work(self) -> None:
        while self._sort():
            for rank in Rank:
                if rank is Rank.PEER:
                    if self._peers:
                        self._peers.advance()
                        time.sleep(0)  # the loop's turn: without it Python lets it wait 5 ms
                        break
                elif self._queues[rank]:
                    job = self._queues[rank].popleft()
                    while not job.advance():
                        pass
                    break

    def _sort(self) -> bool:
        """Put what came in where it waits; return False when nothing is left to do and nothing will come."""
        with self._wake:
            while not (self._inbox or self._peers or any(self._queues.values())):
                if self._is_stopping:
                    return False
                self._wake.wait()
            while self._inbox:
                rank, peer, job = self._inbox.popleft()
                if rank is Rank.PEER:
                    self._peers.put(peer, job)
                else:
                    self._queues[rank].append(job)
        return True


def _once(function: Callable[..., R], args: Any, options: Any) -> Steps[R]:
    yield from ()  # a generator of one slice
    return function(*args, **options)
