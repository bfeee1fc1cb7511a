"""The tree of verbs: which there are, under which heading they stand, and the parser that reads them.

A verb is a row of `VERBS`; its module is imported only when the verb is used, so `flocklet --help` stays fast.
A verb's module has `add_parser(verbs)`, which adds the parsers of all its verbs with `set_defaults(run=...)`; a verb
with sub-verbs calls `add_sub_verbs`, and then says which there are when it is called without one.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from flocklet import __version__
from flocklet.errors import UsageError

__all__ = ["HEADINGS", "VERBS", "add_sub_verbs", "build_parser"]

# heading -> verb -> (module below flocklet.cli, one line for --help)
HEADINGS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "init": ("setup", "make this device's key and flock"),
        "up": ("peer", "run the peer in the foreground"),
        "status": ("peer", "show what this device holds and does"),
        "doctor": ("doctor", "explain what is wrong, or that all is well"),
        "service": ("peer", "print a systemd unit that runs the peer"),
        "demo": ("demo", "watch a flock of real peers learn together"),
        "backup": ("backup", "write a file of this home, without its keys unless asked"),
        "restore": ("backup", "make a home from a backup"),
        "config": ("config", "show and set settings; shell completion and the manual page"),
    },
    "Documents": {
        "add": ("documents", "index files and directories"),
        "folders": ("documents", "list, refresh, exclude: the folders that are followed"),
        "remove": ("documents", "take files and directories out of the index"),
        "search": ("search", "search; results are numbered for 'click'"),
        "open": ("search", "open a result of the last search"),
        "click": ("search", "tell which result was the right one"),
    },
    "Taste": {
        "people": ("search", "list who shares this device, or add somebody"),
        "trust": ("recommend", "show or record who is trusted"),
        "rate": ("recommend", "say how good an item is, in stars, or what became of it"),
        "recommend": ("recommend", "say what else you may like, and why"),
        "import": ("recommend", "take in ratings from a CSV file, or what was clicked"),
    },
    "Flock": {
        "id": ("setup", "print this device's id"),
        "invite": ("setup", "print the code that lets another device join"),
        "join": ("setup", "join a flock by its code"),
        "leave": ("devices", "leave the flock"),
        "devices": ("devices", "list, name, remove the devices of the flock"),
        "log": ("log", "show joins, removals, refusals, bans, clocks and clones"),
        "peers": ("peer", "show the peers that are near"),
    },
    "Together": {
        "swarm": ("swarm", "learn together: real peers on this machine, or thousands in virtual time"),
    },
    "Models": {
        "infer": ("infer", "run an ONNX file on numbers"),
    },
    "Act": {
        "learn": ("learn", "learn to act: train and judge policies"),
        "fly": ("fly", "train, adapt and judge policies that fly"),
    },
    "Microcontrollers": {
        "export": ("export", "write a policy as C for a microcontroller, with its proof"),
        "verify": ("export", "prove an export on this machine and on emulated cores"),
    },
    "This machine": {
        "bench": ("bench", "measure the kernels, or the ranking on a judged collection"),
        "data": ("data", "list the known data sets"),
    },
}
VERBS: dict[str, tuple[str, str]] = {name: row for rows in HEADINGS.values() for name, row in rows.items()}
_HEADINGS_AT = "flocklet-verbs"  # where the headings stand in the help


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of ours: one line, and one JSON document where that was asked for."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError; a mistyped word is told what it is close to."""
        wrong = re.match(
            r"argument (?:VERB|WHAT): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL
        )
        if wrong:
            import difflib

            near = difflib.get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            message = f"there is no '{self.prog} {wrong[1]}'{hint}"
        elif self.prog != "flocklet":
            message = f"{self.prog.removeprefix('flocklet ')}: {message}"
        raise UsageError(message, remedy=f"run '{self.prog} --help'")


class _Root(_Parser):
    """The parser of `flocklet` itself; its help lists the verbs under their headings."""

    def format_help(self) -> str:
        """Return the help."""
        width = max(map(len, VERBS)) + 2
        lines = []
        for heading, rows in HEADINGS.items():
            lines.append(f"{heading}:")
            lines += [f"  {name:<{width}}{summary}" for name, (_, summary) in rows.items()]
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        formatter.add_text(_HEADINGS_AT)
        formatter.start_section("options")
        formatter.add_arguments(a for a in self._actions if not isinstance(a, argparse._SubParsersAction))
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help().replace(_HEADINGS_AT, "\n".join(lines))


def build_parser(verbs: Collection[str] = ()) -> argparse.ArgumentParser:
    """Return the parser; only the modules of `verbs` are imported, the others show as a line of help."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument(
        "--home", type=Path, metavar="DIR", help="home directory of the device ($FLOCKLET_HOME)"
    )
    shared.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    shared.add_argument("-v", "--verbose", action="count", help="say more (twice: everything)")
    shared.add_argument("-q", "--quiet", action="store_true", help="say only what was asked for")
    parser = _Root(
        prog="flocklet",
        parents=[shared],
        allow_abbrev=False,  # a new option must not change what a script means
        description="Learning on the device, among peers, with no server.",
        epilog="'flocklet VERB --help' explains a verb. Exit codes: 0 ok, 2 usage, 3 config, 4 network, 5 peer refused, "
        "6 storage, 7 missing extra, 8 verification failed.",
    )
    parser.add_argument("--version", action="version", version=f"flocklet {__version__}")
    rows = parser.add_subparsers(  # type: ignore[call-overload]  # typeshed wants a class, argparse any callable
        dest="verb",
        metavar="VERB",
        parser_class=functools.partial(_Parser, parents=[shared], allow_abbrev=False),
    )
    modules = {VERBS[verb][0] for verb in verbs if verb in VERBS}
    for module in sorted(modules):
        importlib.import_module(f"flocklet.cli.{module}").add_parser(rows)
    for name, (module, summary) in VERBS.items():
        if module not in modules:
            rows.add_parser(name, help=summary)
    return parser


def add_sub_verbs(verbs: Any, verb: argparse.ArgumentParser) -> Any:
    """Return the sub-verbs of `verb`, to be added to like `verbs`; `verb` without one prints which there are."""
    below = verb.add_subparsers(
        dest="sub_verb", metavar="WHAT", title="what", parser_class=verbs._parser_class
    )

    def list_them(args: argparse.Namespace) -> int:
        from flocklet.cli.output import Output

        output = Output(args)
        rows = {action.dest: action.help or "" for action in below._choices_actions}
        output.document({"sub_verbs": rows})
        for name, summary in rows.items():
            output.line(f"{verb.prog} {name:<12} {summary}")
        return 0

    verb.set_defaults(run=list_them)
    return below
