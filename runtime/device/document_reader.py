"""Have the owner's files read: every file comes back as its documents, or with the reason why not.

The readers stand in `flocklet.device.readers` and run in a process of their own. A file that cannot be used never
stops the others. Nothing in a file is executed, no address in it is opened, named pipes, sockets and devices are not
touched, and a link is followed only if it is named itself or leads to a place inside of the folder that was added.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from flocklet.device.readers.process import ReaderProcess
from flocklet.device.readers.registry import Member, Refusal
from flocklet.events.item import item_id_of
from flocklet.store.documents import StoredDocument
from flocklet.wire.visible import visible

__all__ = ["FileRead", "Skipped", "key_of", "read_document", "read_file"]


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
