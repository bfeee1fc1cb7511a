"""Stand before the mDNS parser: count datagrams and shed floods before they cost anything."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from flocklet.discovery.address import is_loopback
from flocklet.discovery.bucket import TokenBucket

__all__ = ["PacketCounts", "PacketGate", "PacketLimits"]


@dataclass
class PacketCounts:
    """Datagrams and bytes of one mDNS instance; `shed` were dropped unread."""

    packets_in: int = 0
    bytes_in: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    shed: int = 0


@dataclass(frozen=True)
class PacketLimits:
    """Datagrams a second that are parsed: in all, and from one address (loopback, shared by processes, is
    exempt).

    A datagram counts as size / `packet_bytes`, at least 1, since one of 9 kB can hold hundreds of records.

    30 peers that all start at once send about 40 a second each to each other; Home Assistant users saw
    1,000 a second from one broken device (wire.md section 12).
    """

    total_per_s: float = 1000.0
    total_burst: float = 2000.0
    source_per_s: float = 200.0
    source_burst: float = 400.0
    max_sources: int = 256
    packet_bytes: int = 512


class PacketGate:
    """Decide per datagram whether to parse it, from the sender's address and the time."""

    def __init__(self, clock: Callable[[], float], limits: PacketLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or PacketLimits()
        self._total = TokenBucket(self._limits.total_per_s, self._limits.total_burst)
        self._sources: OrderedDict[str, TokenBucket] = OrderedDict()
        self.counts = PacketCounts()

    def admit(self, size_bytes: int, host: str) -> bool:
        """Count one datagram from `host`; return whether to parse it."""
        self.counts.packets_in += 1
        self.counts.bytes_in += size_bytes
        now_s = self._clock()
        cost = max(1.0, size_bytes / self._limits.packet_bytes)
        host = host.removeprefix("::ffff:")  # IPv4 on a socket for both families
        is_near = is_loopback(host)
        if (is_near or self._source(host).take(now_s, cost)) and self._total.take(now_s, cost):
            return True
        self.counts.shed += 1
        return False

    def _source(self, host: str) -> TokenBucket:
        bucket = self._sources.get(host)
        if bucket is None:
            if len(self._sources) >= self._limits.max_sources:
                self._sources.popitem(last=False)
            bucket = self._sources[host] = TokenBucket(self._limits.source_per_s, self._limits.source_burst)
        else:
            self._sources.move_to_end(host)
        return bucket

    def guard(self, inner: asyncio.DatagramProtocol) -> asyncio.DatagramProtocol:
        """Return a protocol that hands to `inner` only what the gate admits."""
        return _GuardedProtocol(self, inner)


class _GuardedProtocol(asyncio.DatagramProtocol):
    def __init__(self, gate: PacketGate, inner: asyncio.DatagramProtocol) -> None:
        self._gate = gate
        self._inner = inner

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if self._gate.admit(len(data), str(addr[0])):
            self._inner.datagram_received(data, addr)

    def error_received(self, exc: Exception) -> None:
        self._inner.error_received(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
