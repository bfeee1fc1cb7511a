"""Putting a device out: the rules of members, on the real records, under every order that can be tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flocklet.errors import UsageError, WireError
from flocklet.identity.flock_record import (
    MAX_RECORD_BYTES,
    NOBODY,
    FlockRecord,
    Name,
    Out,
    Rekey,
    decode_record,
)
from flocklet.identity.key import Identity
from flocklet.identity.removal import allow, bring_back, change_secret, found, leave, name_device, put_out
from flocklet.identity.roster import DAY_S, ROOT_BYTES, Roster

SECRET = bytes(16)


class Devices:
    """Some devices of one flock: the first is its founder and has named the others."""

    def __init__(self, count: int) -> None:
        self.identities = [Identity.from_seed(bytes([i + 1]) * 32) for i in range(count)]
        self.ids = [identity.device_id for identity in self.identities]
        root = (self.ids[0][:ROOT_BYTES],)
        self.rosters = [Roster(id, root, [SECRET]) for id in self.ids]
        self.rosters[0].roots = ()
        self.rng = np.random.default_rng(count)
        records = [found(self.rosters[0], self.identities[0], "a")]
        records += [
            name_device(self.rosters[0], self.identities[0], identity.public_key, "bcdefghij"[n])
            for n, identity in enumerate(self.identities[1:])
        ]
        for i in range(count):
            self.tell(i, records)

    def tell(self, i: int, records, now_s: float = 0.0) -> None:
        for record in records:
            self.rosters[i].take(record.encoded, now_s)

    def meet(self, i: int, j: int, now_s: float = 0.0) -> None:
        """Two devices exchange what they hold, then the newest secret where it may be handed over."""
        a, b = self.rosters[i], self.rosters[j]
        mine, theirs = list(a.records.values()), list(b.records.values())
        self.tell(j, mine, now_s)
        self.tell(i, theirs, now_s)
        for giver, taker in ((a, b), (b, a)):
            secret = giver.newest()
            if secret and giver.may_hear_secret(taker.own_id) and taker.may_hold(secret):
                taker.hold(secret)

    def put_out(self, i: int, j: int, now_s: float = 0.0, **options):
        return put_out(
            self.rosters[i],
            self.identities[i],
            self.ids[j],
            random_bytes=self.rng.bytes,
            now_s=now_s,
            **options,
        )


def test_a_removed_device_is_out_everywhere_and_never_learns_the_secret():
    devices = Devices(5)
    devices.put_out(0, 4, keep=devices.ids[1:4])
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (0, 4)):
        devices.meet(i, j)
    new = devices.rosters[0].newest()
    for i in range(4):
        assert devices.rosters[i].out == {devices.ids[4]}
        assert devices.rosters[i].newest() == new != SECRET
    assert devices.rosters[4].is_out and devices.rosters[4].newest() is None
    assert new not in devices.rosters[4].secrets


def test_a_guest_can_neither_name_nor_remove():
    devices = Devices(3)
    guest = Identity.from_seed(b"g" * 32)
    roster = Roster(guest.device_id, devices.rosters[0].roots, [SECRET], dict(devices.rosters[0].records))
    with pytest.raises(UsageError, match="guest"):
        put_out(roster, guest, devices.ids[1], random_bytes=devices.rng.bytes, now_s=0)
    forged = Out(guest.public_key, id=devices.ids[1], nonce=bytes(8)).signed(guest)
    devices.tell(0, [forged])
    assert devices.rosters[0].out == frozenset()
    ownname = Name(guest.public_key, id=guest.device_id, key=guest.public_key, text="g", number=1).signed(
        guest
    )
    devices.tell(0, [ownname])
    assert guest.device_id not in devices.rosters[0].named and devices.rosters[0].out == frozenset()


def test_two_who_remove_each_other_are_both_out_in_every_order():
    devices = Devices(4)
    records = [*devices.put_out(0, 1, keep=devices.ids[2:]), *devices.put_out(1, 0, keep=devices.ids[2:])]
    seen = set()
    for order in itertools.permutations(records):
        roster = Roster(devices.ids[2], devices.rosters[2].roots, [], dict(devices.rosters[2].records))
        for record in order:
            roster.take(record.encoded, 0.0)
        seen.add((roster.out, roster.covers))
    assert seen == {(frozenset(devices.ids[:2]), seen.copy().pop()[1])}
    # Somebody else brings the honest one back.
    devices.tell(2, records)
    devices.tell(3, records)
    made = bring_back(
        devices.rosters[2], devices.identities[2], devices.ids[0], is_here_only=False, now_s=0.0
    )
    devices.tell(3, made)
    assert devices.rosters[3].out == {devices.ids[1]}


def test_the_state_is_that_of_the_set_of_records_in_any_order():
    """Six records: names, two removals at once by two devices, the rekeys; no brake takes part."""
    devices = Devices(6)
    late = Identity.from_seed(b"l" * 32)
    named = name_device(devices.rosters[1], devices.identities[1], late.public_key, "late")
    keep = [*devices.ids[1:4], late.device_id]
    records = [named, *devices.put_out(1, 5, keep=keep), *devices.put_out(2, 4, keep=keep)]
    records.append(change_secret(devices.rosters[2], devices.identities[2], devices.rng.bytes))
    states = set()
    for order in itertools.permutations(records):
        roster = Roster(devices.ids[3], devices.rosters[3].roots, [], dict(devices.rosters[3].records))
        for record in order:
            roster.take(record.encoded, 0.0)
        states.add((roster.out, roster.covers, frozenset(roster.named), roster.newest_lock()))
    assert len(states) == 1
    assert next(iter(states))[0] == set(devices.ids[4:])


def test_one_removal_a_day_on_one_authors_word():
    devices = Devices(5)
    for j in (1, 2, 3):
        devices.tell(4, devices.put_out(0, j, keep=devices.ids))
    roster = devices.rosters[4]
    assert len(roster.out) == 1 and len(roster.held) == 2
    assert roster.settle(DAY_S - 1) == ()
    assert len(roster.settle(DAY_S)) == 1 and len(roster.out) == 2
    (last,) = roster.held
    allow(roster, last.hash, DAY_S)
    assert len(roster.out) == 3
    control = Roster(devices.ids[4], roster.roots, [], dict(roster.records), allowed=set(roster.records))
    control.settle(0.0)
    assert len(control.out) == 3  # without the brake all three at once


def test_removing_an_author_that_used_its_day_is_never_held():
    devices = Devices(5)
    devices.tell(4, devices.put_out(1, 2, keep=devices.ids))  # the thief's one of the day
    devices.tell(4, devices.put_out(0, 3, keep=devices.ids))  # the owner's one of the day
    devices.tell(4, devices.put_out(0, 1, keep=devices.ids))
    assert devices.ids[1] in devices.rosters[4].out


def test_what_a_removed_one_says_later_is_ignored_but_for_one_answer():
    devices = Devices(5)
    devices.tell(4, devices.put_out(0, 1, keep=devices.ids))
    devices.tell(4, devices.put_out(1, 2, keep=devices.ids))
    assert devices.rosters[4].out == {devices.ids[1]}
    devices.tell(4, devices.put_out(1, 0, keep=devices.ids))
    assert devices.rosters[4].out == {devices.ids[0], devices.ids[1]}
    # The thief comes back here alone: what it said meanwhile stays unsaid.
    bring_back(devices.rosters[4], devices.identities[4], devices.ids[1], is_here_only=True, now_s=9 * DAY_S)
    assert devices.rosters[4].out == {devices.ids[0]}


def test_ids_that_a_thief_named_cannot_silence_the_owner():
    devices = Devices(3)  # 0 is the owner's, 1 the thief's, 2 looks on
    sybil = Identity.from_seed(b"s" * 32)
    named = name_device(devices.rosters[1], devices.identities[1], sybil.public_key, "sybil")
    devices.tell(2, [named])
    thrown = Out(sybil.public_key, id=devices.ids[0], keep=(devices.ids[1][:16],), nonce=bytes(8)).signed(
        sybil
    )
    devices.tell(2, [thrown])
    assert devices.ids[0] in devices.rosters[2].out
    devices.tell(2, devices.put_out(0, 1, keep=[devices.ids[2]]))
    assert devices.ids[1] in devices.rosters[2].out and sybil.device_id not in devices.rosters[2].named


def test_only_whom_the_remover_keeps_stays_named_after_its_namer_is_out():
    devices = Devices(3)
    child, sybil = (Identity.from_seed(seed * 32) for seed in (b"c", b"s"))
    for identity, text in ((child, "child"), (sybil, "sybil")):
        record = name_device(devices.rosters[1], devices.identities[1], identity.public_key, text)
        devices.tell(0, [record])
        devices.tell(2, [record])
    assert set(devices.rosters[0].orphans_of(devices.ids[1])) == {child.device_id, sybil.device_id}
    devices.tell(2, devices.put_out(0, 1, keep=[child.device_id]))
    assert set(devices.rosters[2].named) == {devices.ids[0], devices.ids[2], child.device_id}


def test_one_author_names_sixteen_and_of_two_with_one_number_one_counts():
    devices = Devices(1)
    seeds = [Identity.from_seed(bytes([i]) + b"x" * 31) for i in range(20)]
    for n, identity in enumerate(seeds[:15]):
        name_device(devices.rosters[0], devices.identities[0], identity.public_key, f"d{n}")
    with pytest.raises(UsageError, match="named 16"):
        name_device(devices.rosters[0], devices.identities[0], seeds[15].public_key, "d15")
    owner, twin = devices.identities[0], seeds[16]
    second = Name(owner.public_key, id=twin.device_id, key=twin.public_key, text="t", number=2).signed(owner)
    devices.tell(0, [second])
    assert len(devices.rosters[0].named) == 16


def test_a_lost_secret_is_replaced_by_one_that_counts():
    devices = Devices(3)
    records = devices.put_out(0, 2, keep=devices.ids[:2])
    devices.tell(1, records)  # the records arrive, the secret does not
    assert devices.rosters[1].newest() is None
    made = change_secret(devices.rosters[1], devices.identities[1], devices.rng.bytes)
    assert devices.rosters[1].newest() is not None
    devices.tell(0, [made])
    assert devices.rosters[0].newest() is None  # until it is handed over
    devices.meet(0, 1)
    assert devices.rosters[0].newest() == devices.rosters[1].newest()


def test_changing_the_secret_alone_puts_nobody_out():
    devices = Devices(3)
    put_out(devices.rosters[0], devices.identities[0], NOBODY, random_bytes=devices.rng.bytes, now_s=0.0)
    devices.meet(0, 1)
    assert set(devices.rosters[1].named) == set(devices.ids)
    assert devices.rosters[1].newest() == devices.rosters[0].newest() != SECRET


def test_leaving_forgets_the_secrets_and_tells_the_others():
    devices = Devices(3)
    devices.tell(
        0, leave(devices.rosters[2], devices.identities[2], random_bytes=devices.rng.bytes, now_s=0.0)
    )
    assert devices.rosters[2].secrets == [] and devices.ids[2] in devices.rosters[0].out


def test_a_flood_of_records_leaves_room_for_those_that_count():
    devices = Devices(3)
    roster = devices.rosters[2]
    refused = 0
    for i in range(200):
        guest = Identity.from_seed(i.to_bytes(4, "big") * 8)
        try:
            roster.take(Out(guest.public_key, id=devices.ids[0], nonce=bytes(8)).signed(guest).encoded, 0.0)
        except WireError as error:
            assert error.reason == "full"
            refused += 1
    for n in range(400):  # a named device fills its share
        try:
            one = Out(devices.identities[1].public_key, id=NOBODY, nonce=n.to_bytes(8, "big"))
            roster.take(one.signed(devices.identities[1]).encoded, 0.0)
        except WireError:
            refused += 1
    assert refused > 200 and len(roster.records) <= 3 * 48 + 64
    devices.tell(2, devices.put_out(0, 1, keep=[devices.ids[2]]))
    assert devices.ids[1] in roster.out


@pytest.mark.parametrize("kind", [Name, Out, Rekey])
def test_mutated_records_are_refused_and_nothing_else_is_raised(kind):
    rng = np.random.default_rng(5)
    devices = Devices(2)
    records: list[FlockRecord] = [*devices.rosters[0].records.values(), *devices.put_out(0, 1)]
    data = next(r for r in records if isinstance(r, kind)).encoded
    assert decode_record(data).encoded == data and len(data) <= MAX_RECORD_BYTES
    for _ in range(500):
        bad = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            bad[int(rng.integers(len(bad)))] ^= int(rng.integers(1, 256))
        with pytest.raises(WireError):
            decode_record(bytes(bad))
    for cut in range(0, len(data), 7):
        with pytest.raises(WireError):
            decode_record(data[:cut])
