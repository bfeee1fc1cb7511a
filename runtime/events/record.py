"""One signed record of a feed: who says what, and the proof that nobody else did.

    public key 32 B | signature 64 B | body

The signature is Ed25519 over BLAKE2b-256 of `flocklet-record`, the name of the feed and the body, with a NUL between them,
so a record of one feed is no record of another. A record has one encoding and is named by the BLAKE2b-128 of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from flocklet.errors import WireError
from flocklet.identity.key import Identity, origin_of, verify

__all__ = ["MAX_RECORD_SIZE", "Record", "read_record", "sign_record"]

KEY_SIZE, SIGNATURE_SIZE = 32, 64
MAX_RECORD_SIZE = 4_096


@dataclass(frozen=True)
class Record:
    """A record whose signature holds; `raw` is what travels and what is stored."""

    public_key: bytes
    body: bytes
    raw: bytes

    @cached_property
    def author(self) -> bytes:
        """The 16-byte origin of who signed it."""
        return origin_of(self.public_key)

    @cached_property
    def id(self) -> bytes:
        """The 16 bytes that name it."""
        return hashlib.blake2b(self.raw, digest_size=16).digest()


def sign_record(identity: Identity, feed: str, body: bytes) -> Record:
    """Return a record of `identity`; raise WireError when the body is too long."""
    if len(body) > MAX_RECORD_SIZE - KEY_SIZE - SIGNATURE_SIZE:
        raise WireError(f"a record has {len(body)} bytes, which is too long", reason="too-long")
    signature = identity.sign(_signed(feed, body))
    return Record(identity.public_key, body, identity.public_key + signature + body)


def read_record(raw: bytes, feed: str) -> Record:
    """Return the record in `raw`; raise WireError unless its author signed it for this feed."""
    if type(raw) is not bytes or not KEY_SIZE + SIGNATURE_SIZE <= len(raw) <= MAX_RECORD_SIZE:
        raise WireError("a record is torn or too long")
    key, signature, body = raw[:KEY_SIZE], raw[KEY_SIZE : KEY_SIZE + SIGNATURE_SIZE], raw[KEY_SIZE + 64 :]
    if not verify(key, signature, _signed(feed, body)):
        raise WireError(f"a record of {feed} has a wrong signature", reason="signature")
    return Record(key, body, raw)


def _signed(feed: str, body: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join((b"flocklet-record", feed.encode(), body)), digest_size=32).digest()
