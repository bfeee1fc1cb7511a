"""The file `flock` of a home: the roster with its secrets, written whole or not at all, mode 0600.

A msgpack map. The text of the first version (an invitation, or "open") is still read.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Any

import msgpack

from flocklet.errors import IdentityError, WireError
from flocklet.identity.flock import Flock
from flocklet.identity.flock_record import decode_record
from flocklet.identity.roster import Roster

__all__ = ["load_roster", "save_roster"]

_FORMAT = 2
_OPEN = b"open"
_MAX_BYTES = 1 << 20


def save_roster(path: Path, roster: Roster) -> None:
    """Replace the file in one step.

    Raises:
        IdentityError: it cannot be written; what was there stays.
    """
    data = msgpack.packb(
        {
            "format": _FORMAT,
            "open": roster.is_open,
            "blocked": sorted(roster.blocked),
            "roots": list(roster.roots),
            "secrets": roster.secrets,
            "records": [record.encoded for record in roster.records.values()],
            "obeyed": list(roster.obeyed.items()),
            "ignored": sorted(roster.ignored),
            "lifted": sorted(roster.lifted),
            "answered": sorted(roster.answered),
            "allowed": sorted(roster.allowed),
            "aliases": list(roster.aliases.items()),
            "running_s": roster.running_s,
            "token": list(roster.token) if roster.token else None,
            "ticket": roster.ticket,
        }
    )
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise IdentityError(
            f"cannot write {path}: {error.strerror}", remedy="check free space and that the home is writable"
        ) from error


def load_roster(path: Path, own_id: bytes) -> Roster:
    """Read the file.

    Raises:
        IdentityError: it is missing, readable by others, or damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IdentityError(
            f"{path} is missing: this device belongs to no flock",
            remedy="'flocklet join CODE' joins one, 'flocklet init' makes a new one",
        ) from None
    except OSError as error:
        raise IdentityError(f"cannot read the flock file {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise IdentityError(f"others on this machine can read {path}", remedy=f"chmod 600 {path}")
        data = file.read(_MAX_BYTES + 1)
    if data.strip() == _OPEN:
        return Roster(own_id, is_open=True)
    try:
        if data[:1].isalnum():
            secret = Flock.from_invite(data.decode("ascii").strip()).secret
            return Roster(own_id, secrets=[secret] if secret else [])
        return _restored(msgpack.unpackb(data, strict_map_key=False), own_id)
    except (ValueError, KeyError, TypeError, WireError, msgpack.exceptions.UnpackException) as error:
        raise IdentityError(
            f"{path} is damaged: {error}",
            remedy="restore a backup, or move the file away and join again: flocklet join CODE",
        ) from error


def _restored(values: dict[str, Any], own_id: bytes) -> Roster:
    if values["format"] != _FORMAT:
        raise ValueError(f"format {values['format']}")
    records = [decode_record(encoded) for encoded in values["records"]]
    return Roster(
        own_id,
        tuple(values["roots"]),
        list(values["secrets"]),
        {record.hash: record for record in records},
        {hash: float(at_s) for hash, at_s in values["obeyed"]},
        set(values["ignored"]),
        set(values["lifted"]),
        set(values["answered"]),
        set(values["allowed"]),
        dict(values["aliases"]),
        set(values["blocked"]),
        is_open=bool(values["open"]),
        running_s=float(values["running_s"]),
        token=(bytes(values["token"][0]), float(values["token"][1])) if values["token"] else None,
        ticket=bytes(values["ticket"]),
    )


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):  # some file systems cannot sync a directory
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
