"""Signed records of who belongs to a flock: who is named, who was put out, which secret counts (PROTOCOL.md, "Flock").

    name   [1, author key, id, key, text, k]        the author names a device; k = 1..16 numbers its names
    out    [2, author key, id, keep, drop, nonce]   the author puts a device out
    rekey  [3, author key, covers, lock]            a new secret for those who obey exactly `covers`
    back   [4, author key, out]                     the author takes an `out` back

each a msgpack array in its shortest form with the 64-byte Ed25519 signature of the author's device key as one more
element: over BLAKE2b-256 of the array without it, personalised "flocklet-flock". A record has one encoding; its hash is
BLAKE2b-128 of the whole. Records are never changed and never expire.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import msgpack

from flocklet.errors import WireError
from flocklet.identity.key import Identity, device_id_of, verify

__all__ = [
    "MAX_COVERS",
    "MAX_KEEP",
    "MAX_NAMES_BY_ONE",
    "MAX_RECORD_BYTES",
    "NOBODY",
    "Back",
    "FlockRecord",
    "Name",
    "Out",
    "Rekey",
    "decode_record",
    "hash_of",
    "lock_of",
    "printable_name",
]

MAX_RECORD_BYTES = 2560
MAX_KEEP = MAX_COVERS = 64
MAX_NAMES_BY_ONE = 16
MAX_NAME_CHARACTERS = 32
NOBODY = bytes(32)
"""The id that an `out` puts out when only the secret is to change."""


def hash_of(encoded: bytes) -> bytes:
    """Return the 16 bytes that name the record with this encoding."""
    return hashlib.blake2b(encoded, digest_size=16, person=b"flocklet-flock").digest()


def lock_of(secret: bytes) -> bytes:
    """Return the 32 bytes that fit this secret and from which it cannot be found."""
    return hashlib.blake2b(secret, digest_size=32, person=b"flocklet-lock").digest()


def printable_name(text: str) -> str:
    """Return `text` as a device name: 1 to 32 printable characters, others dropped; "device" if none is left."""
    return "".join(c for c in text if c.isprintable())[:MAX_NAME_CHARACTERS].strip() or "device"


@dataclass(frozen=True)
class FlockRecord:
    """What all four kinds share: the author's raw public key (32 bytes) and the signature (64 bytes)."""

    KIND: ClassVar[int] = 0

    author_key: bytes
    signature: bytes = b""

    @cached_property
    def author(self) -> bytes:
        """The author's 32-byte device id."""
        return device_id_of(self.author_key)

    @cached_property
    def encoded(self) -> bytes:
        """The one encoding of this record."""
        return _pack([*self._fields(), self.signature])

    @cached_property
    def hash(self) -> bytes:
        """16 bytes that name this record."""
        return hash_of(self.encoded)

    def signed(self, identity: Identity) -> FlockRecord:
        """Return this record with the signature of its author."""
        return replace(self, signature=identity.sign(self._digest()))

    def is_authentic(self) -> bool:
        """Whether the author signed it."""
        return verify(self.author_key, self.signature, self._digest())

    def _fields(self) -> list[Any]:
        named = [getattr(self, f.name) for f in fields(self) if f.name != "signature"]
        return [self.KIND, *(list(value) if isinstance(value, tuple) else value for value in named)]

    def _digest(self) -> bytes:
        return hashlib.blake2b(_pack(self._fields()), digest_size=32, person=b"flocklet-flock").digest()


@dataclass(frozen=True)
class Name(FlockRecord):
    """Name a device: it links by its key from now on; `number` is 1 to 16 for each author."""

    KIND: ClassVar[int] = 1

    id: bytes = NOBODY
    key: bytes = NOBODY
    text: str = ""
    number: int = 0


@dataclass(frozen=True)
class Out(FlockRecord):
    """Put a device out; `keep` are the origins (16 bytes) of those it had named that stay."""

    KIND: ClassVar[int] = 2

    id: bytes = NOBODY
    keep: tuple[bytes, ...] = ()
    is_drop: bool = False
    nonce: bytes = bytes(8)


@dataclass(frozen=True)
class Rekey(FlockRecord):
    """Announce a secret (through its lock) for those who obey exactly the `covers`, hashes of `out` records, sorted."""

    KIND: ClassVar[int] = 3

    covers: tuple[bytes, ...] = ()
    lock: bytes = NOBODY


@dataclass(frozen=True)
class Back(FlockRecord):
    """Take back the `out` record of this hash."""

    KIND: ClassVar[int] = 4

    out: bytes = bytes(16)


_KINDS: dict[int, type[FlockRecord]] = {kind.KIND: kind for kind in (Name, Out, Rekey, Back)}


def decode_record(data: bytes) -> FlockRecord:
    """Return the record of these bytes, its signature checked.

    Raises:
        WireError: `malformed` (types, sizes, another encoding of the same values) or `signature`.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise WireError(f"a flock record of {len(data)} bytes", reason="size")
    try:
        values = msgpack.unpackb(
            data, raw=False, max_array_len=64, max_map_len=0, max_str_len=128, max_bin_len=64, max_ext_len=0
        )
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise WireError("a flock record is no array of values") from error
    if type(values) is not list or not values or type(values[0]) is not int or values[0] not in _KINDS:
        raise WireError("a flock record of no known kind")
    kind = _KINDS[values[0]]
    names = [f.name for f in fields(kind) if f.name != "signature"]
    if len(values) != len(names) + 2:
        raise WireError("a flock record lacks a field or has one more")
    content: dict[str, Any] = {
        n: tuple(v) if type(v) is list else v for n, v in zip(names, values[1:-1], strict=True)
    }
    record = kind(**content, signature=values[-1])
    if not _is_sound(record) or record.encoded != data:
        raise WireError("a field of a flock record is wrong")
    if not record.is_authentic():
        raise WireError("a flock record is not signed by its author", reason="signature")
    return record


def _is_sound(record: FlockRecord) -> bool:
    def is_bytes(value: object, size: int) -> bool:
        return type(value) is bytes and len(value) == size

    def is_sorted(values: object, size: int, most: int) -> bool:
        if type(values) is not tuple or len(values) > most or not all(is_bytes(v, size) for v in values):
            return False
        return list(values) == sorted(set(values))

    if not is_bytes(record.author_key, 32) or not is_bytes(record.signature, 64):
        return False
    match record:
        case Name():
            return (
                is_bytes(record.id, 32)
                and is_bytes(record.key, 32)
                and device_id_of(record.key) == record.id
                and type(record.text) is str
                and printable_name(record.text) == record.text
                and type(record.number) is int
                and 1 <= record.number <= MAX_NAMES_BY_ONE
            )
        case Out():
            return (
                is_bytes(record.id, 32)
                and is_sorted(record.keep, 16, MAX_KEEP)
                and type(record.is_drop) is bool
                and is_bytes(record.nonce, 8)
            )
        case Rekey():
            return is_sorted(record.covers, 16, MAX_COVERS) and is_bytes(record.lock, 32)
        case Back():
            return is_bytes(record.out, 16)
    return False


def _pack(values: list[Any]) -> bytes:
    return bytes(msgpack.packb(values, use_bin_type=True))
