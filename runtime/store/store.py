"""The embedded store: documents, people, events, clicks, model versions, deltas seen and peers in one SQLite file.

WAL with `synchronous=NORMAL`: what a method of this class has returned from survives `kill -9` at any moment. A power
cut may lose the last transactions of a drive that lies about its cache, never the consistency of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from flocklet.errors import StoreError, UsageError
from flocklet.store.documents import DocumentTables, signed, unsigned

__all__ = ["Click", "Event", "Person", "RememberedPeer", "Store"]


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody whose clicks this device signs: `seed` is the 32-byte Ed25519 seed, `origin` the 16-byte id."""

    name: str
    origin: bytes
    seed: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """A query and the item ids that were shown for it, best first."""

    query_id: int
    origin: bytes
    query: str
    shown: tuple[int, ...]
    at_s: float


@dataclass(frozen=True, slots=True)
class Click:
    """An encoded, signed click entry with its key (origin, seq)."""

    origin: bytes
    seq: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class RememberedPeer:
    """A peer that proved its key once: where it was, when it was last heard, and why it is banned, if it is."""

    device_id: bytes
    name: str
    addresses: tuple[tuple[str, int], ...]
    first_seen_s: float
    last_seen_s: float
    banned: str | None


SEQ_FLOOR = "seq_floor:"
"""Under this and the hex of an origin stands the least number of its next entry, in a home that was restored."""
_COUNTED = (
    "documents",
    "people",
    "events",
    "clicks",
    "deltas",
    "models",
    "peers",
    "origins",
    "edge_pages",
    "records",
)


