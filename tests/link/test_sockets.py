"""Links over real loopback sockets: TLS 1.3 only, what strangers get, and nothing left behind."""

import asyncio
import contextlib
import os
import socket
import ssl
from pathlib import Path

import pytest

from flocklet.errors import LinkError, PeerRefused
from flocklet.identity.certificate import certificate_key, make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.settings import LinkSettings
from flocklet.link.sockets import SocketNetwork
from flocklet.link.tls import client_context

FLOCK = Flock.closed(b"s" * 16)


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@contextlib.asynccontextmanager
async def endpoints(count, *, flock=FLOCK, settings=None):
    made = []
    for _ in range(count):
        identity = Identity.generate()
        made.append(Endpoint(Party(identity, make_certificate(identity), flock), settings=settings))
    try:
        yield made
    finally:
        for endpoint in made:
            await endpoint.close()


async def answer(link):
    async for message in link:
        if "rid" in message.header:
            await link.reply(message, "ok", {})


async def test_two_peers_talk_over_tls():
    async with endpoints(2) as (a, b):
        port = await b.serve(["127.0.0.1"])
        tasks = []
        b.on_link = lambda link: tasks.append(asyncio.ensure_future(answer(link)))
        link = await a.connect("127.0.0.1", port, expected=b.party.identity.device_id)
        assert (await link.request("note?", {})).type == "ok"
        assert link.address == f"127.0.0.1:{port}"
        await link.close()
        await asyncio.gather(*tasks)
        assert a.links == b.links == {}


