"""What a link costs: connecting, streaming, signing; beside bare TLS of asyncio on the same loopback.

python benchmarks/link.py [--json FILE] [--rounds 200] [--mib 200]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import ssl
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from flocklet.identity.certificate import make_certificate
from flocklet.identity.flock import Flock
from flocklet.identity.key import Identity, verify
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.tls import client_context
from flocklet.link.transfer import ContentServer, MemorySink, fetch
from flocklet.wire.frame import DATA_LIMITS, content_id, open_frame, pack_body, seal, unpack_body

FRAME = 64 * 1024
TARGETS = {
    "connect_prove_first_byte_ms": "<= 10",
    "stream_mib_s": ">= 200",
    "seal_53kb_us": "< 300 sign+verify+hash",
}


class Shelf:
    """A source of one content."""

    def __init__(self, size: int) -> None:
        self.content = os.urandom(size)
        self.id = content_id(self.content)

    def size(self, id):
        """Return the size of the one content."""
        return len(self.content) if id == self.id else None

    def read(self, id, offset, count):
        """Return a part of it."""
        return self.content[offset : offset + count]


def party(flock):
    identity = Identity.generate()
    return Party(identity, make_certificate(identity), flock)


class BareTls:
    """A bare asyncio TLS server: echoes the first byte, then answers every `awaited` bytes with one."""

    def __init__(self) -> None:
        self.awaited = 1 << 62

    async def start(self, identity):
        """Listen; return the port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        pem = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem + ssl.DER_cert_to_PEM_cert(make_certificate(identity)).encode())
            file.flush()
            context.load_cert_chain(file.name)
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context, limit=1 << 18)
        return self.server.sockets[0].getsockname()[1]

    async def serve(self, reader, writer):
        """Answer one client."""
        with contextlib.suppress(ssl.SSLError, OSError, asyncio.IncompleteReadError):
            writer.write(await reader.readexactly(1))
            total = 0
            while data := await reader.read(1 << 18):
                total += len(data)
                if total >= self.awaited:
                    writer.write(b"!")
                    total = 0
        writer.close()


async def measure(rounds: int, mib: int) -> dict[str, float]:
    flock, shelf, tasks = Flock.generate(), Shelf(32 << 20), []

    async def answer(link):
        server = ContentServer(shelf)
        async for message in link:
            if not await server.answer(link, message) and "rid" in message.header:
                await link.reply(message, "ok", {})

    ours, theirs, bare = Endpoint(party(flock)), Endpoint(party(flock)), BareTls()
    theirs.on_link = lambda link: tasks.append(asyncio.ensure_future(answer(link)))
    port, tls_port = await theirs.serve(["127.0.0.1"]), await bare.start(theirs.party.identity)
    context = client_context()

    async def open_bare():
        reader, writer = await asyncio.open_connection("127.0.0.1", tls_port, ssl=context)
        writer.write(b"x")
        await reader.readexactly(1)
        return reader, writer

    link_ms, tls_ms = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        link = await ours.connect("127.0.0.1", port, expected=theirs.party.identity.device_id)
        await link.request("offer", {})
        link_ms.append(1e3 * (time.perf_counter() - start))
        await link.close()
        start = time.perf_counter()
        _, writer = await open_bare()
        tls_ms.append(1e3 * (time.perf_counter() - start))
        writer.close()
        with contextlib.suppress(ssl.SSLError, OSError):
            await writer.wait_closed()

    data, count = os.urandom(FRAME), mib * (1 << 20) // FRAME
    link = await ours.connect("127.0.0.1", port)
    reader, writer = await open_bare()
    stream, tls_stream = [], []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(count):
            await link.send("data!", {"data": data})
        await link.request("offer", {})
        stream.append(mib / (time.perf_counter() - start))
        bare.awaited = count * FRAME
        start = time.perf_counter()
        for _ in range(count):
            writer.write(data)
            await writer.drain()
        await reader.readexactly(1)
        tls_stream.append(mib / (time.perf_counter() - start))
    writer.close()
    start = time.perf_counter()
    await fetch(link, shelf.id, MemorySink(), max_bytes=1 << 30)
    fetched = 32 / (time.perf_counter() - start)
    await ours.close()
    await theirs.close()
    bare.server.close()
    await asyncio.gather(*tasks)
    return {
        "connect_prove_first_byte_ms": statistics.median(link_ms),
        "bare_tls_connect_echo_ms": statistics.median(tls_ms),
        "connect_ratio": statistics.median(link_ms) / statistics.median(tls_ms),
        "stream_mib_s": statistics.median(stream),
        "stream_worst_mib_s": min(stream),
        "bare_tls_stream_mib_s": statistics.median(tls_stream),
        "verified_transfer_mib_s": fetched,
    }


def micro() -> dict[str, float]:
    """Measure one frame with a 53 kB delta: the four tensors of a 196-64-10 network."""
    identity, rng = Identity.generate(), np.random.default_rng(1)
    shapes = ((196, 64), (64,), (64, 10), (10,))
    body = {str(n): rng.standard_normal(shape).astype(np.float32) for n, shape in enumerate(shapes)}
    packed, digest = pack_body(body), bytes(32)
    sealed = seal(identity, "send", body, run=bytes(8), seq=1)
    signature = identity.sign(digest)

    def median_us(call, repeats=300):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return 1e6 * statistics.median(times)

    return {
        "sign_us": median_us(lambda: identity.sign(digest)),
        "verify_us": median_us(lambda: verify(identity.public_key, signature, digest)),
        "hash_53kb_us": median_us(lambda: content_id(packed)),
        "pack_53kb_us": median_us(lambda: pack_body(body)),
        "unpack_53kb_us": median_us(lambda: unpack_body(packed, DATA_LIMITS)),
        "seal_53kb_us": median_us(lambda: seal(identity, "send", body, run=bytes(8), seq=1)),
        "open_53kb_us": median_us(lambda: open_frame(sealed)),
        "body_framing_bytes_4_tensors": len(packed) - sum(tensor.nbytes for tensor in body.values()),
        "sealed_overhead_bytes": len(sealed) - len(packed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--mib", type=int, default=200)
    arguments = parser.parse_args()
    found = {**asyncio.run(measure(arguments.rounds, arguments.mib)), **micro()}
    for name, value in found.items():
        print(f"{name:32} {value:10.2f}   {TARGETS.get(name, '')}".rstrip())
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
