"""Make and read the self-made X.509 certificate that carries an identity into TLS.

The certificate's key is the identity key. It is valid from 1970-01-01 to 9999-12-31 exactly, and any other window is
refused whatever the clock says: trust never depends on time (a Raspberry Pi starts in 1970). The public key is read
by parsing, never by searching the DER: a foreign key could be planted in an extension.
Importing `cryptography.x509` costs about 100 ms and happens on first use.
"""

from __future__ import annotations

import datetime
import hashlib
from pathlib import Path

from flocklet.errors import IdentityError, PeerRefused
from flocklet.identity.key import Identity, save_private, short_id

__all__ = ["certificate_hash", "certificate_key", "load_certificate", "make_certificate"]

NOT_BEFORE = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
MAX_CERTIFICATE_BYTES = 2048


def make_certificate(
    identity: Identity,
    *,
    not_before: datetime.datetime = NOT_BEFORE,
    not_after: datetime.datetime = NOT_AFTER,
) -> bytes:
    """Return the DER of the self-signed certificate of `identity`; the same identity gives the same bytes."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flocklet {short_id(identity.device_id)}")])
    key = identity.private_key
    serial = int.from_bytes(identity.device_id[:16], "big") >> 1 | 1
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .sign(key, algorithm=None)
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def load_certificate(path: Path | str, identity: Identity) -> bytes:
    """Return the certificate kept at `path` (DER), made and kept there on first use.

    Raise IdentityError if the file belongs to another key.
    """
    path = Path(path)
    try:
        der = path.read_bytes()
    except FileNotFoundError:
        der = make_certificate(identity)
        save_private(path, der)
        return der
    except OSError as error:
        raise IdentityError(f"cannot read the certificate {path}: {error.strerror}") from error
    try:
        key = certificate_key(der)
    except PeerRefused as error:
        raise IdentityError(
            f"{path} is not a certificate of flocklet", remedy=f"delete {path}: it is remade"
        ) from error
    if key != identity.public_key:
        raise IdentityError(f"{path} belongs to another key", remedy=f"delete {path}: it is remade")
    return der


def certificate_hash(der: bytes) -> bytes:
    """Return the 32-byte BLAKE2b hash of a whole certificate."""
    return hashlib.blake2b(der, digest_size=32, person=b"flocklet-cert").digest()


def certificate_key(der: bytes) -> bytes:
    """Return the raw Ed25519 public key of a certificate (DER).

    Raise PeerRefused with reason `certificate` for anything but a self-signed Ed25519 certificate of at most
    2048 bytes, and with reason `expired` for a validity other than 1970-01-01 to 9999-12-31.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(der) > MAX_CERTIFICATE_BYTES:
        raise PeerRefused("the peer's certificate is too large", reason="certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        window = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        if not isinstance(key, Ed25519PublicKey):
            raise PeerRefused("the key in the peer's certificate is not Ed25519", reason="certificate")
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise PeerRefused("the peer's certificate cannot be read", reason="certificate") from error
    if window != (NOT_BEFORE, NOT_AFTER):
        raise PeerRefused(
            "the peer's certificate has an expiry date of its own",
            reason="expired",
            remedy="remake it there: flocklet certificates are valid from 1970 to 9999",
        )
    return key.public_bytes_raw()
