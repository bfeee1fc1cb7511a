"""Exchange signed edges with one peer: ask, answer, absorb (sans-I/O, flat maps for `flocklet.wire.frame`).

    {"t": "edg?", "salt": 8 B, "have": Bloom-like set of page digests, "max": pages}
    {"t": "edg!", "p": pages one after the other, "k": public keys of their authors}

The answerer picks sources among the newest edges as Web3Recommend does: one source per exchange, the chance linear
in the recency of its newest edge, and of it the newest trust edges and the newest affinity edges; unlike there, every
page is signed by its author and what the asker has is not sent again. `have` is 4 bytes per page that the asker
holds of the sources it knows, salted anew each time, so two pages that clash once will not clash again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from flocklet.errors import WireError
from flocklet.events.edge import MAX_PAGE_SIZE, Page, read_page
from flocklet.identity.key import origin_of

__all__ = ["MAX_PAGES", "Absorbed", "EdgePool", "absorb", "answer", "request"]

Message = dict[str, Any]

MAX_PAGES = 16
MAX_HAVE = 8_192
MAX_ANSWER_BYTES = 56_000
_DIGEST, _SALT, _KEY = 4, 8, 32
PAUSE_S = 5.0
"""Seconds between two exchanges with random peers, as published."""


@dataclass(frozen=True, slots=True)
class EdgePool:
    """What may be given away: pages by author with the time of their newest edge, and the authors' keys."""

    pages: dict[bytes, list[tuple[int, bytes]]] = field(default_factory=dict)
    keys: dict[bytes, bytes] = field(default_factory=dict)

    def put(self, page: Page, public_key: bytes, *, most: int = 64) -> list[bytes]:
        """Hold a page; return the pages of the same author that gave way (the oldest)."""
        held = self.pages.setdefault(page.src, [])
        self.keys[page.src] = public_key
        if any(raw == page.raw for _, raw in held):
            return []
        held.append((max(edge.ts for edge in page.edges), page.raw))
        held.sort(key=lambda row: row[0], reverse=True)
        gone = [raw for _, raw in held[most:]]
        del held[most:]
        return gone

    def __len__(self) -> int:
        return sum(map(len, self.pages.values()))


@dataclass(slots=True)
class Absorbed:
    """What an answer brought: pages that are signed by their authors, and the keys of these."""

    pages: list[Page] = field(default_factory=list)
    keys: dict[bytes, bytes] = field(default_factory=dict)


def request(pool: EdgePool, salt: bytes, *, most: int = MAX_PAGES) -> Message:
    """Return the message that asks a peer for pages; `salt` is 8 random bytes."""
    have = b"".join(
        _digest(salt, raw) for raw in _newest([raw for rows in pool.pages.values() for raw in rows])
    )
    return {"t": "edg?", "salt": salt, "have": have, "max": most}


def answer(pool: EdgePool, message: Message, rng: np.random.Generator) -> Message:
    """Return up to 16 pages that the asker lacks; raise WireError for a malformed request.

    Sources are drawn one after the other, the chance linear in the rank of their recency.
    """
    salt = message.get("salt")
    have = message.get("have")
    most = message.get("max")
    if message.get("t") != "edg?" or type(salt) is not bytes or len(salt) != _SALT:
        raise WireError("a request for edges has the wrong type or salt")
    if type(have) is not bytes or len(have) % _DIGEST or len(have) > MAX_HAVE * _DIGEST:
        raise WireError("a request for edges has a torn or too long list of what is held")
    if type(most) is not int or not 0 <= most <= MAX_PAGES:
        raise WireError(f"a request for edges asks for more than {MAX_PAGES} pages")
    held = {have[at : at + _DIGEST] for at in range(0, len(have), _DIGEST)}
    pages: list[bytes] = []
    keys: list[bytes] = []
    size = 0
    for source in _by_recency(pool, rng):
        fresh = [raw for _, raw in pool.pages[source] if _digest(salt, raw) not in held]
        for raw in fresh:
            if len(pages) == most or size + len(raw) > MAX_ANSWER_BYTES:
                break
            pages.append(raw)
            size += len(raw)
            if not keys or keys[-1] != pool.keys[source]:
                keys.append(pool.keys[source])
        if len(pages) == most:
            break
    return {"t": "edg!", "p": b"".join(pages), "k": b"".join(keys)}


def absorb(message: Message, is_banned: Callable[[bytes], bool] = lambda origin: False) -> Absorbed:
    """Return what an answer brings; raise WireError for anything no honest peer sends, first of all a forged page."""
    got = Absorbed()
    keys = message.get("k")
    packed = message.get("p")
    if (
        message.get("t") != "edg!"
        or type(keys) is not bytes
        or len(keys) % _KEY
        or len(keys) > MAX_PAGES * _KEY
    ):
        raise WireError("an answer with edges has the wrong type or torn keys")
    if type(packed) is not bytes or len(packed) > MAX_PAGES * MAX_PAGE_SIZE:
        raise WireError("an answer with edges is longer than allowed", reason="too-long")
    known = {origin_of(keys[at : at + _KEY]): keys[at : at + _KEY] for at in range(0, len(keys), _KEY)}
    for raw in _split(packed):
        page = read_page(raw)
        if page.src not in known:
            raise WireError("an answer with edges lacks the key of an author")
        if is_banned(page.src):
            continue
        if not page.is_signed_by(known[page.src]):
            raise WireError("a page of edges has a wrong signature", reason="signature")
        got.pages.append(page)
        got.keys[page.src] = known[page.src]
    return got


def _by_recency(pool: EdgePool, rng: np.random.Generator) -> Iterable[bytes]:
    sources = sorted(pool.pages, key=lambda source: (pool.pages[source][0][0], source))
    chances = np.arange(1, len(sources) + 1, dtype=np.float64)
    if not sources:
        return []
    order = rng.choice(len(sources), len(sources), replace=False, p=chances / chances.sum())
    return [sources[number] for number in order]


def _newest(rows: Sequence[tuple[int, bytes]]) -> list[bytes]:
    return [raw for _, raw in sorted(rows, reverse=True)[:MAX_HAVE]]


def _digest(salt: bytes, raw: bytes) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST, key=salt).digest()


def _split(data: bytes) -> Iterable[bytes]:
    unpacker = msgpack.Unpacker(
        max_buffer_size=max(1, len(data)),
        max_str_len=0,
        max_bin_len=MAX_PAGE_SIZE,
        max_array_len=6,
        max_map_len=0,
    )
    unpacker.feed(data)
    start = 0
    for _ in range(MAX_PAGES):
        if start == len(data):
            return
        try:
            unpacker.skip()
        except (ValueError, msgpack.OutOfData) as error:
            raise WireError("an answer with edges holds broken msgpack") from error
        yield data[start : unpacker.tell()]
        start = unpacker.tell()
    if start != len(data):
        raise WireError(f"an answer with edges holds more than {MAX_PAGES} pages", reason="too-long")
