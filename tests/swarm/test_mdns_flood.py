"""A flood of mDNS names of peers that nobody is: what it does to those who want to meet, and to those who have met."""

import asyncio
import dataclasses
import time

import numpy as np
import pytest

from flocklet.clock import SystemClock
from flocklet.discovery import PeerTable, Sighting, SourceKind, TableSettings
from flocklet.discovery.address import Address
from flocklet.discovery.announcement import SERVICE_TYPE, Announcement, parse_txt
from flocklet.discovery.mdns import MdnsSource
from flocklet.swarm.attacks.mdns_flood import flood_packets, flooding
from flocklet.swarm.attacks.model import Attack
from flocklet.swarm.lan.launcher import launch
from flocklet.swarm.tasks.catalogue import CATALOGUE

LOOPBACK = "127.0.0.1"
WIDE = TableSettings(allow_loopback=True, new_per_s=1e6, new_burst=1e6, max_peers=10**6)


class Listener:
    """A device that browses: its source and its table."""

    def __init__(self, settings: TableSettings) -> None:
        self.clock = SystemClock()
        self.table = PeerTable(bytes(32), ["flock"], np.random.default_rng(0), settings)
        self.source = MdnsSource(
            Announcement(bytes(32), "flock", "ab"), interfaces=[LOOPBACK], clock=self.clock
        )

    def heard(self, sighting) -> None:
        self.table.offer(sighting, self.clock.monotonic())


async def until(is_done, limit_s=15.0):
    end_s = time.monotonic() + limit_s
    while not is_done() and time.monotonic() < end_s:
        await asyncio.sleep(0.02)
    assert is_done()


def test_invented_names_look_like_peers_of_the_flock():
    from zeroconf import DNSIncoming, DNSText

    packets = list(flood_packets("flock", 10, np.random.default_rng(0)))
    records = [record for packet in packets for record in DNSIncoming(packet).answers()]
    heard = [(record.name, parse_txt(record.text)) for record in records if isinstance(record, DNSText)]
    assert len(packets) == 3 and len({one.run for _, one in heard}) == 10
    assert all(name == f"{one.hint}.{SERVICE_TYPE}" for name, one in heard)
    assert packets == list(flood_packets("flock", 10, np.random.default_rng(0)))


@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_flood_fills_a_bounded_table_no_further_and_whom_the_owner_names_is_taken_in(is_bounded):
    tight = TableSettings(allow_loopback=True, new_burst=20.0, max_peers=30)
    listener = Listener(tight if is_bounded else WIDE)
    try:
        await listener.source.start(listener.heard)
        async with flooding("flock", np.random.default_rng(1), names=120, per_s=600.0):
            if is_bounded:
                await until(lambda: listener.table.counts["limited"] > 20)
                named = Sighting(SourceKind.STATIC, (Address("127.0.0.1", 4711),), label="127.0.0.1:4711")
                assert listener.table.offer(named, listener.clock.monotonic()) == "new"
                assert len(listener.table) <= 30 and listener.table.get("127.0.0.1:4711") is not None
            else:
                await until(lambda: len(listener.table) >= 100)  # the control: nothing stops the names
    finally:
        await listener.source.stop()


def test_strangers_never_displace_a_peer_that_was_proven():
    table = PeerTable(
        bytes(32), ["flock"], np.random.default_rng(0), TableSettings(max_peers=4, new_burst=1e6)
    )
    source_id, now_s = np.random.default_rng(2).bytes(32), 0.0
    table.authenticated(source_id, now_s, version=1)
    for at in range(500):
        ghost = np.random.default_rng(at + 10).bytes(32)
        table.offer(
            Sighting(
                SourceKind.MDNS, (Address("192.0.2.1", 4000 + at),), claimed_id=ghost, flock_tag="flock"
            ),
            now_s,
        )
    assert table.get(source_id) is not None and len(table) <= 4


def test_in_virtual_time_the_flooder_is_an_honest_peer():
    assert Attack("eclipse").trains and Attack("eclipse").merges


async def test_a_real_peer_floods_and_a_swarm_that_was_told_addresses_learns_on():
    listener = Listener(dataclasses.replace(WIDE, max_foreign=10**6))
    text = f"full(deadline=5)|{CATALOGUE['recommender'].trainer}"
    try:
        await listener.source.start(listener.heard)
        real = await launch(
            3, text, seed=1, rounds=3, model="recommender", attacks={2: "eclipse"}, is_mdns_on=False
        )
        await until(lambda: len(listener.table) >= 4)  # its names are on the air; the others announce nothing
    finally:
        await listener.source.stop()
    assert all(summary["models"][-1][0] == 3 for summary in real.summaries)
