"""One thread owns the device: who waits is served by rank, peers in turn by the time they use."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import statistics
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flocklet.clock import SystemClock
from flocklet.device.device import Device
from flocklet.device.membership import create_membership
from flocklet.events.feed import Steps
from flocklet.node.owner import Owner, Rank
from flocklet.store.home import Home


@contextlib.asynccontextmanager
async def owner() -> AsyncIterator[Owner]:
    one = Owner()
    try:
        yield one
    finally:
        await one.stop()


def burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def slices(count: int, seconds: float, log: list[str], name: str) -> Steps[str]:
    for _ in range(count):
        burn(seconds)
        log.append(name)
        yield
    return name


async def held(one: Owner) -> threading.Event:
    """Keep the thread busy until the event is set, so that what comes meanwhile waits."""
    gate, is_in = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold() -> None:
        loop.call_soon_threadsafe(is_in.set)
        gate.wait(10)

    task = asyncio.ensure_future(one.run(hold))
    task.add_done_callback(lambda _: None)
    await is_in.wait()
    return gate


async def test_it_is_one_thread_and_never_the_loops() -> None:
    async with owner() as one:
        seen = {await one.run(threading.get_ident) for _ in range(5)}
        seen.add(await one.run(threading.get_ident, rank=Rank.UPKEEP))

        def step() -> Steps[int]:
            yield
            return threading.get_ident()

        seen.add(await one.serve(b"peer", step()))
    assert len(seen) == 1
    assert threading.get_ident() not in seen


async def test_a_result_an_error_and_a_cancellation_reach_who_waits() -> None:
    async with owner() as one:
        assert await one.run(pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            await one.run(lambda: 1 // 0)
        closed = threading.Event()

        def endless() -> Steps[None]:
            try:
                while True:
                    yield
            finally:
                closed.set()

        task = asyncio.ensure_future(one.serve(b"peer", endless()))
        await asyncio.sleep(0)
        await one.run(lambda: None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(closed.wait, 5)
        assert await one.run(pow, 2, 2) == 4


async def test_who_waits_is_served_by_rank() -> None:
    async with owner() as one:
        gate, log = await held(one), list[str]()
        waiting = [
            asyncio.ensure_future(one.run(log.append, "upkeep", rank=Rank.UPKEEP)),
            asyncio.ensure_future(one.serve(b"peer", slices(2, 0.0, log, "peer"))),
            asyncio.ensure_future(one.run(log.append, "learning", rank=Rank.LEARNING)),
            asyncio.ensure_future(one.run(log.append, "verb")),
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*waiting)
    assert log == ["verb", "learning", "peer", "peer", "upkeep"]


async def test_a_verb_waits_for_one_slice_at_most() -> None:
    async with owner() as one:
        log: list[str] = []
        work = [
            asyncio.ensure_future(one.serve(bytes([peer]), slices(20, 0.001, log, "peer")))
            for peer in range(8)
        ]
        waited = []
        for _ in range(20):
            before = len(log)
            await one.run(burn, 0.0005)
            waited.append(len(log) - before)
        assert not all(task.done() for task in work), "the control: there was work all the time"
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
    assert statistics.median(waited) <= 2


async def test_peers_take_turns_by_time_so_a_greedy_one_slows_itself_only() -> None:
    async with owner() as one:
        gate, log = await held(one), list[str]()
        greedy = [
            asyncio.ensure_future(one.serve(b"greedy", slices(10, 0.002, log, "greedy"))) for _ in range(8)
        ]
        small = [
            asyncio.ensure_future(one.serve(b"small", slices(1, 0.0005, log, "small"))) for _ in range(8)
        ]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*small)
        used = log.count("greedy")
        await asyncio.gather(*greedy)
    assert log.count("greedy") == 80
    assert used <= 12, "first come, first served would be 80"


async def test_what_waits_is_finished_before_the_thread_ends() -> None:
    one, log = Owner(), list[int]()
    tasks = [asyncio.ensure_future(one.run(log.append, n)) for n in range(5)]
    await asyncio.sleep(0)
    await one.stop()
    await asyncio.gather(*tasks)
    assert log == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError):
        await one.run(log.append, 6)
    await one.stop()


async def test_a_device_refuses_every_thread_but_its_owner(tmp_path: Path) -> None:
    home = Home(tmp_path)
    membership = await asyncio.to_thread(create_membership, home)
    async with owner() as one:
        device = await one.run(Device, home, membership, SystemClock())
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            await asyncio.to_thread(device.search, "tent")
        assert not (await one.run(device.search, "tent")).found
        await one.run(device.close)
