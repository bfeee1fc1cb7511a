"""Rules for every test: no blocked event loop, no thread or task left behind, one BLAS thread."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

# Before NumPy is loaded: the matrices are small, and a second thread only waits for the first.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
from blockbuster import BlockBuster  # noqa: E402

# Threads that serve a whole process and end with it, by the beginning of their names.
KEPT = ("asyncio_", "ThreadPoolExecutor", "ziglang", "QueueFeederThread", "execnet")


@pytest.fixture(scope="session", autouse=True)
def unblocked_loop() -> Iterator[BlockBuster]:
    """Raise `BlockingError` where flocklet waits for a disk, a lock, a socket or a clock on an event loop."""
    watch = BlockBuster(scanned_modules="flocklet")
    # A file in memory; and virtual time, where nobody waits.
    watch.functions["os.write"].can_block_in("link/tls.py", {"server_context"})
    for function in watch.functions.values():
        function.can_block_in("swarm/sim/virtual.py", {"run_virtual"})
    watch.activate()
    yield watch
    watch.deactivate()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """Fail a test after which more threads run than before."""
    before = set(threading.enumerate())
    yield
    for _ in range(100):
        left = [
            t
            for t in threading.enumerate()
            if t not in before and t.is_alive() and not t.name.startswith(KEPT)
        ]
        if not left:
            return
        left[0].join(0.02)
    pytest.fail(f"threads left running: {', '.join(t.name for t in left)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail an asynchronous test that leaves tasks running on its loop; what a fixture keeps running may have its own."""
    runner = getattr(item, "funcargs", {}).get("_function_scoped_runner")
    before = set() if runner is None else asyncio.all_tasks(runner.get_loop())
    result = yield
    if runner is not None and all(task.done() for task in before):
        left = [task for task in asyncio.all_tasks(runner.get_loop()) if not task.done()]
        if left:
            pytest.fail(f"tasks left running: {', '.join(repr(t.get_coro()) for t in left)}")
    return result


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder with data sets that FLOCKLET_DATA names, or skip the test."""
    named = os.environ.get("FLOCKLET_DATA")
    if not named:
        pytest.skip("FLOCKLET_DATA does not name a folder with data sets")
    return Path(named)


@pytest.fixture(scope="session")
def golden_flights(data_folder: Path) -> list[dict[str, list[float]]]:
    """Return transitions of a quadrotor that another simulator computed in float64."""
    file = data_folder / "flight" / "golden.jsonl"
    if not file.is_file():
        pytest.skip("the folder that FLOCKLET_DATA names holds no flight/golden.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]
