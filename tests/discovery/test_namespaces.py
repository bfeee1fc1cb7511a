"""Real mDNS between processes: six on loopback, and six machines (network namespaces) on one bridge."""

from __future__ import annotations

import subprocess

import pytest

from kit.namespaces import bridged, flock_of, found_pairs, wait_until, why_no_namespaces


def test_six_processes_on_loopback_all_find_each_other() -> None:
    with flock_of(6, interfaces="127.0.0.1") as peers:
        wait_until(lambda: len(found_pairs(peers)) == 30, 12.0)
        assert len(found_pairs(peers)) == 30
        assert all(s["addresses"] == [f"127.0.0.1:{4700 + s['seen']}"] for p in peers for s in p.sightings)


@pytest.mark.netns
def test_six_namespaces_on_a_bridge_all_find_each_other() -> None:
    reason = why_no_namespaces()
    if reason:
        pytest.skip(reason)
    with bridged(6) as names:
        with flock_of(6, interfaces="all", namespaces=names) as peers:
            wait_until(lambda: len(found_pairs(peers)) == 30, 12.0)
            assert len(found_pairs(peers)) == 30
            addresses = {a for p in peers for s in p.sightings if s["seen"] == 3 for a in s["addresses"]}
        assert "10.77.0.4:4703" in addresses
        assert not any(address.startswith("127.") for address in addresses)
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert names[0] in listed  # the control for the clean-up
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert names[0] not in listed


@pytest.mark.netns
def test_islands_that_started_apart_find_each_other_once_joined() -> None:
    reason = why_no_namespaces()
    if reason:
        pytest.skip(reason)
    with bridged(2) as names:
        subprocess.run(["ip", "-n", names[0], "link", "set", "e0", "down"], check=True)
        subprocess.run(["ip", "-n", names[0], "addr", "flush", "dev", "e0"], check=True)
        with flock_of(2, interfaces="all", namespaces=names) as peers:
            assert wait_until(lambda: all(peer.started_s for peer in peers), 8.0)
            assert found_pairs(peers) == {}
            subprocess.run(["ip", "-n", names[0], "addr", "add", "10.77.0.1/24", "dev", "e0"], check=True)
            subprocess.run(["ip", "-n", names[0], "link", "set", "e0", "up"], check=True)
            wait_until(lambda: len(found_pairs(peers)) == 2, 10.0)
            assert len(found_pairs(peers)) == 2
