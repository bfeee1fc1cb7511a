"""Explain why no peer is seen: pure checks of what surrounds us, each an honest sentence and a remedy.

Everything that is looked at comes in through `Surroundings`, so every check is tested without the sickness
it finds. A check that cannot see enough says nothing rather than something wrong.
"""

from __future__ import annotations

import datetime
import enum
import errno
import importlib.util
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flocklet.discovery.echo import MDNS_PORT, multicast_echo
from flocklet.discovery.interfaces import Interface, list_interfaces
from flocklet.discovery.probe import ProbeReport

__all__ = ["Finding", "Level", "Surroundings", "diagnose", "explain_probe"]

_STATIC = "name the peer yourself: 'flocklet up --peer HOST:PORT'"
_IFF_MULTICAST = 0x1000  # <linux/if.h>
_EARLIEST = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).timestamp()
_DAY_S = 86400.0


class Level(enum.StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One thing that was found: `what` is it, `why` does it matter, what `remedy` is there ("" for none
    needed).
    """

    level: Level
    what: str
    why: str = ""
    remedy: str = ""


def _port_problem(port: int) -> str:
    """Return why TCP `port` cannot be listened on, "" if it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


@dataclass(frozen=True)
class Surroundings:
    """What the checks may look at. `root` stands for "/", `port` is the TCP port that `flocklet up` would
    take.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    interfaces: Callable[[], list[Interface]] = list_interfaces
    echo: Callable[[str], bool] = multicast_echo
    port: int | None = None
    port_problem: Callable[[int], str] = _port_problem
    now_s: Callable[[], float] = time.time
    newest_file_s: Callable[[], float] = lambda: Path(__file__).stat().st_mtime
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None

    def read(self, path: str) -> str:
        """Return the text of a file below `root`, "" if it is not there or not for us."""
        try:
            return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")[:100_000]
        except OSError:
            return ""

    def has(self, path: str) -> bool:
        """Tell whether something is at `path` below `root`."""
        try:
            return (self.root / path.lstrip("/")).exists()
        except OSError:
            return False


def diagnose(around: Surroundings | None = None) -> list[Finding]:
    """Run every check; worst findings first. Blocks for up to half a second per interface."""
    around = around or Surroundings()
    findings: list[Finding] = []
    for check in (_zeroconf, _interfaces, _multicast, _container, _wsl, _firewall, _port, _mdns_port, _clock):
        findings += check(around)
    order = [Level.FAILURE, Level.WARNING, Level.NOTE, Level.OK]
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _zeroconf(around: Surroundings) -> Iterator[Finding]:
    if around.has_module("zeroconf"):
        yield Finding(Level.OK, "zeroconf is installed")
    else:
        yield Finding(
            Level.FAILURE,
            "the package zeroconf is not installed",
            "without it no peer is found by mDNS",
            f"pip install zeroconf, or {_STATIC}",
        )


def _interfaces(around: Surroundings) -> Iterator[Finding]:
    try:
        found = around.interfaces()
    except OSError as error:
        yield Finding(Level.WARNING, f"the network interfaces cannot be listed: {error}", "", _STATIC)
        return
    outward = [one for one in found if not one.is_loopback]
    if not outward:
        yield Finding(
            Level.FAILURE,
            "no network: only loopback has an address",
            "other devices cannot be reached, and cannot reach us",
            "connect to the network (Wi-Fi, cable) and look again; peers on this machine work all the same",
        )
        return
    ips = {one.name: [ipaddress.ip_address(host) for host in one.hosts] for one in outward}
    routable = [name for name, hosts in ips.items() if any(not host.is_link_local for host in hosts)]
    names = ", ".join(sorted(ips))
    if not routable:
        yield Finding(
            Level.WARNING,
            f"{names}: only link-local addresses",
            "no DHCP server gave an address; peers on the same cable may still be found",
            "check the DHCP server or set an address",
        )
    elif len(routable) > 1:
        yield Finding(
            Level.NOTE,
            f"several interfaces: {', '.join(sorted(routable))}",
            "we announce on all of them; a peer on another one of them does not see those on this one",
            "if the wrong network is used, choose one: 'flocklet up --interface NAME'",
        )
    else:
        yield Finding(Level.OK, f"network: {names}")
    if not any(host.version == 4 for hosts in ips.values() for host in hosts):
        yield Finding(
            Level.NOTE,
            "IPv6 only",
            "peers that speak IPv4 alone are not found",
            "fe80:: addresses need their interface when you write them: --peer '[fe80::1%eth0]:PORT'",
        )


def _multicast(around: Surroundings) -> Iterator[Finding]:
    try:
        found = around.interfaces()
    except OSError:
        return
    for one in found:
        hosts = [host for host in one.hosts if ":" not in host]
        if not hosts:
            continue
        flags = around.read(f"/sys/class/net/{one.name}/flags").strip()
        try:
            is_heard = around.echo(hosts[0])
        except OSError as error:
            reason = error.strerror or str(error)
            yield Finding(
                Level.NOTE if one.is_loopback else Level.WARNING,
                f"{one.name}: no multicast ({reason})",
                "mDNS cannot be used there" if error.errno != errno.EADDRINUSE else "port 5353 is held alone",
                f"'ip link set {one.name} multicast on', 'ip route add 224.0.0.0/4 dev {one.name}',"
                f" or {_STATIC}",
            )
            continue
        if is_heard:
            yield Finding(Level.OK, f"{one.name}: multicast comes back")
        elif not one.is_loopback and flags and not int(flags, 16) & _IFF_MULTICAST:
            yield Finding(
                Level.WARNING,
                f"{one.name}: the interface does not do multicast",
                "a VPN or a point-to-point link carries no mDNS",
                _STATIC,
            )
        else:
            yield Finding(
                Level.NOTE if one.is_loopback else Level.WARNING,
                f"{one.name}: our own multicast does not come back",
                "a firewall on this machine drops UDP port 5353, or there is no route for 224.0.0.0/4",
                f"allow UDP 5353 (for ufw: 'ufw allow 5353/udp'), or {_STATIC}",
            )


def _container(around: Surroundings) -> Iterator[Finding]:
    cgroup = around.read("/proc/1/cgroup")
    words = ("docker", "containerd", "kubepods", "lxc", "podman")
    named = next((word for word in words if word in cgroup), around.environ.get("container", ""))
    if around.has("/.dockerenv") or around.has("/run/.containerenv") or named:
        yield Finding(
            Level.NOTE,
            f"this looks like a container{f' ({named})' if named else ''}",
            "a container's own network carries no multicast to the local network, so no peer is seen",
            "on Linux start it with '--network host' (Docker Desktop cannot); or " + _STATIC,
        )


def _wsl(around: Surroundings) -> Iterator[Finding]:
    if "microsoft" in around.read("/proc/sys/kernel/osrelease").lower():
        yield Finding(
            Level.WARNING,
            "this is WSL2",
            "its default network (NAT) carries no multicast to the local network",
            "set 'networkingMode=mirrored' under [wsl2] in %UserProfile%\\.wslconfig, allow UDP 5353 in the"
            " Windows firewall, then 'wsl --shutdown'; peers may take 10 s to appear; or " + _STATIC,
        )


def _firewall(around: Surroundings) -> Iterator[Finding]:
    active = []
    if "enabled=yes" in around.read("/etc/ufw/ufw.conf").lower():
        active.append(("ufw", "'ufw allow 5353/udp' and 'ufw allow PORT/tcp'"))
    if around.has("/run/firewalld") or around.has("/var/run/firewalld.pid"):
        active.append(("firewalld", "'firewall-cmd --add-service=mdns' and '--add-port=PORT/tcp'"))
    if not active and around.read("/proc/net/ip_tables_names").split():
        active.append(("iptables", "accept UDP 5353 and the TCP port in INPUT"))
    for name, remedy in active:
        yield Finding(
            Level.NOTE,
            f"a firewall is on: {name}",
            "it must let in UDP 5353 (mDNS) and the TCP port of flocklet",
            remedy,
        )


def _port(around: Surroundings) -> Iterator[Finding]:
    if around.port is None:
        return
    problem = around.port_problem(around.port)
    if problem:
        yield Finding(
            Level.WARNING,
            f"TCP port {around.port} cannot be used: {problem}",
            "if 'flocklet up' runs here, that is it and all is well",
            "else choose another one: 'flocklet up --port PORT' (0 takes a free one)",
        )
    else:
        yield Finding(Level.OK, f"TCP port {around.port} is free")


def _mdns_port(around: Surroundings) -> Iterator[Finding]:
    ports = {
        int(line.split()[1].rpartition(":")[2], 16)
        for path in ("/proc/net/udp", "/proc/net/udp6")
        for line in around.read(path).splitlines()[1:]
        if len(line.split()) > 1
    }
    if MDNS_PORT in ports:
        yield Finding(
            Level.OK,
            "another program listens for mDNS too (avahi, systemd-resolved, a peer)",
            "that is fine: they share UDP port 5353",
        )


def _clock(around: Surroundings) -> Iterator[Finding]:
    now_s = around.now_s()
    try:
        newest_s = around.newest_file_s()
    except OSError:
        newest_s = 0.0
    says = datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y-%m-%d")
    if now_s < _EARLIEST or now_s < newest_s - _DAY_S:
        yield Finding(
            Level.NOTE,
            f"the clock is wrong: it says {says}",
            "a Raspberry Pi has no clock of its own; flocklet does not need it: certificates are valid from"
            " 1970 and no message is refused for its time",
            "'timedatectl set-ntp true' puts it right for everything else",
        )


def explain_probe(report: ProbeReport, seconds: float) -> list[Finding]:
    """Say what a live probe (`flocklet.discovery.probe.probe`) of `seconds` heard, and what that means."""
    findings: list[Finding] = []
    if report.problem:
        findings.append(Finding(Level.WARNING, report.problem, "mDNS is not fully working", _STATIC))
    if report.own_flock:
        where = sorted(str(s.addresses[0]) for s in report.own_flock if s.addresses)
        count = len(report.own_flock)
        what = f"{count} peer{'s' if count > 1 else ''} of this flock seen: {', '.join(where[:8])}"
        findings.append(Finding(Level.OK, what))
    if report.other_flocks:
        findings.append(
            Finding(
                Level.NOTE if report.own_flock else Level.WARNING,
                f"{len(report.other_flocks)} seen, but of another flock",
                "devices talk only within one flock",
                "to join them: 'flocklet invite' there, 'flocklet join CODE' here",
            )
        )
    if not report.own_flock and not report.other_flocks:
        why = "multicast works on this machine, so either nobody else is up, or the network between drops it"
        if not report.hears_itself:
            why = "not even our own announcement came back: the findings above say why"
        findings.append(
            Finding(
                Level.WARNING,
                f"no peer seen in {seconds:g} s",
                why,
                "is 'flocklet up' running there, on the same network (VLAN, guest Wi-Fi and 'isolation'"
                f" separate)? else {_STATIC}",
            )
        )
    return findings
