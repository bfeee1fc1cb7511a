"""Verbs that say who we are and which flock we belong to: init, id, invite, join."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import ask, home_of
from flocklet.errors import ConfigError, UsageError

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
    init.add_argument("--yes", action="store_true", help="do not ask before --rotate")
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
        "code",
        nargs="+",
        help="what 'flocklet invite' printed; case, spaces and dashes are free. '-' reads it from standard input, where "
        "neither other users nor the shell's history see it",
    )
    join.set_defaults(run=_join)


def _facts(membership: Any) -> dict[str, Any]:
    from flocklet.identity.key import format_id, short_id

    identity, roster = membership.identity, membership.roster
    return {
        "device_id": format_id(identity.device_id),
        "short_id": short_id(identity.device_id),
        "flock": "open" if roster.is_open else "closed" if roster.secrets else "none",
    }


def _init(args: argparse.Namespace) -> int:
    from flocklet.device.membership import create_membership, rotate_identity
    from flocklet.identity.flock import Flock

    output = Output(args)
    home = home_of(args)
    if args.rotate and not args.yes:
        _confirm_rotation(output)
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


def _confirm_rotation(output: Output) -> None:
    """Say what a new key costs, and go on only for a yes."""
    if not sys.stdin.isatty():
        raise UsageError(
            "a new key cannot be taken back: what this device clicked, rated and trusted so far can no longer be changed "
            "by it, and the flock knows it as a guest until a named device names it",
            remedy="flocklet init --rotate --yes",
        )
    output.warning(
        "what this device clicked, rated and trusted so far stays, but can no longer be changed by it; the flock knows it "
        "as a guest until a named device names it"
    )
    if input("make a new key? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed", remedy="answer y to go on")


def _id(args: argparse.Namespace) -> int:
    from flocklet.device.membership import load_membership

    output = Output(args)
    facts = _facts(load_membership(home_of(args)))
    output.line(facts["device_id"])
    output.document(facts)
    return 0


def _invite(args: argparse.Namespace) -> int:
    output = Output(args)
    code = ask(args, "devices", {"act": "invite"})["code"]
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
    from flocklet.identity.invitation import Invitation

    output = Output(args)
    home = home_of(args)
    code = sys.stdin.readline(1024) if args.code == ["-"] else "".join(args.code)
    invitation = Invitation.parse(code)
    home.ensure()
    with home.lock(wait_s=2.0):
        if not has_membership(home):
            create_membership(home, invitation=invitation)
        elif home.flock.exists() and invitation.secret in load_membership(home).roster.secrets:
            raise ConfigError("this device is in that flock already", remedy="start the peer: flocklet up")
        else:
            join_flock(home, invitation)
        facts = _facts(load_membership(home))
    output.remark("joined; 'flocklet up' starts the peer")
    if args.code != ["-"]:
        output.warning(
            "other users of this machine can see a code on the command line: 'flocklet join -' reads it"
        )
    output.document(facts)
    return 0
