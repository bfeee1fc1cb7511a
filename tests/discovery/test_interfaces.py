"""Which addresses are announced and where mDNS listens: the real card always, however many bridges there are."""

from __future__ import annotations

import subprocess

import pytest

from flocklet.discovery.interfaces import Interface, announced_hosts, listen_hosts
from kit.namespaces import bridged, flock_of, found_pairs, wait_until, why_no_namespaces

LOOPBACK = Interface("lo", 1, ("127.0.0.1", "::1"))


def bridges(names: list[str]) -> list[Interface]:
    return [Interface(name, 10 + n, (f"172.{18 + n}.0.1", f"fe80::{n + 1}")) for n, name in enumerate(names)]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 20, 40])
@pytest.mark.parametrize(
    "name", ["br-{:04x}", "docker{}", "podman{}", "virbr{}", "lxdbr{}", "cni{}", "abridge{}"]
)
@pytest.mark.parametrize("card", ["wlan0", "eth0", "zcard", "enp3s0", "br0"])
def test_the_card_is_announced_and_heard_beside_any_number_of_bridges(
    count: int, name: str, card: str
) -> None:
    real = Interface(card, 3, ("192.168.1.20", "fe80::77"))
    everything = sorted(
        [LOOPBACK, real, *bridges([name.format(n) for n in range(count)])], key=lambda one: one.name
    )
    assert announced_hosts(everything)[0] == "192.168.1.20"
    assert "192.168.1.20" in listen_hosts(everything, is_default=True)
    assert len(announced_hosts(everything)) <= 8
    assert len(listen_hosts(everything, is_default=True)) <= 16


def test_a_card_with_many_addresses_leaves_room_for_the_second_card() -> None:
    wifi = Interface("wlan0", 3, ("192.168.1.20", *(f"2001:db8::{n}" for n in range(1, 12))))
    cable = Interface("xeth0", 4, ("10.1.2.3",))
    assert announced_hosts([wifi, cable])[:2] == ["192.168.1.20", "10.1.2.3"]


@pytest.mark.parametrize("hosts", [("10.0.0.2",), ("10.0.0.2", "fe80::2"), ("fe80::2",), ("2001:db8::2",)])
def test_in_a_container_the_only_card_is_a_veth_and_is_listened_on(hosts: tuple[str, ...]) -> None:
    got = listen_hosts([LOOPBACK, Interface("veth1", 5, hosts)], is_default=True)
    assert hosts[0] in got


def test_the_hosts_ends_of_container_links_are_left_out() -> None:
    """The control: on a container host these have no IPv4 address, and there are hundreds."""
    ports = [Interface(f"veth{n:x}", 50 + n, (f"fe80::{n + 100:x}",)) for n in range(300)]
    got = listen_hosts([LOOPBACK, Interface("eth0", 2, ("10.0.0.5",)), *ports], is_default=True)
    assert got == ["10.0.0.5", "127.0.0.1"]


@pytest.mark.netns
@pytest.mark.parametrize(("bridge_count", "card"), [(8, "e0"), (20, "wlan0"), (0, "veth1")])
def test_two_machines_find_each_other(bridge_count: int, card: str) -> None:
    reason = why_no_namespaces()
    if reason:
        pytest.skip(reason)
    with bridged(2) as names:
        for name in names:
            inside = ["ip", "-n", name]
            if card != "e0":
                subprocess.run([*inside, "link", "set", "e0", "down"], check=True)
                subprocess.run([*inside, "link", "set", "e0", "name", card], check=True)
                subprocess.run([*inside, "link", "set", card, "up"], check=True)
            for n in range(bridge_count):
                bridge = f"br-{n:04x}"
                subprocess.run([*inside, "link", "add", bridge, "type", "bridge"], check=True)
                subprocess.run([*inside, "addr", "add", f"172.{18 + n}.0.1/16", "dev", bridge], check=True)
                subprocess.run([*inside, "link", "set", bridge, "up"], check=True)
        with flock_of(2, interfaces="all", namespaces=names) as peers:
            wait_until(lambda: len(found_pairs(peers)) == 2, 12.0)
            assert len(found_pairs(peers)) == 2
            addresses = {a for p in peers for s in p.sightings for a in s["addresses"]}
            assert {"10.77.0.1:4700", "10.77.0.2:4701"} <= addresses
