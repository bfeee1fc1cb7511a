"""Read the owner's files: find them, tell text from binary, and take title and text out of each.

Text, Markdown, reStructuredText, HTML, source code and anything else that is text; PDF through the optional
package `pypdf`. A file that cannot be used never stops the others: it comes back as `Skipped` with the
reason. Nothing in a file is executed, no address in it is opened, and named pipes, sockets and devices are
not touched.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from flocklet.errors import FlockletError, MissingExtra
from flocklet.events.item import Document

__all__ = ["MAX_FILE_BYTES", "MAX_PDF_BYTES", "Skipped", "read_document", "read_documents"]

_log = logging.getLogger("flocklet.device")

MAX_FILE_BYTES = 8 << 20
MAX_PDF_BYTES = 64 << 20
_MAX_CHARACTERS = 4 << 20
_SNIFF_BYTES = 8192
_HEAVY_FOLDERS = frozenset(("node_modules", "__pycache__", "site-packages"))
# A folder with one of these is a virtual environment or says of itself that it is a cache
# (bford.info/cachedir).
_FOLDER_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")
_HTML = frozenset((".html", ".htm", ".xhtml"))
_MARKDOWN = frozenset((".md", ".markdown", ".mdown"))
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_MARKDOWN_TITLE = re.compile(r"^#[ \t]+(.+?)[ \t#]*$|^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
_RST_TITLE = re.compile(r"(?:^|\n)([^\n]*\S[^\n]*)\n(=|-|~|\^|\*|#|\+|\")\2{2,}[ \t]*(?:\n|$)")
_CONTROL = re.compile("[\0-\x07\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Say that `path` was left out, `why` in half a line, and what to do about it where something can be
    done.
    """

    path: Path
    why: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.why}" + (f"; {self.remedy}" if self.remedy else "")


class _UnusableError(Exception):
    """Say why a file is left out."""


