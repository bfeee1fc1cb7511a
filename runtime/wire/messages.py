"""The header that names a message, and the kinds whose bodies have no schema yet (PROTOCOL.md, "Messages").

A kind fixes what no sender can choose (`flocklet.wire.kinds`). Errors: WireError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgpack

from flocklet.errors import WireError
from flocklet.wire.kinds import HANDSHAKE_KINDS, LINK_KINDS, Kind, Role, Size

__all__ = [
    "HANDSHAKE_VERSION",
    "MESSAGES",
    "PROTOCOL_VERSION",
    "Lookup",
    "check_header",
    "message_of",
    "parse_header",
]

PROTOCOL_VERSION = 2
HANDSHAKE_VERSION = 1  # of the frames of a handshake: what tells versions apart has to be read by all of them


def _loose(role: Role, size: Size, *names: str) -> list[Kind]:
    return [Kind(name, None, role, size) for name in names]


MESSAGES: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *HANDSHAKE_KINDS,
        *LINK_KINDS,
        *_loose(Role.NOTE, Size.CONTROL, "offer"),
        *_loose(Role.AUTHOR, Size.CONTROL, "agg_ack", "member", "verify", "vote"),
        *_loose(Role.AUTHOR, Size.DATA, "send", "trained", "aggregated", "gossip", "swap", "rows"),
    )
}

_FEED_KIND = re.compile(r"[a-z][a-z_.]{0,29}[?!]")

Lookup: TypeAlias = Callable[[object], Kind | None]
"""Find what a type fixes; None when it is none that is taken."""


def message_of(type: object) -> Kind | None:
    """Return what a type fixes, None when it is no type of this protocol.

    Beside the table: what asks (`name?`, control) and answers (`name!`, data), so a new feed needs no row.
    """
    if not isinstance(type, str):
        return None
    found = MESSAGES.get(type)
    if found is None and _FEED_KIND.fullmatch(type):
        found = Kind(type, None, Role.NOTE, Size.CONTROL if type.endswith("?") else Size.DATA)
    return found


_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_HOP_KEYS: Mapping[str, int] = {"rid": _U32, "re": _U32}
_AUTHOR_INTS: Mapping[str, int] = {"seq": _U64, "round": _U64, "n": _U64, "K": _U32, "dur": _U64}
_AUTHOR_BYTES: Mapping[str, int] = {"run": 8, "src": 32, "base": 16}
_AUTHOR_NEEDS = frozenset(("run", "src", "seq"))


def _no_duplicates(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) != len(pairs):
        raise WireError("a header has the same key twice", reason="duplicate")
    return header


def parse_header(data: bytes, lookup: Lookup = message_of) -> dict[str, Any]:
    """Return the header that `data` holds, checked; `lookup` tells which types are taken."""
    try:
        header = msgpack.unpackb(
            data,
            raw=False,
            object_pairs_hook=_no_duplicates,
            max_str_len=32,
            max_bin_len=32,
            max_array_len=0,
            max_map_len=16,
            max_ext_len=0,
        )
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError("a header is not valid msgpack", reason="header") from error
    if type(header) is not dict:
        raise WireError("a header is not a map", reason="header")
    check_header(header, lookup)
    return header


def _is_count(value: object, top: int) -> bool:
    return type(value) is int and 0 <= value <= top


def check_header(header: Mapping[str, Any], lookup: Lookup = message_of) -> None:
    """Raise WireError unless the version, the type and every field are ones of this protocol."""
    version, name = header.get("v"), header.get("type")
    message = lookup(name)
    wanted = HANDSHAKE_VERSION if message and message.role is Role.HANDSHAKE else PROTOCOL_VERSION
    if version != wanted or type(version) is not int:
        raise WireError(f"a frame has protocol version {version!r}", reason="version")
    if message is None:
        raise WireError(f"message type {str(name)[:32]!r} is not one of this protocol", reason="type")
    for key, value in header.items():
        if key in ("v", "type"):
            continue
        if not message.is_authored:
            fits = key in _HOP_KEYS and _is_count(value, _HOP_KEYS[key])
        elif key in _AUTHOR_INTS:
            fits = _is_count(value, _AUTHOR_INTS[key])
        elif key in _AUTHOR_BYTES:
            fits = type(value) is bytes and len(value) == _AUTHOR_BYTES[key]
        else:
            fits = key == "codec" and type(value) is str and len(value) <= 32
        if not fits:
            raise WireError(f"the header field {str(key)[:32]!r} of a {name!r} is wrong", reason="header")
    if message.is_authored and not header.keys() >= _AUTHOR_NEEDS:
        raise WireError(f"a {name!r} lacks its author, run or seq", reason="header")
