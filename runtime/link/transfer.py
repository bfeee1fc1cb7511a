"""Fetch content by id in verified chunks; a broken transfer goes on where it stopped (PROTOCOL.md, "Content").

Content is a sequence of bytes named by BLAKE2b-128 of all of them. It travels as a table of chunk hashes (BLAKE2b-128
of each 64 KiB) and the chunks. Every chunk is verified before it is kept, the whole before it is handed out. What
was kept is found again by its hashes, so a transfer resumes after a crash, and from another peer.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Protocol

from flocklet.errors import StoreError, WireError
from flocklet.link.link import Link
from flocklet.wire.frame import Frame, content_id
from flocklet.wire.kinds import Kind
from flocklet.wire.schema import Within

__all__ = [
    "CHUNK_BYTES",
    "CONTENT_KINDS",
    "ChunkAnswer",
    "ChunkQuestion",
    "ContentAnswer",
    "ContentQuestion",
    "ContentServer",
    "FileSink",
    "MemorySink",
    "Sink",
    "Source",
    "fetch",
]

CHUNK_BYTES = 64 * 1024
HASH_BYTES = 16
MAX_CHUNKS = 60_000  # the table of hashes must fit into one data message
IN_FLIGHT = 8
KEPT_TABLES = 64
_ID = Within(HASH_BYTES, HASH_BYTES)


@dataclass(frozen=True, slots=True)
class ContentQuestion:
    """Ask for the table of a content."""

    kind: ClassVar[str] = "content?"
    id: Annotated[bytes, _ID]


@dataclass(frozen=True, slots=True)
class ContentAnswer:
    """Answer with the size and the hash of every chunk."""

    kind: ClassVar[str] = "content!"
    size: Annotated[int, Within(0, MAX_CHUNKS * CHUNK_BYTES)]
    hashes: Annotated[bytes, Within(0, MAX_CHUNKS * HASH_BYTES, step=HASH_BYTES)]


@dataclass(frozen=True, slots=True)
class ChunkQuestion:
    """Ask for chunk number `at` of a content, which has this hash."""

    kind: ClassVar[str] = "chunk?"
    id: Annotated[bytes, _ID]
    at: Annotated[int, Within(0, MAX_CHUNKS - 1)]
    hash: Annotated[bytes, _ID]


@dataclass(frozen=True, slots=True)
class ChunkAnswer:
    """Answer with the bytes of a chunk."""

    kind: ClassVar[str] = "chunk!"
    data: Annotated[bytes, Within(1, CHUNK_BYTES)]


CONTENT_KINDS = tuple(Kind.of(m) for m in (ContentQuestion, ContentAnswer, ChunkQuestion, ChunkAnswer))


class Source(Protocol):
    """Where content that peers may ask for is kept."""

    def size(self, id: bytes) -> int | None:
        """Return the number of bytes of a content, or None if it is not here."""
        ...

    def read(self, id: bytes, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset`."""
        ...


class Sink(Protocol):
    """Where fetched content goes; what it holds survives a broken transfer."""

    def chunk(self, index: int, size: int) -> bytes | None:
        """Return what an earlier attempt left in place of this chunk, if `size` bytes are there."""
        ...

    def put(self, index: int, data: bytes) -> None:
        """Keep a verified chunk."""
        ...

    def finish(self, id: bytes, size: int) -> bool:
        """Verify the whole against `id` and make it visible; return False, keeping nothing, if it does not match."""
        ...


class MemorySink:
    """Keep content in memory; read `data` after the fetch."""

    def __init__(self) -> None:
        self.data = b""
        self._chunks: dict[int, bytes] = {}

    def chunk(self, index: int, size: int) -> bytes | None:
        """Return a chunk of an earlier attempt."""
        return self._chunks.get(index)

    def put(self, index: int, data: bytes) -> None:
        """Keep a chunk."""
        self._chunks[index] = data

    def finish(self, id: bytes, size: int) -> bool:
        """Join the chunks."""
        data = b"".join(self._chunks[index] for index in sorted(self._chunks))[:size]
        self._chunks.clear()
        if content_id(data) != id:
            return False
        self.data = data
        return True


