"""Content arrives whole or not at all, goes on after a break, and a liar is noticed at the first wrong chunk."""

import asyncio

import numpy as np
import pytest

from flocklet.errors import LinkError, PeerRefused, StoreError, WireError
from flocklet.link.transfer import CHUNK_BYTES, ChunkQuestion, ContentServer, FileSink, MemorySink, fetch
from flocklet.testing.network import Fault, FaultPlan, peers
from flocklet.wire.frame import content_id


class Shelf:
    """A source in memory; counts what was read."""

    def __init__(self, *contents):
        self.contents = {content_id(content): content for content in contents}
        self.reads = 0

    def size(self, id):
        return len(self.contents[id]) if id in self.contents else None

    def read(self, id, offset, count):
        self.reads += 1
        return self.contents[id][offset : offset + count]


def noise(size, seed=0):
    return np.random.default_rng(seed).bytes(size)


async def serve(peer, source):
    """Answer on every link of `peer`, also on later ones."""
    server = ContentServer(source)
    seen = set()
    async with asyncio.TaskGroup() as group:

        async def answer(link):
            try:
                async for request in link:
                    await server.answer(link, request)
            except LinkError:
                return

        while True:
            for link in peer.links:
                if link not in seen:
                    seen.add(link)
                    group.create_task(answer(link))
            await asyncio.sleep(0)


class Serving:
    def __init__(self, peer, source):
        self.task = asyncio.ensure_future(serve(peer, source))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 40 * CHUNK_BYTES + 7])
async def test_content_arrives(size, tmp_path):
    content = noise(size)
    async with peers(2) as (a, b), Serving(b, Shelf(content)):
        link = await a.connect(b)
        sink = MemorySink()
        assert await fetch(link, content_id(content), sink, max_bytes=1 << 30) == size
        assert sink.data == content
        await fetch(link, content_id(content), FileSink(tmp_path / "content"), max_bytes=1 << 30)
        assert (tmp_path / "content").read_bytes() == content
        assert [path.name for path in tmp_path.iterdir()] == ["content"]


async def test_broken_transfer_goes_on_where_it_stopped(tmp_path):
    content = noise(60 * CHUNK_BYTES + 11)
    shelf = Shelf(content)
    plan = FaultPlan(seed=3, rates={Fault.FAIL_WHILE: 0.02}, spare_writes=6)
    attempts = 0
    async with peers(2, plan=plan) as (a, b), Serving(b, shelf):
        while True:
            attempts += 1
            assert attempts < 50, plan
            assert not (tmp_path / "content").exists()
            try:
                link = await a.connect(b)
                await fetch(link, content_id(content), FileSink(tmp_path / "content"), max_bytes=1 << 30)
                break
            except LinkError:
                continue
    assert attempts > 2  # the plan did break it
    assert (tmp_path / "content").read_bytes() == content
    # 61 reads for each table (one per content and server), and few chunks twice.
    assert shelf.reads < 61 + 61 + 8 * attempts


async def test_other_peer_can_finish_what_one_began(tmp_path):
    content = noise(20 * CHUNK_BYTES)
    sink = FileSink(tmp_path / "content")
    for index in range(0, 20, 2):
        sink.put(index, content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    sink.put(4, b"damaged" * 100)
    shelf = Shelf(content)
    async with peers(2) as (a, b), Serving(b, shelf):
        await fetch(await a.connect(b), content_id(content), sink, max_bytes=1 << 30)
    assert (tmp_path / "content").read_bytes() == content
    assert shelf.reads == 20 + 11  # the table, and what was missing or damaged


class Liar(Shelf):
    """Serve other bytes under the promised id."""

    def __init__(self, content, lie):
        super().__init__(content)
        self.contents[content_id(content)] = lie


async def test_wrong_content_is_never_shown(tmp_path):
    content, lie = noise(3 * CHUNK_BYTES), noise(3 * CHUNK_BYTES, seed=1)
    async with peers(2) as (a, b), Serving(b, Liar(content, lie)):
        link = await a.connect(b)
        with pytest.raises(WireError) as caught:
            await fetch(link, content_id(content), FileSink(tmp_path / "content"), max_bytes=1 << 30)
        assert caught.value.reason == "content"
        assert a.endpoint.guard.rejects(b.identity.device_id) == {"content": 1}
    assert list(tmp_path.iterdir()) == []


async def test_wrong_chunk_is_noticed_when_it_comes(tmp_path):
    content = noise(5 * CHUNK_BYTES)

    class Changing(Shelf):
        def read(self, id, offset, count):
            data = super().read(id, offset, count)
            return bytes(count) if self.reads > 5 + 2 else data

    sink = FileSink(tmp_path / "content")
    async with peers(2) as (a, b), Serving(b, Changing(content)):
        with pytest.raises(WireError, match="hash"):
            await fetch(await a.connect(b), content_id(content), sink, max_bytes=1 << 30)
    assert not (tmp_path / "content").exists()
    assert await asyncio.to_thread(sink.chunk, 4, CHUNK_BYTES) != bytes(CHUNK_BYTES)


async def test_limits_and_missing_content(tmp_path):
    content = noise(3 * CHUNK_BYTES)
    async with peers(2) as (a, b), Serving(b, Shelf(content)):
        link = await a.connect(b)
        with pytest.raises(PeerRefused) as caught:
            await fetch(link, bytes(16), MemorySink(), max_bytes=1 << 30)
        assert caught.value.reason == "missing"
        with pytest.raises(WireError) as caught:
            await fetch(link, content_id(content), MemorySink(), max_bytes=100)
        assert caught.value.reason == "size"
        with pytest.raises(StoreError, match="cannot keep"):
            await fetch(link, content_id(content), FileSink(tmp_path / "no" / "where"), max_bytes=1 << 30)
        id = content_id(content)
        for kind, body in (
            ("content?", {}),
            ("content?", {"id": b"x"}),
            ("content?", {"id": 5}),
            ("content?", {"id": id, "at": 1}),
            ("chunk?", {"id": id}),
            ("chunk?", {"id": id, "at": -1, "hash": bytes(16)}),
            ("chunk?", {"id": id, "at": "x", "hash": bytes(16)}),
            ("chunk?", {"id": id, "at": 0, "hash": None}),
        ):
            with pytest.raises(PeerRefused) as caught:
                await link.request(kind, body)
            assert caught.value.reason == "garbage"
        assert b.endpoint.guard.rejects(a.identity.device_id) == {"field": 8}
        for at, hash in ((0, bytes(16)), (99, bytes(16))):
            with pytest.raises(PeerRefused) as caught:
                await link.ask(ChunkQuestion(id, at, hash))
            assert caught.value.reason == "missing"


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"size": -1, "hashes": b""},
        {"size": 1 << 62, "hashes": b""},
        {"size": 10, "hashes": b""},
        {"size": 10, "hashes": bytes(32)},
        {"size": "10", "hashes": bytes(16)},
        {"size": 10, "hashes": [1]},
    ],
)
async def test_hostile_tables(table):
    async with peers(2) as (a, b):
        link = await a.connect(b)
        attempt = asyncio.ensure_future(fetch(link, bytes(16), MemorySink(), max_bytes=1 << 63))
        await b.links[0].reply(await b.links[0].recv(), "content!", table)
        with pytest.raises((PeerRefused, WireError)) as caught:
            await attempt
        assert caught.value.reason in ("garbage", "content")
        assert sum(a.endpoint.guard.rejects(b.identity.device_id).values()) == 1
