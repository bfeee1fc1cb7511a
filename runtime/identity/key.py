"""Who we are: one Ed25519 key per device, and the device id that is its hash.

The device id is BLAKE2b-256 of the raw 32-byte public key (RFC 7693, RFC 8032), so a new certificate keeps the
identity. `cryptography` is imported on first use: importing this module costs next to nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flocklet.errors import IdentityError
from flocklet.identity.luhn32 import spell, unspell

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = [
    "Identity",
    "device_id_of",
    "format_id",
    "is_small_order",
    "origin_of",
    "parse_id",
    "save_private",
    "short_id",
    "verify",
]

MAX_KEY_FILE_BYTES = 4096
_SIGN_BIT = 0x80
_SMALL_ORDER = frozenset(
    bytes.fromhex(y)
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""The y coordinates, sign bit masked, of the points of order 1, 2, 4 and 8 and of their encodings above the prime."""


class Identity:
    """Hold the private key of a device or of a person; never printed, pickled or sent.

    Make one with `Identity.generate()`, `Identity.from_seed(seed)` or `Identity.load(path)`.
    """

    __slots__ = ("__dict__", "seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise IdentityError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        self.seed = seed

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> Identity:
        """Make a new identity from the system's randomness."""
        return cls(random_bytes(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Return the identity of this 32-byte seed; the same seed gives the same identity."""
        return cls(seed)

    @classmethod
    def load(cls, path: Path | str) -> Identity:
        """Read a key file written by `save`; raise IdentityError if it is missing, exposed or not such a key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        path = Path(path)
        try:
            mode = path.stat().st_mode
            if stat.S_IMODE(mode) & 0o077:
                raise IdentityError(
                    f"others on this machine can read the key file {path}", remedy=f"chmod 600 {path}"
                )
            if path.stat().st_size > MAX_KEY_FILE_BYTES:
                raise IdentityError(f"{path} is too large to be a key file")
            key = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise IdentityError(f"cannot read the key file {path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise IdentityError(f"{path} is not a key file of flocklet") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path} holds another kind of key than Ed25519")
        return cls(key.private_bytes_raw())

    def save(self, path: Path | str) -> None:
        """Write the key (PKCS 8, PEM) with mode 0600, whole or not at all; refuse to replace a file."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        pem = self.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        save_private(Path(path), pem)

    @cached_property
    def private_key(self) -> Ed25519PrivateKey:
        """The key as `cryptography` holds it, for TLS and certificates."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public_key(self) -> bytes:
        """The raw 32-byte public key."""
        return self.private_key.public_key().public_bytes_raw()

    @cached_property
    def device_id(self) -> bytes:
        """The 32-byte device id."""
        return device_id_of(self.public_key)

    @property
    def origin(self) -> bytes:
        """The first 16 bytes of the device id: the author field of compact records."""
        return self.device_id[:16]

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message`."""
        return self.private_key.sign(message)

    def __repr__(self) -> str:
        return f"Identity({short_id(self.device_id)})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an Identity is never pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and secrets.compare_digest(self.seed, other.seed)

    def __hash__(self) -> int:
        return hash(self.public_key)


def save_private(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600, whole or not at all; raise IdentityError if it exists or cannot be written."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _move_if_free(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # some file systems cannot sync a directory
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except FileExistsError as error:
        raise IdentityError(
            f"{path} exists already and is not overwritten",
            remedy="move it away first if a new identity is really wanted: the old one is then gone for its peers",
        ) from error
    except OSError as error:
        raise IdentityError(
            f"cannot write {path}: {error.strerror}", remedy="check that the home directory is writable"
        ) from error


def _move_if_free(scratch: Path, path: Path) -> None:
    try:
        path.hardlink_to(scratch)  # unlike rename, fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # FAT cards know no hard links
        if path.exists():
            raise FileExistsError(path) from None
        scratch.rename(path)


def is_small_order(public_key: bytes) -> bool:
    """Return whether a raw key is a point of small order: whoever "signs" with one needs no private key.

    Such a signature (S = 0) holds for many messages at once (RFC 8032, section 5.1.7, does not exclude it), so it names
    nobody: two devices would have one id, and every record could be condemned or vouched for by anybody.
    """
    return len(public_key) == 32 and public_key[:31] + bytes([public_key[31] & ~_SIGN_BIT]) in _SMALL_ORDER


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether `signature` is that of `message` by `public_key`; never raises for hostile input.

    A key of small order signs nothing: for devices, persons and authors alike.
    """
    if is_small_order(public_key):
        return False
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def device_id_of(public_key: bytes) -> bytes:
    """Return the 32-byte device id of a raw public key: BLAKE2b-256."""
    return hashlib.blake2b(public_key, digest_size=32).digest()


def origin_of(public_key: bytes) -> bytes:
    """Return the 16-byte origin of a raw public key: the head of its device id."""
    return device_id_of(public_key)[:16]


def short_id(device_id: bytes) -> str:
    """Return the first 12 hex digits, for names and logs; never used for trust."""
    return device_id[:6].hex()


def format_id(device_id: bytes) -> str:
    """Return the text of a 32-byte device id: eight groups of seven, with check characters."""
    return spell(device_id)


def parse_id(text: str) -> bytes:
    """Return the device id that `text` spells; raise IdentityError that names the wrong group."""
    return unspell(text, 32, "this device id", "compare it with what 'flocklet id' prints on that device")
