"""A backup of a home, and a home made from one.

The backup is a zip file (mode 0600) of the store and the models: documents, events, what was learnt, but no key. The keys of
the device and of its people and the file `flock` go into a second file on request, sealed with a passphrase: scrypt
(RFC 7914; n = 2^15, r = 8, p = 1) and ChaCha20-Poly1305 (RFC 8439).

A restored person must never use a number of its click log again that another device has seen (two entries with one number
condemn the person), and a restored home cannot know which were used after the backup. So it goes on at a random number
far ahead: what was clicked in between comes back from peers, and restoring one backup twice meets no number twice, but
for a chance of about one in ten thousand.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack

from flocklet.errors import ConfigError, IdentityError, StoreError, UsageError
from flocklet.store.home import Home
from flocklet.store.store import SEQ_FLOOR

__all__ = ["back_up", "open_keys", "restore", "seal_keys"]

_FORMAT = 1
_MAGIC = b"flocklet keys 1\n"
_LEAST_JUMP, _MOST_JUMP = 1 << 16, 1 << 24
_MAX_FILE_BYTES = 1 << 40
_NAMES = ("state.db", "format")


def back_up(home: Home, file: Path, *, keys: Path | None = None, passphrase: str = "") -> int:
    """Write the home to `file` and return its size; with `keys` also those, sealed. Nothing that exists is replaced.

    Raises:
        UsageError: a file exists already, or there is no passphrase.
        ConfigError: a file cannot be written.
        StoreError: the store cannot be read.
    """
    for path in (file, keys):
        if path is not None and path.exists():
            raise UsageError(f"{path} exists already", remedy="choose another name")
    if keys is not None and len(passphrase) < 8:
        raise UsageError("the passphrase has fewer than 8 characters")
    if not home.database.exists():
        raise StoreError(f"there is nothing to back up in {home.path}", remedy="check --home")
    with tempfile.TemporaryDirectory(dir=home.path, prefix=".backup-") as scratch:
        copy = Path(scratch) / "state.db"
        people = _copy_store(home.database, copy)
        try:
            _pack(file, copy, home.models)
            if keys is not None:
                held = {
                    p.name: p.read_bytes() for p in (home.key, home.certificate, home.flock) if p.exists()
                }
                _write_new(keys, seal_keys({"files": held, "people": people}, passphrase))
        except OSError as error:
            file.unlink(missing_ok=True)
            raise ConfigError(f"cannot write the backup: {error.strerror or error}") from error
    return file.stat().st_size


def restore(
    home: Home,
    file: Path,
    *,
    keys: Path | None = None,
    passphrase: str = "",
    random_below: Callable[[int], int] = secrets.randbelow,
) -> bool:
    """Make `home` from a backup; return whether it has its keys (else `init` or `join` makes new ones).

    Raises:
        ConfigError: the home is not empty, or the backup cannot be read or is none.
        IdentityError: the keys cannot be opened.
    """
    if any(path.exists() for path in (home.key, home.database, home.flock)):
        raise ConfigError(
            f"{home.path} holds a device already", remedy="pass --home DIR with an empty directory"
        )
    held: dict[str, Any] = {}
    if keys is not None:
        try:
            held = open_keys(keys.read_bytes(), passphrase)
        except OSError as error:
            raise ConfigError(f"cannot read {keys}: {error.strerror}") from error
    home.ensure()
    with tempfile.TemporaryDirectory(dir=home.path, prefix=".restore-") as scratch:
        _unpack(file, Path(scratch))
        database = Path(scratch) / "state.db"
        _go_on_far_ahead(database, held.get("people", []), random_below)
        for model in (Path(scratch) / "models").glob("*"):
            model.replace(home.models / model.name)
        for name, data in held.get("files", {}).items():
            if name not in (home.key.name, home.certificate.name, home.flock.name):
                raise IdentityError(f"the keys name a file {name!r}")
            _write_new(home.path / name, data)
        database.replace(home.database)
    return bool(held)


def seal_keys(content: dict[str, Any], passphrase: str) -> bytes:
    """Return the content of a file of keys."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    plain: bytes = msgpack.packb(content)
    return _MAGIC + salt + nonce + ChaCha20Poly1305(_key(passphrase, salt)).encrypt(nonce, plain, _MAGIC)


