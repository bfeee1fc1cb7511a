"""Codecs: fp32, fp16, int8, int4, top-k, random-k, sign; error feedback for those that are biased.

int8: scale = absmax/127, rounded. int4: scale = absmax/7, stochastic floor(x/s + u), codes -8..7 (QSGD-like, Alistarh
et al. 2017). top-k: the k largest values of the whole vector, indices as gaps, values as float16. Error feedback:
e <- d + e - Q(d + e) (Karimireddy et al. 2019, "Error Feedback Fixes SignSGD"). The wire format deflates
integer codes and sparse values where that makes them smaller, and dense ones if `zlib` asks for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Layout, Vector
from flocklet.swarm.protocols import Codec
from flocklet.wire.arrays import ArrayValue, Deflated, Quantised, Sparse

__all__ = ["Encoder", "Fp16", "Fp32", "Int4", "Int8", "RandomK", "Sign", "TopK"]


@dataclass(frozen=True)
class Fp32:
    """Send every bit; `zlib` deflates them: fewer bytes, some milliseconds per megabyte."""

    zlib: bool = False
    name = "fp32"
    unbiased = True
    has_feedback = False

    def omega(self, size: int) -> float:
        """Return 0: nothing is lost."""
        return 0.0

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return the tensors."""
        return _dense(vector, layout, self.zlib)


@dataclass(frozen=True)
class Fp16:
    """Round to half precision; values beyond 65504 are cut to it. `zlib` deflates them."""

    has_feedback: bool = False
    zlib: bool = False
    name = "fp16"
    unbiased = False

    def omega(self, size: int) -> float:
        """Return the square of half a unit in the last place (normal range)."""
        return 2.0**-22

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return the tensors as float16."""
        return _dense(np.clip(vector, -65504.0, 65504.0).astype(np.float16), layout, self.zlib)


@dataclass(frozen=True)
class Int8:
    """Round to 255 levels per tensor."""

    name = "int8"
    unbiased = False
    has_feedback: bool = False

    def omega(self, size: int) -> float:
        """Return the worst case: half a step in each of `size` values, against absmax alone."""
        return size * 0.25 / 127.0**2

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return one scale and int8 codes per tensor."""
        return {name: _quantised(tensor, 8, 127.0, None) for name, tensor in layout.split(vector).items()}


@dataclass(frozen=True)
class Int4:
    """Round stochastically to 15 levels per tensor: unbiased."""

    name = "int4"
    unbiased = True
    has_feedback: bool = False

    def omega(self, size: int) -> float:
        """Return the worst case: variance of a quarter step squared in each of `size` values."""
        return size * 0.25 / 7.0**2

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return one scale and int4 codes per tensor."""
        return {name: _quantised(tensor, 4, 7.0, rng) for name, tensor in layout.split(vector).items()}


@dataclass(frozen=True)
class TopK:
    """Keep the share of values that are largest in magnitude; biased, so error feedback is on."""

    share: float = 0.05
    has_feedback: bool = True
    name = "topk"
    unbiased = False

    def __post_init__(self) -> None:
        _check_share(self.share)

    def omega(self, size: int) -> float:
        """Return 1 - k/size (float16 values add 2^-22)."""
        return 1.0 - _kept(self.share, size) / size + 2.0**-22

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return the largest values of the vector, tensor by tensor."""
        count = _kept(self.share, vector.size)
        kept = np.sort(np.argpartition(np.abs(vector), vector.size - count)[vector.size - count :])
        return _sparse(vector, kept, layout)


