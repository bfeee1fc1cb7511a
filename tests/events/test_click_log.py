"""The log refuses what is forged, replayed, too fast or too much, and condemns who signs two truths."""

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flocklet.errors import WireError
from flocklet.events.click import ClickEntry
from flocklet.events.click_log import ClickLog, Limits
from flocklet.events.click_outcome import Absorbed, Proof
from flocklet.events.shares import Standing
from flocklet.events.version_vector import MAX_RANGES, SeqSet, read_vector
from flocklet.identity.key import Identity

ANNA = Identity.from_seed(b"a" * 32)
BERT = Identity.from_seed(b"b" * 32)


def entry(seq: int, person: Identity = ANNA, item: int = 1, ts: int = 0) -> ClickEntry:
    return ClickEntry.signed(person, seq=seq, query="fox", shown=(item,), clicked=0, ts=ts)


def log_with(*people: Identity, limits: Limits | None = None) -> ClickLog:
    log = ClickLog(limits)
    for person in people:
        log.learn_key(person.public_key)
    return log


def take(log: ClickLog, *entries: ClickEntry, now_s: float = 0.0) -> Absorbed:
    into = Absorbed()
    for one in entries:
        log.receive(one.encode(), now_s, into)
    return into


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(0, 30))
def test_a_sequence_set_is_a_set_above_its_floor(seqs: list[int], floor: int) -> None:
    held, truth = SeqSet(), set[int]()
    for seq in seqs:
        held.add(seq)
        truth.add(seq)
    held.give_up(floor)
    truth |= set(range(1, floor + 1))
    assert {seq for seq in range(1, 70) if seq in held} == truth
    assert held.last == max(truth, default=0)
    assert all(
        first > 1 + before for (_, before), (first, _) in zip(held.ranges, held.ranges[1:], strict=False)
    )
    if len(held.ranges) <= MAX_RANGES:
        (read,) = read_vector(held.encode(bytes(16))).values()
        assert (read.upto, read.ranges) == (held.upto, held.ranges)


@given(st.binary(max_size=60))
def test_a_hostile_vector_raises_only_wire_errors(data: bytes) -> None:
    try:
        rows = read_vector(data)
    except WireError:
        return
    assert all(held.upto <= 2**32 - 1 for held in rows.values())


def test_entries_arrive_in_any_order() -> None:
    log = log_with(ANNA)
    into = take(log, *(entry(seq) for seq in (3, 1, 5, 2)))
    assert len(into.accepted) == 4
    assert [one.seq for one in log.entries(ANNA.origin)] == [1, 2, 3, 5]
    assert log.next_seq(ANNA.origin) == 6


def test_a_replayed_entry_is_taken_once() -> None:
    log = log_with(ANNA)
    into = take(log, entry(1), entry(1), entry(1))
    assert (len(into.accepted), into.refused["duplicate"], len(log)) == (1, 2, 1)


def test_a_forged_origin_is_refused() -> None:
    forged = dataclasses.replace(entry(1, BERT), origin=ANNA.origin)
    into = take(log_with(ANNA, BERT), forged)
    assert into.refused == {"signature": 1}
    assert not into.accepted


def test_an_entry_of_an_unknown_key_is_refused() -> None:
    assert take(log_with(BERT), entry(1)).refused == {"key": 1}
    with pytest.raises(WireError, match="unknown"):
        ClickLog().restore(entry(1))


def test_clock_skew_decides_nothing() -> None:
    times = (0, 1, 2**31, 2**32 - 1)
    into = take(log_with(ANNA), *(entry(n + 1, ts=ts) for n, ts in enumerate(times)))
    assert len(into.accepted) == len(times)


def test_equivocation_condemns_and_the_proof_convinces_others() -> None:
    log = log_with(ANNA, BERT)
    into = take(log, entry(1), entry(2), entry(1, BERT), entry(2, item=9))
    assert into.refused["equivocation"] == 1
    assert [one.seq for one in into.evicted] == [1, 2]
    assert log.is_condemned(ANNA.origin)
    assert len(log) == 1  # only Bert's
    assert take(log, entry(3)).refused == {"condemned": 1}
    other = log_with(ANNA)
    take(other, entry(1))
    assert [one.seq for one in other.condemn(into.proofs[0])] == [1]
    assert take(other, entry(4)).refused == {"condemned": 1}


