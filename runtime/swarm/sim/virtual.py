"""Virtual time: an event loop whose clock jumps to the next timer when nothing else is ready.

`VirtualLoop` overrides one private method of asyncio's base loop; a test pins that on every Python version. Same
program, same order: equal times are ordered by asyncio's heap, which draws nothing at random.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np

from flocklet.errors import FlockletError
from flocklet.swarm.protocols import PeerId, generator

__all__ = ["StandStill", "VirtualLoop", "VirtualTime", "run_virtual"]

T = TypeVar("T")


class StandStill(FlockletError):
    """Report that every task waits and no timer is set: nothing can ever happen again."""


class _Quiet(selectors.SelectSelector):
    """Never wait and never look: in virtual time nothing happens outside."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return that nothing is ready."""
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual seconds; raises StandStill when everybody waits for ever."""

    def __init__(self) -> None:
        super().__init__(_Quiet())
        self._now_s = 0.0

    def time(self) -> float:
        """Return the virtual time."""
        return self._now_s

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready:
            if not scheduled:
                raise StandStill("virtual time stands still: every task waits and no timer is set")
            self._now_s = max(self._now_s, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time; not from inside another event loop (use `asyncio.to_thread`)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        main.close()
        raise FlockletError(
            "virtual time cannot run inside a running event loop", remedy="call it in asyncio.to_thread"
        )
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualTime:
    """The `Clock` of one simulated peer."""

    def __init__(self, seed: int, me: PeerId) -> None:
        self._seed = seed
        self._me = me
        self._rngs: dict[str, np.random.Generator] = {}

    def now(self) -> float:
        """Return virtual seconds."""
        return asyncio.get_running_loop().time()

    async def sleep(self, delay_s: float) -> None:
        """Wait in virtual time."""
        await asyncio.sleep(delay_s)

    def rng(self, name: str) -> np.random.Generator:
        """Return the generator of that name."""
        found = self._rngs.get(name)
        if found is None:
            found = self._rngs[name] = generator(self._seed, self._me, name)
        return found