@dataclass(frozen=True)
class RandomK:
    """Keep a random share of the values, scaled up so that the mean is right: unbiased."""

    share: float = 0.1
    has_feedback: bool = False
    name = "randk"
    unbiased = True

    def __post_init__(self) -> None:
        _check_share(self.share)

    def omega(self, size: int) -> float:
        """Return size/k - 1 (float16 values add 2^-22 of size/k)."""
        return size / _kept(self.share, size) * (1 + 2.0**-20) - 1.0

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return k values times size/k."""
        count = _kept(self.share, vector.size)
        kept = np.sort(rng.choice(vector.size, count, replace=False))
        return _sparse(vector * np.float32(vector.size / count), kept, layout)


@dataclass(frozen=True)
class Sign:
    """Keep signs, scaled by the mean magnitude of each tensor; biased, so error feedback is on."""

    has_feedback: bool = True
    name = "sign"
    unbiased = False

    def omega(self, size: int) -> float:
        """Return 1 - 1/size: |Q(x) - x|^2 = |x|^2 - |x|_1^2/size, and |x|_1 >= |x|."""
        return 1.0 - 1.0 / size

    def encode(self, vector: Vector, layout: Layout, rng: np.random.Generator) -> dict[str, ArrayValue]:
        """Return one bit per value."""
        found: dict[str, ArrayValue] = {}
        for name, tensor in layout.split(vector).items():
            codes = np.where(tensor.reshape(-1) < 0, -1, 1).astype(np.int8)
            scales = np.array([np.abs(tensor).mean()], np.float32)
            found[name] = Quantised(tensor.shape, 1, max(tensor.size, 1), scales, codes)
        return found


class Encoder:
    """One peer's end of a codec: keeps the error memory if the codec has feedback."""

    def __init__(self, codec: Codec, layout: Layout, rng: np.random.Generator) -> None:
        self.codec = codec
        self.layout = layout
        self._rng = rng
        self._error: Vector | None = (
            np.zeros(layout.size, np.float32) if getattr(codec, "has_feedback", False) else None
        )

    def forget(self) -> None:
        """Drop the error memory: for callers that send differences to a public copy, which remembers by itself."""
        self._error = None

    def feed_back(self, error: Vector) -> None:
        """Add an error that was made elsewhere, to be sent with what comes next (no-op without feedback)."""
        if self._error is not None:
            self._error = self._error + error

    def encode(self, vector: Vector) -> tuple[dict[str, ArrayValue], Vector]:
        """Return what travels, and what every receiver will make of it; remember what was left out."""
        wanted = vector if self._error is None else vector + self._error
        body, seen = self.encode_once(wanted)
        if self._error is not None:
            self._error = wanted - seen
        return body, seen

    def whole(self, vector: Vector) -> dict[str, ArrayValue]:
        """Return every bit of a model, for who lacks the base of a change."""
        return _dense(vector, self.layout, getattr(self.codec, "zlib", False))

    def encode_once(self, vector: Vector) -> tuple[dict[str, ArrayValue], Vector]:
        """Do the same without touching the error memory."""
        body = self.codec.encode(vector, self.layout, self._rng)
        if isinstance(self.codec, Fp32):
            return body, vector
        seen = self.layout.join(
            {key: value if isinstance(value, np.ndarray) else value.to_dense() for key, value in body.items()}
        )
        return body, seen


def _dense(vector: NDArray[Any], layout: Layout, is_deflated: bool) -> dict[str, ArrayValue]:
    tensors = layout.split(vector)
    return {name: Deflated(tensor) if is_deflated else tensor for name, tensor in tensors.items()}


def _quantised(tensor: Vector, bits: int, top: float, rng: np.random.Generator | None) -> Quantised:
    flat = tensor.reshape(-1)
    scale = np.float32(np.abs(flat).max(initial=0.0) / top)
    if scale == 0.0:
        codes = np.zeros(flat.size, np.int8)
    elif rng is None:
        codes = np.rint(flat / scale).clip(-top, top).astype(np.int8)
    else:
        codes = np.floor(flat / scale + rng.random(flat.size, np.float32)).clip(-top - 1, top).astype(np.int8)
    return Quantised(tensor.shape, bits, max(flat.size, 1), np.array([scale], np.float32), codes)


def _sparse(vector: Vector, kept: NDArray[np.int64], layout: Layout) -> dict[str, ArrayValue]:
    found: dict[str, ArrayValue] = {}
    for name, where in layout.slices.items():
        first, last = np.searchsorted(kept, (where.start, where.stop))
        values = np.clip(vector[kept[first:last]], -65504.0, 65504.0).astype(np.float16)
        found[name] = Sparse(layout.shapes[name], kept[first:last] - where.start, values)
    return found


def _kept(share: float, size: int) -> int:
    return max(1, math.ceil(share * size))


def _check_share(share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise UsageError(f"a share of {share:g} values cannot be kept", remedy="a share above 0 and up to 1")
