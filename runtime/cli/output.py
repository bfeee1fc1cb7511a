"""What a verb prints: a table on a terminal, plain lines elsewhere, one JSON document on request."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Output", "Step"]


class Step(Protocol):
    """Report progress: `done` of `total` units so far."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Move the bar."""
        ...


class Output:
    """The standard output of one verb.

    With `--json` only `document` prints. Without, tables are drawn by rich on a terminal (never with `NO_COLOR`
    colours) and are tab-separated lines in a pipe, so that `cut` and `awk` work.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.is_json: bool = args.json
        self.is_quiet: bool = args.quiet
        self.is_terminal = sys.stdout.isatty() and not self.is_json and os.environ.get("TERM") != "dumb"

    def document(self, value: Mapping[str, Any]) -> None:
        """Print the one JSON document of this verb, if JSON was asked for."""
        if self.is_json:
            print(json.dumps(value, ensure_ascii=False))

    def line(self, text: str) -> None:
        """Print a line that was asked for."""
        if not self.is_json:
            print(text)

    def remark(self, text: str) -> None:
        """Print a line that explains; `--quiet` drops it."""
        if not self.is_json and not self.is_quiet:
            print(text)

    def warning(self, text: str) -> None:
        """Print a line to standard error, also beside a JSON document."""
        print(f"flocklet: {text}", file=sys.stderr)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
        """Print rows under column names; numbers to the right."""
        if self.is_json:
            return
        if not self.is_terminal:
            for row in [columns, *rows]:
                print("\t".join(" ".join(str(cell).split()) for cell in row))
            return
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            is_number = bool(rows) and all(_is_number(row[index]) for row in rows)
            table.add_column(column, justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(str(cell)) for cell in row))
        Console(highlight=False).print(table)

    @contextmanager
    def progress(self, label: str) -> Iterator[Step]:
        """Show a bar with rate and time left on a terminal; nothing elsewhere."""
        if not self.is_terminal or self.is_quiet:
            yield lambda done, total, note="": None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            transient=True,
        ) as bar:
            task = bar.add_task(label, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


def _is_number(cell: object) -> bool:
    try:
        float(str(cell).replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True
