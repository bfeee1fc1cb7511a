"""Say where a peer may be reached: parse, check and order addresses; no name is looked up here.

An address that arrives from the network is hostile until a handshake succeeded behind it, so `is_dialable`
refuses whatever could make us talk to ourselves, to everybody, or through an interface that nobody named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from flocklet.errors import ConfigError

__all__ = ["Address", "is_dialable", "is_loopback", "parse_address", "race_order"]

_REMEDY = "write it as HOST:PORT, for example 192.168.1.20:4710, raspberrypi.local:4710 or [2001:db8::7]:4710"


@dataclass(frozen=True, order=True)
class Address:
    """One place to dial: `host` is an IP literal (IPv6 perhaps with %scope) or, from the owner only, a
    name.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT` or, with `default_port`, `HOST`; raise ConfigError that quotes the
    text.
    """
    written = text.strip()
    host, port_text = written, ""
    if written.startswith("["):
        host, bracket, rest = written[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise _bad(text, "the bracket of the IPv6 address is not closed before the port")
        port_text = rest[1:]
        if not _is_ip(host):
            raise _bad(text, "there is no IPv6 address in the brackets")
    elif written.count(":") > 1:
        if default_port is None or not _is_ip(written):
            raise _bad(text, "an IPv6 address with a port needs brackets")
    else:
        host, _, port_text = written.partition(":")
    if not host or any(char.isspace() or char in "/@#?" for char in host) or len(host) > 253:
        raise _bad(text, "the host is missing or is no host name")
    if not port_text:
        if default_port is None:
            raise _bad(text, "the port is missing")
        return Address(host, default_port)
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text[:6]) < 65536):
        raise _bad(text, f"the port {port_text[:12]!r} is not a number from 1 to 65535")
    return Address(host, int(port_text))


def is_dialable(address: Address, *, allow_loopback: bool = False) -> bool:
    """Tell whether a stranger's `address` may be dialled at all.

    Refused: port 0, names (no look-up on behalf of a stranger), multicast, broadcast, unspecified and
    reserved addresses, IPv4 written as IPv6, link-local IPv6 without a scope, and loopback unless
    `allow_loopback`.
    """
    if not 0 < address.port < 65536:
        return False
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return False
    if ip.is_multicast or ip.is_unspecified:
        return False
    if ip.is_loopback:
        return allow_loopback
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None or (ip.is_link_local and not ip.scope_id):
            return False
        return not ip.is_site_local
    return not ip.is_reserved and int(ip) >> 24 != 0


def is_loopback(host: str) -> bool:
    """Tell whether `host` is a loopback literal; False for names."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def race_order(addresses: Iterable[Address]) -> list[Address]:
    """Order addresses for happy eyeballs: families alternate, IPv6 first (RFC 8305 section 4); stable
    otherwise.

    Loopback comes before everything (it is this machine), link-local IPv6 last of its family. An IPv6
    link-local address without a scope is left out: it cannot be dialled.
    """
    near: list[Address] = []
    six: list[Address] = []
    four: list[Address] = []
    scoped: list[Address] = []
    for address in addresses:
        try:
            ip = ipaddress.ip_address(address.host)
        except ValueError:
            four.append(address)
            continue
        if ip.is_loopback:
            near.append(address)
        elif isinstance(ip, ipaddress.IPv4Address):
            four.append(address)
        elif not ip.is_link_local:
            six.append(address)
        elif ip.scope_id:
            scoped.append(address)
    six += scoped
    mixed: list[Address] = []
    for index in range(max(len(six), len(four))):
        mixed += six[index : index + 1] + four[index : index + 1]
    return near + mixed


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _bad(text: str, why: str) -> ConfigError:
    return ConfigError(f"{text[:80]!r} is not an address of a peer: {why}", remedy=_REMEDY)
