"""The verb about the command itself: config show, set; completion and man, generated from the parser."""

from __future__ import annotations

import argparse
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.parser import VERBS, add_sub_verbs, build_parser
from flocklet.cli.session import ask, home_of
from flocklet.errors import MissingExtra, UsageError

__all__ = ["add_parser"]

# setting -> (its environment variable, what it does); none of these belongs to one home, so none stands in its file
_ENVIRONMENT = {
    "cache": ("FLOCKLET_CACHE", "where compiled kernels are kept"),
    "compiler": ("FLOCKLET_CC", "the C compiler that kernels are made with"),
    "gpu": ("FLOCKLET_GPU", "the tinygrad device to use as GPU"),
    "mnist": ("FLOCKLET_MNIST", "folder of MNIST files for 'flocklet swarm'"),
    "zig_cache": ("FLOCKLET_ZIG_CACHE", "cache of the cross compiler"),
    "no_color": ("NO_COLOR", "tables without colours"),
}


def add_parser(verbs: Any) -> None:
    """Add the verb and its sub-verbs."""
    config = verbs.add_parser(
        "config",
        help="show and set settings; shell completion and the manual page",
        description="A setting is taken from a flag, else from the environment, else from config.toml in the home, else "
        "its default holds.",
    )
    below = add_sub_verbs(verbs, config)
    show = below.add_parser("show", help="show every setting, its value and where it comes from")
    show.set_defaults(run=_show)
    change = below.add_parser(
        "set",
        help="keep a setting in config.toml of the home",
        description="Keep a setting for every later 'flocklet up'. Lists are written with commas.",
    )
    change.add_argument("name", metavar="NAME", help="what 'flocklet config show' lists")
    change.add_argument("value", metavar="VALUE", nargs="?", help="the value")
    change.add_argument("--undo", action="store_true", help="take the setting out of the file")
    change.set_defaults(run=_set)
    completion = below.add_parser(
        "completion",
        help="print shell completion (extra 'shell')",
        description="Print what completes flocklet's verbs and options in a shell.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="for which shell")
    completion.set_defaults(run=_completion)
    manual = below.add_parser(
        "man", help="print the manual page (extra 'shell')", description="Print flocklet(1) as roff."
    )
    manual.set_defaults(run=_man)


def _show(args: argparse.Namespace) -> int:
    import os

    from flocklet.node.settings import resolve

    output = Output(args)
    home = home_of(args)
    origin = "flag" if args.home else "environment" if os.environ.get("FLOCKLET_HOME") else "default"
    where = {"flag": "--home", "environment": "FLOCKLET_HOME"}.get(origin, "")
    rows: list[dict[str, Any]] = [
        {
            "name": "home", "value": str(home.path), "origin": origin, "where": where,
            "summary": "where this device keeps its key and its store",
        }
    ]  # fmt: skip
    for value in resolve(home.config, {}).values():
        kept = list(value.value) if isinstance(value.value, tuple) else value.value
        rows.append(
            {
                "name": value.name, "value": kept, "origin": str(value.origin), "where": value.where,
                "summary": value.summary,
            }
        )  # fmt: skip
    if home.database.exists():
        for name, row in ask(args, "quota", {}).items():
            rows.append(
                {
                    "name": f"quota.{name}", "value": row["value"], "origin": "store", "where": "",
                    "summary": f"rows that others may fill: {row['what']}",
                }
            )  # fmt: skip
    for name, (variable, summary) in _ENVIRONMENT.items():
        held = os.environ.get(variable)
        origin = "default" if held is None else "environment"
        where = "" if held is None else variable
        rows.append({"name": name, "value": held or "", "origin": origin, "where": where, "summary": summary})
    output.document({"settings": rows})
    output.table(
        ("setting", "value", "from", "where", "what"),
        [(row["name"], _plain(row["value"]), row["origin"], row["where"], row["summary"]) for row in rows],
    )
    return 0


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _set(args: argparse.Namespace) -> int:
    from flocklet.node.settings import resolve, write_file

    output = Output(args)
    home = home_of(args)
    if (args.value is None) != args.undo:
        raise UsageError("give a value, or --undo", remedy="flocklet config set port 4710")
    if args.name.startswith("quota."):
        return _set_quota(args, output)
    home.ensure()
    write_file(home.config, args.name, None if args.undo else args.value)
    value = resolve(home.config, {})[args.name]
    kept = list(value.value) if isinstance(value.value, tuple) else value.value
    output.remark(
        f"{value.name} is {_plain(kept)} ({value.origin}); a running peer takes it when it starts again"
    )
    output.document(
        {"name": value.name, "value": kept, "origin": str(value.origin), "file": str(home.config)}
    )
    return 0


def _set_quota(args: argparse.Namespace, output: Output) -> int:
    name = args.name.removeprefix("quota.")
    try:
        value = None if args.undo else int(args.value)
    except ValueError:
        raise UsageError(
            f"'{args.value}' is no number", remedy="flocklet config set quota.clicks 50000"
        ) from None
    kept = ask(args, "quota", {"name": name, "value": value})[name]["value"]
    output.remark(f"{args.name} is {kept}; it holds from the next start of a running peer on")
    output.document({"name": args.name, "value": kept, "origin": "store"})
    return 0


def _completion(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise MissingExtra("shtab", "shell", "shell completion") from None
    output = Output(args)
    text = shtab.complete(build_parser(VERBS), shell=args.shell)
    output.line(text)
    output.document({"shell": args.shell, "completion": text})
    return 0


def _man(args: argparse.Namespace) -> int:
    try:
        from build_manpages.manpage import Manpage
    except ImportError:
        raise MissingExtra("argparse-manpage", "shell", "the manual page") from None
    output = Output(args)
    text = str(Manpage(build_parser(VERBS)))
    output.line(text)
    output.document({"manual": text})
    return 0
