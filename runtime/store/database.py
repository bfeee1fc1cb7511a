"""One SQLite file: opening, migrating, checking, transactions, and errors that say what to do."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from flocklet.errors import StoreError
from flocklet.store.migrations import APPLICATION_ID, MIGRATIONS

__all__ = ["Database"]

_BUSY_TIMEOUT_S = 10.0

_DAMAGED_REMEDY = (
    "move state.db away and start again: your files are untouched, 'flocklet add' indexes them anew and peers send "
    "their clicks back"
)

_ROOM_BYTES = 128 * 1024  # SQLite needs this much for the write-ahead log and its index


def _is_full(path: Path) -> bool:
    """Tell an I/O error for lack of space from one of the drive."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(path.parent).free < _ROOM_BYTES
    return False


class Database:
    """An open SQLite file in WAL mode, used by the thread that opened it and by no other (`sqlite3` refuses).

    Raises:
        StoreError: from every method, when the file cannot be read or written; the message says why.
    """

    def __init__(self, path: Path, *, check: bool = False) -> None:
        """Open or create the store at `path` and bring it up to date; `check` looks for damage first."""
        self.path = path
        with self._explained():
            self._db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            try:
                path.chmod(0o600)
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("PRAGMA foreign_keys = ON")
                if check:
                    self._look_for_damage()
                self._migrate()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA optimize")
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one clear line."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a defect of ours, another thread for instance
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(self.path)):
                raise StoreError(
                    f"disk full while writing {self.path}", remedy="free some space; nothing was lost"
                ) from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise StoreError(
                    f"the store {self.path} is damaged: {error}", remedy=_DAMAGED_REMEDY
                ) from error
            if code == sqlite3.SQLITE_READONLY:
                raise StoreError(f"the store {self.path} is read-only") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise StoreError(
                    f"another process holds the store {self.path}", remedy="stop it, then try again"
                ) from error
            raise StoreError(f"cannot use the store {self.path}: {error}") from error
        except PermissionError as error:
            raise StoreError(f"cannot use the store {self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a block of statements that happen together or not at all."""
        with self._explained():
            if self._db.in_transaction:  # nested: the outer block commits
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._explained():
            return self._db.execute(statement, values).fetchall()

    def _look_for_damage(self) -> None:
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise StoreError(
                f"the store {self.path} is damaged: {found and found[0]}", remedy=_DAMAGED_REMEDY
            )

    def _migrate(self) -> None:
        applied = self._db.execute("PRAGMA user_version").fetchone()[0]
        owner = self._db.execute("PRAGMA application_id").fetchone()[0]
        if applied == len(MIGRATIONS) and owner == APPLICATION_ID:
            return
        if applied > len(MIGRATIONS):
            raise StoreError(
                f"the store {self.path} was written by a newer flocklet (format {applied}, this one reads up to "
                f"{len(MIGRATIONS)})",
                remedy="install the newer version again, or pass another --home DIR",
            )
        if owner not in (0, APPLICATION_ID) or (
            applied == 0 and self._db.execute("PRAGMA schema_version").fetchone()[0]
        ):
            raise StoreError(
                f"{self.path} is a database of another program", remedy="pass another --home DIR"
            )
        with self.transaction() as db:
            for number in range(applied, len(MIGRATIONS)):
                for statement in MIGRATIONS[number].split(";"):
                    if statement.strip():
                        db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
