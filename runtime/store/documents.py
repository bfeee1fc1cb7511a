"""The owner's documents in the store, the files they were read from, and the folders that are followed.

Paths are kept as the bytes of the file system (`os.fsencode`); in Python they are `str` with surrogate escapes.
64-bit unsigned item ids are kept as SQLite's signed integers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from flocklet.store.database import Database

__all__ = ["DocumentTables", "Folder", "StoredDocument", "StoredFile", "signed", "unsigned"]


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document with the path of the file that it came from.

    `member` names the part of that file (a message of a mailbox, an attachment), "" for the file itself. `language` is
    ISO 639-1 or "", `written` a date YYYY-MM-DD or "", `kind` the format. `parts` are (start, label) by place in the text.
    """

    item_id: int
    key: str
    title: str
    text: str
    path: str | None = None
    member: str = ""
    language: str = ""
    written: str = ""
    kind: str = ""
    note: str = ""
    parts: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What a file was when it was last read: its stat, the digest of its bytes, and why nothing came of it ("": it did).

    `reader` is the version of the readers: what was left out by an older one is tried again.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: bytes
    why: str = ""
    remedy: str = ""
    reader: int = 0
    seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that is followed: patterns left out, whether hidden files are read, whether clicks on it stay here."""

    path: str
    exclude: tuple[str, ...] = ()
    is_hidden: bool = False
    is_private: bool = False
    added_s: float = 0.0


def signed(item_id: int) -> int:
    """Return a u64 as SQLite keeps it."""
    return item_id - (1 << 64) if item_id >= 1 << 63 else item_id


def unsigned(value: int) -> int:
    """Return what SQLite keeps as the u64 that it stands for."""
    return value + (1 << 64) if value < 0 else value


_COLUMNS = "item_id, key, title, text, path, member, language, written, kind, note, parts"


def _document(row: Sequence[Any]) -> StoredDocument:
    path = None if row[4] is None else os.fsdecode(row[4])
    parts = tuple((start, label) for start, label in msgpack.unpackb(row[10])) if row[10] else ()
    member, language, written, kind, note = row[5:10]
    return StoredDocument(
        unsigned(row[0]), row[1], row[2], row[3], path, member, language, written, kind, note, parts
    )


def _below(path: str) -> tuple[bytes, bytes, bytes]:
    """Return the path itself and the bounds of the paths below it: from the first on, before the second."""
    folder = os.fsencode(path).rstrip(b"/")
    return folder or b"/", folder + b"/", folder + b"0"  # "0" comes after "/"


def _plain(text: str) -> str:
    """Return `text` for LIKE with its signs escaped by a backslash."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


