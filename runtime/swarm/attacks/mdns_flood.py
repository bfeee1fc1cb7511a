"""Eclipse by a flood of mDNS names: invented peers of our flock crowd out the true ones before they are met.

What a receiver does about it (docs/discovery.md): datagrams beyond a rate are dropped unread, new names are taken in at
a few a second, the table is bounded and strangers evict only each other, dials have a rate of their own. A flood does
delay the first meeting of strangers, for as long as it lasts and up to three minutes more (the memory of the names); it
cannot displace a peer that was proven, remembered or named by its owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import numpy as np

from flocklet.discovery.announcement import SERVICE_TYPE, Announcement

__all__ = ["flood_packets", "flooding"]

_GROUP = ("224.0.0.251", 5353)  # RFC 6762 section 3
_TTL_S = 120
_PER_PACKET = 4


def flood_packets(
    flock_tag: str, names: int, rng: np.random.Generator, *, host: str = "127.0.0.1"
) -> Iterator[bytes]:
    """Yield DNS answers that announce `names` peers which nobody is, with the tag of a true flock.

    Each has its own id, the name that belongs to it, and a port of `host` drawn from the upper half.
    """
    from zeroconf import const
    from zeroconf._dns import DNSAddress, DNSPointer, DNSService, DNSText
    from zeroconf._protocol.outgoing import DNSOutgoing

    kind, fresh = const._CLASS_IN, const._CLASS_IN | const._CLASS_UNIQUE
    for at in range(0, names, _PER_PACKET):
        out = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
        for _ in range(min(_PER_PACKET, names - at)):
            ghost = Announcement(
                rng.bytes(32), flock_tag, rng.bytes(8).hex(), int(rng.integers(1 << 15, 1 << 16))
            )
            name = ghost.instance_name()
            server = f"{ghost.hint}.local."
            for record in (
                DNSPointer(SERVICE_TYPE, const._TYPE_PTR, kind, _TTL_S, name),
                DNSService(name, const._TYPE_SRV, fresh, _TTL_S, 0, 0, ghost.port, server),
                DNSText(name, const._TYPE_TXT, fresh, _TTL_S, ghost.txt()),
                DNSAddress(server, const._TYPE_A, fresh, _TTL_S, socket.inet_aton(host)),
            ):
                out.add_answer_at_time(record, 0)
        yield from out.packets()


@contextlib.asynccontextmanager
async def flooding(
    flock_tag: str,
    rng: np.random.Generator,
    *,
    host: str = "127.0.0.1",
    names: int = 4000,
    per_s: float = 400.0,
) -> AsyncIterator[None]:
    """Multicast invented names on the interface of `host` while the body runs: `names` in all, `per_s` a second."""

    async def pour() -> None:
        for packet in flood_packets(flock_tag, names, rng, host=host):
            with contextlib.suppress(OSError):
                sender.sendto(packet, _GROUP)
            await asyncio.sleep(_PER_PACKET / per_s)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        task = asyncio.ensure_future(pour())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
