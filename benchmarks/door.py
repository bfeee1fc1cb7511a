"""What the door costs a message: CPU microseconds of decoding and checking, beside decoding alone.

usage: python benchmarks/door.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from flocklet.events.edge_sync import EdgeAnswer, EdgeQuestion
from flocklet.link.transfer import ChunkAnswer, ChunkQuestion
from flocklet.wire.body import Limits, pack_body, unpack_body
from flocklet.wire.door import Door
from flocklet.wire.kinds import Kind, Ping
from flocklet.wire.schema import Message, body_of

MESSAGES: tuple[Message, ...] = (
    Ping(28_000_000),
    ChunkQuestion(bytes(16), 7, bytes(16)),
    EdgeQuestion(bytes(8), bytes(32_768), 16, bytes(1_024)),
    EdgeAnswer(bytes(48_000), bytes(512), bytes(8_192)),
    ChunkAnswer(bytes(65_536)),
)


def cpu_us(work: Callable[[], object], repeats: int = 7, times: int = 2_000) -> float:
    """Return the median CPU time of one call in microseconds."""
    rounds = []
    for _ in range(repeats):
        begun_s = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - begun_s) / times * 1e6)
    return statistics.median(rounds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    door = Door(Kind.of(type(message)) for message in MESSAGES if not isinstance(message, Ping))
    limits = Limits(max_bytes=1 << 20)
    rows = []
    for message in MESSAGES:
        kind, data = door.kind(message.kind), pack_body(body_of(message))
        door_us = cpu_us(lambda kind=kind, data=data: door.read(kind, data))  # type: ignore[misc]
        walk_us = cpu_us(lambda data=data: unpack_body(data, limits))  # type: ignore[misc]
        most_us = 20.0 if kind.size.value == "control" else 10.0 + 0.5 * len(data) / 1000
        rows.append(
            {
                "kind": kind.name,
                "bytes": len(data),
                "door_us": door_us,
                "walk_us": walk_us,
                "most_us": most_us,
            }
        )
        print(f"| `{kind.name}` | {len(data):,} | {door_us:.1f} | {walk_us:.1f} | {most_us:.0f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
