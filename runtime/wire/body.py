"""The body of a frame: one flat msgpack map, decoded under explicit limits.

msgpack by itself accepts NaN, duplicate keys and timestamps, and lets 1 MiB of empty lists grow into 80 MiB. So the
body is walked: each container's length is read and judged before its items are, and scalars are judged one by one.
Errors: WireError, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import numpy as np

from flocklet.errors import SchemaMismatch, WireError
from flocklet.wire.arrays import ARRAYS, decode_array, encode_array

__all__ = ["Body", "Limits", "pack_body", "unpack_body"]

Body: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Bound what one body may hold; every bound is checked before the bytes behind it are decoded.

    `schema` (name -> shape) is set where a model's tensors are expected: the arrays at the top of the body must then
    be exactly those. `layout` lets the same arrays come, some or all of them, and no others.
    """

    max_bytes: int = 64 * 1024
    max_items: int = 4096  # of one array or map
    max_total_items: int = 16384  # of all arrays and maps together
    max_depth: int = 3
    max_str_bytes: int = 4096
    max_elements: int = 1 << 20  # of all arrays together
    schema: Mapping[str, tuple[int, ...]] | None = None
    layout: Mapping[str, tuple[int, ...]] | None = None


def pack_body(body: Mapping[str, Any]) -> bytes:
    """Return the msgpack bytes of a map of str -> None, bool, int, float, str, bytes, list, map or array.

    Raise WireError for what a peer would refuse: NaN, foreign types, foreign dtypes.
    """
    try:
        packed: bytes = msgpack.packb({key: _sendable(value) for key, value in body.items()})
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, WireError):
            raise
        raise WireError(f"this body cannot be sent: {error}", reason="body") from error
    return packed


def _sendable(value: Any) -> Any:
    if type(value) in (int, str, bytes, bool):
        return value
    if isinstance(value, ARRAYS):
        return msgpack.ExtType(*encode_array(value))
    if isinstance(value, float) and not math.isfinite(value):
        raise WireError("NaN and infinity do not travel", reason="finite")
    if isinstance(value, list | tuple):
        return [_sendable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _sendable(item) for key, item in value.items()}
    if isinstance(value, memoryview):
        return bytes(value)
    return value


def unpack_body(data: bytes | memoryview, limits: Limits) -> Body:
    """Return the map that `data` holds; raise WireError (SchemaMismatch for wrong tensors)."""
    if len(data) > limits.max_bytes:
        raise WireError(f"a body has {len(data)} bytes; at most {limits.max_bytes}", reason="size")
    return _Walk(data, limits).body()


# Families of the first byte of a msgpack value (msgpack specification, "Formats").
def _is_map(lead: int) -> bool:
    return 0x80 <= lead <= 0x8F or lead in (0xDE, 0xDF)


def _is_array(lead: int) -> bool:
    return 0x90 <= lead <= 0x9F or lead in (0xDC, 0xDD)


class _Walk:
    """One pass over one body."""

    def __init__(self, data: bytes | memoryview, limits: Limits) -> None:
        size = len(data)
        self.data = data
        self.limits = limits
        self.items_left = limits.max_total_items
        self.elements_left = limits.max_elements
        self.unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            max_buffer_size=max(size, 1),
            max_str_len=min(size, limits.max_str_bytes),
            max_bin_len=size,
            max_array_len=limits.max_items,
            max_map_len=limits.max_items,
            max_ext_len=size,
        )
        self.unpacker.feed(data)

    def body(self) -> Body:
        schema = self.limits.schema
        try:
            body = self._map(1)
            end = self.unpacker.tell()
        except WireError:
            raise
        except (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException) as error:
            raise WireError(
                f"a body is not valid msgpack: {error or 'it is cut'}"[:200], reason="msgpack"
            ) from error
        if end != len(self.data):
            raise WireError("bytes follow the end of a body", reason="msgpack")
        for key in body:
            if not isinstance(key, str):
                raise WireError("the keys of a body are text", reason="msgpack")
        if schema is not None:
            arrays = {key for key, value in body.items() if isinstance(value, ARRAYS)}
            if arrays != set(schema):
                raise SchemaMismatch(
                    f"a body has {len(arrays)} tensors that are not the {len(schema)} of the model"
                )
        return body

    def _lead(self) -> int:
        at = self.unpacker.tell()
        if at >= len(self.data):
            raise WireError("a body is cut", reason="msgpack")
        return int(self.data[at])

    def _count(self, count: int, depth: int) -> int:
        if depth > self.limits.max_depth:
            raise WireError(f"containers are nested deeper than {self.limits.max_depth}", reason="depth")
        if count > self.limits.max_items:  # msgpack itself judges only what it decodes whole
            raise WireError(
                f"a container announces {count} items; at most {self.limits.max_items}", reason="items"
            )
        self.items_left -= count
        if self.items_left < 0:
            raise WireError(f"a body has more than {self.limits.max_total_items} items", reason="items")
        return count

    def _map(self, depth: int) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for _ in range(self._count(self.unpacker.read_map_header(), depth)):
            lead = self._lead()
            if _is_map(lead) or _is_array(lead):
                raise WireError("a map has a container as its key", reason="msgpack")
            key = self.unpacker.unpack()
            if type(key) not in (str, bytes, int):
                raise WireError("a map has a key that is neither text, bytes nor integer", reason="msgpack")
            if key in found:
                raise WireError("a map has the same key twice", reason="duplicate")
            found[key] = self._value(depth, key if depth == 1 else None)
        return found

    def _value(self, depth: int, name: str | None) -> Any:
        lead = self._lead()
        if _is_map(lead):
            return self._map(depth + 1)
        if _is_array(lead):
            count = self._count(self.unpacker.read_array_header(), depth + 1)
            return [self._value(depth + 1, None) for _ in range(count)]
        value = self.unpacker.unpack()
        kind = type(value)
        if kind is float:
            if not math.isfinite(value):
                raise WireError("a number is NaN or infinite", reason="finite")
        elif kind is msgpack.ExtType:
            return self._array(value, name)
        elif kind is msgpack.Timestamp:
            raise WireError("the timestamp extension is not part of this protocol", reason="extension")
        return value

    def _array(self, value: msgpack.ExtType, name: str | None) -> Any:
        schema = self.limits.schema if self.limits.schema is not None else self.limits.layout
        expected = None
        if schema is not None:
            if name is None or name not in schema:
                raise SchemaMismatch(f"the tensor {str(name)[:40]!r} is not part of the model")
            expected = schema[name]
        array = decode_array(value.code, value.data, max_elements=self.elements_left, expected=expected)
        self.elements_left -= array.size if isinstance(array, np.ndarray) else math.prod(array.shape)
        return array
