"""Say in a DNS-SD TXT record that we are here, and read what others say: bytes in, bytes out, nothing that names us.

Layout (RFC 6763 section 6): strings of at most 255 bytes, each `key=value`.

    v=2            protocol version
    n=<hex>        a nonce of at most 8 bytes, new at each start and each 24 h of running time
    t=<16 hex>     BLAKE2b-64 (n || port u16) under the flock's discovery key, personalised "flocklet-mdns"
    w=<16 hex>     BLAKE2b-64 (n || device id) under that key, personalised "flocklet-who"

Members recognise each other by one keyed hash and no clock; others see random words that change. Unknown keys are
skipped, so later versions may add some. The first of two equal keys counts (RFC 6763 section 6.4). A record of version 1
told its device id and flock: it is still read, to name whom to update.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from flocklet.errors import WireError

__all__ = [
    "PROTOCOL_VERSION",
    "SERVICE_TYPE",
    "Announcement",
    "Heard",
    "instance_of",
    "parse_instance",
    "parse_txt",
    "tag_of",
    "who_of",
]

SERVICE_TYPE = "_flocklet._tcp.local."
PROTOCOL_VERSION = 2
_MAX_TXT_BYTES = 1300
_MAX_STRINGS = 32
_INSTANCE = re.compile(r"([0-9a-f]{12})(?:-[0-9a-f]{1,8})?")
_TAG = re.compile(r"[A-Za-z0-9._~+/=-]{1,64}")
_RUN = re.compile(r"[0-9a-f]{1,16}")
_CODE = re.compile(r"[0-9a-f]{16}")


def instance_of(run: str) -> str:
    """Return the 12 hex digits by which the record with this nonce is called."""
    return hashlib.blake2b(run.encode("ascii"), digest_size=6, person=b"flocklet-name").hexdigest()


def tag_of(key: bytes, run: str, port: int) -> str:
    """Return the code by which a member with this nonce and port is recognised."""
    return _code(key, b"flocklet-mdns", run, port.to_bytes(2, "big"))


def who_of(key: bytes, run: str, device_id: bytes) -> str:
    """Return the code by which a known member with this nonce is told from the others."""
    return _code(key, b"flocklet-who", run, device_id)


def _code(key: bytes, person: bytes, run: str, rest: bytes) -> str:
    message = run.encode("ascii") + b" " + rest
    return hashlib.blake2b(message, digest_size=8, key=key, person=person).hexdigest()


@dataclass(frozen=True)
class Announcement:
    """What one peer says about itself, and what it needs to recognise members.

    `device_id` is 32 B, `run` the nonce in hex, `port` where it listens (0 until SRV says it). `keys` are the flock's
    discovery keys, newest first, and never leave; without one, members are told by `flock_tag`, as in an open flock.
    """

    device_id: bytes
    flock_tag: str
    run: str
    port: int = 0
    version: int = PROTOCOL_VERSION
    keys: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def hint(self) -> str:
        """Return the 12 hex digits that name this record on the network."""
        return instance_of(self.run)

    def instance_name(self, suffix: str = "") -> str:
        """Return the full DNS-SD name: never the host's name nor an id; `suffix` after a clash."""
        return f"{self.hint}{'-' + suffix if suffix else ''}.{SERVICE_TYPE}"

    def key_of(self, heard: Heard, port: int) -> bytes | None:
        """Return the key by which a record is a member's; None for that of a stranger: one hash for each of our keys."""
        return next((key for key in self._keys() if tag_of(key, heard.run, port) == heard.tag), None)

    def _keys(self) -> tuple[bytes, ...]:
        return self.keys or (hashlib.blake2b(self.flock_tag.encode(), digest_size=32).digest(),)

    def txt(self) -> bytes:
        """Return the TXT record; raises WireError if the nonce could not be read back."""
        if len(self.device_id) != 32 or not _RUN.fullmatch(self.run):
            raise WireError("an announcement needs a device id of 32 bytes and a nonce in hex")
        fields = {
            "v": str(self.version),
            "n": self.run,
            "t": tag_of(self._keys()[0], self.run, self.port),
            "w": who_of(self._keys()[0], self.run, self.device_id),
        }
        strings = [f"{key}={value}".encode("ascii") for key, value in fields.items()]
        return b"".join(bytes([len(string)]) + string for string in strings)


@dataclass(frozen=True)
class Heard:
    """What a TXT record says: a hint of anybody's. `device_id` and `flock_tag` are of version 1 only."""

    run: str
    tag: str = ""
    who: str = ""
    version: int = PROTOCOL_VERSION
    device_id: bytes | None = None
    flock_tag: str = ""

    @property
    def hint(self) -> str:
        """Return the 12 hex digits that the record's name must have."""
        return instance_of(self.run) if self.device_id is None else self.device_id[:6].hex()


def parse_txt(txt: bytes) -> Heard:
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
    if not version.isdigit() or len(version) > 4:
        raise WireError("no protocol version in the TXT record")
    if int(version) == 1:
        return _parse_first_version(fields)
    run, tag, who = (_text(fields, key) for key in (b"n", b"t", b"w"))
    if not (_RUN.fullmatch(run) and _CODE.fullmatch(tag) and _CODE.fullmatch(who)):
        raise WireError("the nonce or a code of the TXT record is not one")
    return Heard(run, tag, who, int(version))


def _parse_first_version(fields: dict[bytes, bytes]) -> Heard:
    id_text, tag, run = _text(fields, b"id").lower(), _text(fields, b"flock"), _text(fields, b"run")
    if not re.fullmatch(r"[0-9a-f]{64}", id_text):
        raise WireError("no device id in the TXT record")
    if (tag and not _TAG.fullmatch(tag)) or (run and not _RUN.fullmatch(run)):
        raise WireError("flock tag or run word of the TXT record has strange characters")
    return Heard(run, version=1, device_id=bytes.fromhex(id_text), flock_tag=tag)


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
