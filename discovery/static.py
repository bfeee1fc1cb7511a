"""Report the peers that the owner named with `--peer HOST:PORT`; look names up in the loop, and again
later.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence

from flocklet.clock import Clock, SystemClock
from flocklet.discovery.address import Address, is_dialable, parse_address
from flocklet.discovery.source import Sighting, Sink, SourceKind
from flocklet.errors import ConfigError

__all__ = ["StaticSource"]

_log = logging.getLogger("flocklet.discovery")
_MAX_ANSWERS = 8


class StaticSource:
    """Peers by address. Raises ConfigError at once for text that is no HOST:PORT; later nothing stops it.

    A name that cannot be resolved is reported with its reason and tried again after `retry_s`; one that can
    is looked up again after `refresh_s`, because a laptop's address moves.
    """

    kind = SourceKind.STATIC

    def __init__(
        self,
        peers: Sequence[str],
        *,
        clock: Clock | None = None,
        default_port: int | None = None,
        retry_s: float = 15.0,
        refresh_s: float = 300.0,
    ) -> None:
        self._peers = tuple(dict.fromkeys(_checked(text, default_port) for text in peers))
        self._clock = clock or SystemClock()
        self._retry_s = retry_s
        self._refresh_s = refresh_s
        self._tasks: list[asyncio.Task[None]] = []
        self._problems: dict[Address, str] = {}

    @property
    def problem(self) -> str:
        """Return the first name that cannot be resolved, and why."""
        return next((problem for problem in self._problems.values() if problem), "")

    async def start(self, sink: Sink) -> None:
        """Report every peer; literals at once, names as they are resolved."""
        if self._tasks:
            return
        for peer in self._peers:
            if _is_literal(peer.host):
                sink(Sighting(SourceKind.STATIC, (peer,), label=str(peer)))
            else:
                self._tasks.append(asyncio.create_task(self._follow(peer, sink), name=f"resolve {peer}"))

    async def stop(self) -> None:
        """Stop looking names up."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def announce(self) -> None:
        """Do nothing: a configured address cannot be told that we are here."""

    async def _follow(self, peer: Address, sink: Sink) -> None:
        while True:
            addresses: tuple[Address, ...] = ()
            problem = ""
            try:
                addresses = await _resolve(peer)
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                problem = f"the name {peer.host} cannot be resolved: {reason}"
            if problem and problem != self._problems.get(peer):
                _log.warning("%s", problem)
            self._problems[peer] = problem
            sink(Sighting(SourceKind.STATIC, addresses, label=str(peer), problem=problem))
            await self._clock.sleep(self._retry_s if problem else self._refresh_s)


def _checked(text: str, default_port: int | None) -> Address:
    address = parse_address(text, default_port=default_port)
    if _is_literal(address.host) and not is_dialable(address, allow_loopback=True):
        raise ConfigError(
            f"{text[:80]!r} cannot be the address of one peer",
            remedy="multicast and 0.0.0.0 name no peer; fe80:: needs its interface: [fe80::1%eth0]:PORT",
        )
    return address


async def _resolve(peer: Address) -> tuple[Address, ...]:
    """Look a name up (RFC 6724 order, as the system gives it), link-local IPv6 with its scope."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    hosts = []
    for family, _, _, _, where in answers:
        host = str(where[0])
        scope = int(where[3]) if family == socket.AF_INET6 and len(where) > 3 else 0
        hosts.append(f"{host}%{scope}" if scope and "%" not in host else host)
    return tuple(Address(host, peer.port) for host in list(dict.fromkeys(hosts))[:_MAX_ANSWERS])


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
