"""Arrays as msgpack extension values: 1 = dense, 2 = sparse, 3 = quantised.

Layouts (all integers big-endian, all array data little-endian, C order):

    shape      u8 ndim | u32 dim, ndim times
    1 dense    dtype char | shape | raw values
    2 sparse   dtype char | shape | u32 gap bytes | gaps | raw values
               gaps: LEB128 varints; the first is the first flat index, each next one is (index - previous - 1)
    3 quantised  u8 bits (1, 2, 4, 8) | u8 compressor (0 none, 1 zlib) | shape | u32 block | float32 scale per block |
               codes, packed low bits first; 1 bit: 0 = -1, 1 = +1; else code - 2^(bits-1)
    4 deflated dense    dtype char | shape | zlib of the values by planes, highest bytes first
    5 deflated sparse   dtype char | shape | u32 gap bytes | u32 values | zlib of the gaps and the values by planes

Every size is computed in Python integers and compared with the limits before anything is allocated; values must be
finite. Errors: WireError, and SchemaMismatch where a shape differs from the announced one.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.wire.deflate import deflate_codes, deflate_planes, from_planes, inflate, planes_of

__all__ = ["ARRAYS", "ArrayValue", "Deflated", "Quantised", "Sparse", "decode_array", "encode_array"]

DENSE, SPARSE, QUANTISED, DEFLATED_DENSE, DEFLATED_SPARSE = 1, 2, 3, 4, 5
DTYPES = {
    char: np.dtype(("<" if size > 1 else "|") + kind + str(size))
    for char, kind, size in (
        ("?", "b", 1), ("b", "i", 1), ("B", "u", 1), ("h", "i", 2), ("H", "u", 2), ("i", "i", 4), ("I", "u", 4),
        ("q", "i", 8), ("Q", "u", 8), ("e", "f", 2), ("f", "f", 4), ("d", "f", 8),
    )
}  # fmt: skip
CHARS = {(dtype.kind, dtype.itemsize): char for char, dtype in DTYPES.items()}
MAX_DIMS = 8
MAX_VARINT = 5  # bytes of one gap
MAX_PRODUCT = 1 << 40  # of the dimensions that are not zero: NumPy refuses more
U32 = struct.Struct(">I")


@dataclass(frozen=True, eq=False)
class Sparse:
    """Hold the non-zero values of an array: `indices` (n,) int64 flat and increasing, `values` (n,) of one dtype."""

    shape: tuple[int, ...]
    indices: NDArray[np.int64]
    values: NDArray[Any]

    def to_dense(self) -> NDArray[Any]:
        """Return the array, shape `shape`, zeros elsewhere."""
        flat = np.zeros(math.prod(self.shape), dtype=self.values.dtype)
        flat[self.indices] = self.values
        return flat.reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Quantised:
    """Hold an array as small integers: value = code * scale of its block; `codes` (size,) int8, `scales` float32."""

    shape: tuple[int, ...]
    bits: int
    block: int
    scales: NDArray[np.float32]
    codes: NDArray[np.int8]

    def to_dense(self) -> NDArray[np.float32]:
        """Return the array as float32, shape `shape`."""
        scales = np.repeat(self.scales, self.block)[: self.codes.size]
        return (self.codes.astype(np.float32) * scales).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Deflated:
    """Wish that a dense array travels deflated; it arrives as the plain array."""

    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape

    def to_dense(self) -> NDArray[Any]:
        """Return the array."""
        return self.values


ArrayValue: TypeAlias = NDArray[Any] | Sparse | Quantised | Deflated
ARRAYS = (np.ndarray, Sparse, Quantised, Deflated)


def encode_array(value: ArrayValue) -> tuple[int, bytes]:
    """Return (extension code, payload); raise WireError for a dtype or a value that peers would refuse.

    Sparse arrays, quantised ones and those that are `Deflated` are deflated where that makes them smaller.
    """
    if isinstance(value, Sparse):
        return _encode_sparse(value)
    if isinstance(value, Quantised):
        return QUANTISED, _encode_quantised(value)
    dense = value.values if isinstance(value, Deflated) else value
    char = _char(dense.dtype)
    _check_finite(dense)
    raw = np.ascontiguousarray(dense, dtype=DTYPES[char]).tobytes()
    head = char.encode() + _pack_shape(dense.shape)
    if isinstance(value, Deflated):
        small = deflate_planes(planes_of(raw, dense.itemsize))
        if len(small) < len(raw):
            return DEFLATED_DENSE, head + small
    return DENSE, head + raw


def decode_array(
    code: int, payload: bytes, *, max_elements: int, expected: tuple[int, ...] | None = None
) -> ArrayValue:
    """Return the array of an extension value; it owns its memory and is read-only.

    At most `max_elements` elements, and exactly the shape `expected` if one is given.
    """
    try:
        if code in (DENSE, DEFLATED_DENSE):
            return _decode_dense(payload, max_elements, expected, is_deflated=code == DEFLATED_DENSE)
        if code in (SPARSE, DEFLATED_SPARSE):
            return _decode_sparse(payload, max_elements, expected, is_deflated=code == DEFLATED_SPARSE)
        if code == QUANTISED:
            return _decode_quantised(payload, max_elements, expected)
    except (struct.error, IndexError) as error:
        raise WireError("an array ends before its header says", reason="array") from error
    raise WireError(f"extension type {code} is not one of this protocol", reason="extension")


def _char(dtype: np.dtype[Any]) -> str:
    char = CHARS.get((dtype.kind, dtype.itemsize))
    if char is None:
        raise WireError(f"arrays of {dtype} do not travel", reason="dtype")
    return char


def _dtype(payload: bytes) -> np.dtype[Any]:
    dtype = DTYPES.get(chr(payload[0]))
    if dtype is None:
        raise WireError(f"dtype {payload[:1]!r} is not one of this protocol", reason="dtype")
    return dtype


def _check_finite(values: NDArray[Any]) -> None:
    if values.dtype.kind != "f":
        return
    if values.dtype == np.float32 and values.flags.c_contiguous:
        flat = values.reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(flat.dot(flat)):  # NaN and infinity cannot cancel in a sum of squares
                return
    if not np.isfinite(values).all():
        raise WireError("an array holds NaN or infinity", reason="finite")


def _pack_shape(shape: tuple[int, ...]) -> bytes:
    if len(shape) > MAX_DIMS or max(shape, default=0) >= 1 << 32:
        raise WireError(
            f"shape {shape} does not fit: at most {MAX_DIMS} dimensions below 2^32", reason="shape"
        )
    return struct.pack(f">B{len(shape)}I", len(shape), *shape)


def _shape(
    payload: bytes, at: int, max_elements: int, expected: tuple[int, ...] | None
) -> tuple[tuple[int, ...], int, int]:
    """Return (shape, number of elements, offset behind the shape)."""
    ndim = payload[at]
    if ndim > MAX_DIMS:
        raise WireError(f"an array has {ndim} dimensions; at most {MAX_DIMS}", reason="shape")
    shape: tuple[int, ...] = struct.unpack_from(f">{ndim}I", payload, at + 1)
    size = math.prod(shape)
    if size > max_elements or math.prod(dim for dim in shape if dim) > MAX_PRODUCT:
        raise WireError(f"an array has shape {shape}; at most {max_elements} elements", reason="shape")
    if expected is not None and shape != expected:
        raise SchemaMismatch(f"an array has shape {shape} instead of {expected}")
    return shape, size, at + 1 + 4 * ndim


def _values(payload: bytes, at: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if len(payload) - at != count * dtype.itemsize:
        raise WireError(
            f"an array of {count} elements has {len(payload) - at} bytes instead of {count * dtype.itemsize}",
            reason="array",
        )
    values: NDArray[Any] = np.frombuffer(payload, dtype=np.uint8 if dtype.kind == "b" else dtype, offset=at)
    if dtype.kind == "b":
        if values.size and int(values.max()) > 1:
            raise WireError("a boolean is neither 0 nor 1", reason="array")
        values = values.view(np.bool_)
    _check_finite(values)
    return values


def _decode_dense(
    payload: bytes, max_elements: int, expected: tuple[int, ...] | None, *, is_deflated: bool
) -> NDArray[Any]:
    dtype = _dtype(payload)
    shape, size, at = _shape(payload, 1, max_elements, expected)
    if is_deflated:
        payload, at = from_planes(inflate(payload[at:], size * dtype.itemsize), dtype.itemsize), 0
    return _values(payload, at, size, dtype).reshape(shape)


def _encode_sparse(value: Sparse) -> tuple[int, bytes]:
    char = _char(value.values.dtype)
    _check_finite(value.values)
    indices = np.asarray(value.indices, dtype=np.int64)
    if indices.shape != value.values.shape or indices.ndim != 1:
        raise WireError("a sparse array needs one index per value", reason="array")
    if indices.size and (
        indices[0] < 0 or indices[-1] >= math.prod(value.shape) or (np.diff(indices) < 1).any()
    ):
        raise WireError("the indices of a sparse array must increase within its shape", reason="array")
    gaps = _varints(np.diff(indices, prepend=-1) - 1)
    raw = np.ascontiguousarray(value.values, dtype=DTYPES[char]).tobytes()
    head = char.encode() + _pack_shape(value.shape) + U32.pack(len(gaps))
    small = deflate_planes([gaps, *planes_of(raw, value.values.itemsize)])
    if U32.size + len(small) < len(gaps) + len(raw):
        return DEFLATED_SPARSE, head + U32.pack(indices.size) + small
    return SPARSE, head + gaps + raw


def _decode_sparse(
    payload: bytes, max_elements: int, expected: tuple[int, ...] | None, *, is_deflated: bool
) -> Sparse:
    dtype = _dtype(payload)
    shape, size, at = _shape(payload, 1, max_elements, expected)
    (gap_bytes,) = U32.unpack_from(payload, at)
    at += U32.size
    if is_deflated:
        (count,) = U32.unpack_from(payload, at)
        if count > size or gap_bytes > MAX_VARINT * count:
            raise WireError("a sparse array holds more than its shape", reason="array")
        plain = inflate(payload[at + U32.size :], gap_bytes + count * dtype.itemsize)
        payload, at = plain[:gap_bytes] + from_planes(plain[gap_bytes:], dtype.itemsize), 0
    if gap_bytes > len(payload) - at:
        raise WireError("a sparse array ends before its header says", reason="array")
    gaps = _unvarints(np.frombuffer(payload, dtype=np.uint8, offset=at, count=gap_bytes))
    indices = np.cumsum(gaps + 1) - 1
    # Each gap is below 2^35 and there are below 2^32 of them, so a sum can pass 2^63 only beyond any real frame.
    if gaps.size > size or (indices.size and not 0 <= int(indices[-1]) < size):
        raise WireError("a sparse array has an index outside its shape", reason="array")
    return Sparse(shape, indices, _values(payload, at + gap_bytes, gaps.size, dtype))


def _varints(numbers: NDArray[np.int64]) -> bytes:
    """Return the LEB128 bytes of non-negative numbers below 2^35."""
    lengths = np.ones(numbers.size, dtype=np.int64)
    for bits in (7, 14, 21, 28):
        lengths += numbers >= 1 << bits
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for place in range(5):
        has = lengths > place
        more = (lengths[has] > place + 1).astype(np.uint8) << 7
        out[starts[has] + place] = (numbers[has] >> (7 * place) & 0x7F).astype(np.uint8) | more
    return out.tobytes()


def _unvarints(raw: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the numbers of LEB128 bytes; each at most five bytes and in its shortest form."""
    if raw.size == 0:
        return np.zeros(0, dtype=np.int64)
    ends = np.flatnonzero(raw < 0x80)
    if ends.size == 0 or ends[-1] != raw.size - 1:
        raise WireError("the last varint is cut", reason="array")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if int(lengths.max()) > 5 or bool(((raw[ends] == 0) & (lengths > 1)).any()):
        raise WireError("a varint is not in its shortest form", reason="array")
    shifts = 7 * (np.arange(raw.size) - np.repeat(starts, lengths))
    numbers: NDArray[np.int64] = np.add.reduceat((raw & 0x7F).astype(np.int64) << shifts, starts)
    return numbers


