"""Who belongs to the flock here: the state that follows from signed records, the owner's own acts and a brake. Sans-I/O.

Named devices link by their key; the secret only admits newcomers. A removal is obeyed when its author is named and not
out here ("strong removal"), at most one a day on one author's word; what an author says after its own removal is
ignored but for one answer to its remover. Nothing that is received undoes an obeyed removal but a `back` against an
author that is out itself. There are no votes, epochs or clocks: `now_s` is this device's own running time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flocklet.errors import IdentityError, WireError
from flocklet.identity.flock import Flock
from flocklet.identity.flock_record import (
    MAX_COVERS,
    Back,
    FlockRecord,
    Name,
    Out,
    Rekey,
    decode_record,
    hash_of,
    lock_of,
)

__all__ = ["DAY_S", "MAX_SECRETS", "ROOT_BYTES", "Roster"]

DAY_S = 86400.0
MAX_SECRETS = 8
MAX_NAMED = 64
MAX_BY_AUTHOR = 48
MAX_PENDING = 64  # records of authors whom nobody has named here (yet)
ROOT_BYTES = 8


@dataclass
class Roster:
    """Hold the records of one flock as one device sees them.

    `roots` are the first 8 bytes of the ids of founders, from the invitation; empty in a flock that named nobody, where
    every member is a guest and nobody can be put out. `secrets` (16 bytes each) are the newest last.
    """

    own_id: bytes
    roots: tuple[bytes, ...] = ()
    secrets: list[bytes] = field(default_factory=list)
    records: dict[bytes, FlockRecord] = field(default_factory=dict)
    obeyed: dict[bytes, float] = field(default_factory=dict)
    """Hashes of `out` records and when they were obeyed, in seconds of own running time."""
    ignored: set[bytes] = field(default_factory=set)
    lifted: set[bytes] = field(default_factory=set)
    answered: set[bytes] = field(default_factory=set)
    """Ids of removed authors that have used their one answer."""
    allowed: set[bytes] = field(default_factory=set)
    """Hashes of `out` records that the owner lets pass the brake."""
    aliases: dict[bytes, str] = field(default_factory=dict)
    """Names that this owner gave; they stay here."""
    blocked: set[bytes] = field(default_factory=set)
    """Ids that this device alone refuses (in an open flock, where nobody can be put out)."""
    is_open: bool = False
    """Whether this is the open flock: no secret, nobody is named, a removal only blocks the id here."""
    running_s: float = 0.0
    """Seconds that this device has run since it has a flock: the only clock of the brake."""
    token: tuple[bytes, float] | None = None
    """The 8 bytes of the open invitation and the running time at which it ends."""
    ticket: bytes = b""
    """The token of the invitation by which this device joined, until a device has named it."""

    # What holds here

    @property
    def out(self) -> frozenset[bytes]:
        """The ids that are out."""
        return frozenset(r.id for r in self._outs() if self._holds(r)) | self.blocked

    @property
    def covers(self) -> tuple[bytes, ...]:
        """The hashes of the removals obeyed here, sorted."""
        return tuple(sorted(set(self.obeyed) - self.lifted))

    @property
    def named(self) -> dict[bytes, Name]:
        """The devices that are named and not out, by id, with the record that names them."""
        out = self.out
        return {id: record for id, record in self._reached().items() if id not in out}

    @property
    def held(self) -> tuple[Out, ...]:
        """Removals that wait for the next day, or for `allow`."""
        named, out = self.named, self.out
        waiting = (r for r in self._outs() if r.hash not in self.obeyed and r.hash not in self.ignored)
        return tuple(r for r in waiting if r.author in named and r.author not in out)

    @property
    def is_out(self) -> bool:
        """Whether somebody put this device out."""
        return self.own_id in self.out

    def removals_of(self, id: bytes) -> tuple[Out, ...]:
        """Return the removals of a device that hold here."""
        return tuple(r for r in self._outs() if r.id == id and self._holds(r))

    def name_of(self, id: bytes) -> str:
        """Return what the owner calls a device, else what the record calls it, else ""."""
        if id in self.aliases:
            return self.aliases[id]
        record = self._reached().get(id)
        return record.text if record else ""

    # Records in

    def take(self, encoded: bytes, now_s: float) -> FlockRecord | None:
        """Hold one record as it travels; return it if it was news.

        Raises:
            WireError: it is no record, badly signed, or there is no room for records of people nobody named (`full`).
        """
        if hash_of(encoded) in self.records:
            return None
        record = decode_record(encoded)
        if not self.roots and isinstance(record, Name) and record.author == record.id and not self.is_open:
            self.roots = (
                record.author[:ROOT_BYTES],
            )  # a flock made before names: the first founder heard of
        if not self._has_room_for(record):
            raise WireError("no room for more flock records", reason="full")
        self.records[record.hash] = record
        self.settle(now_s)
        return record

    def settle(self, now_s: float) -> tuple[Out, ...]:
        """Obey what can be obeyed by now, to the fixed point; return the removals that were."""
        done: list[Out] = []
        while (record := self._next(now_s)) is not None:
            self.obeyed[record.hash] = now_s
            done.append(record)
        return tuple(done)

    def _next(self, now_s: float) -> Out | None:
        self._lift()
        named, out = self.named, self.out
        for record in sorted(self._outs(), key=lambda r: r.hash):
            if record.hash in self.obeyed or record.hash in self.ignored:
                continue
            author = record.author
            if author in out:
                if author in self.answered or not self._is_answer(record):
                    self.ignored.add(record.hash)
                    continue
                self.answered.add(author)
                return record
            if author in named and not self._is_braked(record, now_s):
                return record
        return None

    def _is_answer(self, record: Out) -> bool:
        """Whether a removed author puts out its remover, or whoever named its remover."""
        removers = {r.author for r in self.removals_of(record.author)}
        namers = {
            r.author
            for r in self.records.values()
            if isinstance(r, Name) and r.id in removers and r.author != r.id
        }
        return record.id in removers | namers

    def _is_braked(self, record: Out, now_s: float) -> bool:
        if record.author in (self.own_id, record.id) or record.hash in self.allowed:
            return False
        used = {
            r.author
            for r in self._outs()
            if r.author != r.id and r.hash in self.obeyed and now_s - self.obeyed[r.hash] < DAY_S
        }
        return record.author in used and record.id not in used

    def _lift(self) -> None:
        named, out = self.named, self.out
        for record in self.records.values():
            if isinstance(record, Back) and record.author in named and record.out not in self.lifted:
                removal = self.records.get(record.out)
                if isinstance(removal, Out) and self._holds(removal) and removal.author in out:
                    self.lifted.add(record.out)

    def orphans_of(self, id: bytes) -> dict[bytes, Name]:
        """Return the devices that only `id` has named: they stay named only if its removal keeps them."""
        left = self._reached(without=id)
        return {i: record for i, record in self.named.items() if i not in left and i != id}

    # Secrets

    def flock(self) -> Flock:
        """Return what links are proved with: the newest secret known here, then the older ones."""
        if self.is_open:
            return Flock.open()
        newest = self.newest()
        ordered = [s for s in reversed(self.secrets) if s != newest]
        if newest is not None:
            ordered.insert(0, newest)
        if not ordered:
            raise IdentityError(
                "this device has left its flock",
                remedy="'flocklet join CODE' joins one, 'flocklet init' makes a new one",
            )
        return Flock(ordered[0], tuple(ordered[1:]))

    def newest(self) -> bytes | None:
        """Return the secret that admits newcomers, None while it is not known here."""
        if not self.covers:
            announced = self._locks()
            return next((s for s in reversed(self.secrets) if lock_of(s) not in announced), None)
        lock = self.newest_lock()
        return next((s for s in self.secrets if lock_of(s) == lock), None)

    def newest_lock(self) -> bytes | None:
        """Return the lock of the secret that counts for what is obeyed here, None where no record names one."""
        record = self.newest_rekey()
        return record.lock if record else None

    def newest_rekey(self) -> Rekey | None:
        """Return the record of the secret that counts here: of several the one with the smallest hash."""
        covers, named = self.covers[-MAX_COVERS:], self.named
        fitting = [
            r
            for r in self.records.values()
            if isinstance(r, Rekey) and r.covers == covers and covers and r.author in named
        ]
        return min(fitting, key=lambda r: r.hash, default=None)

    def may_hold(self, secret: bytes) -> bool:
        """Whether a record that counts here announces this secret, for removals that are all obeyed here."""
        covers, named, lock = set(self.covers), self.named, lock_of(secret)
        return any(
            isinstance(r, Rekey) and r.lock == lock and r.author in named and set(r.covers) <= covers
            for r in self.records.values()
        )

    def hold(self, secret: bytes) -> None:
        """Keep a secret as the newest; of more than eight the oldest is erased."""
        if secret in self.secrets:
            self.secrets.remove(secret)
        self.secrets.append(secret)
        del self.secrets[:-MAX_SECRETS]

    def may_hear_secret(self, id: bytes) -> bool:
        """Whether the newest secret is handed to this device."""
        return id in self.named

    # Inside

    def add(self, record: FlockRecord) -> None:
        """Hold a record of our own."""
        self.records[record.hash] = record

    def _outs(self) -> list[Out]:
        return [r for r in self.records.values() if isinstance(r, Out)]

    def _locks(self) -> set[bytes]:
        return {r.lock for r in self.records.values() if isinstance(r, Rekey)}

    def _holds(self, record: Out) -> bool:
        return record.hash in self.obeyed and record.hash not in self.lifted

    def _reached(self, without: bytes | None = None) -> dict[bytes, Name]:
        """Return whom a chain of names from the roots reaches, the removed too; the names by a removed device count
        only for those its removers keep, those by `without` not at all."""
        removals: dict[bytes, list[Out]] = {}
        for removal in self._outs():
            if self._holds(removal):
                removals.setdefault(removal.id, []).append(removal)
        by_author: dict[bytes, dict[int, Name]] = {}
        for name in self.records.values():
            if isinstance(name, Name):
                numbers = by_author.setdefault(name.author, {})
                if name.number not in numbers or name.hash < numbers[name.number].hash:
                    numbers[name.number] = name
        reached: dict[bytes, Name] = {}
        waiting = [
            record
            for author in sorted(by_author)
            for record in by_author[author].values()
            if record.id == author and author[:ROOT_BYTES] in self.roots
        ]
        while waiting and len(reached) < MAX_NAMED:
            record = waiting.pop(0)
            if record.id in reached:
                continue
            reached[record.id] = record
            if record.id == without:
                continue
            mine = by_author.get(record.id, {})
            waiting += [mine[k] for k in sorted(mine) if _still_counts(mine[k], removals.get(record.id, []))]
        return reached

    def _has_room_for(self, record: FlockRecord) -> bool:
        """An author whom a chain of names reaches has room for 48 records of its own; all others share 64."""
        reached = self._reached()
        if record.author in reached or (
            isinstance(record, Name) and record.author[:ROOT_BYTES] in self.roots
        ):
            return sum(r.author == record.author for r in self.records.values()) < MAX_BY_AUTHOR
        return sum(r.author not in reached for r in self.records.values()) < MAX_PENDING


def _still_counts(record: Name, removals: list[Out]) -> bool:
    """Whether a name counts after the removals of its author: some remover other than itself keeps it."""
    if not removals:
        return True
    others = [r for r in removals if r.author != r.id] or removals
    return any(record.id[:16] in r.keep for r in others)
