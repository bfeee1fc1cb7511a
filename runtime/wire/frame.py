"""Frames: what goes over a link, one after the other (PROTOCOL.md, "Frames").

    u32 length | u16 header length | header | body | signature (64 B, author frames only)

A message type is either a *hop* message or an *author* message; the table below decides, never the sender. A hop
message speaks to the neighbour only: TLS protects it, it carries no signature, and it is never relayed or stored.
An author message is signed by its author (Ed25519 over BLAKE2b-256 of header length, header and body), so whoever
relays or stores it keeps the proof. The decoder verifies it before anybody sees it.

Sans-I/O: bytes in, frames out. The decoder raises WireError and nothing else.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import msgpack

from flocklet.errors import WireError
from flocklet.identity.key import Identity, device_id_of, verify
from flocklet.wire.arrays import ArrayValue, Deflated, Quantised, Sparse
from flocklet.wire.body import Body, Limits, pack_body, unpack_body
from flocklet.wire.door import CONTROL_ITEMS, DATA_ITEMS, MAX_DEPTH, Door
from flocklet.wire.kinds import Kind, Role, Size
from flocklet.wire.messages import (
    HANDSHAKE_VERSION,
    MESSAGES,
    PROTOCOL_VERSION,
    check_header,
    message_of,
    parse_header,
)
from flocklet.wire.schema import Message, body_of

__all__ = [
    "CONTROL_LIMITS",
    "DATA_LIMITS",
    "HANDSHAKE_LIMITS",
    "MESSAGES",
    "PROTOCOL_VERSION",
    "ArrayValue",
    "Body",
    "Decoder",
    "Deflated",
    "Frame",
    "Limits",
    "Quantised",
    "Size",
    "Sparse",
    "content_id",
    "encode_hop",
    "frame_type",
    "join_frame",
    "message_of",
    "open_frame",
    "pack_body",
    "seal",
    "unpack_body",
]

SIGNATURE_BYTES = 64
MAX_HEADER_BYTES = 512
FLOOR_BUFFER = 32 * 1024
PREFIX = struct.Struct(">IH")

HANDSHAKE_LIMITS = Limits(max_bytes=4096, max_items=128, max_total_items=256, max_depth=2, max_elements=0)
CONTROL_LIMITS = Limits(
    max_bytes=64 * 1024, max_items=CONTROL_ITEMS, max_total_items=CONTROL_ITEMS, max_depth=MAX_DEPTH
)
DATA_LIMITS = Limits(
    max_bytes=1024 * 1024, max_items=DATA_ITEMS, max_total_items=DATA_ITEMS, max_depth=MAX_DEPTH
)


@dataclass(frozen=True)
class Frame:
    """One decoded message: its header fields beside `type`, its body, and for author messages its bytes.

    The body is the dataclass of its kind, or a map where the kind has none.

    Header fields: hop `rid` (a request), `re` (a reply to it); author `src` (public key of the author), `run` (8 B
    nonce of its process), `seq`, and `round`, `base`, `codec`, `n`, `K`, `dur` (milliseconds) where they apply.
    """

    type: str
    header: Mapping[str, Any]
    body: Any
    raw: bytes = field(default=b"", repr=False)  # kept for author and handshake messages only

    @property
    def is_authored(self) -> bool:
        """Whether the frame carries its author's verified signature."""
        return "src" in self.header  # the header was checked: author messages have one, others do not

    @cached_property
    def author(self) -> bytes:
        """The 32-byte device id of the author of an author message."""
        return device_id_of(self.header["src"])

    @cached_property
    def id(self) -> bytes:
        """The 16-byte content id of the signed bytes of an author message."""
        return content_id(self.raw)


