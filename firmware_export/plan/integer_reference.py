"""Compute the integer networks in NumPy exactly as the generated C does: the yardstick for w16, w8 and i16.

Integer sums are exact in any order, so they are made with int64 products here; `quantise.py` proved that
they fit in 32 bits. Float parts round operation by operation, as in `reference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.plan.field import Field
from flocklet.firmware_export.plan.numerics import FULL, M, activate, clamp
from flocklet.firmware_export.read.network import Network
from flocklet.firmware_export.read.semantics import ObsSpec

__all__ = ["IntegerLayer", "IntegerNetwork", "WeightLayer", "WeightNetwork", "to_counts"]

F32: TypeAlias = npt.NDArray[np.float32]
I64: TypeAlias = npt.NDArray[np.int64]
_f = np.float32
_MAGIC = _f(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer (ties to even) in the low bits


def to_counts(x: F32, gain: float, bound: float) -> I64:
    """Return x * gain rounded to nearest even, x limited to +-bound.

    The low 16 bits of the float sum, signed.
    """
    scaled = clamp(x, _f(bound)) * _f(gain) + _MAGIC
    return (scaled.view(np.uint32) & np.uint32(0xFFFF)).astype(np.uint16).view(np.int16).astype(np.int64)


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """Hold one layer of 16-bit or 8-bit weights.

    Q (n_out, n_in), scale and bias / scale (n_out,), input bound.
    """

    q: I64
    scale: F32
    bias: F32
    bound: float


@dataclass(frozen=True, eq=False)
class WeightNetwork:
    """Hold a w16 or w8 network.

    `state_weight` (n_out, state) multiplies observed values times `gain` (state,) in float32.
    """

    network: Network
    obs: ObsSpec
    order: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    proofs: dict[str, Any]
    layers: tuple[WeightLayer | None, ...]
    state_weight: F32
    gain: F32

    def run(self, state: F32, past: I64) -> F32:
        """Return outputs for float states (n, state) and past actions in counts (n, padded history)."""
        top = self.layers[0]
        z = np.tile(self.network.dense[0].bias if top is None else top.bias, (len(state), 1)).astype(_f)
        columns = np.ascontiguousarray(self.state_weight.T)
        for k in range(len(columns)):
            x = state[:, k : k + 1] if k < self.obs.state else np.zeros((len(state), 1), _f)
            z = z + columns[k] * (x * self.gain[k])
        counts, y = past, z
        for i, (layer, dense) in enumerate(zip(self.layers, self.network.dense, strict=True)):
            if i and layer is not None:
                counts = to_counts(y, float(_f(M / layer.bound)), layer.bound)
                z = np.tile(layer.bias, (len(state), 1)).astype(_f)
            if layer is not None:
                z = (z + (counts @ layer.q.T).astype(_f)) * layer.scale
            y = activate(z, dense.activation)
        return y

    def forward(self, x: F32) -> F32:
        """Return outputs (n, n_out) for inputs in the model's own column order."""
        internal = np.ascontiguousarray(x, _f)[:, self.order]
        past = self.obs.history_width
        return self.run(internal[:, past:], pad_entries(to_counts(internal[:, :past], M, 1.0), self.obs))

    def controller(self, init: float) -> _WeightHistory:
        """Return the history of one controller."""
        return _WeightHistory(self, init)


def pad_entries(counts: I64, obs: ObsSpec) -> I64:
    """Insert the zero that pads an entry of an odd number of actions."""
    if obs.history is None or obs.history[1] % 2 == 0:
        return counts
    n, entry = len(counts), obs.history[1]
    out = np.zeros((n, obs.history[0], entry + 1), np.int64)
    out[:, :, :entry] = counts.reshape(n, -1, entry)
    return out.reshape(n, -1)