class _Page(HTMLParser):
    """Collect the text of a page, its title, and its first main heading."""

    _SILENT = frozenset(("script", "style", "template", "svg", "math"))
    _INLINE = re.compile(
        "a|abbr|b|bdi|bdo|cite|code|em|font|i|kbd|mark|q|s|samp|small|span|strong|sub|sup|tt|u|var|wbr"
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text: list[str] = []
        self.title: list[str] = []
        self.heading: list[str] = []
        self._silent: list[str] = []
        self._into = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._SILENT:
            self._silent.append(tag)
        elif tag == "title" or (tag == "h1" and not self.heading):
            self._into = tag
        if self._INLINE.fullmatch(tag) is None:
            self.text.append("\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._INLINE.fullmatch(tag) is None:
            self.text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag == self._into:
            self._into = ""
        if self._INLINE.fullmatch(tag) is None:
            self.text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._into == "title":
            self.title.append(data)
            return
        if self._into == "h1":
            self.heading.append(data)
        self.text.append(data)


def _tidy(text: str) -> str:
    """Return `text` on one line, spaces collapsed, at most 200 characters."""
    return " ".join(text.split())[:200]


def _decode(data: bytes, *, is_html: bool = False) -> str:
    """Decode by byte-order mark, UTF-8, the charset that a page names, Windows-1252, Latin-1: whichever
    fits first.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data[:_SNIFF_BYTES]:
        raise _UnusableError("binary file")
    named = _CHARSET.search(data[:2048]) if is_html else None
    for encoding in ("utf-8", named.group(1).decode("ascii") if named else "cp1252", "cp1252"):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def _checked(text: str) -> str:
    """Return `text` unless it is full of control characters: bytes that only happen to decode."""
    start = text[:_SNIFF_BYTES]
    if len(_CONTROL.findall(start)) > len(start) // 20:
        raise _UnusableError("binary file")
    return text[:_MAX_CHARACTERS]


def _from_html(data: bytes) -> tuple[str, str]:
    page = _Page()
    try:
        page.feed(_checked(_decode(data, is_html=True)))
        page.close()
    except (AssertionError, ValueError) as error:  # html.parser gives up on some malformed declarations
        raise _UnusableError(f"damaged HTML ({_tidy(str(error))})") from error
    lines = (" ".join(line.split()) for line in "".join(page.text).splitlines())
    title = _tidy("".join(page.title)) or _tidy("".join(page.heading))
    return title, "\n".join(line for line in lines if line)


def _from_pdf(path: Path) -> tuple[str, str]:
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise MissingExtra("pypdf", "pdf", "reading PDF files") from error
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise _UnusableError("PDF protected by a password")
        pages: list[str] = []
        left = _MAX_CHARACTERS
        for page in reader.pages:
            pages.append(page.extract_text()[:left])
            left -= len(pages[-1])
            if left <= 0:
                break
        title = _tidy(str((reader.metadata and reader.metadata.title) or ""))
    except (_UnusableError, OSError):
        raise
    except ImportError as error:
        raise _UnusableError("PDF encrypted in a way that needs the package 'cryptography'") from error
    except Exception as error:  # pypdf raises many kinds on damaged files
        raise _UnusableError(f"damaged PDF ({_tidy(str(error)) or type(error).__name__})") from error
    text = "\n".join(pages)
    if not text.strip():
        raise _UnusableError("PDF without text (a scan)")
    return title, text


def _extract(path: Path, size: int) -> tuple[str, str]:
    """Return (title, text) of a regular file; the title is empty where the content has none."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        data = file.read(_SNIFF_BYTES)
        if suffix == ".pdf" or data.startswith(b"%PDF-"):
            if size > MAX_PDF_BYTES:
                raise _UnusableError(f"larger than {MAX_PDF_BYTES >> 20} MiB")
            return _from_pdf(path)
        if size > MAX_FILE_BYTES:
            raise _UnusableError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        data += file.read(MAX_FILE_BYTES)
    if suffix in _HTML or data[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return _from_html(data)
    text = _checked(_decode(data))
    title = ""
    if suffix in _MARKDOWN:
        found = _MARKDOWN_TITLE.search(text[:_SNIFF_BYTES])
        title = _tidy(found.group(1) or found.group(2)) if found else ""
    elif suffix == ".rst":
        found = _RST_TITLE.search(text[:_SNIFF_BYTES])
        title = _tidy(found.group(1)) if found else ""
    return title, text


def _key(path: Path) -> str:
    """Return the absolute path as text that can be stored: bytes that are not UTF-8 become escapes."""
    return os.fsencode(path.absolute()).decode("utf-8", "backslashreplace")


def read_document(path: Path) -> Document:
    """Read one file; its key is its absolute path.

    Without a title of its own the document gets the name of the file; with one, the name stands at the end
    of the text, so a file is always found by its name. Raises FlockletError with the reason when the file
    cannot be used, MissingExtra for a PDF without `pypdf`.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _UnusableError("not a regular file")
        title, text = _extract(path, status.st_size)
    except OSError as error:
        raise FlockletError(
            f"{path}: {_reason(error)}", remedy="check the path and its permissions"
        ) from error
    except _UnusableError as error:
        raise FlockletError(f"{path}: {error}") from error
    key = _key(path)
    name = key.rsplit("/", 1)[-1]
    if title:
        return Document.of(key, title, f"{text.rstrip()}\n{name}")
    return Document.of(key, name, text)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _is_heavy(folder: Path) -> bool:
    return folder.name in _HEAVY_FOLDERS or any((folder / mark).exists() for mark in _FOLDER_MARKS)


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path | Skipped]:
    """Yield the files under `folder` in a stable order; hidden entries and heavy folders are left out
    silently.
    """
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Skipped(folder, _reason(error))
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and path.is_dir():
            yield Skipped(path, "a link to a folder is not followed", "add the folder itself")
        elif entry.is_dir(follow_symlinks=False):
            if _is_heavy(path):
                _log.debug("left out %s: installed or generated files", path)
            else:
                yield from _walk(path, seen)
        else:
            yield path


def read_documents(paths: Iterable[Path]) -> Iterator[Document | Skipped]:
    """Read files and, recursively, folders; yield a `Document` or a `Skipped` for each file, never raise
    for one.

    A path that is named is read even when it is hidden; inside folders, hidden entries, folders of
    installed or generated files, and links to folders are left out. A file that is reached twice is read
    once.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        found: Iterable[Path | Skipped] = _walk(path, seen) if path.is_dir() else (path,)
        for file in found:
            if isinstance(file, Skipped):
                yield file
                continue
            try:
                status = file.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                yield read_document(file)
            except MissingExtra as error:
                yield Skipped(file, str(error), error.remedy)
            except FlockletError as error:
                yield Skipped(file, str(error).removeprefix(f"{file}: "))
            except OSError as error:
                yield Skipped(file, _reason(error))
