"""Start discovering peers as processes, on loopback or in network namespaces on one bridge; clean up."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("discovery_peer.py")


def why_no_namespaces() -> str:
    """Return why network namespaces cannot be used here, "" if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need 'ip' (iproute2)"
    name = f"fl{secrets.token_hex(3)}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"'ip netns add' fails: {done.stderr.strip()[:80]}"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, check=False)
    subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "this kernel has no bridges" if made.returncode else ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def bridged(count: int) -> Iterator[list[str]]:
    """Yield `count` namespaces with addresses 10.77.0.1.. on one bridge."""
    word = secrets.token_hex(3)
    bridge = f"fb{word}"
    names = [f"fl{word}-{n}" for n in range(count)]
    try:
        try:
            _ip("link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        except subprocess.CalledProcessError:
            _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names):
            _ip("netns", "add", name)
            port = f"p{word}{number}"
            _ip("link", "add", port, "type", "veth", "peer", "name", "e0", "netns", name)
            _ip("link", "set", port, "master", bridge, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "e0")
            _ip("-n", name, "link", "set", "e0", "up")
            _ip("-n", name, "route", "add", "224.0.0.0/4", "dev", "e0")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


class PeerProcess:
    """One discovering process; `started_s` is when it asked mDNS to start, `seen` maps number to time."""

    def __init__(
        self, number: int, interfaces: str, tag: str, namespace: str = "", style: str = "flocklet"
    ) -> None:
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        self.spawned_s = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-W", "error", str(SCRIPT), str(number), interfaces, tag, style],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.number = number
        self.started_s: float | None = None
        self.seen: dict[int, float] = {}
        self.sightings: list[dict[str, Any]] = []
        self.report: dict[str, Any] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fields = json.loads(line)
            if "seen" in fields:
                self.seen[fields["seen"]] = fields["at_s"]
                self.sightings.append(fields)
            elif "started_s" in fields:
                self.started_s = fields["started_s"]
            else:
                self.report = fields

    def stop(self) -> dict[str, Any]:
        """End the process and return its last line: cpu_s, packets_in, bytes_out, ..."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join(timeout=5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.report


def wait_until(is_done: Callable[[], bool], limit_s: float) -> bool:
    """Look every 20 ms until `is_done()` or `limit_s` have passed; return which."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        if is_done():
            return True
        time.sleep(0.02)
    return is_done()


@contextlib.contextmanager
def flock_of(
    count: int,
    *,
    interfaces: str,
    namespaces: list[str] | None = None,
    gap_s: float = 0.0,
    style: str = "flocklet",
) -> Iterator[list[PeerProcess]]:
    """Yield `count` running peers, `gap_s` between their starts; ends every one of them."""
    peers: list[PeerProcess] = []
    tag = secrets.token_hex(4)
    try:
        for number in range(count):
            peers.append(
                PeerProcess(number, interfaces, tag, namespaces[number] if namespaces else "", style)
            )
            if gap_s:
                time.sleep(gap_s)
        yield peers
    finally:
        for peer in peers:
            if peer.process.stdin is not None:
                with contextlib.suppress(OSError):
                    peer.process.stdin.close()
        for peer in peers:
            peer.stop()


def found_pairs(peers: list[PeerProcess]) -> dict[tuple[int, int], float]:
    """Return (who, whom) -> seconds after the later of the two starts."""
    pairs = {}
    for peer in peers:
        for other, at_s in dict(peer.seen).items():
            starts = (peer.started_s, peers[other].started_s) if 0 <= other < len(peers) else (None, None)
            if starts[0] is not None and starts[1] is not None and other != peer.number:
                pairs[peer.number, other] = at_s - max(starts[0], starts[1])
    return pairs
