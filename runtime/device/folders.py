"""Follow files and folders: find what changed since the last time, have it read, and hand it over in batches.

A file whose size, times and inode are those of the last time costs one stat. One whose stat changed but whose bytes did
not (a digest) is not read again. A file that was left out is tried again when the readers have changed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from flocklet.device.device import Device
from flocklet.device.document_reader import FileRead, Skipped, key_of, read_file
from flocklet.device.ignored import NAMES, Rules
from flocklet.device.readers.encodings import GUESSED
from flocklet.device.readers.process import ReaderProcess
from flocklet.store.documents import Folder, StoredDocument, StoredFile

__all__ = ["READERS", "Added", "Batch", "Plan", "changed_files", "plan_of", "read_batches", "read_documents"]

READERS = 1
"""Version of the readers: what was left out by another one is tried again."""
_BATCH = 256
_BATCH_CHARS = 8 << 20
_RACY_NS = 2_000_000_000  # a file may change twice within one tick of its clock
_HEAVY_FOLDERS = frozenset(("node_modules", "__pycache__", "site-packages"))
# A folder with one of these is a virtual environment or says of itself that it is a cache (bford.info/cachedir).
_FOLDER_MARKS = frozenset(("pyvenv.cfg", "CACHEDIR.TAG"))


@dataclass(slots=True)
class Plan:
    """Hold what to look at: each path with how it is followed, and what its files were the last time.

    While files are found they are taken out of `known`: what is left at the end is gone.
    """

    folders: list[Folder] = field(default_factory=list)
    known: dict[str, StoredFile] = field(default_factory=dict)
    is_again: bool = False


@dataclass(slots=True)
class Batch:
    """Documents of whole files, what the files are now, and what was left out, each with its reason."""

    documents: list[StoredDocument] = field(default_factory=list)
    files: list[StoredFile] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    guessed: int = 0
    unchanged: int = 0


def plan_of(
    device: Device,
    paths: Sequence[Path],
    *,
    exclude: Sequence[str] = (),
    is_hidden: bool = False,
    is_again: bool = False,
) -> Plan:
    """Return the plan for `paths`; a folder among them is followed from now on. `is_again`: read everything anew."""
    followed = {folder.path: folder for folder in device.store.folders()}
    plan = Plan(is_again=is_again)
    for path in map(str, paths):
        folder = followed.get(path)
        if Path(path).is_dir() and (folder is None or exclude or is_hidden):
            old = folder or Folder(path, added_s=device.clock.time())
            patterns = tuple(dict.fromkeys((*old.exclude, *exclude)))
            folder = replace(old, exclude=patterns, is_hidden=old.is_hidden or is_hidden)
            device.store.keep_folder(folder)
        plan.folders.append(folder or Folder(path))
        plan.known |= device.store.files_below(path)
    return plan


def _entries(folder: Folder) -> Iterator[tuple[str, os.stat_result] | Skipped]:
    """Yield (path, stat) of the files in a folder and below in a stable order, or of the one file that it is."""
    seen: set[tuple[int, int]] = set()
    waiting: list[tuple[str, Rules]] = [(folder.path, Rules().with_lines(folder.exclude, folder.path))]
    while waiting:
        at, rules = waiting.pop()
        try:
            here = Path(at).stat()
            with os.scandir(at) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(Path(at), (error.strerror or type(error).__name__).lower())
            continue
        if (here.st_dev, here.st_ino) in seen:
            continue
        seen.add((here.st_dev, here.st_ino))
        names = {entry.name for entry in entries}
        if at != folder.path and not _FOLDER_MARKS.isdisjoint(names):
            continue
        for name in NAMES:
            if name in names:
                rules = rules.with_file(f"{at}/{name}", at)
        below: list[tuple[str, Rules]] = []
        for entry in entries:
            if entry.name.startswith(".") and not folder.is_hidden:
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if rules.rows and rules.leave_out(entry.path, is_folder=is_folder):
                continue
            if is_folder:
                if entry.name not in _HEAVY_FOLDERS:
                    below.append((entry.path, rules))
                continue
            try:
                if entry.is_symlink() and entry.is_dir():
                    yield Skipped(
                        Path(entry.path), "a link to a folder is not followed", "add the folder itself"
                    )
                    continue
                status = entry.stat()
            except OSError as error:
                yield Skipped(Path(entry.path), (error.strerror or type(error).__name__).lower())
                continue
            yield entry.path, status
        waiting += reversed(below)


def changed_files(plan: Plan) -> Iterator[tuple[str, os.stat_result, Path | None] | Skipped | StoredFile]:
    """Yield the files that need reading (with the folder they must lie in), what is left out, and the unchanged ones."""
    seen: set[tuple[int, int]] = set()
    for folder in plan.folders:
        path = Path(folder.path)
        inside: Path | None = path
        if path.is_dir():
            entries: Iterator[tuple[str, os.stat_result] | Skipped] = _entries(folder)
        else:
            inside = None
            try:
                entries = iter([(folder.path, path.stat())])
            except OSError as error:
                yield Skipped(path, (error.strerror or type(error).__name__).lower())
                continue
        for entry in entries:
            if isinstance(entry, Skipped):
                yield entry
                continue
            name, status = entry
            known = plan.known.pop(name, None)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if known is not None and not plan.is_again and _is_same(known, status):
                yield known
            else:
                if known is not None:
                    plan.known[name] = known
                yield name, status, inside
                plan.known.pop(name, None)


def _is_same(known: StoredFile, status: os.stat_result) -> bool:
    return (
        (known.size, known.mtime_ns, known.ctime_ns, known.inode)
        == (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        and known.seen_ns - status.st_mtime_ns > _RACY_NS
        and (not known.why or known.reader == READERS)
    )


def read_batches(plan: Plan) -> Iterator[Batch]:
    """Yield what changed, so many documents at a time that memory and transactions stay small."""
    batch, size = Batch(), 0
    with ReaderProcess() as reader:
        for found in changed_files(plan):
            if isinstance(found, Skipped):
                batch.skipped.append(_told(found))
                continue
            if isinstance(found, StoredFile):
                batch.unchanged += not found.why
                if found.why:
                    batch.skipped.append(
                        {"path": key_of(Path(found.path)), "why": found.why, "remedy": found.remedy}
                    )
                continue
            name, status, inside = found
            before = plan.known.get(name)
            digest = _digest(name) if stat.S_ISREG(status.st_mode) else b""
            if (
                before is not None
                and digest
                and digest == before.digest
                and not plan.is_again
                and not before.why
            ):
                batch.files.append(_file(name, status, digest))
                batch.unchanged += 1
                continue
            read = read_file(Path(name), reader, inside=inside)
            batch.files.append(_file(name, status, digest, read))
            batch.skipped += map(_told, read.skipped)
            batch.documents += read.documents
            batch.guessed += sum(document.note == GUESSED for document in read.documents)
            size += sum(len(document.text) for document in read.documents)
            if len(batch.documents) >= _BATCH or size >= _BATCH_CHARS:
                yield batch
                batch, size = Batch(), 0
    yield batch


def read_documents(paths: Iterable[Path], reader: ReaderProcess) -> Iterator[FileRead]:
    """Read files and, recursively, folders; yield a `FileRead` for each file, never raise for one.

    A path that is named is read even when it is hidden or a link; inside folders, hidden entries, folders of installed or
    generated files, what .gitignore names and links to folders are left out. A file that is reached twice is read once.
    """
    for found in changed_files(Plan([Folder(os.path.abspath(path)) for path in paths])):
        if isinstance(found, Skipped):
            yield FileRead(found.path, skipped=(found,))
        elif not isinstance(found, StoredFile):
            yield read_file(Path(found[0]), reader, inside=found[2])


def _told(skipped: Skipped) -> dict[str, str]:
    return {"path": skipped.name, "why": skipped.why, "remedy": skipped.remedy}


def _digest(path: str) -> bytes:
    """Return BLAKE2b-128 of a file's bytes, nothing when it cannot be read."""
    digest = blake2b(digest_size=16)
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return b""
    return digest.digest()


