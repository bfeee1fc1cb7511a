"""The one door: every message of a peer is checked here, once, and nothing behind it sees an unchecked value.

    door = Door([*HANDSHAKE_KINDS, *LINK_KINDS, *kinds_of_feeds, *kinds_of_swarms])
    door.expect("trained", {"w": (10, 5), "b": (10,)})          # arrays: these names and shapes, or none at all
    message = door.read(door.kind("edges?"), body_bytes)        # an EdgeQuestion, or WireError

Order of checks (PROTOCOL.md, "The door"): length, header, kind known and allowed now (`flocklet.wire.frame`), what it
unpacks to against the sender's budget (`announced_bytes`), the decoder, the schema. Kinds without lists and arrays are
decoded flat: a container inside them ends the decoding at its first byte. Arrays come only where a kind has them, and
only after `expect`: their shapes are compared with the announced layout before anything is inflated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgpack

from flocklet.errors import WireError
from flocklet.wire.body import Limits, unpack_body
from flocklet.wire.kinds import HANDSHAKE_KINDS, LINK_KINDS, Kind, Role, Size
from flocklet.wire.messages import message_of

__all__ = ["BLAMED", "Door"]

Layout = Mapping[str, tuple[int, ...]]

BLAMED = frozenset(
    (
        "array", "body", "compression", "content", "credit", "depth", "dtype", "duplicate", "elements", "equivocation",
        "extension", "field", "finite", "garbage", "header", "items", "key", "length", "msgpack", "schema", "shape",
        "signature", "size", "too-long", "type", "version", "wire",
    )
)  # fmt: skip
"""The refusals that count towards a ban: bad bytes, bad signatures, equivocation. What an honest peer can run into -
its clock or ours, a message late or twice, a budget - never does: it is counted and refused, no more."""

MAX_DEPTH = 2
CONTROL_ITEMS, DATA_ITEMS = 512, 1_024
ITEM_BYTES = 64  # what one small item of a list costs in memory
DTYPE_BYTES = 8  # at most, of one element


class Door:
    """The kinds that this process takes, and how each is read; `refused` counts what was not let in, by reason."""

    def __init__(self, kinds: Iterable[Kind] = (), *, is_loose: bool = False) -> None:
        """Put the kinds of all rooms together with the link's own; raise TypeError when two have one name.

        `is_loose` also takes the kinds that have no schema yet (`flocklet.wire.messages`): a swarm's.
        """
        self._kinds: dict[str, Kind] = {}
        self._is_loose = is_loose
        self._layouts: dict[str, Layout] = {}
        self.refused: Counter[str] = Counter()
        for kind in (*HANDSHAKE_KINDS, *LINK_KINDS, *kinds):
            held = self._kinds.setdefault(kind.name, kind)
            if held != kind:
                raise TypeError(f"two kinds of message are called {kind.name!r}")
            if kind.message is not None:
                kind.schema  # noqa: B018 - compiles it: a class that cannot travel shows here, not at a peer's message

    def __iter__(self) -> Iterator[Kind]:
        return iter(self._kinds.values())

    def __contains__(self, name: object) -> bool:
        return name in self._kinds

    def find(self, name: object) -> Kind | None:
        """Return the kind of this name; None for one that this process does not take."""
        kind = self._kinds.get(name) if type(name) is str else None
        return message_of(name) if kind is None and self._is_loose else kind

    def kind(self, name: object) -> Kind:
        """Return the kind of this name; raise WireError, reason `type`, for one that this process does not take."""
        kind = self.find(name)
        if kind is None:
            raise WireError(f"message type {str(name)[:32]!r} is not one of this protocol", reason="type")
        return kind

    @property
    def features(self) -> tuple[str, ...]:
        """What a hello announces: the kinds beyond those that every link has, in order."""
        return tuple(sorted(k.name for k in self if k.role not in (Role.HANDSHAKE, Role.LINK)))

    def expect(self, name: str, layout: Layout | None) -> None:
        """Let arrays of these names and shapes come in messages of this kind; None: no arrays any more."""
        if self.kind(name).schema.tensors is None:
            raise TypeError(f"{name!r} brings no arrays")
        if layout is None:
            self._layouts.pop(name, None)
        else:
            self._layouts[name] = dict(layout)

    def announced_bytes(self, kind: Kind, size: int) -> int:
        """Return how many bytes a body of `size` bytes of this kind may unpack to; nothing is decoded for that."""
        if kind.message is None:
            return size + ITEM_BYTES * min(size, DATA_ITEMS)
        schema = kind.schema
        bytes_ = size + schema.unpacks
        if schema.has_lists:
            bytes_ += ITEM_BYTES * min(size, CONTROL_ITEMS if kind.size is Size.CONTROL else DATA_ITEMS)
        if schema.tensors is not None:
            layout = self._layouts.get(kind.name, {})
            bytes_ += DTYPE_BYTES * sum(math.prod(shape) for shape in layout.values())
        return bytes_

    def read(self, kind: Kind, data: bytes | memoryview, limits: Limits | None = None) -> Any:
        """Return the message in the body bytes `data`; raise WireError, and count it, for anything else.

        A kind without a schema is decoded under `limits` to a map.
        """
        try:
            if kind.message is None:
                return unpack_body(data, limits or Limits(max_elements=0))
            schema = kind.schema
            body = _flat(data, len(schema.rules)) if schema.is_flat else self._walked(kind, data)
            return schema.read(body)
        except WireError as error:
            self.refused[error.reason] += 1
            raise

    def _walked(self, kind: Kind, data: bytes | memoryview) -> dict[str, Any]:
        schema = kind.schema
        items = CONTROL_ITEMS if kind.size is Size.CONTROL else DATA_ITEMS
        layout = self._layouts.get(kind.name, {}) if schema.tensors is not None else {}
        limits = Limits(
            max_bytes=max(len(data), 1),
            max_items=items,
            max_total_items=items + len(layout),
            max_depth=MAX_DEPTH + schema.has_rows,
            max_str_bytes=max(len(data), 1),
            max_elements=sum(math.prod(shape) for shape in layout.values()),
            layout=layout,
        )
        return unpack_body(data, limits)


def _flat(data: bytes | memoryview, n_fields: int) -> dict[str, Any]:
    """Return the map of scalars in `data`; a container or an extension inside it is refused at its first byte."""
    size = len(data)
    unpacker = msgpack.Unpacker(
        raw=False,
        strict_map_key=True,
        max_buffer_size=size or 1,
        max_str_len=size,
        max_bin_len=size,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(data)
    body: dict[str, Any] = {}
    try:
        count = unpacker.read_map_header()
        if count > n_fields:
            raise WireError(f"a body has {count} fields; at most {n_fields}", reason="field")
        for _ in range(count):
            key = unpacker.unpack()
            body[key] = unpacker.unpack()
        end = unpacker.tell()
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException) as error:
        raise WireError(
            f"a body is not valid msgpack: {error or 'it is cut'}"[:200], reason="msgpack"
        ) from error
    if end != size or len(body) != count:
        what = "a body has the same key twice" if end == size else "bytes follow the end of a body"
        raise WireError(what, reason="duplicate" if end == size else "msgpack")
    return body
