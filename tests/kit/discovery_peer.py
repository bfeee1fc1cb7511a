"""Run one peer that only discovers: JSON lines on stdout (times are CLOCK_MONOTONIC, one clock per machine).

usage: discovery_peer.py NUMBER INTERFACES|all TAG [flocklet|default]    ends when stdin ends

`default` is the control: the library's own way, probing for the name and asking for unicast answers first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from typing import Any

BORN_S = time.monotonic()


def device_id(number: int, tag: str) -> bytes:
    """Two test runs on one machine hear each other: the tag keeps their ids apart."""
    return hashlib.blake2b(f"{tag} peer {number}".encode(), digest_size=32).digest()


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def use_the_library_defaults() -> None:
    """Undo flocklet's two short cuts."""
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

    register, browse = AsyncZeroconf.async_register_service, AsyncServiceBrowser.__init__

    async def probing(self: Any, info: Any, **_: Any) -> Any:
        return await register(self, info)

    def browsing(self: Any, *args: Any, question_type: Any = None, **options: Any) -> None:
        browse(self, *args, **options)

    AsyncZeroconf.async_register_service = probing  # type: ignore[method-assign]
    AsyncServiceBrowser.__init__ = browsing  # type: ignore[method-assign]


async def main() -> None:
    from flocklet.discovery.announcement import Announcement
    from flocklet.discovery.mdns import MdnsSource
    from flocklet.discovery.source import Sighting

    number, interfaces, tag = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    known = {device_id(n, tag): n for n in range(256)}
    if sys.argv[4:] == ["default"]:
        use_the_library_defaults()
    source = MdnsSource(
        Announcement(device_id(number, tag), tag, os.urandom(4).hex(), port=4700 + number),
        known=lambda: known,
        interfaces=None if interfaces == "all" else interfaces.split(","),
    )
    seen: set[int] = set()

    def sink(sighting: Sighting) -> None:
        other = known.get(sighting.claimed_id or b"", -1)
        if other >= 0 and other not in seen and not sighting.gone:
            seen.add(other)
            say(
                seen=other,
                at_s=time.monotonic(),
                tag=sighting.flock_tag,
                addresses=[*map(str, sighting.addresses)],
            )

    say(born_s=BORN_S, started_s=time.monotonic())
    await source.start(sink)
    cpu_s = time.process_time()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    say(cpu_s=time.process_time() - cpu_s, problem=source.problem, **vars(source.packets))
    await source.stop()


if __name__ == "__main__":
    asyncio.run(main())