async def test_only_tls_1_3_and_our_own_certificate_are_spoken():
    async with endpoints(1) as (a,):
        port = await a.serve(["127.0.0.1"])
        context = client_context()
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        tls = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        assert certificate_key(tls.getpeercert(True)) == a.party.identity.public_key
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()
        old = client_context()
        old.minimum_version = ssl.TLSVersion.TLSv1_2
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_plain_client_gets_nothing():
    async with endpoints(1) as (a,):
        port = await a.serve(["127.0.0.1"])
        for hello in (b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\xff" * 5000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(hello)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def stranger_server(greeting):
    """Serve what is no peer: a few plain bytes, or silence; yield the port."""
    done = asyncio.Event()

    async def serve(reader, writer):
        writer.write(greeting)
        with contextlib.suppress(ConnectionError):
            await reader.read() if not greeting else await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    await done.wait()
    server.close()
    await server.wait_closed()


async def test_server_that_does_not_speak_tls_is_refused():
    async with stranger_server(b"220 mail ready\r\n") as port, endpoints(1) as (a,):
        with pytest.raises(LinkError, match=r"TLS 1\.3"):
            await a.connect("127.0.0.1", port)


async def test_silent_server_costs_one_deadline():
    settings = LinkSettings(handshake_s=0.2)
    async with stranger_server(b"") as port, endpoints(1, settings=settings) as (a,):
        with pytest.raises(LinkError, match=r"within 0\.2 s"):
            await a.connect("127.0.0.1", port)
        assert a._greetings == {}


async def test_wrong_id_and_wrong_flock_over_sockets():
    async with endpoints(2) as (a, b), endpoints(1, flock=Flock.open()) as (stranger,):
        port = await b.serve(["127.0.0.1"])
        with pytest.raises(PeerRefused) as caught:
            await a.connect("127.0.0.1", port, expected=bytes(32))
        assert caught.value.reason == "key"
        with pytest.raises(PeerRefused) as caught:
            await stranger.connect("127.0.0.1", port)
        assert caught.value.reason == "flock"
        async with asyncio.timeout(5):
            while b.guard.strangers != {"key": 1, "flock": 1}:
                await asyncio.sleep(0.01)
        await a.connect("127.0.0.1", port, expected=b.party.identity.device_id)  # the control


async def test_port_in_use_is_one_line():
    async with endpoints(2) as (a, b):
        port = await a.serve(["127.0.0.1"])
        with pytest.raises(LinkError) as caught:
            await b.serve(["127.0.0.1"], port)
        assert str(caught.value) == f"port {port} on 127.0.0.1 is in use by another program"
        assert "0 takes a free one" in caught.value.remedy
        with pytest.raises(LinkError):
            await b.serve(["127.0.0.1"], 70_000)
        with pytest.raises(LinkError):
            await b.connect("127.0.0.1", 70_000)


async def test_nobody_listens():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with endpoints(1) as (a,):
        with pytest.raises(LinkError, match=f"cannot connect to 127.0.0.1 port {port}"):
            await a.connect("127.0.0.1", port)


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")
async def test_one_port_for_both_families():
    async with endpoints(2) as (a, b):
        port = await b.serve(["127.0.0.1", "::1"])
        four = await a.connect("127.0.0.1", port)
        assert four.address == f"127.0.0.1:{port}"
        six = await a.connect("::1", port)
        assert six.address == f"[::1]:{port}"


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts files through /proc")
async def test_a_thousand_connects_leave_no_file_and_no_task():
    async with endpoints(2) as (a, b):
        port = await b.serve(["127.0.0.1"])
        await (await a.connect("127.0.0.1", port)).close()
        await asyncio.sleep(0.05)
        files, tasks = open_files(), len(asyncio.all_tasks())
        for number in range(1000):
            link = await a.connect("127.0.0.1", port)
            if number % 2:
                await link.close()
            else:
                link._pipe.abort()
        async with asyncio.timeout(5):
            while open_files() > files or len(asyncio.all_tasks()) > tasks:
                await asyncio.sleep(0.01)
        assert open_files() == files
        assert a.links == b.links == a._greetings == b._greetings == {}


async def test_slowloris_loses_its_place_and_honest_peers_get_in():
    """Sixty half-open connections, one byte now and then; there is room for twenty."""
    settings = LinkSettings(handshake_s=1.0, max_half_open=20)
    async with endpoints(2, settings=settings) as (a, b):
        port = await b.serve(["127.0.0.1"])
        attackers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        for _, writer in attackers:
            writer.write(b"\x16")
        await asyncio.sleep(0.05)
        assert len(b._greetings) <= 20
        link = await a.connect("127.0.0.1", port)  # among them
        assert not link.is_closed
        async with asyncio.timeout(10):
            while b.guard.strangers["timeout"] + b.guard.strangers["full"] < 60:
                await asyncio.sleep(0.02)
        assert b._greetings == {}
        assert b.guard.strangers["timeout"] + b.guard.strangers["full"] == 60
        assert not link.is_closed
        for _, writer in attackers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_stranger_inside_tls_that_says_nothing_is_cut_off():
    settings = LinkSettings(handshake_s=0.3)
    async with endpoints(1, settings=settings) as (a,):
        port = await a.serve(["127.0.0.1"])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
        data = await asyncio.wait_for(reader.read(), 5)
        assert b"refuse" in data
        assert b"timeout" in data
        writer.close()
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            await writer.wait_closed()


async def test_garbage_over_sockets_only_ever_costs_the_connection():
    """Strangers inside TLS send mutated hellos; the peer stays up and says why."""
    import random

    from flocklet.link.handshake import Handshake
    from flocklet.wire.frame import Decoder

    rng = random.Random(7)
    async with endpoints(2) as (a, b):
        port = await b.serve(["127.0.0.1"])
        handshake = Handshake(a.party, is_server=False, server_certificate=b.party.certificate, address="b")
        hello = handshake.start()
        reasons = set()
        for _ in range(100):
            bad = bytearray(hello)
            for _ in range(rng.randint(1, 4)):
                bad[rng.randrange(len(bad))] = rng.randrange(256)
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
            writer.write(bytes(bad))
            writer.write_eof() if writer.can_write_eof() else None
            decoder = Decoder()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while data := await reader.read(4096):
                        reasons |= {f.body["reason"] for f in decoder.feed(data) if f.type == "refuse"}
            writer.transport.abort()
        assert {"garbage", "proof", "key", "certificate"} & reasons
        assert not (await a.connect("127.0.0.1", port)).is_closed  # the control
        async with asyncio.timeout(6):
            while b._greetings:
                await asyncio.sleep(0.05)


def test_key_never_touches_the_disk(monkeypatch, tmp_path):
    """The TLS context needs the key in a file: it is one in memory."""
    import tempfile

    from flocklet.link.tls import server_context

    if not hasattr(os, "memfd_create"):
        pytest.skip("this system has no files in memory")
    monkeypatch.setattr(tempfile, "TemporaryDirectory", None)
    before = open_files()
    identity = Identity.generate()
    server_context(identity, make_certificate(identity))
    assert open_files() == before


async def test_dials_leave_by_the_chosen_addresses_only():
    network = SocketNetwork(["127.0.0.2/8"])
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    made = []

    class Seen(asyncio.Protocol):
        def connection_made(self, transport):
            made.append(transport.get_extra_info("sockname")[0])
            transport.close()

    try:
        port = server.sockets[0].getsockname()[1]
        await network.connect(Seen, "127.0.0.1", port)
        assert made == ["127.0.0.2"]
        for host in ("192.0.2.1", "::1", "a-name"):
            with pytest.raises(LinkError, match="no network of the chosen interfaces"):
                await network.connect(Seen, host, port)
    finally:
        server.close()
        await server.wait_closed()


async def test_a_client_that_refuses_after_the_welcome_gives_its_reason():
    """The server's link has begun by then: it must hear the reason, not bytes that break the protocol."""
    identity = Identity.generate()
    strict = Endpoint(
        Party(identity, make_certificate(identity), FLOCK), may_join=lambda device_id, is_newest: "removed"
    )
    async with endpoints(1) as (server,):
        ended: asyncio.Future = asyncio.get_running_loop().create_future()

        async def wait(link):
            async for _ in link:
                pass
            ended.set_result(link.error)

        tasks = []
        server.on_link = lambda link: tasks.append(asyncio.ensure_future(wait(link)))
        port = await server.serve(["127.0.0.1"])
        with pytest.raises(PeerRefused, match="put out"):
            await strict.connect("127.0.0.1", port)
        error = await asyncio.wait_for(ended, 5)
        assert isinstance(error, PeerRefused) and error.reason == "removed"
        assert not server.guard.is_banned(identity.device_id)
        await strict.close()
