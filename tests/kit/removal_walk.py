"""A flock of devices that meet at random, are switched off, cut apart, killed in mid-exchange, restored and stolen.

Real records and rosters, no bytes on a wire: `walk(seed)` does a random walk, heals, and returns the devices, so that a
test can look at the invariants of putting a device out.
"""

from __future__ import annotations

import copy

import numpy as np

from flocklet.identity.flock_record import FlockRecord, Out
from flocklet.identity.key import Identity
from flocklet.identity.removal import change_secret, found, name_device, put_out
from flocklet.identity.roster import DAY_S, ROOT_BYTES, Roster

__all__ = ["Walk", "walk"]

_SECRET = b"founding secret!"


class Walk:
    """`count` devices, all named by the first; those in `hostile` are in a thief's hands."""

    def __init__(self, seed: int, count: int = 6, *, hostile: tuple[int, ...] = ()) -> None:
        self.rng = np.random.default_rng(seed)
        self.identities = [Identity.from_seed(self.rng.bytes(32)) for _ in range(count)]
        self.ids = [identity.device_id for identity in self.identities]
        self.rosters = [Roster(id, (), [_SECRET]) for id in self.ids]
        self.hostile = hostile
        self.now_s = 0.0
        self.is_on = [True] * count
        self.island = [0] * count
        self.saved: dict[int, Roster] = {}
        self.removed_by_owner: set[bytes] = set()
        first = [found(self.rosters[0], self.identities[0], "d0")]
        first += [
            name_device(self.rosters[0], self.identities[0], identity.public_key, f"d{n}")
            for n, identity in enumerate(self.identities[1:], 1)
        ]
        for roster in self.rosters[1:]:
            roster.roots = (self.ids[0][:ROOT_BYTES],)
            for record in first:
                roster.take(record.encoded, 0.0)

    def admits(self, i: int, j: int) -> bool:
        """Whether `i` lets `j` in: not out, and it proves i's newest secret, or is named and proves an older one."""
        mine, theirs = self.rosters[i], self.rosters[j].secrets
        if self.ids[j] in mine.out:
            return False
        newest = mine.newest()
        return (newest is not None and newest in theirs) or (
            self.ids[j] in mine.named and any(s in theirs for s in mine.secrets)
        )

    def meet(self, i: int, j: int, *, cut: bool = False, bring: bool = True) -> bool:
        """Two devices meet: a link exchanges records and secrets; a refused one may still bring its records."""
        a, b = self.rosters[i], self.rosters[j]
        if not set(a.secrets) & set(b.secrets):
            return False
        is_link = self.admits(i, j) and self.admits(j, i)
        for giver, taker in ((a, b), (b, a)):
            if is_link or bring:
                records = list(giver.records.values())
                self.rng.shuffle(records)  # type: ignore[arg-type]
                for record in records[: int(self.rng.integers(len(records) + 1)) if cut else None]:
                    taker.take(record.encoded, self.now_s)
        if cut:
            return is_link
        is_link = self.admits(i, j) and self.admits(j, i)
        if is_link:
            for giver, taker in ((a, b), (b, a)):
                secret = giver.newest()
                if secret and giver.may_hear_secret(taker.own_id) and taker.may_hold(secret):
                    taker.hold(secret)
        return is_link

    def remove(self, i: int, j: int) -> None:
        """`i` puts `j` out, unless it is a guest or out by now; it keeps whom it knows."""
        roster = self.rosters[i]
        if i == j or self.ids[j] in roster.out or self.ids[i] not in roster.named:
            return
        keep = [id for id in roster.named if id in self.ids]
        put_out(
            roster, self.identities[i], self.ids[j], keep=keep, random_bytes=self.rng.bytes, now_s=self.now_s
        )
        if i not in self.hostile:
            self.removed_by_owner.add(self.ids[j])

    def strike(self, i: int, j: int) -> None:
        """A thief says what it likes with the key it holds, whatever its own roster says."""
        identity = self.identities[i]
        keep = tuple(sorted(id[:16] for id in self.ids))
        record: FlockRecord = Out(identity.public_key, id=self.ids[j], keep=keep, nonce=self.rng.bytes(8))
        self.rosters[i].add(record.signed(identity))

    def step(self) -> None:
        """Do one thing that happens to flocks."""
        rng, count = self.rng, len(self.ids)
        i, j = (int(n) for n in rng.choice(count, 2, replace=False))
        self.now_s += float(rng.exponential(3600.0))
        match int(rng.integers(12)):
            case 0:
                self.is_on[i] = not self.is_on[i]
            case 1:
                self.island = [int(rng.integers(2)) for _ in range(count)]
            case 2:
                self.island = [0] * count
            case 3:
                self.saved[i] = copy.deepcopy(self.rosters[i])
            case 4 if i in self.saved and i not in self.hostile:
                self.rosters[i] = copy.deepcopy(self.saved[i])  # a restored backup: an old prefix
            case _:
                if self.is_on[i] and self.is_on[j] and self.island[i] == self.island[j]:
                    self.meet(i, j, cut=bool(rng.random() < 0.2))

    def heal(self) -> None:
        """Everybody on, one island: meet until nothing changes; who lacks the newest secret long enough makes one."""
        count = len(self.ids)
        self.is_on, self.island = [True] * count, [0] * count
        for round in range(3 * count):
            self.now_s += DAY_S
            for i in range(count):
                self.rosters[i].settle(self.now_s)
            for i in range(count):
                for j in range(i):
                    self.meet(i, j)
            if round % 3 == 2:
                for i in range(count):
                    roster = self.rosters[i]
                    if roster.newest() is None and not roster.is_out and self.ids[i] in roster.named:
                        change_secret(roster, self.identities[i], self.rng.bytes)
                        break


def walk(seed: int, *, steps: int = 60, removals: int = 2, hostile: tuple[int, ...] = ()) -> Walk:
    """Return a flock after a walk with `removals` removals by owners' devices, and after healing.

    The first half removes, the others are removed: where an author is removed in its turn by somebody who had not
    heard of its removal, those who obeyed it first and those who did not differ, by design (SECURITY.md).
    """
    flock = Walk(seed, hostile=hostile)
    rng, count = flock.rng, len(flock.ids)
    at = sorted(int(n) for n in rng.choice(steps, removals, replace=False))
    honest = [i for i in range(count) if i not in hostile]
    for n in range(steps):
        flock.step()
        if n in at:
            i = int(rng.choice(honest[: count // 2]))
            j = int(rng.choice(hostile)) if hostile else int(rng.integers(count // 2, count))
            flock.remove(i, j)
        for thief in hostile:
            if rng.random() < 0.05:
                flock.strike(thief, int(rng.choice(honest)))
    flock.heal()
    return flock
