"""Real peer processes on this machine: start, ask, kill and stop them; nothing survives the `with` block."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from flocklet.device.membership import create_membership
from flocklet.errors import LinkError
from flocklet.identity.flock import Flock
from flocklet.node import control
from flocklet.store.home import Home

__all__ = ["LOOPBACK", "PeerProcess", "everywhere", "running_flock", "wait_until"]

LOOPBACK = "127.0.0.1"
_START_S = 30.0
_STOP_S = 10.0

T = TypeVar("T")


class PeerProcess:
    """One `flocklet up` with a home of its own; its log is `up.log` in the home."""

    def __init__(self, path: Path, flock: Flock, options: Sequence[str] = ()) -> None:
        self.home = Home(path)
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = 0.0
        create_membership(self.home, flock=flock)

    def start(self) -> None:
        """Start the process; `wait_ready` waits until it answers."""
        command = [sys.executable, "-m", "flocklet", "--home", os.fspath(self.home.path), "-v", "up"]
        command += ["--interface", LOOPBACK, *self._options]
        with (self.home.path / "up.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.started_s = time.monotonic()

    def wait_ready(self) -> None:
        """Wait until the control socket answers; raise LinkError with the end of the log if the peer died."""

        def is_ready() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise LinkError(f"a peer ended at once: {self._last_words()}")
            try:
                self.ask("status")
            except (FileNotFoundError, LinkError):
                return False
            return True

        if not wait_until(is_ready, _START_S):
            raise LinkError(f"a peer did not start within {_START_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        lines = (self.home.path / "up.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def ask(self, verb: str, values: Mapping[str, Any] | None = None) -> Any:
        """Ask the running peer through its control socket."""
        return control.ask(self.home, verb, values or {}, timeout_s=300.0)

    def kill(self) -> None:
        """End the process as a power cut would: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask the process to end; kill it when it does not."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def wait_until(is_true: Callable[[], bool], timeout_s: float, *, every_s: float = 0.05) -> bool:
    """Ask again and again until it is true; False after `timeout_s`."""
    end_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > end_s:
            return False
        time.sleep(every_s)
    return True


def everywhere(peers: Sequence[PeerProcess], action: Callable[[int, PeerProcess], T]) -> list[T]:
    """Do something with every peer at the same time; the answers come in the order of the peers."""
    with ThreadPoolExecutor(max(1, len(peers))) as pool:
        return list(pool.map(action, range(len(peers)), peers))


@contextlib.contextmanager
def running_flock(
    folder: Path, count: int, flock: Flock, options: Sequence[str] = ()
) -> Iterator[list[PeerProcess]]:
    """Start `count` peers in homes below `folder`; stop them in the end, whatever happens."""
    peers: list[PeerProcess] = []
    try:
        for number in range(count):
            peers.append(PeerProcess(folder / f"peer{number}", flock, options))
        for peer in peers:
            peer.start()
        everywhere(peers, lambda _, peer: peer.wait_ready())
        yield peers
    finally:
        for peer in peers:
            with contextlib.suppress(ProcessLookupError):
                peer.stop()
