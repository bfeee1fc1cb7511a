"""Verbs that say who we are and which flock we belong to: init, id, invite, join."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import home_of
from flocklet.errors import ConfigError

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    init = verbs.add_parser(
        "init",
        help="make this device's key and flock",
        description="Make an Ed25519 key, its certificate and a closed flock with a secret of its own.",
    )
    init.add_argument("--open", action="store_true", help="join the open flock, which takes any peer")
    init.add_argument(
        "--rotate",
        action="store_true",
        help="replace the key of this device (a copied disk); documents and flock stay",
    )
    init.set_defaults(run=_init)
    show = verbs.add_parser("id", help="print this device's id")
    show.set_defaults(run=_id)
    invite = verbs.add_parser(
        "invite",
        help="print the code that lets another device join",
        description="Print the secret of the flock: whoever reads it can join. A QR code too, on a terminal.",
    )
    invite.set_defaults(run=_invite)
    join = verbs.add_parser("join", help="join a flock by its code")
    join.add_argument(
        "code", nargs="+", help="what 'flocklet invite' printed; case, spaces and dashes are free"
    )
    join.set_defaults(run=_join)


def _facts(membership: Any) -> dict[str, Any]:
    from flocklet.identity.key import format_id, short_id

    identity = membership.identity
    return {
        "device_id": format_id(identity.device_id),
        "short_id": short_id(identity.device_id),
        "flock": "open" if membership.flock.is_open else "closed",
        "flock_tag": membership.flock.tag,
    }


def _init(args: argparse.Namespace) -> int:
    from flocklet.device.membership import create_membership, rotate_identity
    from flocklet.identity.flock import Flock

    output = Output(args)
    home = home_of(args)
    home.ensure()
    with home.lock(wait_s=2.0):
        if args.rotate:
            membership = rotate_identity(home)
        else:
            membership = create_membership(home, flock=Flock.open() if args.open else None)
    facts = _facts(membership)
    output.line(facts["device_id"])
    if args.rotate:
        output.remark(f"a new key; the old one is kept in {home.key}.previous")
    elif args.open:
        output.remark("in the open flock: any peer may link, its entries count as one vote each at most")
    else:
        output.remark(
            f"in a flock of its own; 'flocklet invite' prints the code for other devices (kept in {home.path})"
        )
    output.document({**facts, "home": str(home.path)})
    return 0


def _id(args: argparse.Namespace) -> int:
    from flocklet.device.membership import load_membership

    output = Output(args)
    facts = _facts(load_membership(home_of(args)))
    output.line(facts["device_id"])
    output.document(facts)
    return 0


def _invite(args: argparse.Namespace) -> int:
    from flocklet.device.membership import load_membership

    output = Output(args)
    code = load_membership(home_of(args)).flock.invite()
    output.line(code)
    if output.is_terminal and not output.is_quiet:
        output.remark("on the other device: flocklet join CODE")
        try:
            import segno
        except ImportError:
            output.remark("a QR code too with: pip install '.[qr]'")
        else:
            segno.make(code.replace("-", ""), error="m").terminal(out=sys.stdout, compact=True)
    output.document({"code": code})
    return 0


def _join(args: argparse.Namespace) -> int:
    from flocklet.device.membership import create_membership, has_membership, join_flock, load_membership
    from flocklet.identity.flock import Flock

    output = Output(args)
    home = home_of(args)
    flock = Flock.from_invite("".join(args.code))
    home.ensure()
    with home.lock(wait_s=2.0):
        if not has_membership(home):
            create_membership(home, flock=flock)
        elif home.flock.exists() and load_membership(home).flock == flock:
            raise ConfigError("this device is in that flock already", remedy="start the peer: flocklet up")
        else:
            join_flock(home, flock)
        facts = _facts(load_membership(home))
    output.remark("joined; 'flocklet up' starts the peer")
    output.document(facts)
    return 0
