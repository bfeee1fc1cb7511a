"""What an owner does to the flock: found it, name, put out, let in again, change the secret, leave.

Each act makes signed records in a `Roster`; the caller keeps the roster on disk before it sends them. Randomness and time
are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from flocklet.errors import UsageError
from flocklet.identity.flock_record import (
    MAX_COVERS,
    MAX_KEEP,
    MAX_NAMES_BY_ONE,
    NOBODY,
    Back,
    FlockRecord,
    Name,
    Out,
    Rekey,
    lock_of,
    printable_name,
)
from flocklet.identity.key import Identity, device_id_of
from flocklet.identity.roster import ROOT_BYTES, Roster

__all__ = ["allow", "bring_back", "change_secret", "found", "leave", "name_device", "put_out"]

_TRIES = 4096

RandomBytes = Callable[[int], bytes]


def found(roster: Roster, identity: Identity, text: str) -> FlockRecord:
    """Make this device a founder: it names itself, and may name others."""
    own = identity.public_key
    record = Name(own, id=identity.device_id, key=own, text=printable_name(text), number=1).signed(identity)
    roster.roots = (*roster.roots, identity.device_id[:ROOT_BYTES])
    roster.add(record)
    return record


def name_device(roster: Roster, identity: Identity, key: bytes, text: str) -> FlockRecord:
    """Name the device with this raw public key (32 bytes).

    Raises:
        UsageError: this device is not named itself, or has named 16 already.
    """
    _must_be_named(roster)
    used = {r.number for r in roster.records.values() if isinstance(r, Name) and r.author == roster.own_id}
    number = next((k for k in range(1, MAX_NAMES_BY_ONE + 1) if k not in used), None)
    if number is None:
        raise UsageError(
            f"this device has named {MAX_NAMES_BY_ONE} devices", remedy="name it on another named device"
        )
    text = printable_name(text)
    record = Name(identity.public_key, id=device_id_of(key), key=key, text=text, number=number).signed(
        identity
    )
    roster.add(record)
    return record


def put_out(
    roster: Roster,
    identity: Identity,
    id: bytes,
    *,
    keep: Iterable[bytes] = (),
    is_drop: bool = False,
    random_bytes: RandomBytes,
    now_s: float,
) -> tuple[FlockRecord, ...]:
    """Put a device out (`NOBODY`: only change the secret) and make the next secret, in one step.

    `keep` are the ids of devices that stay although only the removed one named them.

    Raises:
        UsageError: this device is not named itself, the other is out already, or it is this one.
    """
    _must_be_named(roster)
    if id == roster.own_id:
        raise UsageError("that is this device", remedy="'flocklet leave' takes it out of the flock")
    if id in roster.out and id != NOBODY:
        raise UsageError("that device is out already")
    kept = tuple(sorted({one[:16] for one in keep}))[:MAX_KEEP]
    removal = Out(identity.public_key, id=id, keep=kept, is_drop=is_drop, nonce=random_bytes(8)).signed(
        identity
    )
    roster.add(removal)
    roster.settle(now_s)
    return removal, change_secret(roster, identity, random_bytes)


def change_secret(roster: Roster, identity: Identity, random_bytes: RandomBytes) -> FlockRecord:
    """Make a secret that becomes the newest for what is obeyed here, also where another was announced and is lost."""
    rival = roster.newest_rekey()
    for _ in range(_TRIES):
        secret = random_bytes(16)
        plain = Rekey(identity.public_key, covers=roster.covers[-MAX_COVERS:], lock=lock_of(secret))
        record = plain.signed(identity)
        if rival is None or record.hash < rival.hash:
            break
    roster.add(record)
    roster.hold(secret)
    return record


def bring_back(
    roster: Roster, identity: Identity, id: bytes, *, is_here_only: bool, now_s: float
) -> tuple[FlockRecord, ...]:
    """Let a device in again: on this device alone, or for all where everybody who put it out is out.

    Raises:
        UsageError: it is not out, or who put it out still belongs to the flock.
    """
    removals = roster.removals_of(id)
    if not removals:
        raise UsageError("that device is not out")
    if is_here_only:
        roster.lifted.update(r.hash for r in removals)
        roster.settle(now_s)
        return ()
    _must_be_named(roster)
    if not all(r.author in roster.out for r in removals):
        raise UsageError(
            "who put that device out belongs to the flock, so the others would not follow",
            remedy="'flocklet devices back NAME --here' lets it in on this device alone",
        )
    made = tuple(Back(identity.public_key, out=r.hash).signed(identity) for r in removals)
    for record in made:
        roster.add(record)
    roster.settle(now_s)
    return made


def allow(roster: Roster, hash: bytes, now_s: float) -> tuple[Out, ...]:
    """Obey a removal that the brake holds; return what is obeyed now."""
    roster.allowed.add(hash)
    return roster.settle(now_s)


def leave(
    roster: Roster, identity: Identity, *, random_bytes: RandomBytes, now_s: float
) -> tuple[FlockRecord, ...]:
    """Take this device out of its flock and forget the secrets; a guest leaves without a record."""
    made: tuple[FlockRecord, ...] = ()
    if roster.own_id in roster.named:
        record = Out(identity.public_key, id=roster.own_id, nonce=random_bytes(8)).signed(identity)
        roster.add(record)
        roster.settle(now_s)
        made = (record,)
    roster.secrets.clear()
    return made


def _must_be_named(roster: Roster) -> None:
    if roster.own_id not in roster.named:
        raise UsageError(
            "only a named device of the flock can do that, and this one is a guest",
            remedy="on a named device: flocklet devices name ID NAME",
        )
