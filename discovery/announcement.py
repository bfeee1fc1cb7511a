"""Say who we are in a DNS-SD TXT record, and read what others say: bytes in, bytes out, nothing secret.

Layout (RFC 6763 section 6): strings of at most 255 bytes, each `key=value`.

    v=1            protocol version
    id=<64 hex>    device id, BLAKE2b-256 of the public key; only a hint, the handshake proves it
    flock=<tag>    which flock, without telling its secret; "" is left out
    run=<8 hex>    a random word per process: tells a restart from an echo, and a clone from ourselves

Unknown keys are skipped, so later versions may add some. The first of two equal keys counts (RFC 6763
section 6.4).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flocklet.discovery.record import short_hint
from flocklet.errors import WireError

__all__ = ["PROTOCOL_VERSION", "SERVICE_TYPE", "Announcement", "parse_instance", "parse_txt"]

SERVICE_TYPE = "_flocklet._tcp.local."
PROTOCOL_VERSION = 1
_MAX_TXT_BYTES = 1300
_MAX_STRINGS = 32
_INSTANCE = re.compile(r"([0-9a-f]{12})(?:-[0-9a-f]{1,8})?")
_TAG = re.compile(r"[A-Za-z0-9._~+/=-]{1,64}")
_RUN = re.compile(r"[0-9a-f]{1,16}")


@dataclass(frozen=True)
class Announcement:
    """What one peer says about itself. `device_id` is 32 B, `port` where it listens (0 until SRV says it)."""

    device_id: bytes
    flock_tag: str
    run: str
    port: int = 0
    version: int = PROTOCOL_VERSION

    @property
    def hint(self) -> str:
        """Return the 12 hex digits that name this peer on the network."""
        return short_hint(self.device_id)

    def instance_name(self, suffix: str = "") -> str:
        """Return the full DNS-SD name: the key's hash and never the host's name; `suffix` after a clash."""
        return f"{self.hint}{'-' + suffix if suffix else ''}.{SERVICE_TYPE}"

    def txt(self) -> bytes:
        """Return the TXT record; raises WireError if the tag or run word could not be read back."""
        if len(self.device_id) != 32 or not _RUN.fullmatch(self.run):
            raise WireError("an announcement needs a device id of 32 bytes and a run word in hex")
        if self.flock_tag and not _TAG.fullmatch(self.flock_tag):
            raise WireError("the flock tag has characters that do not belong into a TXT record")
        fields = {
            "v": str(self.version),
            "id": self.device_id.hex(),
            "flock": self.flock_tag,
            "run": self.run,
        }
        strings = [f"{key}={value}".encode("ascii") for key, value in fields.items() if value]
        return b"".join(bytes([len(string)]) + string for string in strings)


def parse_txt(txt: bytes) -> Announcement:
    """Read a TXT record from anybody; raises WireError, and nothing else, on everything that `txt()` cannot
    write.
    """
    if len(txt) > _MAX_TXT_BYTES:
        raise WireError(f"TXT record of {len(txt)} bytes", reason="limit")
    fields: dict[bytes, bytes] = {}
    at, strings = 0, 0
    while at < len(txt):
        size = txt[at]
        string = txt[at + 1 : at + 1 + size]
        if len(string) != size:
            raise WireError("TXT string is cut short")
        strings += 1
        if strings > _MAX_STRINGS:
            raise WireError("too many TXT strings", reason="limit")
        key, _, value = string.partition(b"=")
        fields.setdefault(key.lower(), value)
        at += 1 + size
    version = _text(fields, b"v")
    id_text = _text(fields, b"id").lower()
    tag = _text(fields, b"flock")
    run = _text(fields, b"run")
    if not version.isdigit() or len(version) > 4:
        raise WireError("no protocol version in the TXT record")
    if not re.fullmatch(r"[0-9a-f]{64}", id_text):
        raise WireError("no device id in the TXT record")
    if (tag and not _TAG.fullmatch(tag)) or (run and not _RUN.fullmatch(run)):
        raise WireError("flock tag or run word of the TXT record has strange characters")
    return Announcement(bytes.fromhex(id_text), tag, run, version=int(version))


def parse_instance(name: str) -> str:
    """Return the 12 hex digits of an instance name `<12 hex>[-suffix]._flocklet._tcp.local.`; else
    WireError.
    """
    instance = name.lower().removesuffix("." + SERVICE_TYPE)
    match = _INSTANCE.fullmatch(instance)
    if match is None:
        raise WireError(f"{name[:60]!r} is not an instance name of flocklet")
    return match.group(1)


def _text(fields: dict[bytes, bytes], key: bytes) -> str:
    value = fields.get(key, b"")
    if not value.isascii():
        raise WireError("TXT record is not ASCII")
    return value.decode("ascii")
