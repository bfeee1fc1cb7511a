"""Mutated frames against the decoder and over sockets: what comes out, memory growth, longest block of the loop.

python benchmarks/hostile.py [--json FILE] [--frames 100000] [--sockets 5000] [--seed 1]

The victim of the second part is a process of its own. Half of the attackers are strangers inside TLS that mutate the
handshake; the other half are members that proved themselves and then send a mutated frame or a flood of pings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import random
import resource
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

from flocklet.errors import LinkError, WireError
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Handshake, Party
from flocklet.link.settings import LinkSettings
from flocklet.link.tls import client_context
from flocklet.testing.mutate_frames import mutated, specimens
from flocklet.wire.frame import Decoder, encode_hop
from flocklet.wire.kinds import Ping

FLOCK = Flock.closed(bytes(16))
VICTIM = Identity.from_seed(b"v" * 32)


def rss_mib() -> float:
    """Return the resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def member_of(identity: Identity, **settings: float) -> Endpoint:
    return Endpoint(Party(identity, make_certificate(identity), FLOCK), settings=LinkSettings(**settings))


def decoder_run(count: int, seed: int) -> dict[str, object]:
    rng, base = random.Random(seed), specimens(seed)
    reasons: Counter[str] = Counter()
    for _ in range(2000):
        with contextlib.suppress(WireError):
            is_open, data = mutated(rng, base)
            Decoder(is_open=is_open).feed(data)
    gc.collect()
    before, peak, worst, others, start = rss_mib(), 0.0, 0.0, 0, time.perf_counter()
    for number in range(count):
        is_open, data = mutated(rng, base)
        began = time.perf_counter()
        try:
            reasons["(still a frame)" if Decoder(is_open=is_open).feed(data) else "(waits for more)"] += 1
        except WireError as error:
            reasons[error.reason] += 1
        except BaseException as error:
            others += 1
            print(f"seed {seed} frame {number}: {error!r}")
        worst = max(worst, time.perf_counter() - began)
        if number % 1000 == 0:
            peak = max(peak, rss_mib())
    return {
        "frames": count,
        "exceptions_other_than_wire_error": others,
        "rss_growth_mib": max(peak, rss_mib()) - before,
        "slowest_frame_ms": 1e3 * worst,
        "frames_per_s": count / (time.perf_counter() - start),
        "reasons": dict(reasons.most_common()),
    }


async def watch(gaps: list[float], busy: list[float]) -> None:
    """Measure how long the loop is held: how late a sleep of one millisecond is, and the CPU time spent meanwhile.

    On a machine that others use, the first holds their share too; the second is ours alone.
    """
    while True:
        last, used = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0.001)
        gaps.append(time.perf_counter() - last - 0.001)
        busy.append(time.thread_time() - used)


async def be_victim() -> None:
    """Serve until told to stop, then print what it was like."""
    tasks: set[asyncio.Task[None]] = set()
    errors: list[str] = []
    gaps: list[float] = []
    busy: list[float] = []

    async def answer(link):
        async for message in link:
            if "rid" in message.header:
                with contextlib.suppress(LinkError):
                    await link.reply(message, "ok", {})

    def started(link):
        task = asyncio.ensure_future(answer(link))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: errors.append(repr(context.get("exception") or context["message"]))
    )
    endpoint = member_of(VICTIM, handshake_s=2.0)
    endpoint.on_link = started
    print(await endpoint.serve(["127.0.0.1"]), flush=True)
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.readline()  # warm by now
    before, watcher = rss_mib(), asyncio.ensure_future(watch(gaps, busy))
    await stdin.readline()
    watcher.cancel()
    await asyncio.sleep(2.5)
    gaps.sort()
    rows = {
        "rss_growth_mib": rss_mib() - before,
        "longest_block_ms": 1e3 * gaps[-1],
        "longest_block_cpu_ms": 1e3 * max(busy),
        "p999_block_ms": 1e3 * gaps[int(0.999 * len(gaps))],
        "unhandled_exceptions": errors[:5],
        "half_open_left": len(endpoint._greetings),
        "strangers_refused": dict(endpoint.guard.strangers.most_common()),
    }
    print(json.dumps(rows), flush=True)
    await endpoint.close()


class Attackers:
    """Come in as strangers and as members, each with its own damage."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.rng = random.Random(seed)
        self.before = [item for item in specimens(seed) if not item[0]]
        self.after = [item for item in specimens(seed) if item[0]]
        self.context = client_context()
        self.flood = encode_hop(Ping(0)) * 4000
        self.members = [member_of(Identity.generate()) for _ in range(20)]

    async def stranger(self) -> None:
        """Send a damaged handshake inside TLS."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context)
        party = Party(Identity.generate(), b"x" * 200, Flock.open())
        hello = Handshake(party, is_server=True, server_certificate=b"", address="").start()
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(mutated(self.rng, [*self.before, (False, hello)])[1])
            async with asyncio.timeout(0.02):
                await reader.read(4096)
        writer.transport.abort()

    async def member(self, number: int) -> None:
        """Prove who we are, then send damage."""
        place = number % len(self.members)
        for _ in range(3):
            try:
                link = await self.members[place].connect("127.0.0.1", self.port)
                break
            except LinkError:  # banned by now: come as somebody else
                await self.members[place].close()
                self.members[place] = member_of(Identity.generate())
        link._pipe.send(mutated(self.rng, self.after)[1] if number % 50 else self.flood)
        await asyncio.sleep(0.005)
        link._pipe.abort()


async def sockets_run(count: int, seed: int) -> dict[str, object]:
    pipe = asyncio.subprocess.PIPE
    victim = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--victim", stdin=pipe, stdout=pipe
    )
    port = int(await victim.stdout.readline())
    attackers, honest, latency = Attackers(port, seed), member_of(Identity.generate()), []

    async def visit() -> None:
        link = honest.link(VICTIM.device_id) or await honest.connect(
            "127.0.0.1", port, expected=VICTIM.device_id
        )
        began = time.perf_counter()
        await link.request("offer", {})
        latency.append(time.perf_counter() - began)

    for number in range(100):
        await (attackers.stranger() if number % 2 else attackers.member(number))
    for _ in range(100):
        await visit()
    calm, latency = statistics.median(latency), []
    victim.stdin.write(b"start\n")
    start = time.perf_counter()
    for number in range(0, count, 4):
        members = (attackers.member(number + 1), attackers.member(number + 2))
        await asyncio.gather(attackers.stranger(), attackers.stranger(), *members)
        if number % 40 == 0:
            await visit()
    spent = time.perf_counter() - start
    victim.stdin.write(b"stop\n")
    rows = json.loads(await victim.stdout.readline())
    for endpoint in (honest, *attackers.members):
        await endpoint.close()
    return {
        "connections": count,
        "wall_s": spent,
        **rows,
        "clean_exit": await victim.wait() == 0,
        "honest_request_ms_calm": 1e3 * calm,
        "honest_request_ms_under_attack": 1e3 * statistics.median(latency),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--sockets", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--victim", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.victim:
        asyncio.run(be_victim())
        return
    found = {
        "decoder": decoder_run(arguments.frames, arguments.seed),
        "sockets": asyncio.run(sockets_run(arguments.sockets, arguments.seed)),
    }
    for part, rows in found.items():
        print(part)
        for name, value in rows.items():
            print(f"  {name:34} {value:.2f}" if isinstance(value, float) else f"  {name:34} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