def test_a_second_signature_on_the_same_words_is_no_equivocation() -> None:
    log = log_with(ANNA)
    take(log, entry(1))
    into = take(log, dataclasses.replace(entry(1), signature=bytes(64)))
    assert into.refused == {"duplicate": 1}
    assert not log.is_condemned(ANNA.origin)


def test_nobody_can_condemn_somebody_else() -> None:
    honest, forged = entry(1), dataclasses.replace(entry(1, item=9), signature=entry(1).signature)
    log = log_with(ANNA)
    assert take(log, honest, forged).refused == {"signature": 1}
    for first, second in (
        (honest, honest),
        (honest, entry(2)),
        (honest, forged),
        (honest, entry(1, BERT, 9)),
    ):
        with pytest.raises(WireError, match="does not hold"):
            log.condemn(Proof(ANNA.public_key, first.encode(), second.encode()))
    assert not log.is_condemned(ANNA.origin)


def test_a_flood_is_cut_to_the_rate_and_goes_on_later() -> None:
    log = log_with(ANNA, BERT, limits=Limits(burst=5, per_second=1))
    flood = [entry(seq) for seq in range(1, 21)]
    first = take(log, *flood)
    assert (len(first.accepted), first.refused["rate"]) == (5, 15)
    assert len(take(log, entry(1, BERT)).accepted) == 1  # one's flood does not slow another
    assert len(take(log, *flood, now_s=3.0).accepted) == 3
    assert not take(log, *flood, now_s=-100.0).accepted  # a clock that goes back gives nothing


def test_the_quota_keeps_the_newest_and_says_what_left() -> None:
    log = log_with(ANNA, limits=Limits(quota=3))
    into = take(log, *(entry(seq) for seq in (1, 2, 3, 4, 5)))
    assert [one.seq for one in into.evicted] == [1, 2]
    assert [one.seq for one in log.entries(ANNA.origin)] == [3, 4, 5]
    assert take(log, entry(1)).refused == {"old": 1}


def test_the_quota_holds_after_a_restart() -> None:
    log = log_with(ANNA, limits=Limits(quota=3))
    for seq in (3, 4, 5):
        log.restore(entry(seq))
    assert take(log, entry(1)).refused == {"old": 1}
    assert log.digests() == log_after_quota().digests()


def log_after_quota() -> ClickLog:
    log = log_with(ANNA, limits=Limits(quota=3))
    take(log, *(entry(seq) for seq in (1, 2, 3, 4, 5)))
    return log


def test_the_whole_log_is_bounded_at_the_cost_of_the_loudest() -> None:
    log = log_with(ANNA, BERT, limits=Limits(max_entries=10))
    take(log, entry(1, BERT), *(entry(seq) for seq in range(1, 30)))
    assert len(log) == 10
    assert (BERT.origin, 1) in log


def people(first: int, count: int) -> list[Identity]:
    return [Identity.from_seed(bytes([9]) + n.to_bytes(31, "big")) for n in range(first, first + count)]


def test_one_peer_introduces_only_so_many_strangers() -> None:
    log = log_with(limits=Limits(max_introduced=2, max_origins=3))
    who = people(0, 6)
    got = [log.learn_key(person.public_key, via=b"mallory") for person in who[:3]]
    assert got == [who[0].origin, who[1].origin, None]
    assert log.learn_key(who[2].public_key, via=b"honest") == who[2].origin
    assert log.learn_key(who[4].public_key, standing=Standing.OWN) == who[4].origin


def test_a_full_table_hears_a_newcomer_at_the_cost_of_who_brought_most() -> None:
    log = log_with(limits=Limits(max_introduced=8, max_origins=8))
    made_up, honest = people(0, 8), people(100, 3)
    for person in made_up:
        assert log.learn_key(person.public_key, via=b"mallory") is not None
    take(log, *(entry(1, person) for person in made_up[:7]))
    into = Absorbed()
    assert log.learn_key(honest[0].public_key, via=b"friend", into=into) == honest[0].origin
    assert into.forgotten == [made_up[7].origin], "the one that said nothing goes first"
    assert log.learn_key(honest[1].public_key, via=b"friend", into=into) == honest[1].origin
    assert [one.origin for one in into.evicted] == [made_up[0].origin], (
        "with its entries, so that they are unlearnt"
    )
    assert len(log) == 6
    assert log.learn_key(people(50, 1)[0].public_key, via=b"mallory") is None, "who has most gets no more"
    assert log.learn_key(honest[0].public_key, via=b"mallory") == honest[0].origin, "known is known"