def _encode_quantised(value: Quantised) -> bytes:
    bits, size = value.bits, math.prod(value.shape)
    if bits not in (1, 2, 4, 8) or not 1 <= value.block <= max(size, 1) or value.codes.shape != (size,):
        raise WireError("a quantised array needs 1, 2, 4 or 8 bits and one code per element", reason="array")
    if value.scales.shape != (-(-size // value.block),):
        raise WireError("a quantised array needs one scale per block", reason="array")
    _check_finite(value.scales)
    codes = value.codes.astype(np.int16)
    unsigned = (codes + 1) // 2 if bits == 1 else codes + (1 << bits - 1)
    if size and not 0 <= int(unsigned.min()) <= int(unsigned.max()) < 1 << bits:
        raise WireError(f"a code does not fit in {bits} bits", reason="array")
    per_byte = 8 // bits
    lanes = np.zeros(-(-size // per_byte) * per_byte, dtype=np.uint8)
    lanes[:size] = unsigned
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    packed = np.bitwise_or.reduce(lanes.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8).tobytes()
    small = deflate_codes(packed)
    compressor, codes_bytes = (1, small) if len(small) < len(packed) else (0, packed)
    head = bytes([bits, compressor]) + _pack_shape(value.shape) + U32.pack(value.block)
    return head + value.scales.astype("<f4").tobytes() + codes_bytes


def _decode_quantised(payload: bytes, max_elements: int, expected: tuple[int, ...] | None) -> Quantised:
    bits, compressor = payload[0], payload[1]
    if bits not in (1, 2, 4, 8) or compressor > 1:
        raise WireError(
            f"{bits} bits with compressor {compressor} is not one of this protocol", reason="array"
        )
    shape, size, at = _shape(payload, 2, max_elements, expected)
    (block,) = U32.unpack_from(payload, at)
    at += U32.size
    if not 1 <= block <= max(size, 1):
        raise WireError(f"a quantised array of {size} elements has blocks of {block}", reason="array")
    n_scales = -(-size // block)
    if n_scales * 4 > len(payload) - at:
        raise WireError("a quantised array lacks its scales", reason="array")
    scales = _values(payload[at : at + 4 * n_scales], 0, n_scales, DTYPES["f"])
    per_byte = 8 // bits
    n_bytes = -(-size // per_byte)
    data = payload[at + 4 * n_scales :]
    packed = inflate(data, n_bytes) if compressor else data
    if len(packed) != n_bytes:
        raise WireError(
            f"a quantised array has {len(packed)} code bytes instead of {n_bytes}", reason="array"
        )
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(bits)
    lanes = (np.frombuffer(packed, dtype=np.uint8)[:, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(-1)
    if lanes[size:].any():
        raise WireError("the padding of a quantised array is not zero", reason="array")
    wide = lanes[:size].astype(np.int16)
    codes = (wide * 2 - 1 if bits == 1 else wide - (1 << bits - 1)).astype(np.int8)
    return Quantised(shape, bits, block, scales, codes)
