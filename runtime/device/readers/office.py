"""Read office files, zip files of XML: docx, odt, odp, ods, pptx, xlsx, epub. No link in them is followed.

Macros, embedded objects and images are not opened. Formats: ECMA-376 (Office Open XML), OASIS OpenDocument 1.3, EPUB 3.3.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO
from urllib.parse import unquote

from flocklet.device.readers.encodings import decode
from flocklet.device.readers.reading import Budget, Reading, UnusableError, clean, joined, one_line
from flocklet.device.readers.web_page import page_of
from flocklet.device.readers.zipped_xml import Attributes, BoundedZip, parse_xml

__all__ = ["read_docx", "read_epub", "read_opendocument", "read_pptx"]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?=$|[-_])")
_NUMBER = re.compile(r"\d+")
_ENTITY = re.compile(r"<!ENTITY|<!DOCTYPE[^>\[]*\[", re.IGNORECASE)
_DOCX_PARTS = re.compile(r"word/(?:header\d*|footer\d*|footnotes|endnotes|comments)\.xml")


class _Text:
    """Collect the text of elements: which hold text, which end a line, which stand for a character."""

    def __init__(self, holders: Iterable[str], lines: Iterable[str], characters: dict[str, str]) -> None:
        self.pieces: list[str] = []
        self._holders = frozenset(holders)
        self._lines = frozenset(lines)
        self._characters = characters
        self._inside = 0

    def start(self, name: str, attributes: Attributes) -> None:
        if name in self._holders:
            self._inside += 1
        if name in self._characters:
            repeated = attributes.get("c", "1")
            count = min(int(repeated), 100) if repeated.isdecimal() and len(repeated) < 4 else 1
            self.pieces.append(self._characters[name] * count)

    def end(self, name: str) -> None:
        if name in self._holders:
            self._inside -= 1
        if name in self._lines:
            self.pieces.append("\n")

    def text(self, part: str) -> None:
        if self._inside:
            self.pieces.append(part)

    def of(self, data: bytes, budget: Budget) -> str:
        parse_xml(data, budget, start=self.start, end=self.end, text=self.text)
        return "".join(self.pieces)


def fields_of(data: bytes, budget: Budget) -> dict[str, str]:
    """Return the first text of each element of a small XML file of metadata, by local name."""
    fields: dict[str, str] = {}
    names: list[str] = []

    def text(part: str) -> None:
        if names and len(part) < 4096:
            fields[names[-1]] = fields.get(names[-1], "") + part

    parse_xml(data, budget, start=lambda name, _: names.append(name), end=lambda _: names.pop(), text=text)
    return fields


def described(book: BoundedZip, name: str, budget: Budget) -> tuple[str, str, str]:
    """Return (title, language, date) of the metadata member `name`; empty where it is missing or damaged."""
    if name not in book:
        return "", "", ""
    try:
        fields = fields_of(book.read(name), budget)
    except UnusableError:
        return "", "", ""
    date = _DATE.match(fields.get("modified", fields.get("date", fields.get("creation-date", ""))))
    language = _LANGUAGE.match(fields.get("language", "").strip())
    return (
        one_line(fields.get("title", "")),
        language.group().lower() if language else "",
        date.group() if date else "",
    )


def numbered(names: Iterable[str], pattern: str) -> list[tuple[int, str]]:
    """Return (number, name) of the members that match `pattern`, in the order of their numbers."""
    found = [name for name in names if re.fullmatch(pattern, name)]
    return sorted((int(_NUMBER.findall(name)[-1]), name) for name in found)


def read_docx(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a text document: the body, then headers, footers, notes and comments."""
    book = BoundedZip(source, budget)
    members = ["word/document.xml", *sorted(m for m in book.names if _DOCX_PARTS.fullmatch(m))]
    texts = (
        (posixpath.basename(member)[:-4], _docx_text().of(book.read(member), budget)) for member in members
    )
    text, _ = joined(texts, budget)
    title, language, written = described(book, "docProps/core.xml", budget)
    return Reading(title, text, language, written, "docx")


def _docx_text() -> _Text:
    return _Text(("t",), ("p",), {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"})


def read_opendocument(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read OpenDocument text, spreadsheet or presentation."""
    book = BoundedZip(source, budget)
    if "META-INF/manifest.xml" in book and b"encryption-data" in book.read("META-INF/manifest.xml"):
        raise UnusableError("is protected by a password")
    kinds = {"spreadsheet": "spreadsheet", "presentation": "slides", "text": "odt"}
    mime = book.read("mimetype").decode("ascii", "replace") if "mimetype" in book else ""
    kind = next((kinds[word] for word in kinds if mime.strip().endswith(word)), "odt")
    collect = _Text(("p", "h"), ("p", "h"), {"s": " ", "tab": "\t", "line-break": "\n"})
    text = clean(collect.of(book.read("content.xml"), budget)[: budget.characters])
    title, language, written = described(book, "meta.xml", budget)
    return Reading(title, text, language, written, kind)


def read_pptx(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a presentation: the text of each slide, and its notes."""
    book = BoundedZip(source, budget)

    def slides() -> Iterator[tuple[str, str]]:
        notes = dict(numbered(book.names, r"ppt/notesSlides/notesSlide\d+\.xml"))
        for number, member in numbered(book.names, r"ppt/slides/slide\d+\.xml"):
            text = _Text(("t",), ("p",), {"br": "\n", "tab": "\t"}).of(book.read(member), budget)
            if number in notes:
                text += _Text(("t",), ("p",), {"br": "\n"}).of(book.read(notes[number]), budget)
            yield f"slide {number}", text

    text, parts = joined(slides(), budget)
    title, language, written = described(book, "docProps/core.xml", budget)
    return Reading(title, text, language, written, "slides", parts)


def read_epub(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a book: the chapters in the order of its spine, each by the reader of HTML."""
    book = BoundedZip(source, budget)
    if "META-INF/encryption.xml" in book and "META-INF/rights.xml" in book:
        raise UnusableError("is protected by a password")
    package = ""

    def container(tag: str, attributes: Attributes) -> None:
        nonlocal package
        if tag == "rootfile" and not package:
            package = attributes.get("full-path", "")

    parse_xml(book.read("META-INF/container.xml"), budget, start=container, end=_ignore, text=_ignore)
    manifest: dict[str, str] = {}
    spine: list[str] = []

    def opf(tag: str, attributes: Attributes) -> None:
        if tag == "item":
            manifest[attributes.get("id", "")] = unquote(attributes.get("href", ""))
        elif tag == "itemref":
            spine.append(manifest.get(attributes.get("idref", ""), ""))

    parse_xml(book.read(package), budget, start=opf, end=_ignore, text=_ignore)
    folder = posixpath.dirname(package)

    def chapters() -> Iterator[tuple[str, str]]:
        for at, reference in enumerate(spine[:5000], 1):
            member = posixpath.normpath(posixpath.join(folder, reference.partition("#")[0]))
            if member not in book:
                continue
            markup, _ = decode(book.read(member))
            if _ENTITY.search(markup[:4096]) is not None:
                raise UnusableError("declares entities of its own, which no chapter does")
            page = page_of(markup, Budget(budget.characters, budget.bytes, 0, budget.deadline_s))
            yield page.title or f"chapter {at}", page.text

    text, parts = joined(chapters(), budget)
    title, language, written = described(book, package, budget)
    return Reading(title, text, language, written, "epub", parts)


def _ignore(_: str) -> None:
    return
