"""Who may talk to us: a closed flock shares a 128-bit secret, an open flock takes any peer.

The secret never crosses the network. Its tag (shown in mDNS) and its proof key are two one-way functions of it:
keyed BLAKE2b (RFC 7693) with different personalisation strings.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from flocklet.errors import IdentityError
from flocklet.identity.luhn32 import spell, unspell

__all__ = ["OPEN_TAG", "Flock"]

SECRET_BYTES = 16
OPEN_TAG = "open"
MAX_TAGS = 4


@dataclass(frozen=True)
class Flock:
    """A flock: closed if it has a secret (16 bytes), open if `secret` is None.

    `older` are secrets that counted before (newest first): by them named devices that were off find their way back.
    """

    secret: bytes | None = field(default=None, repr=False)
    older: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.secret is not None and len(self.secret) != SECRET_BYTES:
            raise IdentityError(f"the secret of a flock has {SECRET_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> Flock:
        """Make a closed flock with a new secret."""
        return cls(random_bytes(SECRET_BYTES))

    @classmethod
    def closed(cls, secret: bytes) -> Flock:
        """Return the closed flock of this 16-byte secret."""
        return cls(bytes(secret))

    @classmethod
    def open(cls) -> Flock:
        """Return the open flock: anybody may join, and only robust strategies stand between us and strangers."""
        return cls(None)

    @classmethod
    def from_invite(cls, text: str) -> Flock:
        """Return the flock of an invitation; raise IdentityError that names the mistyped group."""
        return cls(
            unspell(text, SECRET_BYTES, "this invitation", "compare it with what 'flocklet invite' printed")
        )

    @property
    def is_open(self) -> bool:
        """Whether anybody may join."""
        return self.secret is None

    @property
    def tag(self) -> str:
        """A short public name, the same for all members, from which the secret cannot be found."""
        return self.tags[0]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of the four newest secrets, newest first."""
        if self.secret is None:
            return (OPEN_TAG,)
        return tuple(_tag_of(secret) for secret in (self.secret, *self.older)[:MAX_TAGS])

    @property
    def discovery_keys(self) -> tuple[bytes, ...]:
        """The keys by which members recognise each other's mDNS records, newest first; none in an open flock."""
        if self.secret is None:
            return ()
        return tuple(
            hashlib.blake2b(digest_size=32, key=secret, person=b"flocklet-disco").digest()
            for secret in (self.secret, *self.older)[:MAX_TAGS]
        )

    def invite(self) -> str:
        """Return the invitation: whoever reads it can join."""
        if self.secret is None:
            raise IdentityError("an open flock needs no invitation", remedy="'flocklet init --open' joins it")
        return spell(self.secret)

    def prove(self, transcript: bytes, tags: Collection[str] = ()) -> bytes:
        """Return the 32-byte HMAC-SHA256 of `transcript` under the proof key; empty in an open flock.

        The key is that of the newest secret whose tag is among `tags`, the peer's; without `tags` the newest.
        """
        if self.secret is None:
            return b""
        common = (s for s in (self.secret, *self.older) if not tags or _tag_of(s) in tags)
        return _mac(next(common, self.secret), transcript)

    def rank_of(self, proof: bytes, transcript: bytes) -> int | None:
        """Return by which secret `proof` holds, 0 for the newest; None for that of no member. In constant time for each.

        An open flock takes the empty proof.
        """
        if self.secret is None:
            return 0 if proof == b"" else None
        ranks = [
            rank
            for rank, secret in enumerate((self.secret, *self.older))
            if hmac.compare_digest(proof, _mac(secret, transcript))
        ]
        return ranks[0] if ranks else None


def _tag_of(secret: bytes) -> str:
    return hashlib.blake2b(digest_size=8, key=secret, person=b"flocklet-tag").hexdigest()


def _mac(secret: bytes, transcript: bytes) -> bytes:
    key = hashlib.blake2b(digest_size=32, key=secret, person=b"flocklet-proof").digest()
    return hmac.digest(key, transcript, "sha256")
