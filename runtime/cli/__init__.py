"""The command line: arguments, calls and tables, nothing else. `parser` holds the tree of verbs."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from flocklet.cli.parser import VERBS, build_parser
from flocklet.errors import FlockletError, UsageError

__all__ = ["VERBS", "build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code; every error is one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(arguments)
    try:
        args = parser.parse_args(arguments)
    except SystemExit as stop:  # --help, --version
        return stop.code if isinstance(stop.code, int) else 2
    except UsageError as error:
        _report(argparse.Namespace(json="--json" in arguments, verbose=0, verb=None), error)
        return error.exit_code
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
    remedy = error.remedy.replace("flocklet VERB", f"flocklet {args.verb}") if args.verb else error.remedy
    if args.json:
        import json

        failure = {"message": message, "remedy": remedy, "exit_code": error.exit_code}
        print(json.dumps({"error": failure}))
    print(f"flocklet: {message}{f' ({remedy})' if remedy else ''}", file=sys.stderr)
    if args.verbose > 1:
        logging.getLogger("flocklet").debug("where it happened", exc_info=error)
