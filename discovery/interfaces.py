"""List the network interfaces of this machine, and choose what to listen on and what to announce."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Interface", "announced_hosts", "choose", "is_ready", "list_interfaces", "listen_hosts"]

_MAX_ANNOUNCED = 8
_MAX_LISTENING = 16


@dataclass(frozen=True)
class Interface:
    """One interface: `hosts` are IP literals, link-local IPv6 without scope (`index` is the scope)."""

    name: str
    index: int
    hosts: tuple[str, ...]

    @property
    def is_loopback(self) -> bool:
        """Tell whether every address of it stays on this machine."""
        return bool(self.hosts) and all(ipaddress.ip_address(host).is_loopback for host in self.hosts)


def list_interfaces() -> list[Interface]:
    """Ask the system (through `ifaddr`) for every interface that has an address."""
    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        hosts = tuple(str(ip.ip[0] if isinstance(ip.ip, tuple) else ip.ip) for ip in adapter.ips)
        hosts = tuple(host.partition("%")[0] for host in hosts)
        if hosts:
            found.append(Interface(str(adapter.name), adapter.index or 0, hosts))
    return sorted(found, key=lambda interface: interface.name)


def choose(
    interfaces: Iterable[Interface], wanted: Sequence[str] | None
) -> tuple[list[Interface], list[str]]:
    """Pick the `wanted` interfaces, given by name or by one of their addresses; None means all.

    An address picks only itself, a name every address. Returns (picked, wanted but missing).
    """
    everything = list(interfaces)
    if wanted is None:
        return everything, []
    picked: list[Interface] = []
    missing: list[str] = []
    for want in wanted:
        match = next((i for i in everything if want == i.name), None)
        if match is None:
            holder = next((i for i in everything if want in i.hosts), None)
            match = None if holder is None else Interface(holder.name, holder.index, (want,))
        if match is None:
            missing.append(want)
        elif match not in picked:
            picked.append(match)
    return picked, missing


def announced_hosts(interfaces: Iterable[Interface]) -> list[str]:
    """Return the addresses to put into A and AAAA records: loopback only if there is nothing else; at most
    8.
    """
    hosts = [host for interface in interfaces for host in interface.hosts]
    outward = [host for host in hosts if not ipaddress.ip_address(host).is_loopback]
    chosen = outward or hosts
    chosen.sort(key=lambda host: (ipaddress.ip_address(host).is_link_local, ":" in host))
    return list(dict.fromkeys(chosen))[:_MAX_ANNOUNCED]


def is_ready(host: str, index: int) -> bool:
    """Tell whether the system lets us use IPv6 `host` on interface `index` already; True for IPv4.

    For a second or two after an interface comes up its address is tentative (RFC 4862 section 5.4) and
    cannot be bound: joining then would leave the interface deaf for good.
    """
    if ":" not in host:
        return True
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind((host, 0, 0, index if ipaddress.ip_address(host).is_link_local else 0))
    except OSError:
        return False
    return True


def listen_hosts(interfaces: Iterable[Interface], *, is_default: bool = False) -> list[str]:
    """Return the addresses that stand for `interfaces` when joining the multicast groups: IPv4 all, IPv6
    one each.

    An IPv6 group is joined per interface, so one address is enough, and the link-local one is the right
    sender. ::1 is left out (loopback joins by IPv4). With `is_default`, ports of bridges (veth) are left
    out and the number is bounded: a container host has hundreds.
    """
    hosts: list[str] = []
    for interface in interfaces:
        if is_default and interface.name.startswith("veth"):
            continue
        hosts += [host for host in interface.hosts if ":" not in host]
        six = [host for host in interface.hosts if ":" in host and not ipaddress.ip_address(host).is_loopback]
        six.sort(key=lambda host: not ipaddress.ip_address(host).is_link_local)
        hosts += six[:1]
    unique = list(dict.fromkeys(hosts))
    return unique[:_MAX_LISTENING] if is_default else unique
