"""Open and accept TCP connections, IPv4 and IPv6; the real counterpart of `flocklet.testing.network.MemoryNetwork`."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Callable, Sequence
from typing import Protocol

from flocklet.errors import LinkError

__all__ = ["Listener", "Network", "SocketNetwork"]

BACKLOG = 64
HAPPY_EYEBALLS_S = 0.25  # RFC 8305, section 8: Connection Attempt Delay


class Listener(Protocol):
    """Something that accepts connections until it is closed."""

    @property
    def port(self) -> int:
        """The port that peers dial."""
        ...

    def close(self) -> None:
        """Stop accepting."""
        ...


class Network(Protocol):
    """Where connections come from."""

    async def connect(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        """Open a connection and hand its transport to the protocol that `make` returns; raise LinkError."""
        ...

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], hosts: Sequence[str], port: int
    ) -> Listener:
        """Accept connections; raise LinkError if the port cannot be had."""
        ...


class _Servers:
    def __init__(self, servers: list[asyncio.Server], port: int) -> None:
        self._servers = servers
        self.port = port

    def close(self) -> None:
        for server in self._servers:
            server.close()


class SocketNetwork:
    """TCP of the operating system.

    With `sources` ("10.0.0.5/24") it dials from these addresses, and into their networks only.
    """

    def __init__(self, sources: Sequence[str] = ()) -> None:
        self._sources = [ipaddress.ip_interface(source) for source in sources]

    def _source_for(self, host: str) -> tuple[str, int] | None:
        if not self._sources:
            return None
        try:
            there = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            there = None
        for source in self._sources:
            if there is not None and there in source.network:
                return str(source.ip), 0
        raise LinkError(
            f"{host} is on no network of the chosen interfaces", remedy="name another one with --interface"
        )

    async def connect(self, make: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        """Dial all addresses of `host`, the next one 250 ms after the last (RFC 8305)."""
        loop = asyncio.get_running_loop()
        if not 0 < port < 65536:
            raise LinkError(f"{port} is not a port", remedy="use HOST:PORT with a port from 1 to 65535")
        try:
            await loop.create_connection(
                make,
                host,
                port,
                happy_eyeballs_delay=HAPPY_EYEBALLS_S,
                local_addr=self._source_for(host),
            )
        except OSError as error:
            raise LinkError(f"cannot connect to {host} port {port}: {error.strerror or error}") from error
        except UnicodeError as error:
            raise LinkError(f"{host} is not the name of a host", remedy="use HOST:PORT") from error

    async def listen(
        self, make: Callable[[], asyncio.BaseProtocol], hosts: Sequence[str], port: int
    ) -> Listener:
        """Listen on all `hosts` with one port; port 0 takes a free one. A missing IPv6 is not an error."""
        loop = asyncio.get_running_loop()
        servers: list[asyncio.Server] = []
        try:
            for host in hosts:
                try:
                    server = await loop.create_server(make, host, port, backlog=BACKLOG)
                except OSError as error:
                    lacks_family = error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
                    if lacks_family and ":" in host and servers:
                        continue
                    raise _cannot_listen(host, port, error) from error
                except (UnicodeError, OverflowError) as error:
                    raise LinkError(f"cannot listen on {host} port {port}: not an address") from error
                servers.append(server)
                port = server.sockets[0].getsockname()[1]
        except BaseException:
            for server in servers:
                server.close()
            raise
        return _Servers(servers, port)


def _cannot_listen(host: str, port: int, error: OSError) -> LinkError:
    if error.errno == errno.EADDRINUSE:
        return LinkError(
            f"port {port} on {host} is in use by another program",
            remedy="stop that program, or choose another port (0 takes a free one)",
        )
    return LinkError(
        f"cannot listen on {host} port {port}: {error.strerror or error}", remedy="choose another port"
    )
