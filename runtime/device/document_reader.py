"""Find the owner's files and have them read: every file comes back as its documents, or with the reason why not.

The readers stand in `flocklet.device.readers` and run in a process of their own. A file that cannot be used never
stops the others. Nothing in a file is executed, no address in it is opened, named pipes, sockets and devices are not
touched, and a link is followed only if it is named itself or leads to a place inside of the folder that was added.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flocklet.device.readers.process import ReaderProcess
from flocklet.device.readers.registry import Member, Refusal
from flocklet.events.item import item_id_of
from flocklet.store.documents import StoredDocument
from flocklet.wire.visible import visible

__all__ = ["FileRead", "Skipped", "read_document", "read_documents", "read_file", "walk"]

_log = logging.getLogger("flocklet.device")

_HEAVY_FOLDERS = frozenset(("node_modules", "__pycache__", "site-packages"))
# A folder with one of these is a virtual environment or says of itself that it is a cache
# (bford.info/cachedir).
_FOLDER_MARKS = ("pyvenv.cfg", "CACHEDIR.TAG")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Say that `path`, or `member` inside of it, was left out, `why` in half a line, and what to do about it where
    something can be done.
    """

    path: Path
    why: str
    remedy: str = ""
    member: str = ""

    @property
    def name(self) -> str:
        """The path as it can be shown."""
        return key_of(self.path, self.member)

    def __str__(self) -> str:
        return f"{self.name}: {self.why}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True, slots=True)
class FileRead:
    """Hold all documents of one file, the file itself first, and what was left out inside of it."""

    path: Path
    documents: tuple[StoredDocument, ...] = ()
    skipped: tuple[Skipped, ...] = field(default=())


def key_of(path: Path, member: str = "") -> str:
    """Return the absolute path as text that can be stored and shown, `PATH!MEMBER` for what lies inside."""
    return visible(os.path.abspath(path)) + (f"!{visible(member)}" if member else "")


def read_file(path: Path, reader: ReaderProcess, *, inside: Path | None = None) -> FileRead:
    """Read one file; with `inside` only if it really lies in that folder (a link may lead elsewhere).

    A document without a title of its own gets the name of its file; with one, the name stands at the end of the text,
    so a file is always found by its name. The item id is made from title and text, not from the path: the same file is
    the same item on every peer, so that clicks on it add up.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if stat.S_ISSOCK(_mode(path)):
            return FileRead(path, skipped=(Skipped(path, "not a regular file"),))
        remedy = "check the path and its permissions"
        return FileRead(path, skipped=(Skipped(path, _reason(error), remedy),))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return FileRead(path, skipped=(Skipped(path, "not a regular file"),))
        if inside is not None and not _lies_in(descriptor, path, inside):
            why = "a link that leads out of the folder is not followed"
            return FileRead(path, skipped=(Skipped(path, why, "add what it leads to by its own path"),))
        documents: list[StoredDocument] = []
        skipped: list[Skipped] = []
        for answer in reader.read(descriptor, visible(path.name)):
            if isinstance(answer, Refusal):
                skipped.append(Skipped(path, answer.why, answer.remedy, answer.path))
            else:
                documents.append(_document(path, answer))
    finally:
        os.close(descriptor)
    documents.sort(key=lambda document: document.member != "")
    return FileRead(path, tuple(documents), tuple(skipped))


def read_document(path: Path) -> StoredDocument | Skipped:
    """Read one file on its own and return its first document, or why there is none."""
    with ReaderProcess() as reader:
        found = read_file(path, reader)
    return found.documents[0] if found.documents else found.skipped[0]


def _document(path: Path, answer: Member) -> StoredDocument:
    reading = answer.reading
    key = key_of(path, answer.path)
    name = visible(answer.path.rpartition("!")[2].rpartition("/")[2] or path.name)
    title, text = (
        (reading.title, f"{reading.text.rstrip()}\n{name}") if reading.title else (name, reading.text)
    )
    return StoredDocument(
        item_id_of(f"{title}\0{text}"),
        key,
        title,
        text,
        os.path.abspath(path),
        visible(answer.path),
        reading.language,
        reading.written,
        reading.kind,
        reading.note,
        tuple((part.start, part.label) for part in reading.parts),
    )


def _mode(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mode
    return 0


def _lies_in(descriptor: int, path: Path, folder: Path) -> bool:
    """Tell whether the open file lies below `folder`, by its real place."""
    try:
        real = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:  # no /proc: by name
        real = path.resolve()
    return real.is_relative_to(folder.resolve())


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _is_heavy(folder: Path) -> bool:
    return folder.name in _HEAVY_FOLDERS or any((folder / mark).exists() for mark in _FOLDER_MARKS)


def walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path | Skipped]:
    """Yield the files under `folder` in a stable order; hidden entries and heavy folders are left out silently."""
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
                yield from walk(path, seen)
        else:
            yield path


def read_documents(paths: Iterable[Path], reader: ReaderProcess) -> Iterator[FileRead]:
    """Read files and, recursively, folders; yield a `FileRead` for each file, never raise for one.

    A path that is named is read even when it is hidden or a link; inside folders, hidden entries, folders of
    installed or generated files, and links to folders are left out. A file that is reached twice is read once.
    """
    seen: set[tuple[int, int]] = set()
    for path in paths:
        is_folder = path.is_dir()
        found: Iterable[Path | Skipped] = walk(path, seen) if is_folder else (path,)
        for file in found:
            if isinstance(file, Skipped):
                yield FileRead(file.path, skipped=(file,))
                continue
            try:
                status = file.stat()
            except OSError as error:
                yield FileRead(file, skipped=(Skipped(file, _reason(error)),))
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                yield read_file(file, reader, inside=path if is_folder else None)
