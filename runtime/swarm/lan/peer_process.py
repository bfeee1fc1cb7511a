"""One real peer of a swarm as a process of its own: python -m flocklet.swarm.lan.peer_process SETTINGS-AS-JSON.

It finds the others by mDNS (or by the addresses it is given), links to all of them, says `ready`, waits for a line on
its standard input, learns, and prints JSON lines: rounds as they end, and one summary. The strategy code is that of
the simulator. Identity and flock come from the run's seed: such a swarm is for one machine and one experiment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import resource
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.clock import SystemClock
from flocklet.discovery import Announcement, PeerTable, Source, StaticSource, TableSettings
from flocklet.errors import LinkError
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.link.dialer import Dialer
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.link import Link
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm import protocols as swarm
from flocklet.swarm.assembly import Run, assemble
from flocklet.swarm.lan.link import MODEL_LIMITS, SwarmLink, SystemTime
from flocklet.swarm.lan.settings import PeerSettings
from flocklet.swarm.participant import Participant
from flocklet.swarm.start import peer_identities
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task
from flocklet.swarm.tasks.catalogue import make_task
from flocklet.swarm.trainers.compute import Preparing, Threaded, computing

__all__ = ["learn", "main"]

_LOOPBACK = "127.0.0.1"


class _Reporter:
    """The observer on a device: one JSON line per model."""

    def __init__(self, task: Task, is_judged: bool) -> None:
        self._task, self._is_judged = task, is_judged
        self.models: list[tuple[int, str]] = []
        self.judged: dict[bytes, float] = {}
        self.began_s = time.monotonic()

    def event(self, peer: Participant, kind: str, round: int, detail: bytes = b"") -> None:
        """Say nothing: the line for the model is enough."""

    def accuracy(self, vector: Vector) -> float:
        """Return the test accuracy, computed once per model."""
        name = vector_id(vector)
        if name not in self.judged:
            self.judged[name] = float(self._task.accuracy(vector[None])[0])
        return self.judged[name]

    def model(self, peer: Participant, round: int, vector: Vector) -> None:
        """Print round, time and accuracy."""
        self.models.append((round, vector_id(vector).hex()))
        line: dict[str, Any] = {
            "round": round,
            "at_s": round_s(time.monotonic() - self.began_s),
            "bytes": peer.link.bytes_out,
        }
        if self._is_judged:
            line["accuracy"] = self.accuracy(vector)
        say("round", line)


def round_s(seconds: float) -> float:
    """Return milliseconds' precision."""
    return round(seconds, 3)


def say(kind: str, facts: dict[str, Any]) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps({"say": kind, **facts}) + "\n")
    sys.stdout.flush()


