"""The invariants of removal after random walks of a flock: restarts, restores, partitions, thieves."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from flocklet.identity.flock_record import Out, Rekey, lock_of
from flocklet.identity.key import Identity
from flocklet.identity.roster import Roster
from kit.removal_walk import Walk, walk

SEEDS = range(12)
MANY = range(1000)


def nobody_hears_a_secret_that_covers_its_removal(flock: Walk) -> None:
    records = {h: r for roster in flock.rosters for h, r in roster.records.items()}
    for record in records.values():
        if isinstance(record, Rekey):
            gone = {records[h].id for h in record.covers if isinstance(records.get(h), Out)}  # type: ignore[attr-defined]
            for i, id in enumerate(flock.ids):
                if id in gone and i not in flock.hostile:
                    assert all(lock_of(s) != record.lock for s in flock.rosters[i].secrets)


def no_fresh_key_with_an_old_secret_comes_in(flock: Walk) -> None:
    for i, roster in enumerate(flock.rosters):
        for j, id in enumerate(flock.ids):
            if id in roster.out and (newest := roster.newest()) is not None and i != j:
                assert newest not in flock.rosters[j].secrets


def honest(seed: int) -> None:
    flock = walk(seed)
    inside = [i for i in range(6) if not any(flock.ids[i] in r.out for r in flock.rosters)]
    assert len({flock.rosters[i].covers for i in inside}) <= 1
    assert len({flock.rosters[i].newest() for i in inside}) <= 1 and None not in {
        flock.rosters[i].newest() for i in inside
    }
    assert all(flock.admits(i, j) for i in inside for j in inside if i != j)
    out = {flock.ids[i] for i in range(6)} - {flock.ids[i] for i in inside}
    assert out <= flock.removed_by_owner
    for i in inside:
        assert not any(flock.admits(i, j) for j in range(6) if flock.ids[j] in out)
    nobody_hears_a_secret_that_covers_its_removal(flock)
    no_fresh_key_with_an_old_secret_comes_in(flock)


def with_a_thief(seed: int) -> None:
    flock = walk(seed, removals=2, hostile=(5,))
    thief = flock.ids[5]
    for i in range(5):
        if thief in flock.rosters[i].out:
            assert not flock.admits(i, 5)
            for j in range(5):  # two that refuse each other do so by a record of somebody who was named
                if flock.ids[j] in flock.rosters[i].out:
                    named = flock.rosters[i]._reached()
                    assert all(r.author in named for r in flock.rosters[i].removals_of(flock.ids[j]))
    no_fresh_key_with_an_old_secret_comes_in(flock)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flock_agrees_after_any_walk(seed):
    honest(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_thief_stays_out_where_its_removal_was_heard(seed):
    with_a_thief(seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_walks():
    for seed in MANY:
        honest(seed)
        with_a_thief(seed + 10_000)


def test_without_admission_by_key_devices_that_were_off_are_lost():
    """The control: only the newest secret lets anybody in, so who was off during the change never comes back."""

    def by_secret_alone(self: Walk, i: int, j: int) -> bool:
        newest = self.rosters[i].newest()
        return (
            self.ids[j] not in self.rosters[i].out
            and newest is not None
            and newest in self.rosters[j].secrets
        )

    with patch.object(Walk, "admits", by_secret_alone):
        flock = Walk(1)
        flock.is_on = [True, True, True, False, False, True]
        flock.remove(0, 5)
        flock.meet(0, 1, bring=False)
        for i in (3, 4):
            for j in (0, 1, 2):
                flock.meet(i, j, bring=False)
        assert not flock.admits(0, 3) and not flock.admits(0, 4)


def test_if_any_old_secret_admitted_newcomers_a_thief_came_back_under_a_fresh_key():
    flock = walk(3, hostile=(5,))
    assert flock.ids[5] in flock.rosters[0].out
    fresh = Roster(
        Identity.from_seed(b"f" * 32).device_id, flock.rosters[0].roots, [*flock.rosters[5].secrets]
    )
    assert flock.rosters[0].newest() not in fresh.secrets
    assert set(flock.rosters[0].secrets) & set(fresh.secrets)  # the control: an old one is common
