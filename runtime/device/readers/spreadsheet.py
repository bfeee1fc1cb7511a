"""Read xlsx: cells of all sheets, shared and inline strings, numbers, and dates where the style says so."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import BinaryIO

from flocklet.device.readers.office import described
from flocklet.device.readers.reading import Budget, Reading, joined
from flocklet.device.readers.zipped_xml import Attributes, BoundedZip, parse_xml

__all__ = ["read_xlsx"]

_BUILT_IN_DATES = frozenset(
    (*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59))
)  # ECMA-376 18.8.30
_NOT_CODE = re.compile(r'"[^"]*"|\[[^\]]*\]|\\.')
_DATE_CODE = re.compile("[ymdhs]", re.IGNORECASE)


def read_xlsx(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a spreadsheet; one section a sheet, one line a row."""
    book = BoundedZip(source, budget)
    strings = _strings(book, budget)
    dates = _date_styles(book, budget)
    sheets, is_1904 = _sheets(book, budget)

    def sections() -> Iterator[tuple[str, str]]:
        for title, member in sheets:
            if member in book:
                cells = _Cells(strings, dates, is_1904)
                parse_xml(book.read(member), budget, start=cells.start, end=cells.end, text=cells.text)
                yield title, f"{title}\n" + "".join(cells.pieces)

    text, parts = joined(sections(), budget)
    title, language, written = described(book, "docProps/core.xml", budget)
    return Reading(title, text, language, written, "spreadsheet", parts)


class _Cells:
    """Turn the elements of one sheet into lines."""

    def __init__(self, strings: list[str], dates: frozenset[int], is_1904: bool) -> None:
        self.pieces: list[str] = []
        self._strings = strings
        self._dates = dates
        self._epoch = datetime(1904, 1, 1) if is_1904 else datetime(1899, 12, 30)
        self._kind = ""
        self._style = -1
        self._value = ""
        self._holds = False

    def start(self, name: str, attributes: Attributes) -> None:
        if name == "c":
            self._kind = attributes.get("t", "n")
            style = attributes.get("s", "")
            self._style = int(style) if style.isdecimal() and len(style) < 7 else -1
            self._value = ""
        elif name in ("v", "t"):
            self._holds = True

    def text(self, part: str) -> None:
        if self._holds:
            self._value += part

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            self._holds = False
        elif name == "c" and self._value:
            self.pieces.append(f"{self._shown()}  ")
        elif name == "row":
            self.pieces.append("\n")

    def _shown(self) -> str:
        value = self._value
        if self._kind == "s":
            at = int(value) if value.isdecimal() and len(value) < 9 else -1
            return self._strings[at] if 0 <= at < len(self._strings) else ""
        if self._kind == "n" and self._style in self._dates:
            try:
                moment = self._epoch + timedelta(days=float(value))
            except (ValueError, OverflowError):
                return value
            return moment.strftime("%Y-%m-%d" if moment.hour == moment.minute == 0 else "%Y-%m-%d %H:%M")
        return value


def _strings(book: BoundedZip, budget: Budget) -> list[str]:
    if "xl/sharedStrings.xml" not in book:
        return []
    result: list[str] = []
    inside: list[str] = []

    def start(name: str, _: Attributes) -> None:
        inside.append(name)
        if name == "si":
            result.append("")

    def text(part: str) -> None:
        if result and inside[-1] == "t" and "rPh" not in inside:
            result[-1] += part

    parse_xml(book.read("xl/sharedStrings.xml"), budget, start=start, end=lambda _: inside.pop(), text=text)
    return result


def _date_styles(book: BoundedZip, budget: Budget) -> frozenset[int]:
    if "xl/styles.xml" not in book:
        return frozenset()
    formats = set(_BUILT_IN_DATES)
    styles: list[str] = []
    inside: list[str] = []

    def start(name: str, attributes: Attributes) -> None:
        inside.append(name)
        if name == "numFmt":
            code = _NOT_CODE.sub("", attributes.get("formatCode", ""))
            number = attributes.get("numFmtId", "")
            if _DATE_CODE.search(code) and code.lower() != "general" and number.isdecimal():
                formats.add(int(number[:9]))
        elif name == "xf" and "cellXfs" in inside:
            styles.append(attributes.get("numFmtId", ""))

    parse_xml(
        book.read("xl/styles.xml"),
        budget,
        start=start,
        end=lambda _: inside.pop(),
        text=lambda _: None,
    )
    return frozenset(
        at for at, number in enumerate(styles) if number.isdecimal() and int(number[:9]) in formats
    )


def _sheets(book: BoundedZip, budget: Budget) -> tuple[list[tuple[str, str]], bool]:
    """Return (name, member) of each sheet in the order of the workbook, and whether dates count from 1904."""
    targets: dict[str, str] = {}
    sheets: list[tuple[str, str]] = []
    is_1904 = False

    def relation(name: str, attributes: Attributes) -> None:
        if name == "Relationship":
            target = attributes.get("Target", "")
            path = target[1:] if target.startswith("/") else posixpath.normpath(posixpath.join("xl", target))
            targets[attributes.get("Id", "")] = path

    def sheet(name: str, attributes: Attributes) -> None:
        nonlocal is_1904
        if name == "sheet":
            sheets.append((attributes.get("name", "sheet"), attributes.get("id", "")))
        elif name == "workbookPr":
            is_1904 = attributes.get("date1904", "") in ("1", "true")

    ignore = {"end": lambda _: None, "text": lambda _: None}
    if "xl/_rels/workbook.xml.rels" in book:
        parse_xml(book.read("xl/_rels/workbook.xml.rels"), budget, start=relation, **ignore)
    parse_xml(book.read("xl/workbook.xml"), budget, start=sheet, **ignore)
    return [(title, targets.get(key, "")) for title, key in sheets], is_1904
