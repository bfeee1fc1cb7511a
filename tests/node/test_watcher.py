"""Noticing changes of files: at once through watchdog, by a look a minute without it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from flocklet.clock import SystemClock
from flocklet.node import watcher as watching
from flocklet.node.watcher import Watcher


async def test_a_change_is_noticed_at_once(tmp_path: Path) -> None:
    pytest.importorskip("watchdog", reason="watchdog (extra 'watch') is not installed")
    watcher = Watcher(SystemClock())
    (tmp_path / "sub").mkdir()
    await watcher.follow([str(tmp_path)])
    try:
        waiting = asyncio.ensure_future(watcher.changed())
        await asyncio.to_thread((tmp_path / "sub" / "new.txt").write_text, "words")
        assert await asyncio.wait_for(waiting, 10) == {str(tmp_path)}
        assert watcher.problem == ""
    finally:
        await watcher.stop()


async def test_without_watchdog_it_says_so_and_looks_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchdog.events", None)
    monkeypatch.setattr(watching, "POLL_S", 0.01)
    watcher = Watcher(SystemClock())
    await watcher.follow([str(tmp_path)])
    assert watcher.problem == ""  # a missing extra is no fault
    assert await asyncio.wait_for(watcher.changed(), 10) == frozenset()
    await watcher.stop()


async def test_the_system_s_limit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folders: object, mark: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(watching, "_observer", full)
    watcher = Watcher(SystemClock())
    await watcher.follow([str(tmp_path)])
    assert "limit" in watcher.problem
    await watcher.stop()
    assert watcher.problem == ""


async def test_it_wakes_for_folders_that_are_new(tmp_path: Path) -> None:
    watcher = Watcher(SystemClock())
    waiting = asyncio.ensure_future(watcher.changed())
    await asyncio.sleep(0)
    watcher.wake()
    assert await asyncio.wait_for(waiting, 10) == frozenset()
