"""Notice that a disk image was copied together with its key.

A hash of the machine id is kept beside the key (`key.pem` -> `key.machine`). On a copy (a cloned SD card, a copied
home directory) the two differ, and the owner is asked; two peers with one key would break every promise of the flock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from flocklet.errors import IdentityError
from flocklet.identity.key import save_private

__all__ = ["MACHINE_ID_PATHS", "check_machine", "machine_hash", "note_machine"]

MACHINE_ID_PATHS = ("/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid")


def machine_hash(paths: Sequence[Path | str] = MACHINE_ID_PATHS) -> str | None:
    """Return a one-way hash of this machine's id (hex), or None on a machine that has none."""
    for path in paths:
        try:
            text = Path(path).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            return hashlib.blake2b(text.encode(), digest_size=16, person=b"flocklet-machine").hexdigest()
    return None


def note_machine(key_path: Path | str, paths: Sequence[Path | str] = MACHINE_ID_PATHS) -> None:
    """Remember beside the key on which machine it lives; replaces an older note (after the owner was asked)."""
    found = machine_hash(paths)
    note = Path(key_path).with_suffix(".machine")
    if found is not None:
        note.unlink(missing_ok=True)
        save_private(note, found.encode())


def check_machine(key_path: Path | str, paths: Sequence[Path | str] = MACHINE_ID_PATHS) -> None:
    """Raise IdentityError if the key was noted on another machine; a missing note or machine id passes."""
    note = Path(key_path).with_suffix(".machine")
    found = machine_hash(paths)
    try:
        noted = note.read_text("ascii").strip()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(
            f"cannot read {note}", remedy="delete it if the key was made on this machine"
        ) from error
    if found is not None and noted != found:
        raise IdentityError(
            f"the key {key_path} was made on another machine: this looks like a copied disk or home directory",
            remedy="'flocklet init --rotate' gives this copy its own identity; if the device moved here, delete "
            f"{note}",
        )
