"""Open zeroconf's sockets with a gate before its parser and a counter behind its sender."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from flocklet.discovery.gate import PacketCounts, PacketGate

__all__ = ["UNWELL", "CountedZeroconf", "open_zeroconf"]

UNWELL = (OSError, RuntimeError, ZeroconfError, TimeoutError, AssertionError)
"""What a sick network makes zeroconf raise."""


class CountedZeroconf(Zeroconf):
    """A Zeroconf that counts what it sends."""

    packet_counts: PacketCounts | None = None

    def async_send(self, out: Any, *args: Any, **kwargs: Any) -> None:
        """Send on every interface, or on `transport` alone, and count each packet once per interface."""
        super().async_send(out, *args, **kwargs)
        if self.packet_counts is not None and not self.done:
            one = kwargs.get("transport") or (len(args) > 3 and args[3])
            senders = 1 if one else len(self.engine.senders)
            packets = out.packets()
            self.packet_counts.packets_out += senders * len(packets)
            self.packet_counts.bytes_out += senders * sum(len(packet) for packet in packets)


async def open_zeroconf(
    hosts: Sequence[str], gate: PacketGate, *, make: Callable[..., Zeroconf] = CountedZeroconf
) -> AsyncZeroconf:
    """Join the mDNS groups on the interfaces of `hosts` and put `gate` before every socket.

    Raises one of `UNWELL` and leaves nothing open.
    """
    has_four = any(":" not in host for host in hosts)
    has_six = any(":" in host for host in hosts)
    version = IPVersion.All if has_four and has_six else IPVersion.V6Only if has_six else IPVersion.V4Only
    zeroconf = make(interfaces=list(hosts), ip_version=version)
    wrapped = AsyncZeroconf(zc=zeroconf)
    try:
        await zeroconf.async_wait_for_start()
    except BaseException:
        with contextlib.suppress(*UNWELL):
            await wrapped.async_close()
        raise
    if isinstance(zeroconf, CountedZeroconf):
        zeroconf.packet_counts = gate.counts
    for reader in zeroconf.engine.readers:
        reader.transport.set_protocol(gate.guard(reader.transport.get_protocol()))  # type: ignore[arg-type]
    return wrapped