def open_keys(data: bytes, passphrase: str) -> dict[str, Any]:
    """Return what `seal_keys` sealed; raise IdentityError for another passphrase or another file."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + 44:
        raise IdentityError(
            "that is no file of keys", remedy="pass the file that 'flocklet backup --keys' wrote"
        )
    rest = data[len(_MAGIC) :]
    try:
        plain = ChaCha20Poly1305(_key(passphrase, rest[:16])).decrypt(rest[16:28], rest[28:], _MAGIC)
    except InvalidTag:
        raise IdentityError(
            "the passphrase is wrong, or the file of keys is damaged", remedy="type it again"
        ) from None
    content = msgpack.unpackb(plain)
    if type(content) is not dict or not {"files", "people"} <= set(content):
        raise IdentityError("that file of keys is of another version")
    return dict(content)


def _key(passphrase: str, salt: bytes) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    return Scrypt(salt=salt, length=32, n=1 << 15, r=8, p=1).derive(
        passphrase.encode("utf-8", "surrogateescape")
    )


def _copy_store(source: Path, target: Path) -> list[tuple[str, bytes, bytes]]:
    """Copy the store, also of a running peer, without the seeds of its people; return those (name, origin, seed)."""
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
            people = list(copy.execute("SELECT name, origin, seed FROM people"))
            copy.execute("PRAGMA secure_delete = ON")
            copy.execute("DELETE FROM people")
            copy.commit()
            copy.execute("VACUUM")
    except sqlite3.Error as error:
        raise StoreError(f"cannot read {source}: {error}") from error
    return people


def _pack(file: Path, database: Path, models: Path) -> None:
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with (
            os.fdopen(descriptor, "wb") as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
        ):
            archive.writestr("format", str(_FORMAT))
            archive.write(database, "state.db")
            for path in sorted(models.glob("*")):
                if path.is_file() and not path.is_symlink():
                    archive.write(path, f"models/{path.name}")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _unpack(file: Path, folder: Path) -> None:
    (folder / "models").mkdir()
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            if not set(_NAMES) <= names or archive.read("format") != str(_FORMAT).encode():
                raise ConfigError(f"{file} is no backup of this version of flocklet")
            for info in archive.infolist():
                head, _, tail = info.filename.rpartition("/")
                is_ours = info.filename in _NAMES or (head == "models" and tail not in ("", ".", ".."))
                if not is_ours or "\\" in info.filename or info.file_size > _MAX_FILE_BYTES:
                    raise ConfigError(f"{file} holds {info.filename!r}, which no backup holds")
                with archive.open(info) as source, (folder / info.filename).open("xb") as target:
                    shutil.copyfileobj(source, target)
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error) as error:
        raise ConfigError(
            f"cannot read {file}: {error}", remedy="pass the file that 'flocklet backup' wrote"
        ) from error


def _go_on_far_ahead(
    database: Path, people: list[tuple[str, bytes, bytes]], random_below: Callable[[int], int]
) -> None:
    try:
        with closing(sqlite3.connect(database)) as db, db:
            for name, origin, seed in people:
                db.execute("INSERT OR IGNORE INTO people VALUES (?, ?, ?)", (name, origin, seed))
                (last,) = db.execute("SELECT max(seq) FROM clicks WHERE origin = ?", (origin,)).fetchone()
                (floor,) = db.execute(
                    "SELECT max(value) FROM meta WHERE key = ?", (SEQ_FLOOR + origin.hex(),)
                ).fetchone()
                jump = _LEAST_JUMP + random_below(_MOST_JUMP - _LEAST_JUMP)
                ahead = max(last or 0, floor or 0) + jump
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SEQ_FLOOR + origin.hex(), ahead))
    except sqlite3.Error as error:
        raise ConfigError(f"the store in the backup is damaged: {error}") from error


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
