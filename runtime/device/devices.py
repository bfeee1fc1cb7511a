"""The owner's devices: name them, put one out, let one in again, invite, leave.

What is done is kept in the file `flock` before anybody hears of it. The records that an act makes travel by the feed
`flock`; `on_change` tells the node that there is something to send.
"""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flocklet.errors import IdentityError, UsageError
from flocklet.identity import removal
from flocklet.identity.flock import Flock
from flocklet.identity.flock_file import save_roster
from flocklet.identity.flock_record import NOBODY, Out
from flocklet.identity.invitation import TOKEN_BYTES, WINDOW_S, Invitation
from flocklet.identity.key import Identity, device_id_of, format_id, parse_id, short_id
from flocklet.identity.roster import Roster
from flocklet.wire.kinds import MAX_BROUGHT_BYTES

__all__ = ["DeviceRow", "Devices", "HeldRemoval", "Standing"]


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device of the flock as this one sees it; `state` is "this device", "named", "guest" or "out"."""

    id: str
    short: str
    name: str
    state: str
    put_out_by: tuple[str, ...] = ()
    is_linked: bool = False
    last_seen_s: float | None = None


@dataclass(frozen=True, slots=True)
class HeldRemoval:
    """A removal that waits for the next day: its author has used today's; `number` is what `devices obey` takes."""

    number: str
    author: str
    target: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What links need to know of the roster: who is out, who links by its key, and the secrets (None: it has left)."""

    out: frozenset[bytes] = frozenset()
    named: frozenset[bytes] = frozenset()
    flock: Flock | None = None
    is_out: bool = False
    has_newest: bool = True
    dropped: frozenset[bytes] = frozenset()
    """Removed devices whose events are to be forgotten."""
    records: bytes = b""
    """What a handshake brings: removals that are obeyed here, the own ones first, each after two bytes of length."""
    is_announced: bool = True
    """Whether a record names the newest secret; if not, some device has to make one."""

    def judge(self, device_id: bytes, *, is_newest: bool) -> str:
        """Return why a device that proved its key and one of our secrets gets no link, "" if it gets one."""
        if device_id in self.out:
            return "removed"
        return "" if (is_newest and self.has_newest) or device_id in self.named else "rotated"


class Devices:
    """What the owner of this device does to its flock."""

    def __init__(
        self,
        roster: Roster,
        identity: Identity,
        path: Path,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.roster = roster
        self.identity = identity
        self.on_change: Callable[[], None] = lambda: None
        """Called after every change, on the thread that owns the device."""
        self._path = path
        self._random_bytes = random_bytes

    def save(self) -> None:
        """Keep the roster on disk, whole or not at all."""
        save_roster(self._path, self.roster)
        self.on_change()

    def standing(self) -> Standing:
        """Return what links need to know."""
        roster = self.roster
        flock = roster.flock() if roster.is_open or roster.secrets else None
        return Standing(
            roster.out,
            frozenset(roster.named),
            flock,
            is_out=roster.is_out,
            dropped=frozenset(
                record.id for id in roster.out for record in roster.removals_of(id) if record.is_drop
            ),
            records=self._brought(),
            has_newest=roster.is_open or roster.newest() is not None,
            is_announced=not roster.covers or roster.newest_lock() is not None,
        )

    def _brought(self) -> bytes:
        """Return removals obeyed here, the own and newest first, as many as a handshake holds."""
        roster, packed = self.roster, b""
        held = [roster.records[hash] for hash in reversed(roster.obeyed) if hash not in roster.lifted]
        for record in sorted(held, key=lambda r: r.author != roster.own_id):
            if len(packed) + 2 + len(record.encoded) <= MAX_BROUGHT_BYTES:
                packed += len(record.encoded).to_bytes(2, "big") + record.encoded
        return packed

    def take_brought(self, records: bytes) -> int:
        """Take records that a handshake brought; return how many were news. Raises WireError for what is none."""
        at = news = 0
        while at < len(records):
            size = int.from_bytes(records[at : at + 2], "big")
            encoded = records[at + 2 : at + 2 + size]
            at += 2 + size
            news += self.roster.take(encoded, self.roster.running_s) is not None
        if news:
            self.save()
        return news

    def run_on(self, elapsed_s: float, *, is_kept: bool) -> tuple[Out, ...]:
        """Let own running time pass, and obey what waited for it; `is_kept` writes the time down."""
        roster = self.roster
        roster.running_s += elapsed_s
        done = roster.settle(roster.running_s)
        if done or is_kept:
            self.save()
        return done

    def make_secret(self) -> None:
        """Make the secret for what is obeyed here, because nobody else did or its maker is gone."""
        if self.roster.own_id in self.roster.named and not self.roster.is_out:
            removal.change_secret(self.roster, self.identity, self._random_bytes)
            self.save()

    # Who is there

    def rows(self, known: Mapping[bytes, str] | None = None) -> tuple[DeviceRow, ...]:
        """Return every device that is named or out, and the `known` ones (id -> name) that are guests."""
        roster, named, out = self.roster, self.roster.named, self.roster.out
        ids = {roster.own_id, *named, *(id for id in out if id != NOBODY), *(known or {})}
        rows = []
        for id in sorted(ids, key=lambda one: (one != roster.own_id, one not in named, one)):
            by = tuple(self._call(r.author) for r in roster.removals_of(id))
            state = "out" if id in out else "named" if id in named else "guest"
            if id == roster.own_id and state == "named":
                state = "this device"
            rows.append(
                DeviceRow(
                    format_id(id), short_id(id), roster.name_of(id) or (known or {}).get(id, ""), state, by
                )
            )
        return tuple(rows)

    def held(self) -> tuple[HeldRemoval, ...]:
        """Return the removals that wait."""
        return tuple(
            HeldRemoval(r.hash.hex()[:8], self._call(r.author), self._call(r.id)) for r in self.roster.held
        )

    def find(self, text: str, known: Mapping[bytes, str] | None = None) -> bytes:
        """Return the device that `text` means: a name, the short id that `peers` prints, or a whole id.

        Raises:
            UsageError: none, or more than one.
        """
        names = {**(known or {}), **{id: self.roster.name_of(id) for id in self._ids()}}
        wanted = text.strip()
        hits = {id for id, name in names.items() if name == wanted}
        if not hits and len(wanted) >= 4:
            hits = {id for id in names if id.hex().startswith(wanted.lower())}
        if not hits:
            try:
                return parse_id(wanted)
            except IdentityError:
                raise UsageError(
                    f"no device is called {wanted!r}", remedy="'flocklet devices list' lists names and ids"
                ) from None
        if len(hits) > 1:
            shorts = ", ".join(sorted(short_id(id) for id in hits))
            raise UsageError(f"{wanted!r} may be {shorts}", remedy="give the id instead of the name")
        return hits.pop()

    # Acts

    def name(self, target: bytes, text: str, keys: Mapping[bytes, bytes]) -> str:
        """Call a device `text`; a guest is named for the whole flock, by the key (`keys`: id -> raw public key).

        The first act of this kind in a flock that names nobody makes this device its founder.

        Raises:
            UsageError: its key is not known here, or this device is a guest.
        """
        roster = self.roster
        self._be_founder({})
        if target not in roster.named:
            key = self.identity.public_key if target == roster.own_id else keys.get(target)
            if key is None or device_id_of(key) != target:
                raise UsageError(
                    "the key of that device is not known here: it has to be linked while it is named",
                    remedy="start it, wait until 'flocklet peers' shows it as linked, and name it again",
                )
            removal.name_device(roster, self.identity, key, text)
        roster.aliases[target] = text
        self.save()
        return text

    def put_out(
        self, target: bytes, *, keep: tuple[bytes, ...], is_drop: bool, keys: Mapping[bytes, bytes]
    ) -> None:
        """Put a device out and change the secret; in an open flock only refuse it here.

        `keep` are devices that stay although only the removed one named them. In a flock that names nobody yet this
        device becomes its founder and names those whose `keys` (id -> raw public key) are known.

        Raises:
            UsageError: this device is a guest, or the other is out already.
        """
        roster = self.roster
        if roster.is_open:
            roster.blocked.add(target)
        else:
            self._be_founder({id: key for id, key in keys.items() if id != target})
            orphans = roster.orphans_of(target)
            kept = [id for id in roster.named if id not in orphans or id in (*keep, roster.own_id)]
            removal.put_out(
                roster,
                self.identity,
                target,
                keep=kept,
                is_drop=is_drop,
                random_bytes=self._random_bytes,
                now_s=roster.running_s,
            )
        self.save()

    def change_secret(self, keys: Mapping[bytes, bytes]) -> None:
        """Give the flock a new secret; nobody is put out, guests need a new code."""
        if self.roster.is_open:
            raise UsageError("an open flock has no secret")
        self.put_out(NOBODY, keep=(), is_drop=False, keys=keys)

    def back(self, target: bytes, *, is_here_only: bool) -> None:
        """Let a device in again."""
        if target in self.roster.blocked:
            self.roster.blocked.discard(target)
        else:
            removal.bring_back(
                self.roster, self.identity, target, is_here_only=is_here_only, now_s=self.roster.running_s
            )
        self.save()

    def obey(self, number: str) -> tuple[Out, ...]:
        """Obey a removal that waits.

        Raises:
            UsageError: none waits under that number.
        """
        hits = [r for r in self.roster.held if r.hash.hex().startswith(number.lower())]
        if len(hits) != 1:
            raise UsageError(
                f"no removal waits as {number!r}", remedy="'flocklet devices list' lists those that wait"
            )
        done = removal.allow(self.roster, hits[0].hash, self.roster.running_s)
        self.save()
        return done

    def invite(self) -> str:
        """Return a code, and open the invitation for ten minutes where this device may name others.

        Raises:
            IdentityError: the flock is open, or this device was put out or does not know the newest secret.
        """
        roster = self.roster
        if roster.is_open:
            raise IdentityError("an open flock needs no invitation", remedy="'flocklet init --open' joins it")
        if roster.is_out:
            raise IdentityError(
                "this device was put out of its flock",
                remedy=f"ask the owner of {', '.join(self._call(r.author) for r in roster.removals_of(roster.own_id))}",
            )
        secret = roster.newest()
        if secret is None:
            raise IdentityError(
                "the flock's newest secret is not known here yet",
                remedy="start the peer near another named device: flocklet up",
            )
        if roster.own_id not in roster.named:
            return Invitation(secret).spelled()
        token = self._random_bytes(TOKEN_BYTES)
        roster.token = (token, roster.running_s + WINDOW_S)
        self.save()
        return Invitation(secret, token, roster.roots[0]).spelled()

    def leave(self) -> None:
        """Take this device out of its flock; the home keeps everything but the secrets."""
        removal.leave(
            self.roster, self.identity, random_bytes=self._random_bytes, now_s=self.roster.running_s
        )
        self.save()

    # Inside

    def _be_founder(self, keys: Mapping[bytes, bytes]) -> None:
        roster = self.roster
        if not roster.roots and not roster.is_open and roster.secrets:
            removal.found(roster, self.identity, platform.node())
            for id in sorted(keys):
                removal.name_device(roster, self.identity, keys[id], short_id(id))

    def _ids(self) -> set[bytes]:
        roster = self.roster
        return {roster.own_id, *roster.named, *(id for id in roster.out if id != NOBODY)}

    def _call(self, id: bytes) -> str:
        return self.roster.name_of(id) or short_id(id)
