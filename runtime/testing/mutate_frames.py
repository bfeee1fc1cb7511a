"""Mutate real frames for the tests and benchmarks that attack the decoder; part of the test kit."""

from __future__ import annotations

import random
import struct

import numpy as np

from flocklet.identity.key import Identity
from flocklet.wire.frame import Deflated, Quantised, Sparse, encode_hop, seal
from flocklet.wire.kinds import Credit, Ping

__all__ = ["mutated", "specimens"]

PIECES = (
    b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01",
    b"\x91" * 400, b"\x81\xa1a" * 100, b"\x90" * 2000, b"\x80" * 2000, b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xd6\xff\0\0\0\1",
    b"\xc1", b"\xa2v\xff", b"\x00" * 64, b"\xff" * 64, b"\xc7\x00\x01", b"\xd9\xff",
)  # fmt: skip


def specimens(seed: int = 1) -> list[tuple[bool, bytes]]:
    """Return valid frames of every kind: (only after authentication, bytes)."""
    rng = np.random.default_rng(seed)
    author = Identity.from_seed(bytes([seed]) * 32)
    w = rng.standard_normal((8, 5)).astype(np.float32)
    sparse = Sparse((1000,), np.array([1, 70, 999]), np.ones(3, dtype=np.float16))
    many = Sparse((1000,), np.arange(0, 1000, 4), np.ones(250, dtype=np.float16))  # travels deflated
    small = Deflated(rng.standard_normal((40, 30)).astype(np.float16))
    quantised = Quantised((100,), 4, 10, np.ones(10, np.float32), rng.integers(-8, 8, 100).astype(np.int8))
    hello = {
        "versions": [2, 2],
        "key": author.public_key,
        "certificate": rng.bytes(256),
        "nonce": bytes(32),
        "run": bytes(8),
        "tags": ["open"],
        "compressors": ["zlib"],
        "schemas": [bytes(16)],
        "frame": 1 << 20,
        "features": ["edges?"],
    }
    return [
        (False, encode_hop("hello", hello)),
        (
            False,
            encode_hop(
                "proof", {"signature": bytes(64), "mac": bytes(32), "data": 32, "control": 64, "records": b""}
            ),
        ),
        (False, encode_hop("refuse", {"reason": "flock"})),
        (True, encode_hop(Ping(28_000_000))),
        (True, encode_hop(Credit(data=16))),
        (True, encode_hop("clicks?", {"have": rng.bytes(400), "max": 512}, rid=9)),
        (True, encode_hop("clicks!", {"entries": [rng.bytes(200) for _ in range(20)], "more": False}, re=9)),
        (True, encode_hop("chunk!", {"data": rng.bytes(4096)}, re=1)),
        (True, encode_hop("offer", {"x": [1.5, None, True, "text"]})),
        (True, seal(author, "send", {"w": w, "q": quantised}, run=bytes(8), seq=3, round=2, base=bytes(16))),
        (True, seal(author, "send", {"w": small, "s": many}, run=bytes(8), seq=5, round=2, base=bytes(16))),
        (True, seal(author, "gossip", {"s": sparse, "n": {"a": 1, "b": 2}}, run=bytes(8), seq=4)),
    ]


def mutated(rng: random.Random, base: list[tuple[bool, bytes]]) -> tuple[bool, bytes]:
    """Return a damaged copy of one of `base`: flips, cuts, repeats, foreign pieces, lies about lengths, pure noise."""
    is_open, original = rng.choice(base)
    data = bytearray(original)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        way = rng.randrange(8)
        place = rng.randrange(len(data)) if data else 0
        if way == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1 and data:
            data[place] = rng.randrange(256)
        elif way == 2:
            del data[place : place + rng.randint(1, 40)]
        elif way == 3:
            data[place:place] = rng.choice(PIECES)
        elif way == 4:
            data[place:place] = data[place : place + rng.randint(1, 200)]
        elif way == 5:
            data[place : place + 4] = struct.pack(">I", rng.choice((0, 1, 65536, 1 << 20, (1 << 32) - 1)))
        elif way == 6:
            data = bytearray(rng.randbytes(rng.randint(1, 600)))
        else:
            is_open = not is_open
    if (
        rng.random() < 0.6 and len(data) > 6
    ):  # make the length fit again, so that what lies behind it is reached
        data[:4] = struct.pack(">I", len(data) - 4)
    return is_open, bytes(data)
