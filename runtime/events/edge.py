"""Read and write signed edges: who trusts whom, who likes what (PROTOCOL.md, "Edges").

One edge:   `[1, src 16 B, target, weight f32, ts u32, signature 64 B]`
One page:   `[2, src 16 B, records, signature 64 B]`, 1 to 128 edges of one author under one signature

as a msgpack array in its shortest form, so a record has one encoding. `target` is a 16-byte origin (a trust
edge, weight -1..1) or a u64 item id (an affinity edge, weight 0..1). A record of a page is 23 bytes, big-endian:
`kind u8 | target 16 B (an item: 8 zero bytes, then the id) | weight f16 | ts u32` with kind 1 = trust and
2 = affinity; weights are binary16, which is what the graph keeps. The signature is Ed25519 over the array without
its last element. Weight 0 withdraws an edge. Of two edges with the same author, kind and target the one with the
newer `ts` holds, on a tie the larger weight, so every peer ends with the same graph in whatever order they come.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import msgpack
import numpy as np

from flocklet.errors import WireError
from flocklet.identity.key import origin_of, verify

__all__ = [
    "AFFINITY",
    "MAX_PAGE_EDGES",
    "MAX_PAGE_SIZE",
    "TRUST",
    "Edge",
    "EdgeSigner",
    "Page",
    "read_page",
    "sign_edge",
    "sign_page",
]

TRUST, AFFINITY = 1, 2
MAX_PAGE_EDGES = 128
_ORIGIN, _SIGNATURE = 16, 64
_RECORD = struct.Struct(">B16seI")
MAX_PAGE_SIZE = 1 + 1 + 18 + 3 + MAX_PAGE_EDGES * _RECORD.size + 66
_FORMAT_EDGE, _FORMAT_PAGE = 1, 2
_MAX_U32, _MAX_U64 = 2**32 - 1, 2**64 - 1


class EdgeSigner(Protocol):
    """What signs edges: `flocklet.identity.key.Identity` of a person."""

    @property
    def origin(self) -> bytes:
        """16 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        ...


@dataclass(frozen=True, slots=True)
class Edge:
    """One opinion: `target` is an origin (trust, weight -1..1) or an item id (affinity, weight 0..1).

    Raises:
        WireError: a value is outside its range.
    """

    src: bytes
    target: bytes | int
    weight: float
    ts: int

    def __post_init__(self) -> None:
        if type(self.src) is not bytes or len(self.src) != _ORIGIN:
            raise WireError("the author of an edge is not 16 bytes")
        lowest = -1.0
        if type(self.target) is int:
            lowest = 0.0
            if not 0 <= self.target <= _MAX_U64:
                raise WireError("an edge leads to an item that is not a 64-bit number")
        elif type(self.target) is not bytes or len(self.target) != _ORIGIN:
            raise WireError("an edge leads neither to 16 bytes nor to a 64-bit number")
        elif self.target == self.src:
            raise WireError("an edge leads from a person to the same person", reason="self")
        if type(self.weight) not in (float, int) or not math.isfinite(self.weight):
            raise WireError("the weight of an edge is not a finite number", reason="finite")
        if not lowest <= self.weight <= 1.0:
            raise WireError(f"the weight of an edge is outside {lowest:g}..1", reason="weight")
        if type(self.ts) is not int or not 0 <= self.ts <= _MAX_U32:
            raise WireError("the time of an edge is outside 0..2^32-1")

    @property
    def kind(self) -> int:
        """TRUST or AFFINITY."""
        return AFFINITY if isinstance(self.target, int) else TRUST


@dataclass(frozen=True, slots=True)
class Page:
    """Edges of one author under one signature; `raw` is what travels and what is stored."""

    src: bytes
    edges: tuple[Edge, ...]
    raw: bytes

    def is_signed_by(self, public_key: bytes) -> bool:
        """Return whether `public_key` is the key of the author and signed this page."""
        body, signature = _split(self.raw)
        return origin_of(public_key) == self.src and verify(public_key, signature, body)


