"""Verbs about the owner's files: add, remove."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
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
    add.set_defaults(run=_add)
    remove = verbs.add_parser("remove", help="take files and directories out of the index")
    remove.add_argument("paths", nargs="+", metavar="PATH", type=Path)
    remove.set_defaults(run=_remove)


def _add(args: argparse.Namespace) -> int:
    output = Output(args)
    paths = [os.fsencode(os.path.abspath(path)) for path in args.paths]
    answer = ask(args, "add", {"paths": paths}, may_create=True)
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
    return 0 if answer["added"] or answer["unchanged"] or not answer["skipped"] else 1


def _remove(args: argparse.Namespace) -> int:
    output = Output(args)
    answer = ask(args, "remove", {"paths": [os.fsencode(os.path.abspath(path)) for path in args.paths]})
    output.remark(f"{answer['removed']} taken out; {answer['documents']} documents in the index")
    output.document(answer)
    return 0
