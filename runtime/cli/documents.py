"""Verbs about the owner's files: add, folders, remove."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.parser import add_sub_verbs
from flocklet.cli.session import ask

__all__ = ["add_parser"]

_NAMED_MAX = 20


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    add = verbs.add_parser(
        "add",
        help="index files and directories",
        description="Index text, Markdown, HTML, source code, office files, e-books, mail, notebooks, manual pages and "
        "archives; PDF, RTF, .msg and .xls with the extras 'pdf' and 'office'. A file that is there already is renewed "
        "if it changed.",
    )
    add.add_argument("paths", nargs="+", metavar="PATH", type=Path)
    add.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out what fits, as in .gitignore",
    )
    add.add_argument("--hidden", action="store_true", help="read hidden files too")
    add.add_argument(
        "--again", action="store_true", help="read every file anew, those that were left out as well"
    )
    add.set_defaults(run=_add)
    folders = verbs.add_parser(
        "folders",
        help="list, refresh, exclude: the folders that are followed",
        description="A folder that was added is followed: a running peer looks at it every minute and 'folders refresh' at "
        "once. What .gitignore and .flockletignore files name is left out. Unchanged files are not read.",
    )
    acts = add_sub_verbs(verbs, folders)
    acts.add_parser("list", help="the folders, their documents, what is left out").set_defaults(run=_list)
    refresh = acts.add_parser("refresh", help="look for new, changed and removed files")
    refresh.add_argument("paths", nargs="*", metavar="FOLDER", type=Path)
    refresh.set_defaults(run=_refresh)
    exclude = acts.add_parser("exclude", help="leave out what fits the patterns (without any: nothing)")
    exclude.add_argument("folder", type=Path)
    exclude.add_argument("patterns", nargs="*", metavar="PATTERN")
    exclude.set_defaults(run=_exclude)
    remove = verbs.add_parser("remove", help="take files and directories out of the index")
    remove.add_argument("paths", nargs="+", metavar="PATH", type=Path)
    remove.set_defaults(run=_remove)


def _add(args: argparse.Namespace) -> int:
    output = Output(args)
    paths = [os.fsencode(os.path.abspath(path)) for path in args.paths]
    options = {"exclude": args.exclude, "hidden": args.hidden, "again": args.again}
    answer = ask(args, "add", {"paths": paths, **options}, may_create=True)
    _report(output, answer)
    return 0 if answer["added"] or answer["unchanged"] or not answer["skipped"] else 1


def _refresh(args: argparse.Namespace) -> int:
    paths = [os.fsencode(os.path.abspath(path)) for path in args.paths]
    _report(Output(args), ask(args, "folders", {"action": "refresh", "paths": paths}))
    return 0


def _exclude(args: argparse.Namespace) -> int:
    values = {"paths": [os.fsencode(os.path.abspath(args.folder))], "exclude": args.patterns}
    _report(Output(args), ask(args, "folders", {"action": "exclude", **values}))
    return 0


def _list(args: argparse.Namespace) -> int:
    output = Output(args)
    answer = ask(args, "folders", {"action": "list"})
    rows = [[row["path"], row["documents"], " ".join(row["exclude"])] for row in answer["folders"]]
    output.table(("folder", "documents", "left out"), rows)
    output.document(answer)
    return 0


def _report(output: Output, answer: dict[str, Any]) -> None:
    for skipped in answer["skipped"][:_NAMED_MAX]:
        remedy = f" ({skipped['remedy']})" if skipped["remedy"] else ""
        output.warning(f"left out {skipped['path']}: {skipped['why']}{remedy}")
    if len(answer["skipped"]) > _NAMED_MAX:
        output.warning(f"left out {len(answer['skipped']) - _NAMED_MAX} more; --json lists them")
    output.remark(
        f"{answer['added']} new or changed, {answer['unchanged']} unchanged, {answer['gone']} gone, "
        f"{len(answer['skipped'])} left out; "
        f"{answer['documents']} documents in the index"
    )
    if answer["guessed"]:
        output.warning(
            f"the encoding of {answer['guessed']} is a guess (Windows-1252); pip install '.[office]' detects it"
        )
    output.document(answer)


def _remove(args: argparse.Namespace) -> int:
    output = Output(args)
    answer = ask(args, "remove", {"paths": [os.fsencode(os.path.abspath(path)) for path in args.paths]})
    output.remark(f"{answer['removed']} taken out; {answer['documents']} documents in the index")
    output.document(answer)
    return 0
