"""Deflate for arrays: one zlib stream whose blocks suit what they hold. Bytes in, bytes out; raise WireError.

Numbers are deflated plane by plane, the highest byte of every value first: signs and exponents of a model's changes are
alike, so their plane shrinks to half, and only then may the bits below stay as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from flocklet.errors import WireError

__all__ = ["deflate_codes", "deflate_planes", "from_planes", "inflate", "planes_of"]


def deflate_codes(data: bytes) -> bytes:
    """Return the smaller of two zlib streams: small changes are runs of zeros, for which matching runs only is best."""
    runs, matches = (_stream(len(data), strategy) for strategy in (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY))
    return min(runs.compress(data) + runs.flush(), matches.compress(data) + matches.flush(), key=len)


def deflate_planes(planes: Sequence[bytes]) -> bytes:
    """Return one zlib stream of the planes behind each other, each with Huffman codes of its own and no matching."""
    stream = _stream(sum(map(len, planes)), zlib.Z_HUFFMAN_ONLY)
    parts = [stream.compress(plane) + stream.flush(zlib.Z_BLOCK) for plane in planes]
    return b"".join(parts) + stream.flush()


def _stream(size: int, strategy: int) -> zlib._Compress:
    """Return a compressor whose window and tables fit `size` bytes: the usual 384 KiB cost more to clear than to use."""
    bits = size.bit_length()
    level = 6 if strategy == zlib.Z_DEFAULT_STRATEGY else 9
    return zlib.compressobj(level, zlib.DEFLATED, min(max(bits, 10), 15), min(max(bits - 6, 1), 9), strategy)


def inflate(data: bytes, size: int) -> bytes:
    """Return the zlib stream `data`, which must hold exactly `size` bytes; never produces more than that."""
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise WireError("a compressed value is damaged", reason="compression") from error
    if len(plain) != size or not stream.eof or stream.unused_data:
        raise WireError(f"a compressed value does not hold the announced {size} bytes", reason="compression")
    return plain


def planes_of(raw: bytes, width: int) -> list[bytes]:
    """Return the bytes of little-endian values of `width` bytes as planes, highest first."""
    table = np.frombuffer(raw, np.uint8).reshape(-1, width)
    return [table[:, place].tobytes() for place in reversed(range(width))]


def from_planes(data: bytes, width: int) -> bytes:
    """Return the values again."""
    table = np.frombuffer(data, np.uint8).reshape(width, -1)
    return table[::-1].T.tobytes()