async def learn(settings: PeerSettings) -> dict[str, Any]:
    """Meet the others, learn with them and return the summary."""
    identity = peer_identities(settings.count, settings.seed)[settings.index]
    secret = hashlib.blake2b(
        f"{settings.seed}/{settings.run}".encode(), digest_size=16, person=b"flocklet-flock"
    )
    party = Party(identity, make_certificate(identity), Flock.closed(secret.digest()))
    task = make_task(settings.model, settings.count, settings.seed).held_by(settings.index)
    trainer = computing(Strategy.parse(settings.strategy).trainer, settings.compute)
    if isinstance(trainer, Preparing):
        await asyncio.to_thread(trainer.prepare, task, len(task.shares[settings.index]))
    table = PeerTable(
        identity.device_id, party.flock.tags, np.random.default_rng(), TableSettings(allow_loopback=True)
    )
    link, clock = SwarmLink(identity), SystemClock()
    all_here = asyncio.Event()
    serving: set[asyncio.Task[None]] = set()
    traffic: list[Link] = []

    def spawn(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        serving.add(task)
        task.add_done_callback(serving.discard)
        return task

    def linked(opened: Link) -> None:
        table.authenticated(opened.peer.device_id, clock.monotonic(), version=opened.peer.version)
        traffic.append(opened)
        spawn(f"serve {opened.peer.name}", link.serve(opened))
        if link.endpoint is not None and len(link.endpoint.links) >= settings.count - 1:
            all_here.set()

    async with contextlib.AsyncExitStack() as stack:
        link.endpoint = endpoint = Endpoint(party, on_link=linked, data_limits=MODEL_LIMITS, clock=clock)
        stack.push_async_callback(endpoint.close)
        port = await endpoint.serve([_LOOPBACK], settings.ports[settings.index] if settings.ports else 0)
        dialer = Dialer(table, endpoint, clock, lambda record: None, spawn)
        if settings.attack == "eclipse":
            from flocklet.swarm.attacks.mdns_flood import flooding

            rng = swarm.generator(settings.seed, identity.device_id, "eclipse")
            await stack.enter_async_context(flooding(party.flock.tag, rng, host=_LOOPBACK))
        for source in _sources(settings, party, port, clock):
            stack.push_async_callback(source.stop)
            await source.start(dialer.offer)
        dialling = asyncio.ensure_future(dialer.run())
        stack.callback(dialling.cancel)
        try:
            async with asyncio.timeout(settings.meet_s):
                await all_here.wait()
        except TimeoutError as error:
            raise LinkError(
                f"met {len(endpoint.links)} of {settings.count - 1} peers in {settings.meet_s:g} s",
                remedy="'flocklet doctor' tells whether multicast works here",
            ) from error
        say("ready", {"links": len(endpoint.links)})
        await asyncio.to_thread(sys.stdin.readline)
        summary = await _rounds(settings, link, task, trainer)
        await link.flush()
        say("done", {})
        await asyncio.to_thread(sys.stdin.readline)  # the others may still need us
        summary["bytes_out"] = sum(one.bytes_out for one in traffic)
    summary["rss_mb"] = peak_mb()
    return summary


def peak_mb() -> float:
    """Return the peak of this process's resident memory; `ru_maxrss` would carry over that of its parent."""
    try:
        with Path("/proc/self/status").open(encoding="ascii") as lines:
            return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _sources(settings: PeerSettings, party: Party, port: int, clock: SystemClock) -> list[Source]:
    others = [f"{_LOOPBACK}:{one}" for i, one in enumerate(settings.ports) if i != settings.index]
    found: list[Source] = [StaticSource(others, clock=clock)]
    if not settings.ports:
        from flocklet.discovery.mdns import MdnsSource

        about = Announcement(party.identity.device_id, party.flock.tag, party.run.hex(), port)
        found.append(MdnsSource(about, interfaces=[_LOOPBACK], clock=clock))
    return found


async def _rounds(
    settings: PeerSettings, link: SwarmLink, task: Task, trainer: swarm.Trainer
) -> dict[str, Any]:
    clock = SystemTime(settings.seed, link.me)
    members = [identity.device_id for identity in peer_identities(settings.count, settings.seed)]
    attack = None
    if settings.attack:
        from flocklet.swarm.attacks.model import Attack, poison

        attack = Attack(settings.attack, accomplices=frozenset(members[i] for i in settings.accomplices))
        task = poison(task, {settings.index: settings.attack})
    run = Run.of(Strategy.parse(settings.strategy), task, members, seed=settings.seed, rounds=settings.rounds)
    reporter = _Reporter(task, is_judged=settings.stop_at > 0 or settings.index == 0)
    peer = assemble(
        run,
        settings.index,
        clock=clock,
        link=link,
        compute=Threaded(task, trainer),
        observer=reporter,
        attack=attack,
        is_enough=(lambda x: reporter.accuracy(x) >= settings.stop_at) if settings.stop_at else None,
    )
    began = time.monotonic()
    await run.strategy.schedule.run(peer)
    return {
        "index": settings.index,
        "training_s": round_s(time.monotonic() - began),
        "accuracy": reporter.accuracy(peer.x),
        "models": reporter.models,
        "refused": dict(peer.refused),
        "lost": dict(link.lost),
    }


def main(argv: list[str] | None = None) -> int:
    """Run one peer."""
    values = json.loads((argv or sys.argv[1:])[0])
    lists = {name: tuple(values.get(name, ())) for name in ("ports", "accomplices")}
    settings = PeerSettings(**{**values, **lists})
    try:
        say("summary", asyncio.run(learn(settings)))
    except LinkError as error:
        say("failed", {"message": str(error), "remedy": error.remedy})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
