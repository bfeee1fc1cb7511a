"""Exchange signed edges with one peer: ask, answer, absorb (sans-I/O).

`edges?` carries a salted digest of every page held, `edges!` answers with pages and the keys of their authors. The
answerer picks sources among the newest edges as Web3Recommend does: one source per exchange, the chance linear
in the recency of its newest page (by arrival here: no author's clock decides), newest first; unlike there, every
page is signed by its author and what the asker has is not sent again. `have` is 4 bytes per page that the asker
holds of the sources it knows, salted anew each time, so two pages that clash once will not clash again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import msgpack
import numpy as np

from flocklet.errors import WireError
from flocklet.events.edge import MAX_PAGE_SIZE, Page, read_page
from flocklet.events.edge_pool import EdgePool
from flocklet.events.feed import Steps
from flocklet.identity.key import origin_of
from flocklet.wire.schema import Within

__all__ = [
    "MAX_NAMES_BYTES",
    "MAX_PAGES",
    "MAX_WANTED",
    "Absorbed",
    "EdgeAnswer",
    "EdgeQuestion",
    "absorb_steps",
    "answer_steps",
    "question",
]

MAX_PAGES = 16
MAX_HAVE = 8_192
MAX_ANSWER_BYTES = 56_000
MAX_WANTED = 128
MAX_NAMES_BYTES = 8_192
_DIGEST, _SALT, _KEY = 4, 8, 32
_DIGEST_STEP = 1_024  # digests of one slice, about a millisecond
_PAGE_STEP = 4  # pages of 128 edges whose signatures are checked in one slice


@dataclass(frozen=True, slots=True)
class EdgeQuestion:
    """Ask for at most `max` pages beside those in `have` (digests under `salt`) and for names of the items `want`."""

    kind: ClassVar[str] = "edges?"
    salt: Annotated[bytes, Within(_SALT, _SALT)]
    have: Annotated[bytes, Within(0, MAX_HAVE * _DIGEST, step=_DIGEST)]
    max: Annotated[int, Within(0, MAX_PAGES)]
    want: Annotated[bytes, Within(0, 8 * MAX_WANTED, step=8)] = b""


@dataclass(frozen=True, slots=True)
class EdgeAnswer:
    """Answer with pages one after the other, the keys of their authors, and names with NUL between them."""

    kind: ClassVar[str] = "edges!"
    p: Annotated[bytes, Within(0, MAX_PAGES * MAX_PAGE_SIZE)]
    k: Annotated[bytes, Within(0, MAX_PAGES * _KEY, step=_KEY)]
    n: Annotated[bytes, Within(0, MAX_NAMES_BYTES)] = b""


@dataclass(slots=True)
class Absorbed:
    """What an answer brought: pages that are signed by their authors, and the keys of these."""

    pages: list[Page] = field(default_factory=list)
    keys: dict[bytes, bytes] = field(default_factory=dict)


def question(pool: EdgePool, salt: bytes, *, most: int = MAX_PAGES, want: bytes = b"") -> EdgeQuestion:
    """Return the message that asks a peer for pages; `salt` is 8 random bytes."""
    rows = [raw for rows in pool.pages.values() for raw in rows]
    told = [*_newest(rows), *pool.declined][:MAX_HAVE]
    return EdgeQuestion(salt, b"".join(_digest(salt, raw) for raw in told), most, want)


def answer_steps(pool: EdgePool, asked: EdgeQuestion, rng: np.random.Generator) -> Steps[EdgeAnswer]:
    """Return in slices up to 16 pages that the asker lacks.

    Sources are drawn one after the other, the chance linear in the rank of their recency.
    """
    held = {asked.have[at : at + _DIGEST] for at in range(0, len(asked.have), _DIGEST)}
    pages: list[bytes] = []
    keys: list[bytes] = []
    size, since = 0, 0
    for source in _by_recency(pool, rng):
        rows = list(pool.pages.get(source, ()))
        since += len(rows)
        if since >= _DIGEST_STEP:
            since = 0
            yield
        fresh = [raw for _, raw in rows if _digest(asked.salt, raw) not in held]
        for raw in fresh:
            if len(pages) == asked.max or size + len(raw) > MAX_ANSWER_BYTES:
                break
            pages.append(raw)
            size += len(raw)
            if not keys or keys[-1] != pool.keys[source]:
                keys.append(pool.keys[source])
        if len(pages) == asked.max:
            break
    return EdgeAnswer(b"".join(pages), b"".join(keys))


def absorb_steps(
    told: EdgeAnswer, into: Absorbed, is_banned: Callable[[bytes], bool] = lambda origin: False
) -> Steps[None]:
    """Put what an answer brings into `into`; raise WireError for anything no honest peer sends, first of all a forged
    page: then nothing of the answer is taken.
    """
    got = Absorbed()
    known = {origin_of(told.k[at : at + _KEY]): told.k[at : at + _KEY] for at in range(0, len(told.k), _KEY)}
    for number, raw in enumerate(_split(told.p), start=1):
        page = read_page(raw)
        if page.src not in known:
            raise WireError("an answer with edges lacks the key of an author")
        if is_banned(page.src):
            continue
        if not page.is_signed_by(known[page.src]):
            raise WireError("a page of edges has a wrong signature", reason="signature")
        got.pages.append(page)
        got.keys[page.src] = known[page.src]
        if number % _PAGE_STEP == 0:
            yield
    into.pages += got.pages
    into.keys.update(got.keys)


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