def _file(path: str, status: os.stat_result, digest: bytes, read: FileRead | None = None) -> StoredFile:
    refused = read.skipped[0] if read is not None and not read.documents and read.skipped else None
    return StoredFile(
        path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest,
        refused.why if refused else "", refused.remedy if refused else "", READERS, time.time_ns(),
    )  # fmt: skip


@dataclass(slots=True)
class Added:
    """The sum over the batches of one look at files."""

    added: int = 0
    unchanged: int = 0
    gone: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    guessed: int = 0

    def take(self, device: Device, batch: Batch) -> None:
        """Index one batch."""
        added = device.library.add(batch.documents)
        device.store.keep_files(batch.files)
        self.added += added
        self.unchanged += batch.unchanged + len(batch.documents) - added
        self.skipped += batch.skipped
        self.guessed += batch.guessed

    def finish(self, device: Device, plan: Plan) -> dict[str, Any]:
        """Forget the files that are no longer there and return the answer of the verb."""
        self.gone += device.library.forget_files(list(plan.known))
        for folder in plan.folders:
            if not os.path.lexists(folder.path):
                self.gone += device.library.remove_path(folder.path)
        return {
            "added": self.added,
            "unchanged": self.unchanged,
            "gone": self.gone,
            "skipped": self.skipped,
            "guessed": self.guessed,
            "documents": len(device.index),
        }
