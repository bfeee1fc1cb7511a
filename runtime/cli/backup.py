"""`flocklet backup` and `flocklet restore`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import home_of
from flocklet.errors import ConfigError, UsageError

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    backup = verbs.add_parser(
        "backup",
        help="write a file of this home, without its keys unless asked",
        description="Write documents, clicks, ratings and what was learnt to FILE, also beside a running peer. The keys and "
        "the flock's secret go into a second file, sealed with a passphrase, only with --keys.",
    )
    backup.add_argument("file", type=Path, metavar="FILE")
    restore = verbs.add_parser(
        "restore",
        help="make a home from a backup",
        description="Make the home (--home DIR, empty) from FILE. Without --keys it is a new device with the old documents: "
        "'flocklet init' or 'flocklet join' gives it a key and a flock.",
    )
    restore.add_argument("file", type=Path, metavar="FILE")
    for verb, run in ((backup, _backup), (restore, _restore)):
        verb.add_argument("--keys", type=Path, metavar="FILE", help="the sealed file of keys")
        verb.add_argument(
            "--passphrase-file",
            metavar="FILE",
            help="read the passphrase from the first line ('-': standard input)",
        )
        verb.set_defaults(run=run)


def _passphrase(args: argparse.Namespace, *, is_new: bool) -> str:
    if args.keys is None:
        return ""
    if args.passphrase_file == "-":  # noqa: S105 - a name of a file
        return sys.stdin.readline().rstrip("\n")
    if args.passphrase_file is not None:
        try:
            return Path(args.passphrase_file).read_text().split("\n", 1)[0]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {args.passphrase_file}: {error}") from error
    if not sys.stdin.isatty():
        raise UsageError(
            "the keys need a passphrase", remedy="--passphrase-file FILE, or run it on a terminal"
        )
    from getpass import getpass

    first = getpass("passphrase: ")
    if is_new and getpass("again: ") != first:
        raise UsageError("the two passphrases differ", remedy="type it again")
    return first


def _backup(args: argparse.Namespace) -> int:
    from flocklet.store.backup import back_up

    output = Output(args)
    size = back_up(home_of(args), args.file, keys=args.keys, passphrase=_passphrase(args, is_new=True))
    output.line(f"wrote {args.file} ({size / 1e6:.1f} MB)" + (f" and {args.keys}" if args.keys else ""))
    if args.keys is None:
        output.remark(
            "without the keys: a home restored from it is a new device (--keys FILE keeps them, sealed)"
        )
    output.document(
        {"file": str(args.file), "size_bytes": size, "keys": str(args.keys) if args.keys else None}
    )
    return 0


def _restore(args: argparse.Namespace) -> int:
    from flocklet.store.backup import restore

    output = Output(args)
    home = home_of(args)
    has_keys = restore(home, args.file, keys=args.keys, passphrase=_passphrase(args, is_new=False))
    output.line(f"restored {home.path}")
    if has_keys:
        output.remark("never run the old home again: two devices with one key are refused as clones")
    else:
        output.remark("a new device: 'flocklet join CODE' or 'flocklet init' gives it a key and a flock")
    output.document({"home": str(home.path), "has_keys": has_keys})
    return 0
