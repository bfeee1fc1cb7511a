"""Read the fields of one protobuf message of an ONNX file, and what a field may hold.

Nothing in the file is trusted: counts and sizes are bounded, and whatever is malformed or truncated raises `ExportError`
with one line that names the message (`what`). Fields that a caller does not know are skipped by their wire type.
Format: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError

__all__ = [
    "MAX_ELEMENTS",
    "Tensor",
    "Value",
    "array_of",
    "bytes_of",
    "fixed32_of",
    "integers_of",
    "records",
    "signed",
    "text_of",
]

MAX_ELEMENTS = 16 * 1024 * 1024
MAX_RECORDS = 100_000

Tensor: TypeAlias = npt.NDArray[Any]
Value: TypeAlias = int | memoryview


def _varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ExportError(f"the ONNX file is truncated inside {what}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ExportError(f"the ONNX file has a number of more than ten bytes inside {what}")


def signed(value: int) -> int:
    """Return a number of 64 bits as a signed one."""
    return value - (1 << 64) if value >= 1 << 63 else value


def records(data: memoryview, what: str) -> Iterator[tuple[int, int, Value]]:
    """Yield (field, wire type, value) of one message; a value is an int or the bytes of the field."""
    at = 0
    for _ in range(MAX_RECORDS):
        if at == len(data):
            return
        key, at = _varint(data, at, what)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ExportError(f"the ONNX file has field number 0 inside {what}")
        if kind == 0:
            value, at = _varint(data, at, what)
            yield number, kind, value
            continue
        if kind == 2:
            size, at = _varint(data, at, what)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ExportError(f"the ONNX file has wire type {kind} inside {what}: this is no ONNX file")
        if size > len(data) - at:
            raise ExportError(f"the ONNX file is truncated inside {what}")
        yield number, kind, data[at : at + size]
        at += size
    raise ExportError(f"the ONNX file has more than {MAX_RECORDS} fields inside {what}")


def bytes_of(value: Value, what: str) -> memoryview:
    """Return the bytes of a field."""
    if isinstance(value, int):
        raise ExportError(f"the ONNX file has a number where {what} must hold bytes")
    return value


def text_of(value: Value, what: str) -> str:
    """Return the text of a field."""
    try:
        return bytes(bytes_of(value, what)).decode()
    except UnicodeDecodeError as error:
        raise ExportError(f"the ONNX file has a name that is no text inside {what}") from error


def integers_of(value: Value, what: str) -> list[int]:
    """Return the signed integers of a repeated field, packed or not."""
    if isinstance(value, int):
        return [signed(value)]
    out: list[int] = []
    at = 0
    while at < len(value):
        number, at = _varint(value, at, what)
        out.append(signed(number))
        if len(out) > MAX_ELEMENTS:
            raise ExportError(f"the ONNX file has more than {MAX_ELEMENTS} numbers inside {what}")
    return out


def array_of(value: Value, dtype: str, what: str) -> Tensor:
    """Return the numbers of a field as an array of a NumPy type, a view of the file."""
    data = bytes_of(value, what)
    size = np.dtype(dtype).itemsize
    if len(data) % size:
        raise ExportError(f"the ONNX file has {len(data)} bytes inside {what}, no multiple of {size}")
    return np.frombuffer(data, dtype=dtype)


def fixed32_of(value: Value, what: str) -> bytes:
    """Return the four bytes of a field."""
    data = bytes(bytes_of(value, what))
    if len(data) != 4:
        raise ExportError(f"the ONNX file has a malformed float inside {what}")
    return data
