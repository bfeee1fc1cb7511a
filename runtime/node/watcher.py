"""Notice that files changed: through `watchdog` (extra `watch`), else by looking once a minute.

Events only mark a folder; what changed is found by its stat (`flocklet.device.folders`), so a lost event loses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from flocklet.clock import Clock

__all__ = ["POLL_S", "WATCHED_POLL_S", "Watcher"]

_log = logging.getLogger("flocklet.node")

POLL_S = 60.0
WATCHED_POLL_S = 600.0
"""A watched folder is looked at now and then too: network file systems tell nothing."""
_QUIET_S = 0.5
_QUIET_MAX_S = 5.0
_CHANGES = frozenset(("created", "modified", "moved", "deleted", "closed"))


class Watcher:
    """Say which of the followed folders to look at."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marked: set[str] = set()
        self._woken = asyncio.Event()
        self._observer: Any = None
        self._watched: frozenset[str] = frozenset()
        self.problem = ""

    async def follow(self, folders: Iterable[str]) -> None:
        """Watch these folders and no others; without watchdog, or past the system's limit of watches, do nothing."""
        wanted = frozenset(folders)
        if wanted == self._watched:
            return
        await self.stop()
        self._watched = wanted
        if wanted:
            try:
                self._observer = await asyncio.to_thread(
                    _observer, wanted, self._mark(asyncio.get_running_loop())
                )
            except ImportError:
                _log.info(
                    "folders are looked at once a minute; pip install '.[watch]' notices changes at once"
                )
            except OSError as error:  # inotify has a limit for each user
                self.problem = f"folders are looked at once a minute: the system allows no more watches ({error.strerror})"
                _log.warning("%s", self.problem)

    async def stop(self) -> None:
        """Watch nothing."""
        observer, self._observer, self._watched, self.problem = self._observer, None, frozenset(), ""
        if observer is not None:
            await asyncio.to_thread(_stop, observer)

    def _mark(self, loop: asyncio.AbstractEventLoop) -> Callable[[str], None]:
        def mark(folder: str) -> None:
            self._marked.add(folder)
            self._woken.set()

        def told(folder: str) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(mark, folder)

        return told

    def wake(self) -> None:
        """Let `changed` return soon: other folders are followed now."""
        self._woken.set()

    async def changed(self) -> frozenset[str]:
        """Wait until a folder changed and was quiet for half a second, or it is time to look in any case.

        Return the changed ones, none for "look at all".
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S if self._observer is None else WATCHED_POLL_S):
                await self._woken.wait()
        waited = 0.0
        while self._woken.is_set() and waited < _QUIET_MAX_S:
            self._woken.clear()
            await self._clock.sleep(_QUIET_S)
            waited += _QUIET_S
        self._woken.clear()
        marked, self._marked = frozenset(self._marked), set()
        return marked


def _observer(folders: Iterable[str], mark: Callable[[str], None]) -> Any:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Marks(FileSystemEventHandler):
        def __init__(self, folder: str) -> None:
            self._folder = folder

        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in _CHANGES:
                mark(self._folder)

    observer: Any = Observer()
    try:
        for folder in sorted(folders):
            observer.schedule(Marks(folder), folder, recursive=True)
        observer.start()
    except FileNotFoundError:  # the folder is gone: found out by looking
        observer.unschedule_all()
        observer.start()
    return observer


def _stop(observer: Any) -> None:
    observer.stop()
    observer.join()
