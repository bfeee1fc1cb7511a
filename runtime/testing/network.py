"""A test kit for what speaks through links: peers in one process, a network in memory, faults from a seed.

    clock, plan = VirtualClock(), FaultPlan(seed=7)
    async with peers(3, clock=clock, plan=plan) as (a, b, c):
        link = await a.connect(b)

The network carries the very bytes that sockets would (TLS, handshake, frames), so nothing is simplified but the wire.
Exceptions in callbacks and tasks are collected by `fragile()` and fail the test. Not for production.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from flocklet.clock import Clock, SystemClock
from flocklet.errors import LinkError
from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.link import Link
from flocklet.link.settings import LinkSettings
from flocklet.wire.door import Door

__all__ = ["Fault", "FaultPlan", "MemoryNetwork", "TestPeer", "fragile", "peers"]

HIGH_WATER_BYTES = 256 * 1024


class Fault(Enum):
    """What can befall one write of one side of a connection (after hivemind's fault enum)."""

    NONE = "none"
    FAIL_BEFORE = "fail before"  # the connection breaks, nothing arrives
    FAIL_WHILE = "fail while"  # a part arrives, then the connection breaks
    FAIL_AFTER = "fail after"  # all arrives, then the connection breaks
    SLOW = "slow"  # arrives late
    REFUSE = "refuse"  # a connection that is not accepted


@dataclass
class FaultPlan:
    """Draw faults from a seed; `rates` gives the probability of each per write (REFUSE: per connection).

    `spare_writes` writes of each side of each connection pass first, so that handshakes can be spared. `counts` tells
    what was drawn. Print `plan` when a test fails: it names its seed.
    """

    seed: int = 0
    rates: dict[Fault, float] | None = None
    slow_s: float = 1.0
    latency_s: float = 0.0
    spare_writes: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.counts: Counter[Fault] = Counter()

    def draw(self, among: Iterable[Fault]) -> Fault:
        """Return the fault for the next write or connection."""
        point = self._random.random()
        for fault in among:
            point -= (self.rates or {}).get(fault, 0.0)
            if point < 0:
                self.counts[fault] += 1
                return fault
        self.counts[Fault.NONE] += 1
        return Fault.NONE

    def part(self, size: int) -> int:
        """Return how many bytes of a broken write arrive."""
        return self._random.randrange(size) if size else 0


WRITE_FAULTS = (Fault.FAIL_BEFORE, Fault.FAIL_WHILE, Fault.FAIL_AFTER, Fault.SLOW)


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory."""

    def __init__(
        self, protocol: asyncio.BufferedProtocol, clock: Clock, plan: FaultPlan, names: tuple[Any, Any]
    ) -> None:
        super().__init__({"sockname": names[0], "peername": names[1]})
        self.other: MemoryTransport | None = None
        self._protocol = protocol
        self._clock = clock
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[float, bytes | None]] = deque()  # None: the other side closed
        self._inbox_bytes = 0
        self._is_paused = False
        self._is_closing = False
        self._is_lost = False
        self._has_clogged = False
        self._waiting: asyncio.Task[None] | None = None
        self._is_scheduled = False
        self._writes = 0

    def is_closing(self) -> bool:
        """Whether the end has come or is near."""
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Carry bytes to the other end, unless the plan has something else in mind."""
        if self._is_closing or self.other is None or not data:
            return
        self._writes += 1
        spared = self._writes <= self._plan.spare_writes
        fault = Fault.NONE if spared else self._plan.draw(WRITE_FAULTS)
        data = bytes(data)
        if fault is Fault.FAIL_WHILE:
            data = data[: self._plan.part(len(data))]
        if fault is not Fault.FAIL_BEFORE:
            delay_s = self._plan.latency_s + (self._plan.slow_s if fault is Fault.SLOW else 0.0)
            self.other.carry(data, delay_s)
        if fault in (Fault.FAIL_BEFORE, Fault.FAIL_WHILE, Fault.FAIL_AFTER):
            self.cut()

    def cut(self) -> None:
        """Break the connection for both ends, as a pulled cable with a reset does."""
        other = self.other
        self.abort()
        if other is not None:
            other.carry(None, 0.0)

    def carry(self, data: bytes | None, delay_s: float) -> None:
        """Take bytes from the other end."""
        due_s = self._clock.monotonic() + delay_s
        if self._inbox:
            due_s = max(due_s, self._inbox[-1][0])
        self._inbox.append((due_s, data))
        self._inbox_bytes += len(data or b"")
        if self._inbox_bytes > HIGH_WATER_BYTES and self.other is not None and not self.other._has_clogged:
            self.other._has_clogged = True
            self.other._protocol.pause_writing()
        self._schedule()

    def _schedule(self) -> None:
        if self._is_scheduled or not self._inbox or self._is_paused or self._is_lost:
            return
        self._is_scheduled = True
        delay_s = self._inbox[0][0] - self._clock.monotonic()
        if delay_s <= 0:
            self._loop.call_soon(self._deliver)
        else:
            self._waiting = asyncio.ensure_future(self._deliver_later(delay_s))

    async def _deliver_later(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._deliver()

    def _deliver(self) -> None:
        self._is_scheduled = False
        if self._is_paused or self._is_lost or not self._inbox:
            return
        _, data = self._inbox.popleft()
        if data is None:
            self.abort()
            return
        self._inbox_bytes -= len(data)
        rest = memoryview(data)
        while rest and not self._is_lost:
            buffer = memoryview(self._protocol.get_buffer(len(rest)))
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self._protocol.buffer_updated(count)
            rest = rest[count:]
        other = self.other
        if other is not None and other._has_clogged and self._inbox_bytes <= HIGH_WATER_BYTES // 4:
            other._has_clogged = False
            if not other._is_lost:
                other._protocol.resume_writing()
        self._schedule()

    def pause_reading(self) -> None:
        """Keep arriving bytes back."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand arriving bytes out again."""
        self._is_paused = False
        self._schedule()

    def close(self) -> None:
        """Close after what was written has left."""
        if not self._is_closing:
            self._is_closing = True
            if self.other is not None:
                self.other.carry(None, self._plan.latency_s)
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Close now."""
        self.close()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._inbox.clear()
            if self._waiting is not None:
                self._waiting.cancel()
            self._protocol.connection_lost(error)


class _MemoryListener:
    def __init__(self, network: MemoryNetwork, port: int) -> None:
        self._network = network
        self.port = port

    def close(self) -> None:
        self._network.listening.pop(self.port, None)


class MemoryNetwork:
    """A network in which every host is one: ports are all that tells peers apart."""

    def __init__(self, *, clock: Clock | None = None, plan: FaultPlan | None = None) -> None:
        self.clock = clock or SystemClock()
        self.plan = plan or FaultPlan()
        self.listening: dict[int, Callable[[], asyncio.BaseProtocol]] = {}
        self.connections: list[tuple[MemoryTransport, MemoryTransport]] = []
        self._next_port = 40000

    async def connect(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        """Open a connection, unless nobody listens or the plan refuses it."""
        accept = self.listening.get(port)
        if accept is None or self.plan.draw((Fault.REFUSE,)) is Fault.REFUSE:
            raise LinkError(f"cannot connect to {host} port {port}: Connection refused")
        self._next_port += 1
        names = (("memory", self._next_port), ("memory", port))
        near, far = make(), accept()
        assert isinstance(near, asyncio.BufferedProtocol)  # noqa: S101
        assert isinstance(far, asyncio.BufferedProtocol)  # noqa: S101
        here = MemoryTransport(near, self.clock, self.plan, names)
        there = MemoryTransport(far, self.clock, self.plan, (names[1], names[0]))
        here.other, there.other = there, here
        self.connections.append((here, there))
        far.connection_made(there)
        near.connection_made(here)

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], hosts: Sequence[str], port: int
    ) -> _MemoryListener:
        """Accept connections at `port`, or at a free one for 0."""
        if not port:
            self._next_port += 1
            port = self._next_port
        if port in self.listening:
            raise LinkError(f"port {port} is in use by another program")
        self.listening[port] = make
        return _MemoryListener(self, port)

    def cut_all(self) -> None:
        """Break every connection."""
        for here, _ in self.connections:
            if not here.is_closing():
                here.cut()
        self.connections.clear()


@dataclass
class TestPeer:
    """An endpoint that listens, and the links that it was given, in order."""

    __test__ = False  # for pytest

    endpoint: Endpoint
    port: int
    links: list[Link]

    @property
    def identity(self) -> Identity:
        """Who this peer is."""
        return self.endpoint.party.identity

    async def connect(self, other: TestPeer) -> Link:
        """Open a link to another peer, expecting its id."""
        return await self.endpoint.connect("memory", other.port, expected=other.identity.device_id)


@asynccontextmanager
async def peers(
    count: int,
    *,
    flock: Flock | None = None,
    clock: Clock | None = None,
    plan: FaultPlan | None = None,
    settings: LinkSettings | None = None,
    network: MemoryNetwork | None = None,
    first_seed: int = 1,
    on_link: Callable[[Link], None] | None = None,
    door: Callable[[], Door] | None = None,
) -> AsyncIterator[list[TestPeer]]:
    """Start `count` listening peers of one closed flock in one network; close them all at the end.

    Their identities come from `first_seed`, so they are the same in every run. `door` makes what each of them takes.
    """
    network = network or MemoryNetwork(clock=clock, plan=plan)
    flock = flock or Flock.closed(bytes(range(16)))
    made = []
    async with fragile():
        for index in range(count):
            identity = Identity.from_seed((first_seed + index).to_bytes(32, "big"))
            links: list[Link] = []

            def opened(link: Link, links: list[Link] = links) -> None:
                links.append(link)
                if on_link is not None:
                    on_link(link)

            party = Party(identity, make_certificate(identity), flock)
            endpoint = Endpoint(
                party,
                on_link=opened,
                settings=settings,
                clock=network.clock,
                network=network,
                door=door() if door is not None else None,
            )
            made.append(TestPeer(endpoint, await endpoint.serve(), links))
        try:
            yield made
        finally:
            for peer in made:
                await peer.endpoint.close()


@asynccontextmanager
async def fragile() -> AsyncIterator[None]:
    """Fail at the end if any callback or task of the loop raised an exception that nobody took."""
    loop = asyncio.get_running_loop()
    found: list[str] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(
        lambda _, context: found.append(f"{context['message']}: {context.get('exception')!r}")
    )
    try:
        yield
    finally:
        loop.set_exception_handler(before)
    if found:
        raise AssertionError("; ".join(found))