class Store(DocumentTables):
    """One open store. Methods are transactions; only the thread that opened it calls them.

    Raises:
        StoreError: from every method, when the file cannot be read or written; the message says why.
    """

    # -- single values --

    def get_meta(self, key: str) -> Any:
        """Return the value kept under `key`, or None."""
        rows = self._rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str | int | float | bytes) -> None:
        """Keep one value under `key`."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def count(self, table: str) -> int:
        """Return the number of rows of one of `_COUNTED`."""
        if table not in _COUNTED:
            raise StoreError(f"there is no table {table!r}")
        return int(self._rows(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - the name is one of the above

    def remove_meta(self, key: str) -> None:
        """Forget the value kept under `key`."""
        with self.transaction() as db:
            db.execute("DELETE FROM meta WHERE key = ?", (key,))

    # -- people and the keys of origins --

    def add_people(self, people: Iterable[Person]) -> None:
        """Keep identities whose clicks this device signs; a name that exists keeps its key."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO people VALUES (?, ?, ?)", [(p.name, p.origin, p.seed) for p in people]
            )

    def retire_people(self) -> None:
        """Forget the keys of everybody hosted here: a copied disk signs for them elsewhere; their clicks stay."""
        with self.transaction() as db:
            db.execute("DELETE FROM people")

    def people(self) -> list[Person]:
        """Return everybody hosted here, by name."""
        return [Person(*row) for row in self._rows("SELECT name, origin, seed FROM people ORDER BY name")]

    def add_origins(self, public_keys: Iterable[tuple[bytes, bytes]], *, via: bytes = b"") -> None:
        """Keep (origin, public key) pairs of people whose records were accepted; the peer `via` brought them."""
        rows = [(origin, key, via) for origin, key in public_keys]
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO origins (origin, public_key, via) VALUES (?, ?, ?)", rows)

    def remove_origins(self, origins: Iterable[bytes]) -> None:
        """Forget the keys of people of whom no record is left."""
        with self.transaction() as db:
            db.executemany(
                "DELETE FROM origins WHERE origin = ?1 AND NOT EXISTS (SELECT 1 FROM clicks WHERE origin = ?1) "
                "AND NOT EXISTS (SELECT 1 FROM edge_pages WHERE src = ?1)",
                [(origin,) for origin in origins],
            )

    def condemn_origin(self, origin: bytes, public_key: bytes, proof: bytes) -> None:
        """Keep the proof that `origin` signed two different entries with one sequence number; its clicks go."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO origins (origin, public_key, proof) VALUES (?, ?, ?) "
                "ON CONFLICT (origin) DO UPDATE SET proof = excluded.proof",
                (origin, public_key, proof),
            )
            db.execute("DELETE FROM clicks WHERE origin = ?", (origin,))

    def origins(self) -> list[tuple[bytes, bytes, bytes | None, bytes]]:
        """Return (origin, public key, proof of equivocation or None, peer that brought it) in the order of origins."""
        return [tuple(row) for row in self._rows("SELECT origin, public_key, proof, via FROM origins")]

    # -- events and clicks --

    def add_event(self, origin: bytes, query: str, shown: Sequence[int], at_s: float) -> int:
        """Keep a query and what was shown for it; return its query id."""
        body = msgpack.packb(list(shown))
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO events (origin, query, shown, at_s) VALUES (?, ?, ?, ?)",
                (origin, query, body, at_s),
            )
            return int(cursor.lastrowid or 0)

    def event(self, query_id: int) -> Event:
        """Return one event.

        Raises:
            UsageError: there is no such query id.
        """
        rows = self._rows(
            "SELECT query_id, origin, query, shown, at_s FROM events WHERE query_id = ?", (query_id,)
        )
        if not rows:
            raise UsageError(
                f"there is no query {query_id}",
                remedy="'flocklet search' prints the id of each query it answers",
            )
        number, origin, query, shown, at_s = rows[0]
        return Event(number, origin, query, tuple(msgpack.unpackb(shown, max_array_len=4096)), at_s)

    def last_event(self, origin: bytes) -> Event:
        """Return the newest event of a person; raise UsageError when there is none."""
        rows = self._rows("SELECT max(query_id) FROM events WHERE origin = ?", (origin,))
        if rows[0][0] is None:
            raise UsageError("nothing was searched for yet", remedy="flocklet search WORDS...")
        return self.event(rows[0][0])

    def next_seq(self, origin: bytes) -> int:
        """Return the sequence number of the next entry of `origin`, counting from 1."""
        last = self._rows("SELECT coalesce(max(seq), 0) FROM clicks WHERE origin = ?", (origin,))[0][0]
        return max(int(last) + 1, int(self.get_meta(SEQ_FLOOR + origin.hex()) or 1))

    def add_clicks(self, clicks: Iterable[Click], *, query_id: int | None = None) -> int:
        """Keep entries, own or of peers, and return how many were new; one transaction."""
        with self.transaction() as db:
            cursor = db.executemany(
                "INSERT OR IGNORE INTO clicks VALUES (?, ?, ?, ?)",
                [(c.origin, c.seq, c.entry, query_id) for c in clicks],
            )
            return cursor.rowcount

    def remove_clicks(self, keys: Iterable[tuple[bytes, int]]) -> None:
        """Forget entries by (origin, seq): those that a quota pushed out."""
        with self.transaction() as db:
            db.executemany("DELETE FROM clicks WHERE origin = ? AND seq = ?", keys)

    def clicks(self) -> Iterator[Click]:
        """Yield every entry in the order of (origin, seq)."""
        last: tuple[bytes, int] = (b"", -1)
        while rows := self._rows(
            "SELECT origin, seq, entry FROM clicks WHERE (origin, seq) > (?, ?) ORDER BY origin, seq LIMIT 2048",
            last,
        ):
            yield from (Click(*row) for row in rows)
            last = rows[-1][:2]

    # -- edges: who trusts whom, who likes what --

    def add_edge_pages(self, pages: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Keep signed pages of edges as (digest, author, page); the same page twice is one row."""
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO edge_pages (digest, src, page) VALUES (?, ?, ?)", pages)

    def remove_edge_pages(self, digests: Iterable[bytes]) -> None:
        """Forget pages that newer ones replace."""
        with self.transaction() as db:
            db.executemany("DELETE FROM edge_pages WHERE digest = ?", [(digest,) for digest in digests])

    def edge_pages(self, after: int = 0) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield (page id, author, page) of every page that came after the page `after`."""
        while rows := self._rows(
            "SELECT page_id, src, page FROM edge_pages WHERE page_id > ? ORDER BY page_id LIMIT 512", (after,)
        ):
            yield from ((row[0], row[1], row[2]) for row in rows)
            after = rows[-1][0]

    def name_items(self, names: Iterable[tuple[int, str]]) -> None:
        """Keep what items are called that are no documents."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO item_names VALUES (?, ?)", [(signed(i), name) for i, name in names]
            )

    def add_played(
        self, origin: bytes, item_id: int, is_finished: bool | None, dwell_s: float | None, at_s: float
    ) -> None:
        """Keep what somebody did with an item; what is None stays as it was."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO played VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET at_s = excluded.at_s, "
                "is_finished = coalesce(excluded.is_finished, is_finished), dwell_s = coalesce(excluded.dwell_s, dwell_s)",
                (origin, signed(item_id), is_finished, dwell_s, at_s),
            )

    def remove_played(self, origin: bytes, item_id: int) -> None:
        """Forget what somebody did with an item."""
        with self.transaction() as db:
            db.execute("DELETE FROM played WHERE origin = ? AND item_id = ?", (origin, signed(item_id)))

    def played(self, origin: bytes, most: int = 10_000) -> list[tuple[int, bool | None, float | None]]:
        """Return (item, finished, seconds) of the newest items that somebody has played, None where not known."""
        query = "SELECT item_id, is_finished, dwell_s FROM played WHERE origin = ? ORDER BY at_s DESC LIMIT ?"
        rows = self._rows(query, (origin, most))
        return [(unsigned(i), None if done is None else bool(done), dwell) for i, done, dwell in rows]

    def item_name(self, item_id: int) -> str | None:
        """Return the title of a document or the name of another item, None when neither is known."""
        document = self.document(item_id)
        if document is not None:
            return document.title or document.key
        rows = self._rows("SELECT name FROM item_names WHERE item_id = ?", (signed(item_id),))
        return str(rows[0][0]) if rows else None

    # -- deltas and model versions --

    def add_delta(
        self, content_id: bytes, author: bytes, size_bytes: int, at_s: float, *, most: int = 4_096
    ) -> bool:
        """Note a delta by its content, the newest `most` of them; return False when it had been seen."""
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT OR IGNORE INTO deltas VALUES (?, ?, ?, ?)", (content_id, author, size_bytes, at_s)
            )
            is_new = cursor.rowcount == 1
            if is_new and db.execute("SELECT count(*) FROM deltas").fetchone()[0] > most:
                db.execute(
                    "DELETE FROM deltas WHERE content_id NOT IN "
                    "(SELECT content_id FROM deltas ORDER BY received_s DESC LIMIT ?)",
                    (most - most // 8,),
                )
            return is_new

    def add_model(
        self, version: bytes, name: str, schema: bytes, base: bytes | None, body: bytes, at_s: float
    ) -> None:
        """Keep one version of a model; the same version twice is one row."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO models VALUES (?, ?, ?, ?, ?, ?)",
                (version, name, schema, base, body, at_s),
            )

    def newest_model(self, name: str) -> tuple[bytes, bytes] | None:
        """Return (version, body) of the newest version of a model, or None."""
        rows = self._rows(
            "SELECT version, body FROM models WHERE name = ? ORDER BY made_s DESC LIMIT 1", (name,)
        )
        return (rows[0][0], rows[0][1]) if rows else None

    def model(self, version: bytes) -> bytes | None:
        """Return the body of a version, or None."""
        rows = self._rows("SELECT body FROM models WHERE version = ?", (version,))
        return rows[0][0] if rows else None

    def prune_models(self, name: str, keep: int) -> None:
        """Forget all but the newest `keep` versions of a model."""
        with self.transaction() as db:
            db.execute(
                "DELETE FROM models WHERE name = ? AND version NOT IN "
                "(SELECT version FROM models WHERE name = ? ORDER BY made_s DESC LIMIT ?)",
                (name, name, keep),
            )

    # -- records of other feeds --

    def records(self, feed: str) -> list[bytes]:
        """Return every record of a feed in the order in which they came."""
        rows = self._rows("SELECT record FROM records WHERE feed = ? ORDER BY number", (feed,))
        return [row[0] for row in rows]

    def change_records(self, feed: str, put: Iterable[tuple[bytes, bytes]], remove: Iterable[bytes]) -> None:
        """Keep (id, record) pairs, one that is held stays as it is, and forget ids."""
        with self.transaction() as db:
            db.executemany(
                "INSERT OR IGNORE INTO records SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3 FROM records "
                "WHERE feed = ?1",
                [(feed, id, record) for id, record in put],
            )
            db.executemany("DELETE FROM records WHERE feed = ? AND id = ?", [(feed, id) for id in remove])

    # -- peers --

    def remember_peer(
        self,
        device_id: bytes,
        name: str,
        addresses: Sequence[tuple[str, int]],
        at_s: float,
        *,
        most: int = 512,
    ) -> None:
        """Keep where a peer was when it last proved its key.

        Of more than `most` the one that was not heard for longest is forgotten, a banned one last.
        """
        body = msgpack.packb([list(a) for a in addresses])
        with self.transaction() as db:
            db.execute(
                "INSERT INTO peers VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (device_id) DO UPDATE SET "
                "name = excluded.name, addresses = excluded.addresses, last_seen_s = excluded.last_seen_s",
                (device_id, name, body, at_s, at_s),
            )
            db.execute(
                "DELETE FROM peers WHERE device_id IN (SELECT device_id FROM peers WHERE device_id != ? "
                "ORDER BY banned IS NULL DESC, last_seen_s LIMIT max(0, (SELECT count(*) FROM peers) - ?))",
                (device_id, most),
            )

    def ban_peer(self, device_id: bytes, ban: tuple[str, float] | None, at_s: float) -> None:
        """Keep that a peer is banned, why and for how many seconds of running time; None: it is not any more."""
        banned = None if ban is None else f"{ban[1]:.0f} {ban[0]}"
        with self.transaction() as db:
            db.execute(
                "INSERT INTO peers VALUES (?, '', ?, ?, ?, ?) ON CONFLICT (device_id) DO UPDATE SET "
                "banned = excluded.banned",
                (device_id, msgpack.packb([]), at_s, at_s, banned),
            )

    def banned_peers(self) -> dict[bytes, tuple[str, float]]:
        """Return who is banned: the reason, and for how many seconds."""
        rows = self._rows("SELECT device_id, banned FROM peers WHERE banned IS NOT NULL")
        split = {device_id: banned.partition(" ") for device_id, banned in rows}
        return {id: (why, float(seconds)) for id, (seconds, _, why) in split.items() if seconds.isdigit()}

    def peers(self) -> list[RememberedPeer]:
        """Return the remembered peers, last heard first."""
        rows = self._rows(
            "SELECT device_id, name, addresses, first_seen_s, last_seen_s, banned FROM peers ORDER BY last_seen_s DESC"
        )
        return [
            RememberedPeer(i, name, tuple((h, p) for h, p in msgpack.unpackb(addresses)), first, last, banned)
            for i, name, addresses, first, last, banned in rows
        ]
