"""The verb that lists the known data sets: data."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from flocklet.cli.output import Output

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verb of this module."""
    data = verbs.add_parser(
        "data",
        help="list the known data sets",
        description="List data sets: source, licence, checksum. None is shipped.",
    )
    data.set_defaults(run=_data)


def _data(args: argparse.Namespace) -> int:
    from flocklet.datasets.installed import KNOWN

    output = Output(args)
    output.table(
        ("name", "what", "where", "licence", "sha256"),
        [(d.name, d.what, d.where, d.licence, d.sha256) for d in KNOWN],
    )
    output.document({"data": [asdict(dataset) for dataset in KNOWN]})
    return 0
