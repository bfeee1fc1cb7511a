"""Read and write one signed click entry, as PROTOCOL.md 5.2 lets it travel.

    [1, origin (16 B), seq u32, query utf-8 <= 64 B, shown [item u64 x <= 10], clicked u8, ts u32, signature
    (64 B)]

as a msgpack array in its shortest form; any other form of the same values is refused, so an entry has one
encoding. The signature is Ed25519 over the same array without its last element. `clicked` is an index into
`shown`, 255 means that nothing was clicked. `ts` is seconds since 1970; nothing trusts it. The first `seq`
of an origin is 1.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import msgpack

from flocklet.errors import WireError
from flocklet.events.version_vector import MAX_SEQ

__all__ = [
    "MAX_ENTRY_SIZE",
    "MAX_QUERY_SIZE",
    "MAX_SHOWN",
    "NO_CLICK",
    "ORIGIN_SIZE",
    "SIGNATURE_SIZE",
    "ClickEntry",
    "Signer",
    "normalise_query",
]

FORMAT = 1
ORIGIN_SIZE = 16
SIGNATURE_SIZE = 64
MAX_QUERY_SIZE = 64
MAX_SHOWN = 10
NO_CLICK = 255
MAX_ENTRY_SIZE = 1 + 1 + 18 + 5 + 66 + 91 + 2 + 5 + 66
_MAX_ITEM = 2**64 - 1
_FIELDS = 8


class Signer(Protocol):
    """What signs entries: `flocklet.identity.key.Identity` of a person."""

    @property
    def origin(self) -> bytes:
        """16 bytes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        ...


def normalise_query(text: str) -> str:
    """Return the form in which queries are compared: NFKC, case folded, single spaces, at most 64 bytes of
    UTF-8."""
    for _ in range(3):  # folding can undo composition; three rounds reach the fixed point
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        folded = "".join(" " if unicodedata.category(mark)[0] in "CZ" else mark for mark in folded)
        folded = " ".join(folded.split()).encode("utf-8", "ignore")[:MAX_QUERY_SIZE].decode("utf-8", "ignore")
        folded = folded.strip()
        if folded == text:
            break
        text = folded
    return text


@dataclass(frozen=True, slots=True)
class ClickEntry:
    """Say what one person asked, what was shown and what was clicked; invalid values raise WireError."""

    origin: bytes
    seq: int
    query: str
    shown: tuple[int, ...]
    clicked: int
    ts: int
    signature: bytes = bytes(SIGNATURE_SIZE)

    def __post_init__(self) -> None:
        if type(self.origin) is not bytes or len(self.origin) != ORIGIN_SIZE:
            raise WireError("the origin of a click entry is not 16 bytes")
        if type(self.seq) is not int or not 1 <= self.seq <= MAX_SEQ:
            raise WireError("the number of a click entry is outside 1..2^32-1")
        if type(self.query) is not str or not self.query or not _is_normal(self.query):
            raise WireError("the query of a click entry is empty, too long or not in normal form")
        if type(self.shown) is not tuple or len(self.shown) > MAX_SHOWN:
            raise WireError(f"a click entry shows more than {MAX_SHOWN} items")
        if any(type(item) is not int or not 0 <= item <= _MAX_ITEM for item in self.shown):
            raise WireError("a click entry shows an item that is not a 64-bit number")
        if len(set(self.shown)) != len(self.shown):
            raise WireError("a click entry shows an item twice")
        if type(self.clicked) is not int or not (
            0 <= self.clicked < len(self.shown) or self.clicked == NO_CLICK
        ):
            raise WireError("a click entry has a click on something it did not show")
        if type(self.ts) is not int or not 0 <= self.ts <= MAX_SEQ:
            raise WireError("the time of a click entry is outside 0..2^32-1")
        if type(self.signature) is not bytes or len(self.signature) != SIGNATURE_SIZE:
            raise WireError("the signature of a click entry is not 64 bytes")

    @classmethod
    def signed(
        cls, identity: Signer, *, seq: int, query: str, shown: tuple[int, ...], clicked: int, ts: int
    ) -> ClickEntry:
        """Return an entry of `identity` with its signature; `query` is normalised here."""
        bare = cls(identity.origin, seq, normalise_query(query), shown, clicked, ts)
        return replace(bare, signature=identity.sign(bare.message()))

    @property
    def item(self) -> int | None:
        """The clicked item, None for an impression without a click."""
        return None if self.clicked == NO_CLICK else self.shown[self.clicked]

    def message(self) -> bytes:
        """Return the bytes that are signed."""
        values = [FORMAT, self.origin, self.seq, self.query, self.shown, self.clicked, self.ts]
        return cast(bytes, msgpack.packb(values))

    def encode(self) -> bytes:
        """Return the entry's only encoding, about 200 bytes with ten items shown."""
        return join_entry(self.message(), self.signature)

    @classmethod
    def decode(cls, data: bytes) -> ClickEntry:
        """Return the entry in `data`; raises WireError for anything but its only encoding.

        Every limit is checked before or while parsing; the signature is not verified here.
        """
        if not isinstance(data, bytes) or len(data) > MAX_ENTRY_SIZE:
            raise WireError(f"a click entry is longer than {MAX_ENTRY_SIZE} bytes", reason="too-long")
        try:
            values: Any = msgpack.unpackb(
                data,
                use_list=False,
                max_str_len=MAX_QUERY_SIZE,
                max_bin_len=SIGNATURE_SIZE,
                max_array_len=MAX_SHOWN,
                max_map_len=0,
                max_ext_len=0,
            )
        except ValueError as error:
            raise WireError("a click entry is not a msgpack array within the limits") from error
        if type(values) is not tuple or len(values) != _FIELDS:
            raise WireError(f"a click entry does not have {_FIELDS} fields")
        if type(values[0]) is not int or values[0] != FORMAT:
            raise WireError(f"a click entry has another format than {FORMAT}", reason="version")
        entry = cls(*values[1:])
        if entry.encode() != data:
            raise WireError("a click entry is not in its shortest form", reason="not-canonical")
        return entry

    def verify(self, public_key: bytes) -> bool:
        """Return whether `public_key` is the key of this origin and signed this entry."""
        from flocklet.identity.key import origin_of, verify

        return origin_of(public_key) == self.origin and verify(public_key, self.signature, self.message())


def join_entry(message: bytes, signature: bytes) -> bytes:
    """Return the encoding of an entry from its signed bytes and the signature."""
    return bytes([message[0] + 1]) + message[1:] + b"\xc4\x40" + signature


def split_entry(data: bytes) -> tuple[bytes, bytes]:
    """Return the signed bytes and the signature of an encoded entry."""
    body = data[: -SIGNATURE_SIZE - 2]
    return bytes([body[0] - 1]) + body[1:], data[-SIGNATURE_SIZE:]


def _is_normal(query: str) -> bool:
    if query.isascii():
        return (
            len(query) <= MAX_QUERY_SIZE
            and query.isprintable()
            and query == query.lower()
            and query == " ".join(query.split())
        )
    return query == normalise_query(query)