def test_strangers_give_way_to_friends_and_nobody_pushes_out_the_owner() -> None:
    """Attack row 4: made-up persons push honest clicks out."""
    limits = Limits(stranger_entries=60, max_entries=100, quota=40, max_introduced=1_000, max_origins=1_000)
    log = ClickLog(limits)
    owner, friend, honest = people(0, 3)
    log.learn_key(owner.public_key, standing=Standing.OWN)
    log.learn_key(friend.public_key, via=b"pi")
    log.learn_key(honest.public_key, via=b"laptop")
    log.regard({friend.origin})
    for seq in range(1, 51):
        log.restore(entry(seq, owner))
    take(log, *(entry(seq, friend) for seq in range(1, 31)), *(entry(seq, honest) for seq in range(1, 11)))
    evicted = []
    for person in people(200, 120):
        log.learn_key(person.public_key, via=b"mallory")
        evicted += take(log, *(entry(seq, person) for seq in range(1, 4))).evicted
    held = {who.origin: len(list(log.entries(who.origin))) for who in (owner, friend, honest)}
    assert held == {owner.origin: 50, friend.origin: 30, honest.origin: 10}
    assert len(log) == 100
    assert {one.origin for one in evicted} <= {person.origin for person in people(200, 120)}
    log.regard(set())  # the owner trusts nobody any more: the friend is one stranger among others
    assert log.held_by(Standing.STRANGER) == 50
    log.regard({friend.origin})
    assert log.held_by(Standing.FRIEND) == 30


def test_without_devices_to_tell_apart_made_up_persons_push_honest_clicks_out() -> None:
    """The control: every person a share of its own, as before."""
    log = ClickLog(Limits(stranger_entries=60, max_entries=100, max_introduced=1_000, max_origins=1_000))
    honest = people(0, 1)[0]
    log.learn_key(honest.public_key)
    take(log, *(entry(seq, honest) for seq in range(1, 11)))
    for person in people(200, 120):
        log.learn_key(person.public_key)
        take(log, entry(1, person))
    assert len(list(log.entries(honest.origin))) < 3


def test_own_entries_have_no_quota() -> None:
    log = ClickLog(Limits(quota=3, max_entries=5, stranger_entries=5))
    log.learn_key(ANNA.public_key, standing=Standing.OWN)
    assert [gone for seq in range(1, 21) for gone in log.restore(entry(seq))] == []
    assert len(log) == 20


def test_making_room_looks_at_few_whoever_is_there() -> None:
    log = ClickLog(Limits(stranger_entries=2_000, max_introduced=4_000, max_origins=4_000))
    for n in range(2_000):
        origin = log.learn_key(n.to_bytes(32, "big"), via=bytes([n % 7]))
        assert origin is not None
        log.restore(ClickEntry(origin, 1, "fox", (1,), 0, 0))
    begun_s = time.process_time()
    loud = [log.learn_key((5_000 + n).to_bytes(32, "big"), via=b"mallory") for n in range(10)]
    for seq in range(1, 201):
        for origin in loud:
            assert origin is not None
            log.restore(ClickEntry(origin, seq, "fox", (1,), 0, 0))
    spent_s = time.process_time() - begun_s
    assert len(log) == 2_000
    assert spent_s < 2.0, "one scan of all origins for each entry takes longer than that"


def test_a_relay_that_drops_every_second_entry_delays_but_loses_nothing() -> None:
    log = log_with(ANNA)
    entries = [entry(seq) for seq in range(1, 4 * MAX_RANGES)]
    into = take(log, *entries[1::2])
    assert len(into.accepted) == MAX_RANGES
    assert into.refused["gaps"] == len(entries[1::2]) - MAX_RANGES
    take(log, *entries)
    assert len(log) == len(entries)


def test_own_entries_are_numbered_and_signed() -> None:
    log = log_with(ANNA)
    made = [log.append(ANNA, " FOX ", (1, 2), 1, 0) for _ in range(3)]
    assert [one.seq for one in made] == [1, 2, 3]
    assert made[0].query == "fox"
    assert all(one.verify(ANNA.public_key) for one in made)
