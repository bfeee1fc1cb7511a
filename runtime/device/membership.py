"""Who this device is and which flock it belongs to: made once by `init`, changed by `join` and `leave`."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass

from flocklet.errors import IdentityError
from flocklet.identity.certificate import load_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.flock_file import load_roster, save_roster
from flocklet.identity.invitation import Invitation
from flocklet.identity.key import Identity
from flocklet.identity.machine import check_machine, note_machine
from flocklet.identity.removal import found
from flocklet.identity.roster import Roster
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


@dataclass(frozen=True, slots=True)
class Membership:
    """The key and certificate (DER) of one device, and who belongs to its flock."""

    identity: Identity
    certificate: bytes
    roster: Roster

    @property
    def flock(self) -> Flock:
        """The secrets by which this device links now."""
        return self.roster.flock()


def has_membership(home: Home) -> bool:
    """Tell whether `init` ran in this home."""
    return home.key.exists()


def create_membership(
    home: Home, *, flock: Flock | None = None, invitation: Invitation | None = None
) -> Membership:
    """Make a key, its certificate and a flock in `home`: a new closed one that this device founds, unless given.

    What a broken-off `init` left behind is completed, never replaced.

    Raises:
        IdentityError: there is an identity already.
    """
    home.ensure()
    if home.key.exists() and home.flock.exists():
        held = load_roster(home.flock, Identity.load(home.key).device_id)
        if held.is_open or held.secrets:
            raise IdentityError(
                f"{home.path} is a device with a flock already",
                remedy="'flocklet leave' first, for a new flock with the same documents and clicks; 'flocklet join CODE' "
                "for another flock; --home DIR for another device",
            )
    if home.key.exists():
        identity = Identity.load(home.key)
    else:
        identity = Identity.generate()
        identity.save(home.key)
    note_machine(home.key)
    certificate = load_certificate(home.certificate, identity)
    roster = _roster_of(identity, flock, invitation)
    save_roster(home.flock, roster)
    return Membership(identity, certificate, roster)


def _roster_of(identity: Identity, flock: Flock | None, invitation: Invitation | None) -> Roster:
    own = identity.device_id
    if invitation is not None:
        roots = (invitation.root,) if invitation.root else ()
        return Roster(own, roots, [invitation.secret], ticket=invitation.token)
    if flock is not None and flock.is_open:
        return Roster(own, is_open=True)
    if flock is not None and flock.secret is not None:
        return Roster(own, secrets=[flock.secret])
    secret = Flock.generate().secret
    roster = Roster(own, secrets=[secret] if secret else [])
    found(roster, identity, platform.node())
    return roster


def load_membership(home: Home) -> Membership:
    """Read the identity and flock of `home`.

    Raises:
        IdentityError: there is none, it is damaged, or the home was copied from another machine.
    """
    if not home.key.exists():
        raise IdentityError(f"there is no flocklet device in {home.path}")
    check_machine(home.key)
    identity = Identity.load(home.key)
    certificate = load_certificate(home.certificate, identity)
    return Membership(identity, certificate, load_roster(home.flock, identity.device_id))


def rotate_identity(home: Home) -> Membership:
    """Give the device a new key and certificate; documents, clicks and the flock's secret stay.

    For a copied disk. The old key is kept as `key.pem.previous`, the clicks so far keep the person's own key, which
    is a new one too: two devices must never sign as the same person. The new key is a guest until a device names it.

    Raises:
        IdentityError: there is no identity to replace.
    """
    if not has_membership(home):
        raise IdentityError(f"there is no flocklet device in {home.path}")
    roster = load_roster(home.flock, Identity.load(home.key).device_id)
    home.key.replace(home.key.with_name("key.pem.previous"))
    home.certificate.unlink(missing_ok=True)
    identity = Identity.generate()
    identity.save(home.key)
    note_machine(home.key)
    roster.own_id = identity.device_id
    save_roster(home.flock, roster)
    if home.database.exists():
        with Store(home.database) as store:
            store.retire_people()
    return Membership(identity, load_certificate(home.certificate, identity), roster)


def join_flock(home: Home, invitation: Invitation) -> Membership:
    """Leave the old flock, which stays in the file `flock.previous`, and join that of an invitation."""
    identity = Identity.load(home.key)
    previous = home.flock.with_suffix(".previous")
    with contextlib.suppress(FileNotFoundError):
        home.flock.replace(previous)
    roster = _roster_of(identity, None, invitation)
    save_roster(home.flock, roster)
    return Membership(identity, load_certificate(home.certificate, identity), roster)
