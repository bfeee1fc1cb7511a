"""The command line: arguments, calls and tables, nothing else.

A verb is a row of `VERBS`; its module is imported only when the verb is used, so `flocklet --help` stays fast.
A verb's module has `add_parser(verbs)`, which adds the parsers of all its verbs with `set_defaults(run=...)`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from flocklet import __version__
from flocklet.errors import FlockletError

__all__ = ["VERBS", "build_parser", "main"]

# verb -> (module below flocklet.cli, one line for --help)
VERBS: dict[str, tuple[str, str]] = {
    "init": ("setup", "make this device's key and flock"),
    "id": ("setup", "print this device's id"),
    "invite": ("setup", "print the code that lets another device join"),
    "join": ("setup", "join a flock by its code"),
    "add": ("documents", "index files and directories"),
    "remove": ("documents", "take files and directories out of the index"),
    "search": ("search", "search; results are numbered for 'click'"),
    "click": ("search", "tell which result was the right one"),
    "people": ("search", "list who shares this device, or add somebody"),
    "rate": ("recommend", "say how good an item is, in stars"),
    "recommend": ("recommend", "say what else you may like, and why"),
    "trust": ("recommend", "show or record who is trusted"),
    "import": ("recommend", "take in ratings from a CSV file, or what was clicked"),
    "up": ("peer", "run the peer in the foreground"),
    "peers": ("peer", "show the peers that are near"),
    "status": ("peer", "show what this device holds and does"),
    "service": ("peer", "print a systemd unit that runs the peer"),
    "doctor": ("doctor", "explain what is wrong, or that all is well"),
    "data": ("data", "list the known data sets"),
    "bench": ("bench", "measure how fast this device computes"),
    "infer": ("infer", "run an ONNX file on numbers"),
    "export": ("export", "write a policy as C for a microcontroller, with its proof"),
    "verify": ("export", "prove an export on this machine and on emulated cores"),
    "bench-search": ("bench_search", "measure the ranking on a judged collection"),
    "fly": ("fly", "train and judge policies that fly"),
    "learn": ("learn", "learn to act: train and judge policies"),
    "swarm": ("swarm", "learn together: real peers, or thousands in virtual time"),
    "demo": ("demo", "watch a flock of real peers learn together"),
}


def build_parser(verbs: Collection[str] = ()) -> argparse.ArgumentParser:
    """Return the parser; only the modules of `verbs` are imported, the others show as a line of help."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument(
        "--home", type=Path, metavar="DIR", help="home directory of the device ($FLOCKLET_HOME)"
    )
    shared.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    shared.add_argument("-v", "--verbose", action="count", help="say more (twice: everything)")
    shared.add_argument("-q", "--quiet", action="store_true", help="say only what was asked for")
    parser = argparse.ArgumentParser(
        prog="flocklet",
        parents=[shared],
        description="Learning on the device, among peers, with no server.",
        epilog="exit codes: 0 ok, 2 usage, 3 config, 4 network, 5 peer refused, 6 storage, 7 missing extra, "
        "8 verification failed",
    )
    parser.add_argument("--version", action="version", version=f"flocklet {__version__}")
    rows = parser.add_subparsers(  # type: ignore[call-overload]  # typeshed wants a class, argparse any callable
        dest="verb",
        metavar="VERB",
        title="verbs",
        parser_class=functools.partial(argparse.ArgumentParser, parents=[shared]),
    )
    modules = {VERBS[verb][0] for verb in verbs if verb in VERBS}
    for module in sorted(modules):
        importlib.import_module(f"flocklet.cli.{module}").add_parser(rows)
    for name, (module, summary) in VERBS.items():
        if module not in modules:
            rows.add_parser(name, help=summary)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; every error is one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(arguments)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    for name, value in (("home", None), ("json", False), ("verbose", 0), ("quiet", False)):
        if not hasattr(args, name):
            setattr(args, name, value)
    if args.verb is None:
        parser.print_help()
        return 0
    level = (
        logging.ERROR if args.quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(args.verbose, 2)]
    )
    logging.basicConfig(
        level=level, format="%(asctime)s %(name)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except FlockletError as error:
        _report(args, error)
        return error.exit_code
    except KeyboardInterrupt:
        print("flocklet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # 'flocklet search x | head -1'
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        failure = FlockletError(
            f"{error.strerror or error}{where}", remedy="check the path and its permissions"
        )
        failure.__cause__ = error  # so that -vv shows where it happened
        _report(args, failure)
        return 1
    return code


def _report(args: argparse.Namespace, error: FlockletError) -> None:
    message = " ".join(str(error).split())
    if args.json:
        import json

        failure = {"message": message, "remedy": error.remedy, "exit_code": error.exit_code}
        print(json.dumps({"error": failure}))
    remedy = f" ({error.remedy})" if error.remedy else ""
    print(f"flocklet: {message}{remedy}", file=sys.stderr)
    if args.verbose > 1:
        logging.getLogger("flocklet").debug("where it happened", exc_info=error)