class FileSink:
    """Keep content in `path`, which appears whole or not at all; until then in `path` + `.partial`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")

    def chunk(self, index: int, size: int) -> bytes | None:
        """Return a chunk of an earlier attempt."""
        try:
            with self.partial.open("rb") as file:
                file.seek(index * CHUNK_BYTES)
                return file.read(size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _disk(self.partial, error) from error

    def put(self, index: int, data: bytes) -> None:
        """Write a chunk in its place."""
        try:
            descriptor = os.open(self.partial, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, data, index * CHUNK_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _disk(self.partial, error) from error

    def finish(self, id: bytes, size: int) -> bool:
        """Verify, sync and rename."""
        try:
            digest = hashlib.blake2b(digest_size=HASH_BYTES)
            with self.partial.open("ab+") as file:
                file.truncate(size)
                file.seek(0)
                while piece := file.read(CHUNK_BYTES):
                    digest.update(piece)
                os.fsync(file.fileno())
            if digest.digest() != id:
                self.partial.unlink()
                return False
            self.partial.replace(self.path)
        except OSError as error:
            raise _disk(self.partial, error) from error
        return True


def _disk(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot keep {path}: {error.strerror or error}")


async def fetch(link: Link, id: bytes, sink: Sink, *, max_bytes: int, timeout_s: float | None = None) -> int:
    """Fetch the content `id` into `sink`; return its size. `timeout_s` bounds each request, not the whole.

    Raise LinkError if the link breaks (call again with the same sink to go on, with any peer), PeerRefused if the
    peer lacks it, WireError with reason `content` if the peer sent something else.
    """
    table: ContentAnswer = await link.ask(ContentQuestion(id), timeout_s=timeout_s)
    size, hashes = table.size, table.hashes
    if size > max_bytes:
        raise WireError(f"a content of {size} bytes is larger than {max_bytes}", reason="size")
    count = -(-size // CHUNK_BYTES)
    if len(hashes) != count * HASH_BYTES:
        raise _wrong(link, "its table of content is malformed")

    missing = await asyncio.to_thread(_missing, sink, hashes, size)
    todo = iter(missing)

    async def work() -> None:
        for index in todo:
            wanted = _hash(hashes, index)
            reply: ChunkAnswer = await link.ask(ChunkQuestion(id, index, wanted), timeout_s=timeout_s)
            data = reply.data
            if len(data) != _chunk_size(index, size):
                raise _wrong(link, "a chunk is malformed")
            if content_id(data) != wanted:
                raise _wrong(link, "a chunk does not match its hash")
            sink.put(index, data)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, len(missing))):
                group.create_task(work())
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    if not await asyncio.to_thread(sink.finish, id, size):
        raise _wrong(link, "the whole does not match its id")
    return size


def _missing(sink: Sink, hashes: bytes, size: int) -> list[int]:
    """Return the chunks that no earlier attempt left whole."""
    missing = []
    for index in range(len(hashes) // HASH_BYTES):
        kept = sink.chunk(index, _chunk_size(index, size))
        if kept is None or content_id(kept) != _hash(hashes, index):
            missing.append(index)
    return missing


def _wrong(link: Link, what: str) -> WireError:
    link.reject("content")
    return WireError(f"content from {link.peer.name}: {what}", reason="content")


def _chunk_size(index: int, size: int) -> int:
    return min(CHUNK_BYTES, size - index * CHUNK_BYTES)


def _hash(hashes: bytes, index: int) -> bytes:
    return hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]


class ContentServer:
    """Answer `get` requests from a source; keeps the hash tables of the last contents."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._tables: OrderedDict[bytes, bytes] = OrderedDict()

    async def answer(self, link: Link, request: Frame) -> bool:
        """Answer a question for content that came on `link`, an unknown id too; False when it asks something else."""
        match request.body:
            case ContentQuestion(id=id):
                await self._tell_table(link, request, id)
            case ChunkQuestion():
                await self._tell_chunk(link, request, request.body)
            case _:
                return False
        return True

    async def _tell_table(self, link: Link, request: Frame, id: bytes) -> None:
        size = self._source.size(id)
        if size is None or size > MAX_CHUNKS * CHUNK_BYTES:
            await link.fail(request, "missing")
        else:
            await link.answer(request, ContentAnswer(size, await self._table(id, size)))

    async def _tell_chunk(self, link: Link, request: Frame, asked: ChunkQuestion) -> None:
        id, at, size = asked.id, asked.at, self._source.size(asked.id)
        # Compared with the table, not hashed again: the receiver verifies the bytes.
        if (
            size is None
            or size > MAX_CHUNKS * CHUNK_BYTES
            or at * CHUNK_BYTES >= size
            or asked.hash != _hash(await self._table(id, size), at)
        ):
            await link.fail(request, "missing")
            return
        data = self._source.read(id, at * CHUNK_BYTES, _chunk_size(at, size))
        await link.answer(request, ChunkAnswer(data))

    async def _table(self, id: bytes, size: int) -> bytes:
        table = self._tables.get(id)
        if table is None:
            hashes = []
            for index in range(-(-size // CHUNK_BYTES)):
                hashes.append(
                    content_id(self._source.read(id, index * CHUNK_BYTES, _chunk_size(index, size)))
                )
                if index % 16 == 15:
                    await asyncio.sleep(0)  # let other links have their turn
            table = self._tables[id] = b"".join(hashes)
            if len(self._tables) > KEPT_TABLES:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(id)
        return table
