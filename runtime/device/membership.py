"""Who this device is and which flock it belongs to: made once by `init`, changed by `join`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from flocklet.errors import IdentityError
from flocklet.identity.certificate import load_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, save_private
from flocklet.identity.machine import check_machine, note_machine
from flocklet.store.home import Home
from flocklet.store.store import Store

__all__ = [
    "Membership",
    "create_membership",
    "has_membership",
    "join_flock",
    "load_membership",
    "rotate_identity",
]

_OPEN = "open"


@dataclass(frozen=True, slots=True)
class Membership:
    """The key, the certificate (DER) and the flock of one device."""

    identity: Identity
    certificate: bytes
    flock: Flock


def has_membership(home: Home) -> bool:
    """Tell whether `init` ran in this home."""
    return home.key.exists()


def create_membership(home: Home, *, flock: Flock | None = None) -> Membership:
    """Make a key, its certificate and a flock (a new closed one unless given) in `home`.

    What a broken-off `init` left behind is completed, never replaced.

    Raises:
        IdentityError: there is an identity already.
    """
    home.ensure()
    if home.key.exists() and home.flock.exists():
        raise IdentityError(
            f"{home.path} has an identity already",
            remedy="'flocklet id' prints it; --home DIR makes another one",
        )
    if home.key.exists():
        identity = Identity.load(home.key)
    else:
        identity = Identity.generate()
        identity.save(home.key)
    note_machine(home.key)
    certificate = load_certificate(home.certificate, identity)
    _write_flock(home.flock, flock or Flock.generate())
    return Membership(identity, certificate, _read_flock(home.flock))


def load_membership(home: Home) -> Membership:
    """Read the identity and flock of `home`.

    Raises:
        IdentityError: there is none, it is damaged, or the home was copied from another machine.
    """
    if not home.key.exists():
        raise IdentityError(f"there is no flocklet device in {home.path}")
    check_machine(home.key)
    identity = Identity.load(home.key)
    return Membership(identity, load_certificate(home.certificate, identity), _read_flock(home.flock))


def rotate_identity(home: Home) -> Membership:
    """Give the device a new key and certificate; documents, clicks and the flock stay.

    For a copied disk. The old key is kept as `key.pem.previous`, the clicks so far keep the person's own key, which
    is a new one too: two devices must never sign as the same person.

    Raises:
        IdentityError: there is no identity to replace.
    """
    if not has_membership(home):
        raise IdentityError(f"there is no flocklet device in {home.path}")
    flock = _read_flock(home.flock)
    home.key.replace(home.key.with_name("key.pem.previous"))
    home.certificate.unlink(missing_ok=True)
    identity = Identity.generate()
    identity.save(home.key)
    note_machine(home.key)
    if home.database.exists():
        with Store(home.database) as store:
            store.retire_people()
    return Membership(identity, load_certificate(home.certificate, identity), flock)


def join_flock(home: Home, flock: Flock) -> None:
    """Leave the old flock, whose invitation stays in the file `flock.previous`, and join `flock`."""
    previous = home.flock.with_suffix(".previous")
    with contextlib.suppress(FileNotFoundError):
        home.flock.replace(previous)
    _write_flock(home.flock, flock)


def _write_flock(path: Path, flock: Flock) -> None:
    save_private(path, (_OPEN if flock.is_open else flock.invite()).encode() + b"\n")


def _read_flock(path: Path) -> Flock:
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        raise IdentityError(
            f"{path} is missing: this device belongs to no flock",
            remedy="'flocklet join CODE' joins one, 'flocklet init' makes a new one",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError(f"cannot read the flock file {path}: {error}") from error
    return Flock.open() if text == _OPEN else Flock.from_invite(text)