class DocumentTables(Database):
    """Documents, files and folders. Methods are transactions; only the thread that opened it calls them."""

    # -- documents --

    def add_documents(self, documents: Iterable[StoredDocument], at_s: float) -> None:
        """Keep documents; the same item id, or the same part of the same file, replaces what was there."""
        with self.transaction() as db:
            for document in documents:
                path = None if document.path is None else os.fsencode(document.path)
                if path is not None:
                    db.execute(
                        "DELETE FROM documents WHERE path = ? AND member = ? AND item_id != ?",
                        (path, document.member, signed(document.item_id)),
                    )
                parts = msgpack.packb([list(part) for part in document.parts]) if document.parts else b""
                db.execute(
                    f"INSERT OR REPLACE INTO documents ({_COLUMNS}, added_s) VALUES ({'?, ' * 11}?)",  # noqa: S608
                    (
                        *(signed(document.item_id), document.key, document.title, document.text, path),
                        *(document.member, document.language, document.written, document.kind, document.note),
                        *(parts, at_s),
                    ),
                )
            self._count_change(db)

    def remove_documents(self, item_ids: Iterable[int]) -> int:
        """Forget documents and return how many there were."""
        with self.transaction() as db:
            cursor = db.executemany(
                "DELETE FROM documents WHERE item_id = ?", [(signed(i),) for i in item_ids]
            )
            self._count_change(db)
            return cursor.rowcount

    @staticmethod
    def _count_change(db: sqlite3.Connection) -> None:
        db.execute(
            "INSERT INTO meta VALUES ('documents_generation', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
        )

    def documents_generation(self) -> int:
        """Return a counter that grows with every change of the documents; index snapshots carry it."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'documents_generation'")
        return int(rows[0][0]) if rows else 0

    def documents(self) -> Iterator[StoredDocument]:
        """Yield every document in the order of item ids."""
        newer, last = ">=", -(1 << 63)
        while rows := self._rows(
            f"SELECT {_COLUMNS} FROM documents WHERE item_id {newer} ? ORDER BY item_id LIMIT 512",  # noqa: S608
            (last,),
        ):
            yield from map(_document, rows)
            newer, last = ">", rows[-1][0]

    def document(self, item_id: int) -> StoredDocument | None:
        """Return one document, or None."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM documents WHERE item_id = ?", (signed(item_id),))  # noqa: S608
        return _document(rows[0]) if rows else None

    def languages(self) -> dict[str, int]:
        """Return how many documents there are in each language, "" for those whose language is not known."""
        return dict(self._rows("SELECT language, count(*) FROM documents GROUP BY language"))

    def documents_in(self, language: str) -> list[StoredDocument]:
        """Return the documents in one language."""
        rows = self._rows(f"SELECT {_COLUMNS} FROM documents WHERE language = ?", (language,))  # noqa: S608
        return [_document(row) for row in rows]

    def document_ids_with(self, fields: Iterable[tuple[str, str, bool]]) -> list[int]:
        """Return the ids of the documents that pass all (field, value, is excluded): see `models.search.index.query`.

        `title`, `path`: holds the text; `in`: lies below the folder; `type`: kind or suffix; `lang`; `before`, `after`: the
        date that the document bears, else the day on which it was added.
        """
        clauses: list[str] = []
        values: list[Any] = []
        written = "(CASE WHEN written != '' THEN written ELSE date(added_s, 'unixepoch') END)"
        for name, value, is_excluded in fields:
            lower = value.lower()
            given: list[Any]
            match name:
                case "title":
                    clause, given = "instr(lower(title), ?) > 0", [lower]
                case "path":
                    clause, given = "instr(lower(key), ?) > 0", [lower]
                case "in":
                    folder, first, last = _below(os.path.abspath(value))
                    clause, given = "(path = ? OR (path >= ? AND path < ?))", [folder, first, last]
                case "type":
                    suffix = lower.lstrip(".")
                    clause, given = (
                        "(kind = ? OR lower(key) LIKE ? ESCAPE '\\')",
                        [suffix, f"%.{_plain(suffix)}"],
                    )
                case "lang":
                    clause, given = "language = ?", [lower]
                case "before":
                    clause, given = f"{written} < ?", [value]
                case _:
                    clause, given = f"{written} >= ?", [value]
            clauses.append(f"NOT {clause}" if is_excluded else clause)
            values += given
        rows = self._rows(f"SELECT item_id FROM documents WHERE {' AND '.join(clauses) or '1'}", values)  # noqa: S608
        return [unsigned(row[0]) for row in rows]

    def newest_first(self, item_ids: Iterable[int]) -> list[int]:
        """Return those of `item_ids` that are here, by the date they bear or were added on, the newest first."""
        wanted = set(item_ids)
        rows = self._rows(
            "SELECT item_id FROM documents ORDER BY CASE WHEN written != '' THEN written ELSE "
            "date(added_s, 'unixepoch') END DESC, key"
        )
        return [item for row in rows if (item := unsigned(row[0])) in wanted]

    def paths_below(self, path: str) -> list[tuple[int, str]]:
        """Return (item id, path) of the documents whose file is `path` or lies below it."""
        rows = self._rows(
            "SELECT item_id, path FROM documents WHERE path = ? OR (path >= ? AND path < ?) ORDER BY path",
            _below(path),
        )
        return [(unsigned(item_id), os.fsdecode(file)) for item_id, file in rows]

    def item_ids_at(self, path: str) -> list[int]:
        """Return the ids of the documents that were read from the file `path`."""
        rows = self._rows(
            "SELECT item_id FROM documents WHERE path = ? ORDER BY member", (os.fsencode(path),)
        )
        return [unsigned(row[0]) for row in rows]

    # -- files --

    def files_below(self, path: str) -> dict[str, StoredFile]:
        """Return the files at or below `path` by their paths."""
        rows = self._rows(
            "SELECT path, size, mtime_ns, ctime_ns, inode, digest, why, remedy, reader, seen_ns FROM files "
            "WHERE path = ? OR (path >= ? AND path < ?)",
            _below(path),
        )
        files = (StoredFile(os.fsdecode(row[0]), *row[1:]) for row in rows)
        return {file.path: file for file in files}

    def keep_files(self, files: Iterable[StoredFile]) -> None:
        """Keep what files are now."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        *(os.fsencode(f.path), f.size, f.mtime_ns, f.ctime_ns, f.inode, f.digest),
                        *(f.why, f.remedy, f.reader, f.seen_ns),
                    )
                    for f in files
                ],
            )

    def forget_files(self, paths: Iterable[str]) -> None:
        """Forget files, not their documents."""
        with self.transaction() as db:
            db.executemany("DELETE FROM files WHERE path = ?", [(os.fsencode(path),) for path in paths])

    # -- folders --

    def folders(self) -> list[Folder]:
        """Return the folders that are followed, by path."""
        rows = self._rows("SELECT path, exclude, is_hidden, is_private, added_s FROM folders ORDER BY path")
        return [
            Folder(os.fsdecode(row[0]), tuple(msgpack.unpackb(row[1])), bool(row[2]), bool(row[3]), row[4])
            for row in rows
        ]

    def keep_folder(self, folder: Folder) -> None:
        """Follow a folder, or change how."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?, ?)",
                (
                    *(os.fsencode(folder.path), msgpack.packb(list(folder.exclude))),
                    *(folder.is_hidden, folder.is_private, folder.added_s),
                ),
            )

    def forget_folder(self, path: str) -> bool:
        """Follow a folder no longer; return whether it was followed."""
        with self.transaction() as db:
            return db.execute("DELETE FROM folders WHERE path = ?", (os.fsencode(path),)).rowcount > 0
