"""The peer table: merge rules, limits, back-off, and what hostile announcements cannot do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flocklet.discovery import Address, Liveness, Outcome, PeerTable, Sighting, SourceKind, TableSettings
from flocklet.errors import IdentityError

OWN = b"\x80" * 32


def peer_id(number: int) -> bytes:
    return bytes([0x10 + number // 256, number % 256]) + b"\x00" * 30


def address(number: int, port: int = 4710) -> Address:
    return Address(f"192.0.{number // 250}.{1 + number % 250}", port)


def mdns(number: int, *addresses: Address, tag: str = "tag", run: str = "aa") -> Sighting:
    where = addresses or (address(number),)
    return Sighting(SourceKind.MDNS, where, claimed_id=peer_id(number), flock_tag=tag, version=1, run=run)


def static(where: Address) -> Sighting:
    return Sighting(SourceKind.STATIC, (where,), label=str(where))


def table(**bounds: float) -> PeerTable:
    return PeerTable(OWN, ["tag"], np.random.default_rng(1), TableSettings(**bounds))  # type: ignore[arg-type]


def newcomer(number: int, *, tag: str = "tag", run: str = "ab12", gone: bool = False) -> Sighting:
    where = () if gone else (address(number),)
    return Sighting(SourceKind.MDNS, where, flock_tag=tag, version=2, run=run, gone=gone)


def test_a_member_without_a_known_id_is_dialled_and_merged_by_its_handshake() -> None:
    t = table()
    assert t.offer(newcomer(3), 0.0) is Outcome.NEW
    (candidate,) = t.dial_candidates(1.0)
    assert (candidate.expected_id, [str(a) for a in candidate.addresses]) == (None, [str(address(3))])
    record = t.authenticated(peer_id(3), 2.0, address=address(3))
    assert len(t) == 1
    assert t.known_ids() == [peer_id(3)]
    assert t.get("ab12") is record  # its mDNS record is still known by its nonce
    assert t.offer(newcomer(3), 3.0) is not Outcome.NEW


def test_newcomers_of_other_flocks_are_shown_and_not_dialled_and_leave_with_their_goodbye() -> None:
    t = table()
    assert t.offer(newcomer(4, tag=""), 0.0) is Outcome.NEW
    assert t.dial_candidates(1.0) == []
    assert [record.is_foreign for record in t] == [True]
    assert t.offer(newcomer(4, tag="", gone=True), 2.0) is Outcome.GONE
    assert len(t) == 0
    assert t.offer(newcomer(4, run=""), 3.0) is Outcome.INVALID


def test_newcomers_are_not_protected_from_each_other() -> None:
    t = table(max_peers=4, new_burst=100.0)
    for number in range(9):
        t.offer(newcomer(number, run=f"{number:04x}"), float(number))
    assert len(t) == 4


def test_four_sources_become_one_peer_when_the_handshake_reveals_it() -> None:
    t = table()
    t.offer(static(address(1)), 0.0)
    t.offer(mdns(1), 0.0)
    t.offer(Sighting(SourceKind.TOLD, (address(1),), claimed_id=peer_id(1)), 0.0)
    t.offer(Sighting(SourceKind.REMEMBERED, (address(1),), claimed_id=peer_id(1), name="kitchen"), 0.0)
    assert len(t) == 2  # nobody knows yet that the static address is peer 1
    record = t.authenticated(peer_id(1), 1.0, address=address(1))
    assert len(t) == 1
    assert record.sources == set(SourceKind)
    assert record.name == "kitchen"
    assert t.get(str(address(1))) is record
    assert t.offer(static(address(1)), 2.0) is Outcome.UNCHANGED
    assert len(t) == 1


def test_two_sightings_of_different_addresses_stay_two_ways_to_one_peer() -> None:
    t = table()
    t.offer(mdns(1, address(1)), 0.0)
    t.offer(mdns(1, Address("2001:db8::1", 4710)), 0.1)
    (candidate,) = t.dial_candidates(10.0)
    assert candidate.expected_id == peer_id(1)
    assert candidate.addresses == (Address("2001:db8::1", 4710), address(1))


@pytest.mark.parametrize(
    "host",
    [
        "fe80::1",
        "224.0.0.251",
        "0.0.0.0",
        "127.0.0.1",
        "255.255.255.255",
        "::1",
        "::ffff:10.0.0.1",
        "name.local",
    ],
)
def test_address_that_must_not_be_dialled_is_refused_from_strangers(host: str) -> None:
    t = table()
    assert t.offer(mdns(1, Address(host, 4710)), 0.0) is Outcome.INVALID
    assert t.dial_candidates(100.0) == []


def test_scoped_link_local_is_dialled() -> None:
    t = table()
    assert t.offer(mdns(1, Address("fe80::1%2", 4710)), 0.0) is Outcome.NEW
    assert t.dial_candidates(100.0)[0].addresses == (Address("fe80::1%2", 4710),)


def test_flood_cannot_evict_proven_owned_or_remembered_peers() -> None:
    t = table(max_peers=16, new_per_s=1e6, new_burst=1e6)
    t.offer(mdns(1), 0.0)
    t.authenticated(peer_id(1), 0.0, address=address(1))
    t.offer(static(address(2)), 0.0)
    t.offer(Sighting(SourceKind.REMEMBERED, (address(3),), claimed_id=peer_id(3)), 0.0)
    for number in range(100, 1100):
        t.offer(mdns(number), 1.0 + number)
    assert len(t) == 16
    assert t.counts["evicted"] >= 900
    assert t.get(peer_id(1)) is not None
    assert t.get(str(address(2))) is not None
    assert t.get(peer_id(3)) is not None
    assert t.get(peer_id(100)) is None  # the control: a stranger was evicted


def test_new_strangers_are_rate_limited_but_come_in_later() -> None:
    t = table(new_per_s=2.0, new_burst=4.0)
    outcomes = [t.offer(mdns(number), 0.0) for number in range(10)]
    assert outcomes.count(Outcome.NEW) == 4
    assert outcomes.count(Outcome.LIMITED) == 6
    assert t.offer(mdns(9), 1.0) is Outcome.NEW
    assert t.offer(static(address(9)), 0.0) is Outcome.NEW  # the owner is never limited


def test_foreign_flock_is_kept_apart_never_dialled_and_cannot_crowd_us_out() -> None:
    t = table(max_foreign=4, new_per_s=1e6, new_burst=1e6)
    t.offer(mdns(1), 0.0)
    for number in range(2, 50):
        t.offer(mdns(number, tag="other"), 1.0)
    assert len(t.foreign()) == 4
    assert [record.claimed_id for record in t.peers()] == [peer_id(1)]
    assert [c.expected_id for c in t.dial_candidates(100.0, limit=100)] == [peer_id(1)]


def test_stranger_cannot_talk_us_out_of_a_peer_by_a_foreign_tag_or_a_goodbye() -> None:
    t = table()
    t.offer(mdns(1), 0.0)
    t.offer(mdns(1, tag="other", run="bb"), 1.0)
    assert t.peers() != []
    assert t.foreign() == []
    record = t.authenticated(peer_id(1), 2.0, address=address(1), name="kitchen")
    t.offer(Sighting(SourceKind.MDNS, claimed_id=peer_id(1), gone=True), 3.0)
    t.offer(Sighting(SourceKind.MDNS, (address(7),), claimed_id=peer_id(1), name="evil", flock_tag="x"), 4.0)
    assert t.get(peer_id(1)) is record
    assert (record.name, record.flock_tag, record.is_foreign) == ("kitchen", "tag", False)
    assert address(1) in record.addresses


def test_goodbye_forgets_a_stranger() -> None:
    t = table()
    t.offer(mdns(1), 0.0)
    assert t.offer(Sighting(SourceKind.MDNS, claimed_id=peer_id(1), gone=True), 1.0) is Outcome.GONE
    assert len(t) == 0


def test_bogus_addresses_cannot_displace_the_proven_one() -> None:
    t = table(max_addresses=4)
    t.offer(mdns(1), 0.0)
    record = t.authenticated(peer_id(1), 0.0, address=address(1))
    for number in range(100, 200):
        t.offer(mdns(1, address(number)), 1.0)
    assert len(record.addresses) == 4
    assert address(1) in record.addresses
    t.unlinked(peer_id(1), 2.0, "reset")
    assert t.dial_candidates(100.0)[0].addresses[0] == address(1)


def test_backoff_doubles_with_jitter_and_stops_at_the_longest() -> None:
    t = table(backoff_first_s=1.0, backoff_max_s=60.0)
    t.offer(mdns(1), 0.0)
    now_s, delays = 10.0, []
    for _ in range(12):
        (candidate,) = t.dial_candidates(now_s)
        t.failed(candidate.key, candidate.addresses[0], "refused", now_s)
        t.dial_ended(candidate.key)
        due_s = t.next_due_s()
        assert due_s is not None
        assert t.dial_candidates(due_s - 1e-6) == []
        delays.append(due_s - now_s)
        now_s = due_s
    for attempt, delay_s in enumerate(delays):
        whole_s = min(60.0, 2.0**attempt)
        assert whole_s / 2 <= delay_s <= whole_s
    assert len({round(delay / min(60.0, 2.0**n), 6) for n, delay in enumerate(delays)}) > 6  # jitter
    record = t.get(peer_id(1))
    assert record is not None
    assert record.problem == "refused"


def test_restart_of_a_peer_is_tried_at_once_but_not_for_every_announcement() -> None:
    t = table(nudge_every_s=5.0, backoff_first_s=100.0)
    t.offer(mdns(1), 0.0)
    dials = 0
    for step in range(100):
        now_s = 1.0 + step / 10
        t.offer(mdns(1, run=f"{step:x}"), now_s)
        for candidate in t.dial_candidates(now_s):
            dials += 1
            t.failed(candidate.key, candidate.addresses[0], "refused", now_s)
            t.dial_ended(candidate.key)
    assert 2 <= dials <= 4


def test_wrong_key_bars_the_address_for_this_peer_only() -> None:
    t = table()
    t.offer(mdns(1, address(5)), 0.0)
    t.offer(mdns(2, address(5)), 0.0)
    t.authenticated(peer_id(2), 1.0, address=address(5))
    record = t.get(peer_id(1))
    assert record is not None
    assert record.addresses[address(5)].is_barred
    t.offer(mdns(1, address(5), run="cc"), 2.0)
    assert t.dial_candidates(1000.0) == []
    t.offer(mdns(1, address(6)), 1001.0)
    assert t.dial_candidates(1002.0)[0].addresses == (address(6),)


def test_one_address_is_never_dialled_for_two_records_at_once() -> None:
    t = table()
    t.offer(static(address(1)), 0.0)
    t.offer(mdns(1), 0.0)
    dialled = [a for candidate in t.dial_candidates(10.0) for a in candidate.addresses]
    assert dialled == [address(1)]


def test_dials_to_strangers_are_limited_and_proven_peers_are_not() -> None:
    t = table(dials_per_s=1.0, dial_burst=3.0, new_burst=1e6)
    for number in range(50):
        t.offer(mdns(number), 0.0)
    t.offer(Sighting(SourceKind.REMEMBERED, (address(60),), claimed_id=peer_id(60)), 0.0)
    chosen = t.dial_candidates(10.0, limit=100)
    assert len(chosen) == 4
    assert chosen[0].expected_id == peer_id(60)
    due_s = t.next_due_s()
    assert due_s is not None
    assert due_s > 10.0  # whoever sleeps until then does not spin


def test_lease_keeps_a_dial_single_and_runs_out() -> None:
    t = table(dial_lease_s=30.0)
    t.offer(mdns(1), 0.0)
    assert len(t.dial_candidates(10.0)) == 1
    assert t.dial_candidates(39.9) == []
    assert len(t.dial_candidates(40.1)) == 1


def test_the_larger_id_waits_a_moment_for_the_smaller_to_dial() -> None:
    t = table(patience_s=0.5)
    t.offer(mdns(1), 0.0)  # smaller than ours
    t.offer(Sighting(SourceKind.MDNS, (address(2),), claimed_id=b"\xf0" * 32, flock_tag="tag"), 0.0)
    assert [c.expected_id for c in t.dial_candidates(0.1)] == [b"\xf0" * 32]
    assert [c.expected_id for c in t.dial_candidates(0.6)] == [peer_id(1)]


def test_liveness_comes_from_heartbeats_alone() -> None:
    t = table(silent_after_s=15.0, lost_after_s=60.0)
    t.offer(mdns(1), 0.0)
    record = t.get(peer_id(1))
    assert record is not None
    assert t.liveness(record, 0.0) is Liveness.NEVER
    assert not t.heard_from(peer_id(1), 0.0)  # not authenticated: no say
    t.authenticated(peer_id(1), 0.0)
    t.offer(mdns(1, run="bb"), 50.0)
    assert t.liveness(record, 50.0) is Liveness.SILENT
    assert t.liveness(record, 61.0) is Liveness.LOST
    assert t.heard_from(peer_id(1), 62.0)
    assert t.liveness(record, 63.0) is Liveness.ALIVE


def test_own_id_is_never_a_peer_and_a_clone_is_reported() -> None:
    t = table()
    clone = Sighting(SourceKind.MDNS, (address(9),), claimed_id=OWN, flock_tag="tag", run="ff")
    assert t.offer(clone, 0.0) is Outcome.CLONE
    assert t.clone_addresses == (address(9),)
    assert t.offer(Sighting(SourceKind.TOLD, (address(9),), claimed_id=OWN), 0.0) is Outcome.OWN
    assert len(t) == 0
    with pytest.raises(IdentityError):
        t.authenticated(OWN, 0.0)


def test_static_address_of_ourselves_is_not_dialled_twice() -> None:
    t = table()
    t.offer(static(address(1)), 0.0)
    t.met_self(address(1))
    t.offer(static(address(1)), 1.0)
    assert t.dial_candidates(1000.0) == []
    record = t.get(str(address(1)))
    assert record is not None
    assert "itself" in record.problem


def test_only_proven_addresses_are_told_to_others() -> None:
    t = table()
    t.offer(mdns(1), 0.0)
    t.offer(mdns(2), 0.0)
    t.authenticated(peer_id(1), 0.0, address=address(1))
    assert t.shareable() == [(peer_id(1), address(1))]


class TableMachine(RuleBasedStateMachine):
    """Whatever sources, strangers and links do, in whatever order, the invariants hold."""

    def __init__(self) -> None:
        super().__init__()
        bounds = TableSettings(max_peers=8, max_foreign=2, max_addresses=3, new_burst=1000, dial_burst=1000)
        self.table = PeerTable(OWN, ["tag"], np.random.default_rng(0), bounds)
        self.now_s = 0.0
        self.proven: set[bytes] = set()
        self.heard: dict[bytes, float] = {}
        self.leases: dict[str, tuple[Address, ...]] = {}

    @rule(
        number=st.integers(0, 11),
        where=st.lists(st.integers(0, 15), min_size=1, max_size=4),
        tag=st.sampled_from(["tag", "other"]),
        kind=st.sampled_from([SourceKind.MDNS, SourceKind.TOLD]),
        run=st.sampled_from(["a", "b", "c"]),
        gone=st.booleans(),
    )
    def stranger_speaks(
        self, number: int, where: list[int], tag: str, kind: SourceKind, run: str, gone: bool
    ) -> None:
        places = tuple(address(n) for n in where)
        self.table.offer(
            Sighting(kind, places, peer_id(number), flock_tag=tag, run=run, gone=gone), self.now_s
        )

    @rule(number=st.integers(0, 3))
    def owner_names(self, number: int) -> None:
        self.table.offer(static(address(number)), self.now_s)

    @rule(step_s=st.floats(0.01, 100.0))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s

    @rule()
    def dial(self) -> None:
        for candidate in self.table.dial_candidates(self.now_s):
            assert candidate.addresses
            record = self.table.get(candidate.key)
            assert record is not None
            assert not record.is_linked
            assert not record.is_foreign
            for place in candidate.addresses:
                assert record.addresses[place].retry_at_s <= self.now_s
            self.leases[candidate.key] = candidate.addresses
        assert self.table.dial_candidates(self.now_s) == []  # all leased or postponed

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), barred=st.booleans())
    def dial_fails(self, data: st.DataObject, barred: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.leases)))
        for place in self.leases.pop(key):
            self.table.failed(key, place, "refused", self.now_s, is_barred=barred)
        self.table.dial_ended(key, reason="refused")

    @precondition(lambda self: len(self.proven) < 3)
    @rule(number=st.integers(0, 11), where=st.none() | st.integers(0, 15))
    def handshake(self, number: int, where: int | None) -> None:
        place = None if where is None else address(where)
        record = self.table.authenticated(peer_id(number), self.now_s, address=place)
        self.proven.add(peer_id(number))
        self.heard[peer_id(number)] = self.now_s
        assert record.is_linked
        assert place is None or record.addresses[place].is_proven
        holders = [r for r in self.table if place in r.addresses and r.addresses[place].is_proven]
        assert place is None or holders == [record]

    @precondition(lambda self: self.proven)
    @rule(data=st.data())
    def link_ends(self, data: st.DataObject) -> None:
        self.table.unlinked(data.draw(st.sampled_from(sorted(self.proven))), self.now_s, "reset")

    @precondition(lambda self: self.proven)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(sorted(self.proven)))
        assert self.table.heard_from(who, self.now_s)
        self.heard[who] = self.now_s

    @invariant()
    def proven_peers_stay(self) -> None:
        for device_id in self.proven:
            record = self.table.get(device_id)
            assert record is not None
            assert record.is_authenticated
            assert not record.is_foreign
            assert record.heard_s == self.heard[device_id]

    @invariant()
    def table_is_bounded_and_ids_are_unique(self) -> None:
        assert len(self.table.foreign()) <= 2
        assert len(self.table.peers()) <= 8 + 2  # a foreign record that turns out to be ours may exceed once
        ids = [record.device_id or record.claimed_id for record in self.table]
        known = [device_id for device_id in ids if device_id is not None]
        assert len(known) == len(set(known))
        assert OWN not in known
        for record in self.table:
            assert len(record.addresses) <= 3

    @invariant()
    def due_time_is_no_lie(self) -> None:
        due_s = self.table.next_due_s()
        assert due_s is None or not math.isnan(due_s)


TableMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestTableMachine = TableMachine.TestCase
