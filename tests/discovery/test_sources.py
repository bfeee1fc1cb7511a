"""Addresses, the owner's peers, remembered peers and peers told by peers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flocklet.clock import VirtualClock
from flocklet.discovery import (
    MAX_TOLD,
    Address,
    PeerTable,
    RememberedPeer,
    RememberedSource,
    Sighting,
    SourceKind,
    StaticSource,
    ToldSource,
    decode_told,
    encode_told,
    parse_address,
    race_order,
)
from flocklet.errors import ConfigError, StoreError, WireError

ALICE, BOB, CAROL = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:4710", "10.0.0.1", 4710),
        ("raspberrypi.local:4710", "raspberrypi.local", 4710),
        ("[2001:db8::7]:4710", "2001:db8::7", 4710),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
    ],
)
def test_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    assert parse_address(f" {text} ") == Address(host, port)
    assert str(Address(host, port)) == text


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1", "10.0.0.1:", ":4710", "10.0.0.1:0", "10.0.0.1:65536", "a:b", "2001:db8::7:4710", "[::1",
     "[::1]4", "[host]:1", "http://a:1", "a b:1", "a:１", "x" * 300 + ":1"],
)  # fmt: skip
def test_bad_address_is_one_clear_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)
    assert "HOST:PORT" in caught.value.remedy


@pytest.mark.parametrize("text", ["[fe80::1]:4710", "224.0.0.1:4710", "0.0.0.0:4710"])
def test_static_address_that_cannot_be_a_peer_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError):
        StaticSource([text])


def test_race_alternates_families_and_leaves_out_unscoped_link_local() -> None:
    hosts = ["10.0.0.1", "fe80::1", "10.0.0.2", "2001:db8::1", "fe80::2%3", "127.0.0.1", "10.0.0.3"]
    assert [a.host for a in race_order(Address(host, 1) for host in hosts)] == [
        "127.0.0.1", "2001:db8::1", "10.0.0.1", "fe80::2%3", "10.0.0.2", "10.0.0.3",
    ]  # fmt: skip


async def test_static_names_are_resolved_in_the_loop_and_again_after_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = VirtualClock()
    answers: list[Any] = [
        socket.gaierror(-2, "Name or service not known"),
        [
            (socket.AF_INET6, 1, 6, "", ("fe80::5", 4710, 0, 3)),
            (socket.AF_INET, 1, 6, "", ("10.0.0.5", 4710)),
        ],
    ]

    async def getaddrinfo(host: str, port: int, **_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    heard: list[Sighting] = []
    source = StaticSource(["pi.local:4710", "10.0.0.9:1"], clock=clock, retry_s=15.0)
    await source.start(heard.append)
    await clock.advance(0.0)
    assert heard[0] == Sighting(SourceKind.STATIC, (Address("10.0.0.9", 1),), label="10.0.0.9:1")
    assert heard[1].addresses == ()
    assert "pi.local cannot be resolved: Name or service not known" in source.problem
    await clock.advance(15.0)
    assert heard[2].addresses == (Address("fe80::5%3", 4710), Address("10.0.0.5", 4710))
    assert source.problem == ""
    await source.stop()


async def test_unresolved_name_is_shown_in_the_table_until_it_resolves() -> None:
    table = PeerTable(b"\x80" * 32, ["tag"], np.random.default_rng(0))
    table.offer(Sighting(SourceKind.STATIC, label="pi.local:1", problem="the name pi.local ..."), 0.0)
    record = table.get("pi.local:1")
    assert record is not None
    assert record.problem.startswith("the name")
    assert table.dial_candidates(1.0) == []
    table.offer(Sighting(SourceKind.STATIC, (Address("10.0.0.5", 1),), label="pi.local:1"), 2.0)
    assert record.problem == ""
    assert len(table.dial_candidates(3.0)) == 1


class Book:
    """An address book in memory that can be made to fail."""

    def __init__(self) -> None:
        self.kept: dict[bytes, RememberedPeer] = {}
        self.writes = 0
        self.is_broken = False

    def remembered_peers(self) -> Iterable[RememberedPeer]:
        if self.is_broken:
            raise StoreError("disk I/O error")
        return list(self.kept.values())

    def remember_peer(self, peer: RememberedPeer) -> None:
        if self.is_broken:
            raise StoreError("disk full")
        self.writes += 1
        self.kept[peer.device_id] = peer


async def test_proven_peer_is_remembered_and_dialled_first_in_the_next_run() -> None:
    book = Book()
    first = PeerTable(b"\x80" * 32, ["tag"], np.random.default_rng(0))
    memory = RememberedSource(book)
    first.offer(Sighting(SourceKind.MDNS, (Address("10.0.0.8", 1),), claimed_id=BOB, flock_tag="tag"), 0.0)
    stranger = first.get(BOB)
    assert stranger is not None
    memory.remember(stranger)
    assert book.kept == {}  # never proven
    memory.remember(first.authenticated(ALICE, 1.0, address=Address("10.0.0.7", 4710), name="attic"))
    memory.remember(first.authenticated(ALICE, 2.0, address=Address("10.0.0.7", 4710)))
    assert book.writes == 1  # nothing new, nothing written
    second = PeerTable(b"\x80" * 32, ["tag"], np.random.default_rng(0))
    await RememberedSource(book).start(lambda sighting: second.offer(sighting, 0.0))
    (candidate,) = second.dial_candidates(0.0)
    assert (candidate.expected_id, candidate.addresses) == (ALICE, (Address("10.0.0.7", 4710),))
    assert second.get(ALICE) is not None


async def test_broken_store_does_not_stop_discovery() -> None:
    book = Book()
    book.is_broken = True
    memory = RememberedSource(book)
    await memory.start(lambda sighting: None)
    assert "disk I/O error" in memory.problem
    table = PeerTable(b"\x80" * 32, ["tag"], np.random.default_rng(0))
    memory.remember(table.authenticated(ALICE, 1.0, address=Address("10.0.0.7", 4710)))
    assert "disk full" in memory.problem


def test_told_peers_survive_the_wire_and_names_do_not() -> None:
    peers = [(ALICE, Address("10.0.0.1", 4710)), (BOB, Address("2001:db8::1", 1))]
    unfit = [(ALICE, Address("pi.local", 1)), (ALICE, Address("fe80::1%2", 1))]
    assert decode_told(encode_told(peers + unfit)) == peers
    assert len(decode_told(encode_told(peers * 100))) == MAX_TOLD
    assert len(encode_told([(ALICE, Address("2001:db8::1", 1))] * 100)) <= 4096


@given(st.binary(max_size=200))
def test_any_bytes_as_told_peers_decode_or_raise_wire_error(body: bytes) -> None:
    try:
        peers = decode_told(body)
    except WireError:
        return
    assert len(peers) <= MAX_TOLD
    assert encode_told(peers)[0] <= len(peers)


async def test_teller_cannot_point_us_at_ourselves_or_keep_more_than_its_share() -> None:
    heard: list[Sighting] = []
    told = ToldSource(per_teller=8)
    await told.start(heard.append)
    bad = ["127.0.0.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::1", "::"]
    assert told.receive(ALICE, encode_told([(BOB, Address(host, 1)) for host in bad])) == 0
    assert told.refused == len(bad)
    assert (
        told.receive(ALICE, encode_told([(BOB, Address("10.0.0.1", 0)), (ALICE, Address("10.0.0.1", 1))]))
        == 0
    )
    assert heard == []
    for batch in range(4):
        ids = [bytes([batch, n]) + bytes(30) for n in range(8)]
        assert (
            told.receive(ALICE, encode_told((i, Address("10.0.0.1", 1 + n)) for n, i in enumerate(ids))) == 8
        )
    alive = {s.claimed_id for s in heard if not s.gone} - {s.claimed_id for s in heard if s.gone}
    assert len(alive) == 8
    with pytest.raises(WireError):
        told.receive(ALICE, b"\xff")


async def test_what_two_tellers_say_is_withdrawn_only_when_both_forget_it() -> None:
    heard: list[Sighting] = []
    told = ToldSource(per_teller=1)
    await told.start(heard.append)
    shared = encode_told([(CAROL, Address("10.0.0.3", 1))])
    told.receive(ALICE, shared)
    told.receive(BOB, shared)
    told.receive(ALICE, encode_told([(BOB, Address("10.0.0.2", 1))]))
    assert not any(s.gone for s in heard)
    told.receive(BOB, encode_told([(ALICE, Address("10.0.0.1", 1))]))
    assert [s.claimed_id for s in heard if s.gone] == [CAROL]


def test_discovery_without_mdns_does_not_load_zeroconf() -> None:
    code = "import sys, flocklet.discovery; print('zeroconf' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
