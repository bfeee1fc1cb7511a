"""The table of message types, and the header that names one of them (PROTOCOL.md, "Messages").

A type fixes three things that no sender can choose: how large the message may be, whether it may come before
authentication, and whether its author signs it. Errors: WireError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgpack

from flocklet.errors import WireError

__all__ = [
    "MESSAGES",
    "PROTOCOL_VERSION",
    "Message",
    "Size",
    "check_header",
    "message_of",
    "parse_header",
]

PROTOCOL_VERSION = 1


class Size(Enum):
    """How large a message may be, and when it may come."""

    HANDSHAKE = "handshake"  # before authentication only: 4 KiB
    CONTROL = "control"  # 64 KiB
    DATA = "data"  # what the receiver announced; 1 MiB unless a model needs more


@dataclass(frozen=True)
class Message:
    """One row of the message table."""

    size: Size
    is_authored: bool = False


_HOP = Message(Size.CONTROL)
_HOP_DATA = Message(Size.DATA)
_AUTHOR = Message(Size.CONTROL, is_authored=True)
_AUTHOR_DATA = Message(Size.DATA, is_authored=True)

MESSAGES: Mapping[str, Message] = {
    # the handshake
    "hello": Message(Size.HANDSHAKE),
    "proof": Message(Size.HANDSHAKE),
    "welcome": Message(Size.HANDSHAKE),
    "refuse": Message(Size.HANDSHAKE),
    # the link itself: answered at once, never queued
    "ping": _HOP,
    "pong": _HOP,
    "credit": _HOP,
    "bye": _HOP,
    "fail": _HOP,  # the reply that says why there is none
    # between neighbours
    "ok": _HOP,
    "offer": _HOP,
    "get": _HOP,
    "chunk": _HOP_DATA,
    "content": _HOP_DATA,
    # signed by their author
    "agg_ack": _AUTHOR,
    "member": _AUTHOR,
    "verify": _AUTHOR,
    "vote": _AUTHOR,
    "send": _AUTHOR_DATA,
    "trained": _AUTHOR_DATA,
    "aggregated": _AUTHOR_DATA,
    "gossip": _AUTHOR_DATA,
    "swap": _AUTHOR_DATA,
    "rows": _AUTHOR_DATA,
}

_FEED_KIND = re.compile(r"[a-z][a-z_.]{0,29}[?!]")


def message_of(type: object) -> Message | None:
    """Return what a type fixes, None when it is no type of this protocol.

    Beside the table: what feeds ask (`name?`, control) and answer (`name!`, data), so a new feed needs no row.
    """
    if not isinstance(type, str):
        return None
    found = MESSAGES.get(type)
    if found is None and _FEED_KIND.fullmatch(type):
        return _HOP if type.endswith("?") else _HOP_DATA
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


def parse_header(data: bytes) -> dict[str, Any]:
    """Return the header that `data` holds, checked."""
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
    check_header(header)
    return header


def _is_count(value: object, top: int) -> bool:
    return type(value) is int and 0 <= value <= top


def check_header(header: Mapping[str, Any]) -> None:
    """Raise WireError unless the version, the type and every field are ones of this protocol."""
    version, name = header.get("v"), header.get("type")
    if version != PROTOCOL_VERSION or type(version) is not int:
        raise WireError(f"a frame has protocol version {version!r}", reason="version")
    message = message_of(name)
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
