"""Choose the reader of a file by its first bytes, then by its name; read what lies inside of it as well.

A package adds a reader by an entry point of the group `flocklet.readers`: its name is the suffix without the dot, its
object a `Reader`. It runs in the same process and under the same limits as the built-in ones.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import BinaryIO

from flocklet.device.readers.reading import Budget, Child, Reader, Reading, UnusableError, one_line

__all__ = ["ENTRY_POINTS", "MAX_FILE_BYTES", "MAX_TEXT_BYTES", "Member", "Readers", "Refusal"]

ENTRY_POINTS = "flocklet.readers"
MAX_TEXT_BYTES = 8 << 20
MAX_FILE_BYTES = 64 << 20
_SNIFF = 8192
_DEPTH_MAX = 3
_TOTAL_CHARACTERS = 12 << 20

_BUILT_IN = {
    "pdf": "portable:read_pdf", "rtf": "portable:read_rtf", "docx": "office:read_docx",
    "opendocument": "office:read_opendocument", "pptx": "office:read_pptx", "xlsx": "spreadsheet:read_xlsx",
    "epub": "office:read_epub", "xls": "tables:read_xls", "csv": "tables:read_csv", "notebook": "tables:read_notebook",
    "message": "mail:read_message", "mailbox": "mail:read_mailbox", "msg": "mail:read_msg", "html": "web_page:read_html",
    "compressed": "packed:read_compressed", "tar": "packed:read_tar", "zip": "packed:read_zip",
    "markdown": "plain_text:read_markdown", "rst": "plain_text:read_rst", "code": "plain_text:read_code",
    "manual": "plain_text:read_manual", "plain": "plain_text:read_plain",
}  # fmt: skip
_TEXTS = frozenset(("csv", "html", "markdown", "rst", "code", "manual", "plain"))
_CONTAINERS = frozenset(("compressed", "tar", "zip"))
_SUFFIXES = {
    **dict.fromkeys(("html", "htm", "xhtml"), "html"),
    **dict.fromkeys(("md", "markdown", "mdown"), "markdown"),
    **dict.fromkeys(("csv", "tsv"), "csv"),
    **dict.fromkeys(("mbox", "mbx"), "mailbox"),
    **dict.fromkeys(
        "py pyi js mjs cjs ts tsx jsx c h cc cpp cxx hpp hh rs go java kt kts scala cs swift rb php pl pm lua r jl m mm "
        "sh bash zsh fish ps1 sql hs ml mli ex exs erl clj lisp el vim zig nim dart groovy f90 pas adb ads v vhd s asm "
        "cu cl proto".split(),
        "code",
    ),
    "rst": "rst", "ipynb": "notebook", "eml": "message", "tar": "tar",
}  # fmt: skip
_ZIPPED = {
    **dict.fromkeys(("docx", "docm", "dotx"), "docx"),
    **dict.fromkeys(("pptx", "pptm", "ppsx"), "pptx"),
    **dict.fromkeys(("xlsx", "xlsm"), "xlsx"),
    **dict.fromkeys(("odt", "ods", "odp", "ott", "odg"), "opendocument"),
    "epub": "epub",
    "zip": "zip",
}
_OLD = {"doc": "Word", "dot": "Word", "ppt": "PowerPoint", "pps": "PowerPoint"}
_PACKED_MARKS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MANUAL_SUFFIX = re.compile(r"[1-9ln][a-z]{0,4}")
_MANUAL = re.compile(rb"^\.\s*(?:TH|Dt)\b", re.MULTILINE)
_MAILBOX = re.compile(rb"From \S+[^\r\n]*\d{4}\r?\n")
_HEADERS = re.compile(
    rb"(?:(?:Return-Path|Received|Delivered-To|From|To|Date|Message-ID|MIME-Version|Subject|X-[\w-]+):[^\n]*\n"
    rb"(?:[ \t][^\n]*\n)*){3}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Member:
    """Hold the reading of a file, or of something inside of it by the name `path` ("" for the file itself)."""

    path: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class Refusal:
    """Say why a file, or something inside of it, was left out."""

    path: str
    why: str
    remedy: str = ""


class Readers:
    """Read files with the built-in readers and those that packages add."""

    def __init__(self) -> None:
        self._known: dict[str, Reader] = {}
        self._added: dict[str, str] | None = None

    def read(self, source: BinaryIO, name: str, budget: Budget) -> Iterator[Member | Refusal | int]:
        """Yield what the file says, then what lies inside; an `int` at the end says where to go on with another call.

        Raises UnusableError with the reason when the file itself cannot be used.
        """
        left = _TOTAL_CHARACTERS
        first = budget.start
        reading = self._one(source, name, budget)
        if not first or not reading.children:
            if not reading.children or reading.text or reading.title:
                left -= len(reading.text)
                yield Member("", replace(reading, children=()))
            elif reading.note:
                yield Refusal("", reading.note)
        is_packed = reading.kind == "packed"
        for at, child in enumerate(reading.children):
            if at < first:
                continue
            if at > first and (budget.is_late or left <= 0):
                if left <= 0:
                    yield Refusal("", f"only its first {at} parts were read")
                else:
                    yield at
                return
            for found in self._inside(child, child.name, budget, 1, is_packed=is_packed):
                if isinstance(found, Member):
                    left -= len(found.reading.text)
                yield found
        if reading.resume:
            yield reading.resume

    def _inside(
        self, child: Child, path: str, budget: Budget, depth: int, *, is_packed: bool
    ) -> Iterator[Member | Refusal]:
        part = Budget(bytes=budget.bytes, deadline_s=budget.deadline_s)
        is_archive = _choice(child.data[:_SNIFF], child.name) in _CONTAINERS
        if depth > _DEPTH_MAX or (is_packed and is_archive and not child.name.endswith(".tar")):
            yield Refusal(path, "an archive inside an archive is not opened")
            return
        try:
            reading = self._one(io.BytesIO(child.data), child.name, part)
        except UnusableError as error:
            yield Refusal(path, str(error), error.remedy)
            return
        finally:
            budget.bytes = part.bytes
        if not reading.children or reading.text or reading.title:
            yield Member(path, replace(reading, children=(), resume=0))
        for inner in reading.children:
            yield from self._inside(
                inner,
                f"{path}!{inner.name}",
                budget,
                depth + 1,
                is_packed=is_packed or reading.kind == "packed",
            )

    def _one(self, source: BinaryIO, name: str, budget: Budget) -> Reading:
        head = source.read(_SNIFF)
        size = source.seek(0, os.SEEK_END)
        source.seek(0)
        choice = _choice(head, name)
        if choice == "zipped":
            choice = _zipped(source)
        added = self._plugin(name) if choice == "plain" else None
        most = MAX_TEXT_BYTES if choice in _TEXTS and added is None else MAX_FILE_BYTES
        if size > most:
            raise UnusableError(f"larger than {most >> 20} MiB")
        if added is None:
            return self._built_in(choice)(source, name, budget)
        try:
            reading = added(source, name, budget)
        except (UnusableError, MemoryError):
            raise
        except Exception as error:  # somebody else's code
            why = f"its reader, added by a package, failed ({type(error).__name__}: {one_line(str(error))})"
            raise UnusableError(why) from error
        if not isinstance(reading, Reading):
            raise UnusableError("its reader, added by a package, returned no reading")
        return reading

    def _built_in(self, choice: str) -> Reader:
        if choice not in self._known:
            module, _, function = _BUILT_IN[choice].partition(":")
            self._known[choice] = getattr(import_module(f"flocklet.device.readers.{module}"), function)
        return self._known[choice]

    def _plugin(self, name: str) -> Reader | None:
        suffix = name.rpartition(".")[2].lower()
        if self._added is None:
            self._added = {point.name.lower(): point.value for point in entry_points(group=ENTRY_POINTS)}
        if suffix not in self._added:
            return None
        if suffix not in self._known:
            (point,) = (p for p in entry_points(group=ENTRY_POINTS) if p.value == self._added[suffix])
            self._known[suffix] = point.load()
        return self._known[suffix]


def _choice(head: bytes, name: str) -> str:
    """Return the name of the reader for a file that begins with `head`; UnusableError when there can be none."""
    suffix = name.rpartition(".")[2].lower() if "." in name else ""
    if head.startswith(b"%PDF-") or suffix == "pdf":
        return "pdf"
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.startswith(b"PK\x03\x04") or (suffix in _ZIPPED and suffix != "zip"):
        if head.startswith(b"\xd0\xcf\x11\xe0"):
            raise UnusableError("is protected by a password")
        return _ZIPPED.get(suffix, "zipped")
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        if suffix in _OLD:
            raise UnusableError(f"a {_OLD[suffix]} file of before 2007", f"save it as .{suffix[:3]}x")
        if suffix in ("xls", "msg"):
            return suffix
    if head.startswith(_PACKED_MARKS):
        return "compressed"
    if head[257:262] == b"ustar" or suffix == "tar":
        return "tar"
    start = head[:200].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    if _MAILBOX.match(head) is not None:
        return "mailbox"
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if _MANUAL_SUFFIX.fullmatch(suffix) and _MANUAL.search(head) is not None:
        return "manual"
    if _HEADERS.match(head) is not None:
        return "message"
    return "plain"


def _zipped(source: BinaryIO) -> str:
    """Return the reader of a zip file whose name does not tell."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise UnusableError("binary file") from error
    finally:
        source.seek(0)
    inside = {"word/document.xml": "docx", "xl/workbook.xml": "xlsx", "ppt/presentation.xml": "pptx"}
    inside |= {"META-INF/container.xml": "epub", "content.xml": "opendocument"}
    for member, choice in inside.items():
        if member in names:
            return choice
    raise UnusableError("binary file")
