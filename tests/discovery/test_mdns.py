"""The mDNS source: two of them on loopback, clashes, failed registration, echo, hostile records, floods."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import Zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from flocklet.clock import VirtualClock
from flocklet.discovery import Announcement
from flocklet.discovery.announcement import SERVICE_TYPE, parse_instance, parse_txt, who_of
from flocklet.discovery.gate import PacketGate, PacketLimits
from flocklet.discovery.interfaces import Interface, announced_hosts, choose, is_ready, listen_hosts
from flocklet.discovery.mdns import MdnsSource
from flocklet.errors import WireError
from kit.sightings import LOOPBACK, Heard, announcement


async def until(is_done: Callable[[], object], limit_s: float = 8.0) -> None:
    end_s = time.monotonic() + limit_s
    while not is_done() and time.monotonic() < end_s:
        await asyncio.sleep(0.01)
    assert is_done()


async def test_two_on_loopback_see_each_other_and_not_themselves() -> None:
    one, two = announcement(port=4001), announcement(port=4002, tag="other")
    heard_one, heard_two = Heard(one, two), Heard(one, two)
    first = MdnsSource(one, interfaces=LOOPBACK, known=heard_one.known)
    second = MdnsSource(two, interfaces=LOOPBACK, known=heard_two.known)
    try:
        await first.start(heard_one)
        await second.start(heard_two)
        await until(lambda: heard_one and heard_two)
        assert (first.problem, second.problem) == ("", "")
        await until(lambda: first.counts["own"])  # we did hear ourselves, and said nothing
        assert {s.run for s in heard_one} == {two.run}
        assert {s.run for s in heard_two} == {one.run}
        assert [str(a) for a in heard_one[0].addresses] == ["127.0.0.1:4002"]
        assert (heard_one[0].flock_tag, heard_one[0].version, heard_one[0].run) == ("", 2, two.run)
        assert heard_one[0].claimed_id is None  # another flock says nothing to us
        assert first.packets.packets_in > 0
        assert first.packets.packets_out > 0
        await second.stop()
        await until(lambda: heard_one[-1].gone)
        assert heard_one[-1].run == two.run
    finally:
        await first.stop()
        await second.stop()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_name_is_the_key_hash_and_not_the_host_name() -> None:
    one = announcement()
    assert one.instance_name() == f"{one.hint}.{SERVICE_TYPE}"
    assert parse_instance(one.instance_name("ab12")) == one.hint
    assert one.device_id.hex()[:12] not in one.instance_name()
    assert socket.gethostname() not in one.instance_name()


async def test_clone_of_our_key_is_heard_on_both_sides_and_one_name_gives_way() -> None:
    device_id = os.urandom(32)
    original, clone = announcement(device_id, 4001), announcement(device_id, 4002)
    heard = Heard(original)
    first, second = MdnsSource(original, interfaces=LOOPBACK), MdnsSource(clone, interfaces=LOOPBACK)
    try:
        await first.start(heard)
        await second.start(Heard(original))
        await until(lambda: first.counts["clones"] and second.counts["clones"])
        assert heard[0].claimed_id == device_id
        assert [a.port for a in heard[0].addresses] == [4002]
        assert first.instance_name != second.instance_name
        await until(lambda: first.is_announced and second.is_announced)
    finally:
        await first.stop()
        await second.stop()


async def test_failed_registration_degrades_to_browsing(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = announcement(), announcement()
    heard = Heard(two)

    async def refuse(self: AsyncZeroconf, info: AsyncServiceInfo, **_: Any) -> None:
        if info.name == one.instance_name():
            raise OSError("no buffer space available")
        return await original(self, info, **_)

    original = AsyncZeroconf.async_register_service
    monkeypatch.setattr(AsyncZeroconf, "async_register_service", refuse)
    first, second = MdnsSource(one, interfaces=LOOPBACK), MdnsSource(two, interfaces=LOOPBACK)
    try:
        await first.start(heard)
        assert "no buffer space" in first.problem
        assert not first.is_announced
        await second.start(Heard())
        await until(lambda: heard)
    finally:
        await first.stop()
        await second.stop()


async def test_sockets_that_cannot_be_opened_stop_nothing_and_are_tried_again() -> None:
    attempts = 0

    def broken(**options: Any) -> Zeroconf:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise OSError(98, "Address already in use")
        return Zeroconf(**options)

    source = MdnsSource(announcement(), interfaces=LOOPBACK, rescan_s=0.01, make_zeroconf=broken)
    try:
        await source.start(Heard())
        assert "Address already in use" in source.problem
        assert not source.is_running
        source.announce()  # harmless
        await until(lambda: source.is_announced)
        assert source.problem == ""
    finally:
        await source.stop()


async def test_interface_that_is_not_there_is_named_and_taken_up_when_it_comes() -> None:
    present: list[Interface] = []
    source = MdnsSource(
        announcement(), interfaces=["wlan7"], rescan_s=0.01, list_interfaces=lambda: list(present)
    )
    try:
        await source.start(Heard())
        assert "'wlan7' is not there" in source.problem
        present.append(Interface("wlan7", 1, ("127.0.0.1",)))
        await until(lambda: source.is_announced)
        assert source.problem == ""
    finally:
        await source.stop()


async def test_hostile_records_are_counted_and_never_reach_the_sink() -> None:
    one, evil = announcement(), announcement()
    heard = Heard(one, evil)
    source = MdnsSource(one, interfaces=LOOPBACK)
    liar = AsyncZeroconf(interfaces=LOOPBACK)
    records = [
        ("aaaaaaaaaaaa", evil.txt()),  # the name does not belong to the id
        (evil.hint, b"\x05v=1\xff"),
        ("Office Printer", evil.txt()),
        (evil.hint + "-1", b"\x03v=1\x10id=../../etc/shad"),
    ]
    try:
        await source.start(heard)
        for name, txt in records:
            info = AsyncServiceInfo(
                SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", port=1, properties=txt, parsed_addresses=["127.0.0.1"]
            )
            await (await liar.async_register_service(info, cooperating_responders=True, strict=False))
        await until(lambda: source.counts["malformed"] >= len(records))
        assert heard == []
    finally:
        await source.stop()
        await liar.async_close()


def test_txt_names_nobody_and_is_another_one_after_each_start() -> None:
    one = announcement()
    heard = parse_txt(one.txt())
    assert (heard.run, heard.version, heard.device_id) == (one.run, 2, None)
    keys = {string.partition(b"=")[0] for string in _strings(one.txt())}
    assert keys == {b"v", b"n", b"t", b"w"}
    again = Announcement(one.device_id, one.flock_tag, os.urandom(4).hex(), one.port)
    assert not set(_strings(one.txt())) & set(_strings(again.txt())) - {b"v=2"}
    for secret in (one.device_id.hex(), one.device_id.hex()[:12], one.flock_tag):
        assert secret.encode() not in one.txt()
    with pytest.raises(WireError):
        Announcement(one.device_id, "tag", "no hex").txt()


def test_members_recognise_each_other_and_others_do_not() -> None:
    new, old = os.urandom(32), os.urandom(32)
    one = Announcement(os.urandom(32), "tag", "ab12", 4000, keys=(old,))
    member = Announcement(
        os.urandom(32), "tag", "cd34", 4001, keys=(new, old)
    )  # the secret was changed meanwhile
    outsider = Announcement(os.urandom(32), "tag", "cd34", 4001, keys=(os.urandom(32),))  # knows the tag only
    heard = parse_txt(one.txt())
    assert member.key_of(heard, 4000) == old
    assert who_of(old, heard.run, one.device_id) == heard.who
    assert who_of(old, heard.run, member.device_id) != heard.who
    assert outsider.key_of(heard, 4000) is None
    assert member.key_of(heard, 4001) is None  # a copied record leads to no other port


def test_a_record_of_version_1_is_read_to_name_whom_to_update() -> None:
    strings = (b"v=1", b"id=" + b"ab" * 32, b"flock=tag", b"run=ff")
    heard = parse_txt(b"".join(bytes([len(string)]) + string for string in strings))
    assert (heard.version, heard.device_id, heard.flock_tag) == (1, b"\xab" * 32, "tag")


async def test_the_nonce_is_renewed_and_the_old_record_says_goodbye() -> None:
    one, two = announcement(port=4001), announcement(port=4002)
    heard = Heard(one)
    clock = VirtualClock()
    first = MdnsSource(one, interfaces=LOOPBACK, clock=clock, renew_s=60.0)
    second = MdnsSource(two, interfaces=LOOPBACK, known=heard.known)
    try:
        await first.start(lambda sighting: None)
        await second.start(heard)
        await until(lambda: heard)
        name = first.instance_name
        for _ in range(30):
            await clock.advance(3.0)
        await until(lambda: len({sighting.run for sighting in heard}) == 2)
        assert first.instance_name != name
        assert {sighting.claimed_id for sighting in heard} == {one.device_id}
        for _ in range(5):
            await clock.advance(3.0)
        await until(lambda: any(sighting.gone for sighting in heard))
        assert first.problem == ""
    finally:
        await first.stop()
        await second.stop()


def _strings(txt: bytes) -> list[bytes]:
    strings, at = [], 0
    while at < len(txt):
        strings.append(txt[at + 1 : at + 1 + txt[at]])
        at += 1 + txt[at]
    return strings


@given(st.binary(max_size=1500))
def test_any_bytes_as_txt_give_an_announcement_or_a_wire_error(txt: bytes) -> None:
    try:
        parse_txt(txt)
    except WireError:
        return
    raise AssertionError("random bytes are no announcement")


@given(st.data())
def test_mutated_txt_never_raises_anything_else(data: st.DataObject) -> None:
    txt = bytearray(Announcement(bytes(32), "tag", "ab").txt())
    for _ in range(data.draw(st.integers(1, 6))):
        txt[data.draw(st.integers(0, len(txt) - 1))] = data.draw(st.integers(0, 255))
    try:
        heard = parse_txt(bytes(txt))
    except WireError:
        return
    assert heard.device_id is None or len(heard.device_id) == 32
    assert (heard.run + heard.tag + heard.who + heard.flock_tag).isascii()


def test_gate_sheds_a_flood_from_one_source_and_lets_others_through() -> None:
    now_s = 0.0
    limits = PacketLimits(source_per_s=10, source_burst=20, total_per_s=1000, total_burst=1000, max_sources=4)
    gate = PacketGate(lambda: now_s, limits)
    admitted = sum(gate.admit(100, "192.0.2.9") for _ in range(500))
    assert admitted == 20
    assert gate.admit(100, "192.0.2.10")
    assert all(gate.admit(100, "::ffff:127.0.0.1") for _ in range(100))  # many processes share loopback
    assert gate.counts.shed == 480
    now_s = 1.0
    assert sum(gate.admit(100, "192.0.2.9") for _ in range(500)) == 10
    assert sum(gate.admit(9000, "192.0.2.10") for _ in range(10)) < 2  # size counts


def test_gate_bounds_everything_together_even_with_forged_sources() -> None:
    gate = PacketGate(lambda: 0.0, PacketLimits(total_burst=50))
    assert sum(gate.admit(100, f"10.0.{n // 200}.{n % 200}") for n in range(5000)) == 50


async def test_flood_of_datagrams_on_a_real_socket_is_shed() -> None:
    limits = PacketLimits(total_per_s=1.0, total_burst=40.0)
    source = MdnsSource(announcement(), interfaces=LOOPBACK, limits=limits)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        await source.start(Heard())
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for _ in range(200):
            sender.sendto(os.urandom(64), ("224.0.0.251", 5353))
        await until(lambda: source.packets.packets_in >= 200)
        assert source.packets.shed >= 100
        assert source.problem == ""
    finally:
        sender.close()
        await source.stop()


def test_address_that_is_still_tentative_is_left_for_later() -> None:
    assert is_ready("127.0.0.1", 1)
    assert not is_ready("fe80::dead:beef", 1)  # nobody has it: the system refuses as for a tentative one


def test_loopback_is_announced_only_when_there_is_nothing_else() -> None:
    lo = Interface("lo", 1, ("127.0.0.1", "::1"))
    eth = Interface("eth0", 2, ("10.0.0.5", "fe80::1", "2001:db8::5"))
    assert announced_hosts([lo]) == ["127.0.0.1", "::1"]
    assert announced_hosts([lo, eth]) == ["10.0.0.5", "2001:db8::5", "fe80::1"]
    assert listen_hosts([lo, eth]) == ["127.0.0.1", "10.0.0.5", "fe80::1"]
    assert choose([lo, eth], ["eth0", "127.0.0.1"]) == ([eth, Interface("lo", 1, ("127.0.0.1",))], [])
    assert choose([lo], ["10.9.9.9"]) == ([], ["10.9.9.9"])
