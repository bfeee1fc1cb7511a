"""Read tables and notebooks: delimiter-separated values, Jupyter notebooks, old spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

from flocklet.device.readers.encodings import decode
from flocklet.device.readers.reading import (
    Budget,
    MissingPackageError,
    Reading,
    UnusableError,
    joined,
    one_line,
)

__all__ = ["delimiter_of", "read_csv", "read_notebook", "read_xls"]

_DELIMITERS = ",;\t|"
_NAMED_ROWS = 2000
_OUTPUT_MAX = 2048


def delimiter_of(text: str, *, lines: int = 20) -> str:
    """Return which of `, ; tab |` parts the first lines into the most columns of an equal number; "," if none."""
    head = [line for line in text.split("\n", lines + 1)[:lines] if line.strip()]
    best, most = ",", (0.0, 1)
    for delimiter in _DELIMITERS:
        try:
            widths = [len(row) for row in csv.reader(head, delimiter=delimiter)]
        except csv.Error:
            continue
        if not widths:
            continue
        common = max(set(widths), key=widths.count)
        share = widths.count(common) / len(widths)
        if common > 1 and (share, common) > most:
            best, most = delimiter, (share, common)
    return best


def read_csv(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a table; the names of its columns stand before the cells ("city: Bern") in the first 2,000 rows."""
    text, note = decode(source.read(4 * budget.characters))
    text = text[: budget.characters]
    rows = csv.reader(io.StringIO(text), delimiter=delimiter_of(text))
    try:
        first = list(islice(rows, 21))
        header = _header(first)
        lines = [" ".join(first[0])] if header and first else []
        for number, row in enumerate(_chain(first[1:] if header else first, rows)):
            named = header if number < _NAMED_ROWS else []
            cells = [
                f"{named[at]}: {cell}" if at < len(named) and named[at] and cell else cell
                for at, cell in enumerate(row)
            ]
            lines.append("  ".join(cell for cell in cells if cell))
            if number % 256 == 0 and budget.is_late:
                note = note or f"read up to row {number}"
                break
    except csv.Error:  # not a table after all: still text
        return Reading("", text, kind="csv", note=note)
    return Reading("", "\n".join(lines)[: budget.characters], kind="csv", note=note)


def _chain(first: list[list[str]], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield from first
    yield from rest


def _header(rows: list[list[str]]) -> list[str]:
    """Return the names of the columns: a first row without numbers above a column of numbers, else nothing."""
    if len(rows) < 2 or any(_is_number(cell) for cell in rows[0]):
        return []
    for column in range(len(rows[0])):
        cells = [row[column] for row in rows[1:] if column < len(row) and row[column].strip()]
        if cells and all(_is_number(cell) for cell in cells):
            return [name.strip() for name in rows[0]]
    return []


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def read_notebook(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a Jupyter notebook: markdown and code cells, text outputs of at most 2 kB each."""
    text, note = decode(source.read(16 * budget.characters))
    try:
        book = json.loads(text)
        cells = book["cells"] if "cells" in book else book["worksheets"][0]["cells"]
        sections = [(f"cell {at}", _cell(cell)) for at, cell in enumerate(cells, 1)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise UnusableError("damaged notebook") from error
    title = next((line[2:] for _, cell in sections for line in cell.split("\n") if line.startswith("# ")), "")
    body, parts = joined(sections, budget)
    return Reading(one_line(title), body, kind="notebook", parts=parts, note=note)


def _cell(cell: Any) -> str:
    lines = [_source(cell.get("source", cell.get("input", "")))]
    for output in cell.get("outputs", []):
        said = output.get("text") or output.get("data", {}).get("text/plain") or ""
        lines.append(_source(said)[:_OUTPUT_MAX])
    return "\n".join(line for line in lines if line)


def _source(value: Any) -> str:
    return "".join(str(line) for line in value) if isinstance(value, list) else str(value)


def read_xls(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a spreadsheet of before 2007 through `python-calamine`."""
    try:
        from python_calamine import CalamineWorkbook
    except ImportError as error:
        raise MissingPackageError("python-calamine", "office", "reading .xls files") from error
    try:
        book = CalamineWorkbook.from_filelike(source)
        sections = [
            (
                sheet,
                "\n".join("  ".join(str(cell) for cell in row if cell != "") for row in _rows(book, sheet)),
            )
            for sheet in book.sheet_names
        ]
    except Exception as error:  # the library raises kinds of its own
        raise UnusableError(f"damaged spreadsheet ({one_line(str(error))})") from error
    text, parts = joined(sections, budget)
    return Reading("", text, kind="spreadsheet", parts=parts)


def _rows(book: Any, sheet: str) -> list[list[Any]]:
    rows: list[list[Any]] = book.get_sheet_by_name(sheet).to_python(skip_empty_area=True)
    return rows