class _WeightHistory:
    """Keep past actions in counts, and the newest as float32 (the running mean of its period)."""

    def __init__(self, model: WeightNetwork, init: float) -> None:
        self.model = model
        assert model.obs.history is not None  # noqa: S101 - the caller checked
        entries, entry = model.obs.history
        self.newest = np.full(entry, init, _f)
        self.past = np.tile(to_counts(self.newest, M, 1.0), (entries, 1))

    def forward(self, state: F32) -> F32:
        y: F32 = self.model.run(state[None], pad_entries(self.past.reshape(1, -1), self.model.obs))[0]
        return y

    def feed(self, fed: F32, k: int) -> None:
        if self.model.obs.feed == "previous_action" and k == 0:
            self.newest = fed.astype(_f)
        else:
            self.newest = (self.newest * _f(k) + fed) / _f(k + 1)
        self.past[-1] = to_counts(self.newest, M, 1.0)

    def shift(self) -> None:
        self.past[:-1] = self.past[1:].copy()


@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """Hold one layer of i16: parts (q, factor, counts) in the order state, past; bias in Q16."""

    parts: tuple[tuple[I64, I64, int], ...]
    bias: I64
    kind: str


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Hold an i16 network; `gain` (state,) float32 turns an observed value into 24-bit counts."""

    network: Network
    obs: ObsSpec
    order: npt.NDArray[np.int64]
    fields: tuple[Field, ...]
    proofs: dict[str, Any]
    layers: tuple[IntegerLayer, ...]
    tables: dict[str, I64]
    gain: F32

    def _curve(self, z: I64, kind: str) -> I64:
        """Return an activation of Q16 values, full scale 8 * 4095, from the table."""
        if kind == "sigmoid":
            return (self._curve(z >> 1, "tanh") + FULL) >> 1
        table = self.tables[kind]
        size = np.minimum(np.abs(z), 8 * 65536 - 1)
        at, rest = size >> 10, size & 1023
        y = table[at] + (((table[at + 1] - table[at]) * rest) >> 10)
        signed: I64 = np.where(z < 0, -y, y)
        return signed

    def state_counts(self, state: F32) -> I64:
        """Return observed values (n, state) in 24-bit counts."""
        return np.trunc(clamp(state * self.gain, _f(8388607.0))).astype(np.int64)

    def run(self, state: F32, past: I64) -> F32:
        """Return outputs for float states (n, state) and past actions in counts (n, padded history)."""
        counts = past
        for i, layer in enumerate(self.layers):
            z = np.tile(layer.bias, (len(state), 1))
            parts = list(layer.parts)
            if i == 0:
                u = self.state_counts(state)
                q, factor, _ = parts.pop(0)
                z = z + (((u >> 12) @ q.T * factor) >> 20) + (((((u & 4095) @ q.T) * factor) >> 20) >> 12)
            for q, factor, _ in parts:
                z = z + ((counts @ q.T * factor) >> 24)
            if layer.kind == "identity":
                return z.astype(_f) * _f(1 / 65536)
            t = self._curve(z, layer.kind)
            counts = (t + 4) >> 3
        return t.astype(_f) * _f(1 / FULL)

    def forward(self, x: F32) -> F32:
        """Return outputs (n, n_out) for inputs in the model's own column order."""
        internal = np.ascontiguousarray(x, _f)[:, self.order]
        past = self.obs.history_width
        full = to_counts(internal[:, :past], FULL, 1.0)
        return self.run(internal[:, past:], pad_entries((full + 4) >> 3, self.obs))

    def controller(self, init: float) -> _IntegerHistory:
        """Return the history of one controller."""
        return _IntegerHistory(self, init)


class _IntegerHistory:
    """Keep past actions in counts, and the newest in full-scale counts (the truncated running mean of its
    period).
    """

    def __init__(self, model: IntegerNetwork, init: float) -> None:
        self.model = model
        assert model.obs.history is not None  # noqa: S101 - the caller checked
        entries, entry = model.obs.history
        self.newest = to_counts(np.full(entry, init, _f), FULL, 1.0)
        self.past = np.tile((self.newest + 4) >> 3, (entries, 1))

    def forward(self, state: F32) -> F32:
        y: F32 = self.model.run(state[None], pad_entries(self.past.reshape(1, -1), self.model.obs))[0]
        return y

    def feed(self, fed: F32, k: int) -> None:
        total = self.newest * k + to_counts(fed, FULL, 1.0)
        self.newest = np.where(total < 0, -(-total // (k + 1)), total // (k + 1))
        self.past[-1] = (self.newest + 4) >> 3

    def shift(self) -> None:
        self.past[:-1] = self.past[1:].copy()