def sign_edge(identity: EdgeSigner, target: bytes | int, weight: float, ts: int) -> Page:
    """Return one signed edge; the weight is rounded to binary16, as the graph keeps it."""
    edge = Edge(identity.origin, target, float(np.float16(weight)), ts)
    body = _pack([_FORMAT_EDGE, edge.src, edge.target, edge.weight, edge.ts])
    return Page(edge.src, (edge,), _join(body, identity.sign(body)))


def sign_page(identity: EdgeSigner, edges: Sequence[tuple[bytes | int, float, int]]) -> Page:
    """Return 1 to 128 edges (target, weight, ts) of one author under one signature."""
    if not 1 <= len(edges) <= MAX_PAGE_EDGES:
        raise WireError(f"a page holds 1 to {MAX_PAGE_EDGES} edges, not {len(edges)}")
    kept = tuple(Edge(identity.origin, t, float(np.float16(w)), ts) for t, w, ts in edges)
    body = _pack([_FORMAT_PAGE, identity.origin, _records(kept)])
    return Page(identity.origin, kept, _join(body, identity.sign(body)))


def read_page(data: bytes) -> Page:
    """Return the edge or page in `data`; raise WireError for anything but its only encoding.

    Every limit is checked before or while parsing; the signature is not verified here.
    """
    if type(data) is not bytes or len(data) > MAX_PAGE_SIZE:
        raise WireError(f"a page of edges is longer than {MAX_PAGE_SIZE} bytes", reason="too-long")
    try:
        values: Any = msgpack.unpackb(
            data,
            use_list=False,
            max_str_len=0,
            max_bin_len=MAX_PAGE_EDGES * _RECORD.size,
            max_array_len=6,
            max_map_len=0,
            max_ext_len=0,
        )
    except ValueError as error:
        raise WireError("an edge is not a msgpack array within the limits") from error
    if type(values) is not tuple or len(values) < 2 or type(values[0]) is not int:
        raise WireError("an edge is not an array that starts with its format")
    if type(values[-1]) is not bytes or len(values[-1]) != _SIGNATURE:
        raise WireError("the signature of an edge is not 64 bytes")
    if values[0] == _FORMAT_EDGE and len(values) == 6:
        edges: tuple[Edge, ...] = (Edge(*values[1:5]),)
        src, target, weight, ts = values[1:5]
        body = _pack([_FORMAT_EDGE, src, target, float(weight), ts])  # a whole number is a second spelling
    elif values[0] == _FORMAT_PAGE and len(values) == 4:
        edges = tuple(_parse(values[1], values[2]))
        body = _pack([_FORMAT_PAGE, values[1], values[2]])
    else:
        raise WireError("an edge has an unknown format", reason="version")
    if _join(body, values[-1]) != data:
        raise WireError("an edge is not in its shortest form", reason="not-canonical")
    return Page(edges[0].src, edges, data)


def _records(edges: Iterable[Edge]) -> bytes:
    rows = []
    for edge in edges:
        target = edge.target.to_bytes(_ORIGIN, "big") if isinstance(edge.target, int) else edge.target
        rows.append(_RECORD.pack(edge.kind, target, edge.weight, edge.ts))
    return b"".join(rows)


def _parse(src: Any, records: Any) -> Iterable[Edge]:
    if type(records) is not bytes or not records or len(records) % _RECORD.size:
        raise WireError("the records of a page of edges are torn")
    for kind, target, weight, ts in _RECORD.iter_unpack(records):
        if kind not in (TRUST, AFFINITY):
            raise WireError("a page holds an edge of an unknown kind", reason="version")
        yield Edge(src, int.from_bytes(target, "big") if kind == AFFINITY else target, weight, ts)


def _pack(values: Sequence[Any]) -> bytes:
    return cast(bytes, msgpack.packb(values, use_single_float=True))


def _join(body: bytes, signature: bytes) -> bytes:
    return bytes([body[0] + 1]) + body[1:] + b"\xc4\x40" + signature


def _split(data: bytes) -> tuple[bytes, bytes]:
    body = data[: -_SIGNATURE - 2]
    return bytes([body[0] - 1]) + body[1:], data[-_SIGNATURE:]
