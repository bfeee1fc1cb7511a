"""List the network interfaces of this machine, and choose what to listen on and what to announce."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "Interface",
    "announced_hosts",
    "choose",
    "is_ready",
    "list_interfaces",
    "listen_hosts",
    "sources_of",
]

_MAX_ANNOUNCED = 8
_MAX_LISTENING = 16
_LAST = (9, True, True)
_VIRTUAL = re.compile(
    r"br-[0-9a-f]|docker|podman|veth|virbr|vnet|vmnet|vboxnet|cni|flannel|cali|cilium|lxc|lxd|incus|kube|weave|ovs"
    r"|tun|tap|wg|tailscale|zt|utun|awdl|llw|bridge\d|gif|stf|dummy|ifb|sit|ip6tnl|vEthernet"
)
"""Names that systems give to interfaces of containers, virtual machines and tunnels; `br0` is a bridge of the owner's."""


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


def sources_of(hosts: Iterable[str]) -> list[str]:
    """Return the own addresses among `hosts` with the length of their network's prefix: "10.0.0.5/24"."""
    import ifaddr

    wanted = set(hosts)
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            host = (str(ip.ip[0]) if isinstance(ip.ip, tuple) else str(ip.ip)).partition("%")[0]
            if host in wanted:
                found.append(f"{host}/{ip.network_prefix}")
    return found


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
    """Return the addresses to put into A and AAAA records, at most 8: those that others can most likely reach first.

    Every interface gives its best address before any gives a second one, real interfaces before those of containers
    and virtual machines, so that twenty bridges never push out the one card. Loopback only if there is nothing else.
    """
    chosen = _outward(interfaces)
    by_turn = [
        (turn, _rank(interface, host), place, host)
        for place, interface in enumerate(chosen)
        for turn, host in enumerate(sorted(interface.hosts, key=_host_rank))
    ]
    # A second address of a real card comes before the first one of a bridge.
    by_turn.sort(key=lambda row: (_is_link_local(row[3]), row[1][0], row[0], row[1], row[2]))
    return list(dict.fromkeys(host for *_, host in by_turn))[:_MAX_ANNOUNCED]


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
    """Return the addresses that stand for `interfaces` when joining the multicast groups: IPv4 all, IPv6 one each.

    An IPv6 group is joined per interface, so one address is enough, and the link-local one is the right sender. ::1 is
    left out (loopback joins by IPv4). With `is_default` the number is bounded at 16 (Linux joins 20 IPv4 groups a socket,
    `igmp_max_memberships`; a container host has hundreds), real interfaces first, and the host's ends of container links
    (veth without an IPv4 address) are left out, unless there is nothing else: in a container the card itself is a veth.
    """
    everything = list(interfaces)
    if is_default:
        ports = [one for one in everything if _is_port(one)]
        if any(not one.is_loopback for one in everything if one not in ports):
            everything = [one for one in everything if one not in ports]
        everything.sort(key=lambda one: min((_rank(one, host) for host in one.hosts), default=_LAST))
    rows: list[list[str]] = []
    for interface in everything:
        six = [host for host in interface.hosts if ":" in host and not ipaddress.ip_address(host).is_loopback]
        six.sort(key=lambda host: not _is_link_local(host))
        rows.append([host for host in interface.hosts if ":" not in host] + six[:1])
    if not is_default:
        return list(dict.fromkeys(host for row in rows for host in row))
    firsts = [row[0] for row in rows if row]  # each interface once before any twice
    unique = list(dict.fromkeys([*firsts, *(host for row in rows for host in row[1:])]))
    return unique[:_MAX_LISTENING]


def _outward(interfaces: Iterable[Interface]) -> list[Interface]:
    """Return the interfaces without loopback addresses, or all when nothing else is there."""
    everything = list(interfaces)
    outward = [
        Interface(one.name, one.index, tuple(h for h in one.hosts if not ipaddress.ip_address(h).is_loopback))
        for one in everything
    ]
    return [one for one in outward if one.hosts] or everything


def _is_link_local(host: str) -> bool:
    return ipaddress.ip_address(host).is_link_local


def _is_port(interface: Interface) -> bool:
    return interface.name.startswith("veth") and all(":" in host for host in interface.hosts)


def _host_rank(host: str) -> tuple[bool, bool]:
    return _is_link_local(host), ":" in host


def _rank(interface: Interface, host: str) -> tuple[int, bool, bool]:
    """Return how late `host` comes: real cards, then bridges and tunnels; an address that is its net's gateway later."""
    is_gateway = ":" not in host and host.endswith(".1")  # how bridges for containers number themselves
    kind = 3 if interface.is_loopback else 2 if _VIRTUAL.match(interface.name) else 1 if is_gateway else 0
    return kind, _is_link_local(host), ":" in host
