"""Stand in for flocklet.identity until it is merged."""

import hashlib

__all__ = ["Person", "origin_of", "verify"]


def origin_of(public_key: bytes) -> bytes:
    """Return 16 bytes."""
    return hashlib.blake2b(public_key, digest_size=32).digest()[:16]


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the signature holds."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Person:
    """An identity from a seed."""

    def __init__(self, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public_key = self._key.public_key().public_bytes_raw()
        self.origin = origin_of(self.public_key)

    def sign(self, message: bytes) -> bytes:
        """Sign."""
        return self._key.sign(message)
