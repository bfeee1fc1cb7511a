"""The tables of the store, as an ordered list of migrations.

`PRAGMA user_version` counts the applied ones. A migration is never edited after a release: append a new one.
64-bit unsigned item ids are kept as SQLite's signed integers (two's complement).
"""

from __future__ import annotations

__all__ = ["APPLICATION_ID", "MIGRATIONS"]

APPLICATION_ID = 0x666C6B74  # "flkt"

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

    CREATE TABLE documents (
        item_id INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        title TEXT NOT NULL,
        text TEXT NOT NULL,
        path TEXT,
        added_s REAL NOT NULL
    );
    CREATE INDEX documents_path ON documents (path);

    CREATE TABLE people (
        name TEXT PRIMARY KEY,
        origin BLOB NOT NULL UNIQUE,
        seed BLOB NOT NULL
    );

    CREATE TABLE origins (origin BLOB PRIMARY KEY, public_key BLOB NOT NULL, proof BLOB) WITHOUT ROWID;

    CREATE TABLE events (
        query_id INTEGER PRIMARY KEY AUTOINCREMENT,
        origin BLOB NOT NULL,
        query TEXT NOT NULL,
        shown BLOB NOT NULL,
        at_s REAL NOT NULL
    );

    CREATE TABLE clicks (
        origin BLOB NOT NULL,
        seq INTEGER NOT NULL,
        entry BLOB NOT NULL,
        query_id INTEGER REFERENCES events (query_id),
        PRIMARY KEY (origin, seq)
    ) WITHOUT ROWID;

    CREATE TABLE deltas (
        content_id BLOB PRIMARY KEY,
        author BLOB NOT NULL,
        size_bytes INTEGER NOT NULL,
        received_s REAL NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE models (
        version BLOB PRIMARY KEY,
        name TEXT NOT NULL,
        schema BLOB NOT NULL,
        base BLOB,
        body BLOB NOT NULL,
        made_s REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX models_name ON models (name, made_s);

    CREATE TABLE peers (
        device_id BLOB PRIMARY KEY,
        name TEXT NOT NULL,
        addresses BLOB NOT NULL,
        first_seen_s REAL NOT NULL,
        last_seen_s REAL NOT NULL,
        banned TEXT
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE edge_pages (
        page_id INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        src BLOB NOT NULL,
        page BLOB NOT NULL
    );
    CREATE INDEX edge_pages_src ON edge_pages (src);

    CREATE TABLE item_names (item_id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    """,
    """
    CREATE TABLE played (
        origin BLOB NOT NULL,
        item_id INTEGER NOT NULL,
        is_finished INTEGER,
        dwell_s REAL,
        at_s REAL NOT NULL,
        PRIMARY KEY (origin, item_id)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE records (
        feed TEXT NOT NULL,
        number INTEGER NOT NULL,
        id BLOB NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (feed, number)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX records_id ON records (feed, id);
    """,
    """
    ALTER TABLE documents ADD COLUMN member TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN language TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN written TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN kind TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN note TEXT NOT NULL DEFAULT '';
    ALTER TABLE documents ADD COLUMN parts BLOB;
    UPDATE documents SET path = CAST(path AS BLOB);

    CREATE TABLE files (
        path BLOB PRIMARY KEY,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        digest BLOB NOT NULL,
        why TEXT NOT NULL,
        remedy TEXT NOT NULL,
        reader INTEGER NOT NULL,
        seen_ns INTEGER NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE folders (
        path BLOB PRIMARY KEY,
        exclude BLOB NOT NULL,
        is_hidden INTEGER NOT NULL,
        is_private INTEGER NOT NULL,
        added_s REAL NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE origins ADD COLUMN via BLOB NOT NULL DEFAULT x'';
    """,
    """
    CREATE INDEX documents_language ON documents (language);
    """,
    """
    CREATE INDEX documents_about ON documents (item_id, title, key, path, language, written, kind, added_s);
    """,
)
