"""Start a swarm of real peers on this machine, one process each, and watch it.

The processes find each other by mDNS on the loopback interface, speak TLS 1.3 and run the same strategy code as the
simulator. They are started together, learn when all are linked, and end together; whatever happens, none survives.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flocklet.errors import LinkError
from flocklet.swarm.lan.settings import PeerSettings, as_json

__all__ = ["Launch", "launch"]


@dataclass
class Launch:
    """What a real swarm did: summaries by index; seconds from the start of the processes and of the training."""

    summaries: list[dict[str, Any]] = field(default_factory=list)
    cold_s: float = 0.0
    training_s: float = 0.0
    met_s: float = 0.0

    @property
    def bytes_out(self) -> int:
        """All bytes that peers gave to their links: frames, pings, credits; without TLS and TCP headers."""
        return sum(summary["bytes_out"] for summary in self.summaries)


async def launch(
    count: int,
    strategy: str,
    *,
    seed: int,
    rounds: int,
    stop_at: float = 0.0,
    attacks: Mapping[int, str] | None = None,
    model: str = "digits",
    compute: str = "numpy",
    is_mdns_on: bool = True,
    on_round: Callable[[int, Mapping[str, Any]], None] = lambda index, line: None,
) -> Launch:
    """Run `count` processes to the last round; raise LinkError with the first failure of any of them.

    Without mDNS each process is told the others' addresses, on ports that were free a moment ago.
    """
    began, run = time.monotonic(), secrets.token_hex(8)
    result = Launch()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    processes: list[asyncio.subprocess.Process] = []
    ports = () if is_mdns_on else _free_ports(count)
    try:
        for index in range(count):
            settings = PeerSettings(
                index,
                count,
                seed,
                rounds,
                strategy,
                stop_at,
                attack=(attacks or {}).get(index, ""),
                accomplices=tuple(attacks or {}),
                run=run,
                model=model,
                compute=compute,
                ports=ports,
            )
            processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "flocklet.swarm.lan.peer_process",
                    as_json(settings),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=environment,
                )
            )
        await _until(processes, "ready", on_round)
        result.met_s = time.monotonic() - began
        go = time.monotonic()
        _tell(processes)
        await _until(processes, "done", on_round)
        result.training_s = time.monotonic() - go
        result.cold_s = time.monotonic() - began
        _tell(processes)
        result.summaries = await _until(processes, "summary", on_round)
        for process in processes:
            await process.wait()
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return result


def _free_ports(count: int) -> tuple[int, ...]:
    """Return ports of the loopback interface that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in sockets)


def _tell(processes: list[asyncio.subprocess.Process]) -> None:
    for process in processes:
        if process.stdin is not None:
            process.stdin.write(b"\n")


async def _until(
    processes: list[asyncio.subprocess.Process], kind: str, on_round: Callable[[int, Mapping[str, Any]], None]
) -> list[dict[str, Any]]:
    return list(
        await asyncio.gather(*(_read(i, process, kind, on_round) for i, process in enumerate(processes)))
    )


async def _read(
    index: int,
    process: asyncio.subprocess.Process,
    kind: str,
    on_round: Callable[[int, Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Return the next line of that kind, passing rounds on."""
    if process.stdout is None:
        raise LinkError(f"peer {index} has no output")
    while line := await process.stdout.readline():
        facts: dict[str, Any] = json.loads(line)
        said = facts.pop("say")
        if said == kind:
            return facts
        if said == "round":
            on_round(index, facts)
        elif said == "failed":
            raise LinkError(f"peer {index}: {facts['message']}", remedy=facts["remedy"])
    raise LinkError(f"peer {index} ended before it was {kind}", remedy="run it with -v to see why")
