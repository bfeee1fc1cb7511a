"""How long the owner's search waits while peers ask as much as they can.

python benchmarks/owner_latency.py [--seconds 4] [--json FILE]

A device with 20,000 clicks of 400 people answers `clicks?` of full length for 1 or 16 hostile peers, eight questions of
each waiting all the time, while its owner searches every 20 ms. Compared: the owner first and peers in slices, in turn
(as it is); and first come, first served in whole pieces (the control: one queue, as before).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.clock import SystemClock
from flocklet.device.device import Device
from flocklet.device.membership import create_membership
from flocklet.events.click import ClickEntry
from flocklet.events.click_log import BUCKETS
from flocklet.events.click_sync import ClickQuestion, answer_steps
from flocklet.events.feed import finish
from flocklet.events.item import Document
from flocklet.node.owner import Owner
from flocklet.store.home import Home

EVERYTHING = ClickQuestion((1 << BUCKETS) - 1, b"", 512)
Ask = Callable[[Owner, Device, bytes], Awaitable[Any]]


def filled(folder: Path) -> Device:
    """Return a device with documents and clicks of strangers, whose signatures nobody checks here."""
    home = Home(folder)
    home.ensure()
    device = Device(home, create_membership(home), SystemClock())
    rng = np.random.default_rng(1)
    words = [f"word{n}" for n in range(400)]
    texts = [" ".join(rng.choice(words, 40).tolist()) for _ in range(2_000)]
    documents = [Document.of(f"d{n}", "", text) for n, text in enumerate(texts)]
    device.add_documents([(document, None) for document in documents])
    ids = [document.item_id for document in documents]
    for person in range(400):
        origin = device.log.learn_key(rng.bytes(32), via=bytes([person % 16]))
        assert origin is not None
        for seq in range(1, 51):
            shown = tuple(int(ids[n]) for n in rng.choice(len(ids), 10, replace=False))
            device.log.restore(ClickEntry(origin, seq, f"word{seq}", shown, 0, 0, rng.bytes(64)))
    return device


async def in_turn(owner: Owner, device: Device, peer: bytes) -> None:
    await owner.serve(peer, answer_steps(device.log, EVERYTHING))


async def in_whole(owner: Owner, device: Device, peer: bytes) -> None:
    await owner.run(lambda: finish(answer_steps(device.log, EVERYTHING)))


async def measured(owner: Owner, device: Device, peers: int, ask: Ask, seconds: float) -> list[float]:
    """Return how many milliseconds each search of the owner took."""

    async def hostile(peer: bytes) -> None:
        while True:
            await ask(owner, device, peer)

    asking = [asyncio.ensure_future(hostile(bytes([peer]))) for peer in range(peers) for _ in range(8)]
    took: list[float] = []
    end_s = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end_s:
        await asyncio.sleep(0.02)
        number += 1
        begun_s = time.perf_counter()
        await owner.run(device.search, f"word{number % 400} word{number * 7 % 400}")
        took.append((time.perf_counter() - begun_s) * 1e3)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return took


async def run(seconds: float) -> list[dict[str, Any]]:
    owner, rows = Owner(), []
    with tempfile.TemporaryDirectory() as name:
        device = await owner.run(filled, Path(name))
        for peers, ways in ((0, {"idle": in_turn}), (1, {"in turn": in_turn, "in whole": in_whole}),
                            (16, {"in turn": in_turn, "in whole": in_whole})):  # fmt: skip
            for way, ask in ways.items():
                took = await measured(owner, device, peers, ask, seconds)
                rows.append(
                    {"peers": peers, "way": way, "median_ms": round(statistics.median(took), 2),
                     "most_ms": round(max(took), 1), "searches": len(took)}
                )  # fmt: skip
        await owner.run(device.close)
    await owner.stop()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    rows = asyncio.run(run(args.seconds))
    idle = rows[0]["median_ms"]
    print(f"{'hostile peers x 8':>18} {'served':>9} {'median ms':>10} {'ratio':>6} {'most ms':>8}")
    for row in rows:
        print(
            f"{row['peers']:>18} {row['way']:>9} {row['median_ms']:>10} {row['median_ms'] / idle:>6.1f} {row['most_ms']:>8}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
