"""The doctor finds each sickness when it is there, keeps quiet when it is not, and always has a remedy."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from flocklet.discovery import Address, Announcement, Sighting, SourceKind
from flocklet.discovery.echo import multicast_echo
from flocklet.discovery.interfaces import Interface
from flocklet.discovery.mdns import MdnsSource
from flocklet.discovery.probe import ProbeReport, probe
from flocklet.node.doctor import Finding, Level, Surroundings, diagnose, explain_probe

LO = Interface("lo", 1, ("127.0.0.1", "::1"))
ETH = Interface("eth0", 2, ("192.168.1.5", "fe80::5"))
WLAN = Interface("wlan0", 3, ("10.0.0.5",))


@pytest.fixture
def healthy(tmp_path: Path) -> Surroundings:
    return Surroundings(
        root=tmp_path,
        environ={},
        interfaces=lambda: [LO, ETH],
        echo=lambda host: True,
        port=4710,
        port_problem=lambda port: "",
        now_s=lambda: 1.8e9,
        newest_file_s=lambda: 1.79e9,
        has_module=lambda name: True,
    )


def put(around: Surroundings, path: str, text: str = "") -> None:
    file = around.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def bad(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.level is not Level.OK]


def the_only(findings: list[Finding], *words: str) -> Finding:
    (finding,) = bad(findings)
    text = f"{finding.what} {finding.why} {finding.remedy}"
    assert all(word in text for word in words), text
    assert finding.remedy
    assert "\n" not in text
    return finding


def test_healthy_surroundings_have_no_findings(healthy: Surroundings) -> None:
    assert bad(diagnose(healthy)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [(".dockerenv", ""), ("run/.containerenv", ""), ("proc/1/cgroup", "0::/kubepods/pod1\n")],
)
def test_container(healthy: Surroundings, path: str, text: str) -> None:
    put(healthy, path, text)
    the_only(diagnose(healthy), "container", "--network host", "--peer HOST:PORT")


def test_wsl2(healthy: Surroundings) -> None:
    put(healthy, "proc/sys/kernel/osrelease", "5.15.90.1-microsoft-standard-WSL2")
    the_only(diagnose(healthy), "WSL2", "networkingMode=mirrored")


def test_only_loopback_comes_first(healthy: Surroundings) -> None:
    put(healthy, ".dockerenv")
    findings = diagnose(replace(healthy, interfaces=lambda: [LO]))
    assert findings[0].level is Level.FAILURE
    assert "only loopback" in findings[0].what


def test_several_interfaces(healthy: Surroundings) -> None:
    finding = the_only(diagnose(replace(healthy, interfaces=lambda: [LO, ETH, WLAN])), "eth0, wlan0")
    assert finding.level is Level.NOTE


def test_link_local_only(healthy: Surroundings) -> None:
    lone = Interface("eth0", 2, ("169.254.7.7", "fe80::5"))
    the_only(diagnose(replace(healthy, interfaces=lambda: [LO, lone])), "link-local")


def test_ipv6_only_explains_scopes(healthy: Surroundings) -> None:
    six = Interface("eth0", 2, ("2001:db8::5", "fe80::5"))
    the_only(diagnose(replace(healthy, interfaces=lambda: [LO, six])), "IPv6", "%eth0")


def test_firewall_that_eats_multicast(healthy: Surroundings) -> None:
    deaf = replace(healthy, echo=lambda host: host == "127.0.0.1")
    the_only(diagnose(deaf), "eth0", "firewall", "5353")


def test_interface_without_multicast_flag(healthy: Surroundings) -> None:
    put(healthy, "sys/class/net/eth0/flags", "0x81\n")
    deaf = replace(healthy, echo=lambda host: host == "127.0.0.1")
    the_only(diagnose(deaf), "does not do multicast")


def test_no_multicast_route(healthy: Surroundings) -> None:
    def echo(host: str) -> bool:
        if host == "127.0.0.1":
            return True
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    the_only(diagnose(replace(healthy, echo=echo)), "Network is unreachable", "ip route add 224.0.0.0/4")


def test_firewalls_that_are_on(healthy: Surroundings) -> None:
    put(healthy, "etc/ufw/ufw.conf", "ENABLED=yes\n")
    the_only(diagnose(healthy), "ufw", "5353")
    put(healthy, "etc/ufw/ufw.conf", "ENABLED=no\n")
    assert bad(diagnose(healthy)) == []


def test_port_in_use(healthy: Surroundings) -> None:
    the_only(diagnose(replace(healthy, port_problem=lambda port: "Address already in use")), "4710", "--port")


@pytest.mark.parametrize("now_s", [0.0, 1.6e9, 1.789e9])
def test_clock_is_far_off_and_it_does_not_matter(healthy: Surroundings, now_s: float) -> None:
    finding = the_only(diagnose(replace(healthy, now_s=lambda: now_s)), "clock", "does not need it")
    assert finding.level is Level.NOTE


def test_missing_zeroconf(healthy: Surroundings) -> None:
    finding = the_only(diagnose(replace(healthy, has_module=lambda name: False)), "zeroconf", "--peer")
    assert finding.level is Level.FAILURE


def test_avahi_beside_us_is_fine(healthy: Surroundings) -> None:
    put(healthy, "proc/net/udp", "  sl  local_address rem\n  1: 00000000:14E9 00000000:0000 07\n")
    findings = diagnose(healthy)
    assert bad(findings) == []
    assert any("avahi" in finding.what for finding in findings)


def test_interfaces_that_cannot_be_listed_are_said_so(healthy: Surroundings) -> None:
    def broken() -> list[Interface]:
        raise OSError("permission denied")

    the_only(diagnose(replace(healthy, interfaces=broken)), "permission denied")


def report(own: int = 0, other: int = 0, *, hears: bool = True, problem: str = "") -> ProbeReport:
    def sightings(count: int) -> tuple[Sighting, ...]:
        return tuple(Sighting(SourceKind.MDNS, (Address(f"10.0.0.{n + 1}", 1),)) for n in range(count))

    return ProbeReport(sightings(own), sightings(other), hears, 10, problem)


def test_probe_tells_own_flock_other_flock_and_nobody_apart() -> None:
    assert [f.level for f in explain_probe(report(own=2), 3.0)] == [Level.OK]
    assert "10.0.0.1:1" in explain_probe(report(own=2), 3.0)[0].what
    assert "another flock" in explain_probe(report(other=1), 3.0)[0].what
    assert "join CODE" in explain_probe(report(other=1), 3.0)[0].remedy
    assert "network between" in explain_probe(report(), 3.0)[0].why
    assert "not even our own" in explain_probe(report(hears=False), 3.0)[0].why
    assert explain_probe(report(own=1, problem="mDNS is off"), 3.0)[0].what == "mDNS is off"


def test_multicast_echo_comes_back_on_loopback() -> None:
    assert multicast_echo("127.0.0.1", timeout_s=5.0)
    with pytest.raises(OSError):
        multicast_echo("192.0.2.77")  # not an address of this machine


async def test_live_probe_hears_itself_and_a_peer() -> None:
    interfaces = ["127.0.0.1"]
    peer = Announcement(os.urandom(32), "probe-tag", os.urandom(4).hex(), 4711)
    source = MdnsSource(peer, interfaces=interfaces)
    await source.start(lambda sighting: None)
    try:
        for _ in range(6):  # normally the first is enough
            seen = await probe("probe-tag", seconds=0.5, interfaces=interfaces)
            if seen.own_flock and seen.hears_itself:
                break
    finally:
        await source.stop()
    assert peer.run in {sighting.run for sighting in seen.own_flock}
    assert seen.hears_itself
    assert seen.problem == ""
