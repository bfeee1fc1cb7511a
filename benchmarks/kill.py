"""Kill a peer with SIGKILL again and again while it takes clicks in from its owner and from another peer.

After every kill the store is opened and checked: it must be sound and hold every click that was acknowledged. The peer
is then started again and must go on. In the end both peers must hold the same clicks.

Run: python benchmarks/kill.py [--kills 200] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from flocklet.clock import SystemClock
from flocklet.demo.flock import LOOPBACK, PeerProcess, wait_until
from flocklet.device.device import Device
from flocklet.device.membership import load_membership
from flocklet.errors import FlockletError
from flocklet.events.click_log import Limits
from flocklet.identity.flock import Flock


class Ingest(threading.Thread):
    """Record clicks on one peer as fast as it acknowledges them, and count those that it did."""

    def __init__(self, peer: PeerProcess, first: int, batch: int) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.next = first
        self.acknowledged = 0
        self.batch = batch
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            clicks = [
                ("me", f"query {n % 50}", (n % 997 + 1,), 0, float(n))
                for n in range(self.next, self.next + self.batch)
            ]
            try:
                self.acknowledged += self.peer.ask("record", {"clicks": clicks})["recorded"]
            except (FileNotFoundError, FlockletError):
                time.sleep(0.005)
                continue
            self.next += self.batch


def own_clicks(peer: PeerProcess) -> tuple[int, int]:
    """Open the store of a dead peer, check it, and return (own clicks, newest number of the other peer's)."""
    with Device(peer.home, load_membership(peer.home), SystemClock(), check=True) as device:
        own = device.identity_of("me").origin
        clicks = list(device.store.clicks())
        newest = max((click.seq for click in clicks if click.origin != own), default=0)
        return sum(click.origin == own for click in clicks), newest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    lost = corrupt = not_resumed = in_exchange = acknowledged = 0
    flock = Flock.generate()
    with tempfile.TemporaryDirectory(prefix="flocklet-kill-") as name:
        stable = PeerProcess(Path(name) / "stable", flock, ("--no-mdns", "--gossip-s", "0"))
        stable.start()
        stable.wait_ready()
        port = stable.ask("status")["port"]
        victim = PeerProcess(
            Path(name) / "victim", flock, ("--no-mdns", "--gossip-s", "0.05", "--peer", f"{LOOPBACK}:{port}")
        )
        held_before = 0
        try:
            for kill in range(args.kills):
                stable.ask(
                    "record", {"clicks": [("me", f"q{kill}", (n + 1,), 0, float(n)) for n in range(20)]}
                )
                ingest = Ingest(victim, 0, int(rng.integers(1, 20)))
                victim.start()
                ingest.start()
                # Half of the kills hit the start (store, log, index, links), half the running exchange.
                if kill % 2:
                    with contextlib.suppress(FlockletError):
                        victim.wait_ready()
                time.sleep(float(rng.uniform(0, 0.6)))
                victim.kill()
                ingest.is_over = True
                ingest.join()
                acknowledged += ingest.acknowledged
                try:
                    own, newest = own_clicks(victim)
                except FlockletError as error:
                    print(f"kill {kill}: {error}")
                    corrupt += 1
                    continue
                lost += max(0, acknowledged - own)
                in_exchange += newest > held_before
                held_before = newest
            victim.start()
            try:
                victim.wait_ready()
                quota = Limits().quota  # of one person, in the log that gossip answers from
                wanted = stable.ask("status")["clicks"] + min(quota, acknowledged)
                has_all = wait_until(lambda: victim.ask("status")["clicks"] >= wanted, 60)
                not_resumed = int(not has_all)
            except FlockletError as error:
                print(error)
                not_resumed = 1
        finally:
            victim.stop()
            stable.stop()
    result = {
        "kills": args.kills,
        "seed": args.seed,
        "acknowledged": acknowledged,
        "lost": lost,
        "corrupt_stores": corrupt,
        "runs_that_brought_clicks_of_the_other_peer": in_exchange,
        "not_resumed": not_resumed,
    }
    for key, value in result.items():
        print(f"{key:<45} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))
    return 0 if not (lost or corrupt or not_resumed) else 8


if __name__ == "__main__":
    raise SystemExit(main())