def content_id(data: bytes | memoryview) -> bytes:
    """Return the 16-byte id of a piece of content: BLAKE2b-128 of its bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def encode_hop(
    type: str | Message,
    body: Mapping[str, Any] | None = None,
    *,
    rid: int | None = None,
    re: int | None = None,
) -> bytes:
    """Return the bytes of a hop message, a dataclass or a type and its map; `rid` asks for a reply, `re` is one."""
    name, values = (type, body or {}) if isinstance(type, str) else (type.kind, body_of(type))
    kind = message_of(name)
    if kind is None or kind.is_authored:
        raise WireError(f"{name!r} is not a hop message", reason="type")
    version = HANDSHAKE_VERSION if kind.role is Role.HANDSHAKE else PROTOCOL_VERSION
    header: dict[str, Any] = {"v": version, "type": name}
    if rid is not None:
        header["rid"] = rid
    if re is not None:
        header["re"] = re
    return _join(header, pack_body(values))


def seal(
    identity: Identity,
    type: str,
    body: Mapping[str, Any],
    *,
    run: bytes,
    seq: int,
    **fields: Any,
) -> bytes:
    """Return the signed bytes of an author message; they can be sent, stored and relayed as they are."""
    message = message_of(type)
    if message is None or not message.is_authored:
        raise WireError(f"{type!r} is not an author message", reason="type")
    header = {
        "v": PROTOCOL_VERSION,
        "type": type,
        "run": run,
        "src": identity.public_key,
        "seq": seq,
        **fields,
    }
    check_header(header)
    return _join(header, pack_body(body), identity)


def open_frame(data: bytes, limits: Limits | None = None, door: Door | None = None) -> Frame:
    """Return the one frame that `data` holds, wholly checked and, if authored, verified; raise WireError."""
    decoder = Decoder(data_limits=limits or DATA_LIMITS, is_open=True, door=door)
    found = decoder.feed(data)
    if len(found) != 1 or decoder.buffered:
        raise WireError("these bytes are not exactly one frame", reason="length")
    return found[0]


def frame_type(data: bytes) -> str:
    """Return the type of the sealed frame `data` without judging more than its header."""
    if len(data) < PREFIX.size:
        raise WireError("these bytes are not a frame", reason="length")
    header_size = PREFIX.unpack_from(data)[1]
    name: str = parse_header(data[PREFIX.size : PREFIX.size + header_size])["type"]
    return name


def join_frame(header: Mapping[str, Any], body: bytes, signature: bytes) -> bytes:
    """Return the bytes of an author frame from its parts; nothing is checked (the simulator's frames are not signed)."""
    packed: bytes = msgpack.packb(header)
    head = PREFIX.pack(2 + len(packed) + len(body) + len(signature), len(packed))
    return b"".join((head, packed, body, signature))


def _join(header: Mapping[str, Any], body: bytes, author: Identity | None = None) -> bytes:
    packed: bytes = msgpack.packb(header)
    size = 2 + len(packed) + len(body)
    if author is None:
        return b"".join((PREFIX.pack(size, len(packed)), packed, body))
    head = PREFIX.pack(size + SIGNATURE_BYTES, len(packed))
    return b"".join((head, packed, body, author.sign(_digest(len(packed), packed, body))))


def _digest(header_size: int, header: bytes | memoryview, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(header_size.to_bytes(2, "big"), digest_size=32, person=b"flocklet-frame")
    digest.update(header)
    digest.update(body)
    return digest.digest()


class Decoder:
    """Turn a stream of bytes into frames, judging each length and header before the bytes behind it are kept.

    `door` says which kinds are taken and reads their bodies. Before authentication (`is_open` false) only handshake
    messages of at most 4 KiB pass; `open()` lifts that.
    At most one frame plus one read is buffered. After an error with `is_fatal` the stream has lost its frame
    borders; after any other the bad frame is gone and decoding can go on.
    """

    def __init__(
        self,
        *,
        data_limits: Limits = DATA_LIMITS,
        control_limits: Limits = CONTROL_LIMITS,
        is_open: bool = False,
        door: Door | None = None,
    ) -> None:
        self._door = door if door is not None else Door(is_loose=True)
        self._data_limits = data_limits
        self._control_limits = control_limits
        self._is_open = False
        self._buffer = bytearray(4 + HANDSHAKE_LIMITS.max_bytes)
        self._start = 0  # of the frame that is being read
        self._end = 0  # of the bytes received
        self._header: dict[str, Any] | None = None
        self._body_limits = HANDSHAKE_LIMITS
        self._need = PREFIX.size  # bytes from _start that the next step needs
        self.is_fatal = False
        self.refused: Mapping[
            str, Any
        ] = {}  # the header of the frame that was just refused, if that was sound
        if is_open:
            self.open()

    @property
    def buffered(self) -> int:
        """The number of bytes received and not yet decoded."""
        return self._end - self._start

    def open(self) -> None:
        """Let authenticated messages pass and refuse handshake messages from now on."""
        self._is_open = True
        if len(self._buffer) < FLOOR_BUFFER:
            self._resize(FLOOR_BUFFER)

    def room(self) -> memoryview:
        """Return writable memory for the next bytes; call `wrote(n)` after filling it. Drain `next_frame` first."""
        if self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        size = len(self._buffer)
        if self._is_open and self._end >= size // 2:
            # Grow only as bytes arrive (doubling), never because a header announces much.
            self._resize(min(2 * size, 2 * (4 + max(self._data_limits.max_bytes, FLOOR_BUFFER))))
        if self._end == len(self._buffer):
            raise self._fatal("more bytes arrive than one frame may have", "length")
        return memoryview(self._buffer)[self._end :]

    def _resize(self, size: int) -> None:
        resized = bytearray(size)
        resized[: self._end] = self._buffer[: self._end]
        self._buffer = resized

    def trim(self) -> None:
        """Give memory back while nothing is in flight."""
        if self._is_open and self._start == self._end and len(self._buffer) > FLOOR_BUFFER:
            self._start = self._end = 0
            self._resize(FLOOR_BUFFER)

    def wrote(self, count: int) -> None:
        """Tell that `count` bytes of the memory from `room` were filled."""
        self._end += count

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Return the frames that `data` completes; raise WireError at the first bad one."""
        return list(self.frames(data))

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Feed bytes piece by piece and yield each frame that they complete."""
        view = memoryview(data)
        while True:
            while (frame := self.next_frame()) is not None:
                yield frame
            if not view:
                return
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            room.release()
            self.wrote(count)
            view = view[count:]

    def next_frame(self) -> Frame | None:
        """Return the next complete frame, or None until more bytes come; raise WireError for a bad one."""
        if self.is_fatal:
            raise WireError("the stream is broken already", reason="length")
        self.refused = {}
        while self._end - self._start >= self._need:
            if self._header is not None:
                return self._finish()
            length, header_size = PREFIX.unpack_from(self._buffer, self._start)
            if self._need == PREFIX.size:
                self._judge_length(length, header_size)
                self._need = PREFIX.size + header_size
            else:
                self._judge_header(length, header_size)
                self._need = 4 + length
        return None

    def _fatal(self, message: str, reason: str) -> WireError:
        self.is_fatal = True
        return WireError(message, reason=reason)

    def _judge_length(self, length: int, header_size: int) -> None:
        limit = self._data_limits.max_bytes if self._is_open else HANDSHAKE_LIMITS.max_bytes
        if length > limit:
            raise self._fatal(f"a frame announces {length} bytes; at most {limit}", "length")
        if not 0 < header_size <= min(MAX_HEADER_BYTES, length - 2):
            raise self._fatal(f"a frame of {length} bytes announces a header of {header_size}", "length")

    def _judge_header(self, length: int, header_size: int) -> None:
        at = self._start + PREFIX.size
        try:
            header = parse_header(bytes(self._buffer[at : at + header_size]), self._door.find)
        except WireError:
            self.is_fatal = True
            raise
        message = self._door.kind(header["type"])
        if (message.size is Size.HANDSHAKE) is self._is_open:
            raise self._fatal(f"a {header['type']!r} does not belong here", "order")
        if message.size is Size.CONTROL:
            limits = self._control_limits
        else:
            limits = self._data_limits if message.size is Size.DATA else HANDSHAKE_LIMITS
        if length > limits.max_bytes:
            raise self._fatal(
                f"a {header['type']!r} has {length} bytes; at most {limits.max_bytes}", "length"
            )
        if message.is_authored and length < 2 + header_size + SIGNATURE_BYTES:
            raise self._fatal(f"a {header['type']!r} has no signature", "length")
        if not message.brings_arrays and limits.max_elements:
            limits = replace(limits, max_elements=0)
        self._header, self._body_limits = header, limits

    def _finish(self) -> Frame:
        header, self._header = self._header, None
        assert header is not None  # noqa: S101 - the caller looked
        self.refused = header
        start, end = self._start, self._start + self._need
        self._start, self._need = end, PREFIX.size
        message = self._door.kind(header["type"])
        header_size = PREFIX.unpack_from(self._buffer, start)[1]
        body_at = start + PREFIX.size + header_size
        view = memoryview(self._buffer)
        try:
            if message.size is not Size.HANDSHAKE and not message.is_authored:
                return Frame(header["type"], header, self._read(message, view[body_at:end]))
            raw = bytes(view[start:end])
        finally:
            view.release()
        if not message.is_authored:
            return Frame(header["type"], header, self._read(message, raw[body_at - start :]), raw)
        packed = memoryview(raw)
        body = packed[body_at - start : -SIGNATURE_BYTES]
        digest = _digest(header_size, packed[PREFIX.size : body_at - start], body)
        if not verify(header["src"], raw[-SIGNATURE_BYTES:], digest):
            raise WireError(f"the signature of a {header['type']!r} is not its author's", reason="signature")
        return Frame(header["type"], header, self._read(message, body), raw)

    def _read(self, kind: Kind, body: bytes | memoryview) -> Any:
        return self._door.read(kind, body, self._body_limits)
