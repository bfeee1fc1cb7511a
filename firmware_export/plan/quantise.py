"""Quantise a network to 16-bit (or 8-bit) weights and prove that no integer sum can overflow.

w16, w8: the observed values stay float32; past actions and hidden values become 13-bit integers (M = 4095
counts for the bound of the value). Per output row, cap counts stand for a unit weight: cap = min((2^31 -
2^16) / M / sum|w|, 32766 / max|w|) (127 for w8), q = round(w cap), scale = bound / (cap M), output =
(float sum + integer sum) * scale. With an action history, w16 stores the weights of the observed values in
16 bits too; they multiply in float. i16: everything is an integer. An observed value in its declared range
L becomes u = trunc(x 2^23 / L), split in hi = u >> 12 and lo = u & 4095, both multiplied by the weights of
w L; sums become Q16, activations come from a table.

The proof is made in Python integers: sum|q| times the largest input of every row, with every offset that
the kernels add, stays below 2^31, so every partial sum does in any order. It is stored in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.plan.field import Field, pack_dense
from flocklet.firmware_export.plan.integer_reference import (
    IntegerLayer,
    IntegerNetwork,
    WeightLayer,
    WeightNetwork,
)
from flocklet.firmware_export.plan.numerics import FULL, M
from flocklet.firmware_export.read.network import Activation, Network
from flocklet.firmware_export.read.semantics import ObsSpec

__all__ = ["Rows", "interval_bounds", "quantise", "quantise_rows", "table_values"]

SEGMENTS = 512
_LIMIT = 2**31
I64: TypeAlias = npt.NDArray[np.int64]
F64: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Hold quantised rows.

    Q (n_out, n_in) integers, cap (n_out,) counts per unit weight, margin of the proof.
    """

    q: I64
    cap: F64
    margin: float


def _rounded(weight: F64, cap: F64) -> I64:
    scaled = weight * cap[:, None]
    return np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int64)


def quantise_rows(weight: F64, per_unit: float, largest: int, other: F64 | None = None) -> Rows:
    """Quantise rows whose inputs are integers of at most `per_unit` counts.

    Q is at most `largest` in magnitude.

    other: further weights of the same rows that must fit in `largest` with the same cap.
    """
    total, top = np.abs(weight).sum(axis=1), np.abs(weight).max(axis=1)
    if other is not None:
        top = np.maximum(top, np.abs(other).max(axis=1))
    with np.errstate(divide="ignore"):
        cap = np.minimum((2**31 - 2**16) / per_unit / total, (largest - 0.5) / top)
    cap = np.where((top > 0) & np.isfinite(cap), cap, 1.0)
    q = _rounded(weight, cap)
    reach = [sum(abs(int(v)) for v in row) * int(per_unit) for row in q]
    if (
        max(reach) >= _LIMIT
    ):  # rounding alone adds up to half a count a weight: leave room for it in such rows
        room = (2**31 - 2**16 - 0.5 * weight.shape[1] * per_unit) / per_unit
        with np.errstate(divide="ignore", invalid="ignore"):
            cap = np.where([r >= _LIMIT for r in reach], np.minimum(cap, max(room, 0.0) / total), cap)
        q = _rounded(weight, cap)
    worst = max(sum(abs(int(v)) for v in row) for row in q) * int(per_unit)
    if worst >= _LIMIT or int(np.abs(q).max(initial=0)) > largest:
        raise ExportError(f"an integer sum could reach {worst}, beyond 2^31", remedy="export as f32")
    return Rows(q, cap, 1.0 - worst / _LIMIT)


def interval_bounds(network: Network, ranges: F64) -> list[float]:
    """Return a bound of |value| after each layer, for inputs in [-range, range] (interval arithmetic)."""
    low, high = -ranges, ranges
    bounds = []
    for layer in network.dense:
        w = layer.weight.astype(np.float64)
        up, down = np.maximum(w, 0), np.minimum(w, 0)
        low, high = up @ low + down @ high + layer.bias, up @ high + down @ low + layer.bias
        low, high = (_monotone(v, layer.activation) for v in (low, high))
        bounds.append(max(float(np.abs(low).max()), float(np.abs(high).max()), 1e-6))
    return bounds


def _monotone(v: F64, activation: Activation) -> F64:
    kind = activation.kind
    if kind in {"tanh", "fast_tanh"}:
        return np.clip(v, -1.0, 1.0)
    if kind == "sigmoid":
        return np.clip(v, 0.0, 1.0)
    if kind == "relu":
        return np.maximum(v, 0.0)
    if kind == "leaky_relu":
        return np.where(v > 0, v, activation.a * v)
    return np.clip(v, activation.a, activation.b) if kind == "clip" else v


def table_values(kind: str) -> I64:
    """Return 513 values of tanh or FAST_TANH on [0, 8] in steps of 1/64, full scale 8 * 4095."""
    x = np.arange(SEGMENTS + 1) / 64
    clipped = np.minimum(x, 3.0)
    y = clipped * (27 + clipped**2) / (27 + 9 * clipped**2) if kind == "fast_tanh" else np.tanh(x)
    return np.floor(y * FULL + 0.5).astype(np.int64)


def pad_columns(matrix: npt.NDArray[Any], entry: int) -> npt.NDArray[Any]:
    """Insert a zero column after every `entry` columns where that number is odd."""
    if entry % 2 == 0:
        return matrix
    n = len(matrix)
    wide = np.zeros((n, matrix.shape[1] // entry, entry + 1), matrix.dtype)
    wide[:, :, :entry] = matrix.reshape(n, -1, entry)
    return wide.reshape(n, -1)


def _pad_rows(q: npt.NDArray[Any], multiple: int = 4) -> npt.NDArray[Any]:
    rows = -(-len(q) // multiple) * multiple
    out = np.zeros((rows, *q.shape[1:]), q.dtype)
    out[: len(q)] = q
    return out


def pack_pairs(q: I64, *, bits: int = 16) -> npt.NDArray[Any]:
    """Return [tile of 4 rows][input pair][row][2]: one word holds two weights of one row."""
    q = _pad_rows(q)
    q = np.pad(q, ((0, 0), (0, q.shape[1] % 2)))
    flat = q.reshape(len(q) // 4, 4, -1, 2).transpose(0, 2, 1, 3).reshape(-1)
    if bits == 8:
        return flat.astype(np.int8)
    return np.ascontiguousarray(flat.astype("<i2")).view("<u4")


def pack_rows(q: I64) -> npt.NDArray[np.uint32]:
    """Return [tile of 4 rows][input][2 words]: a word holds row 2p + 1 above row 2p + 32768."""
    q = _pad_rows(np.pad(q, ((0, 0), (0, q.shape[1] % 2))))
    tiles = q.reshape(len(q) // 4, 2, 2, -1)
    words = (tiles[:, :, 1] << 16) + tiles[:, :, 0] + 32768
    return (words.transpose(0, 2, 1).reshape(-1) & 0xFFFFFFFF).astype(np.uint32)


def _pad(array: npt.NDArray[Any], dtype: Any, multiple: int = 4) -> npt.NDArray[Any]:
    return np.asarray(_pad_rows(np.asarray(array), multiple)).astype(dtype)


def _check(network: Network, dtype: str, obs: ObsSpec) -> None:
    kinds = {layer.activation.kind for layer in network.dense[:-1]}
    allowed = {"tanh", "fast_tanh", "sigmoid"}
    declared = obs.range is not None or max(obs.limits) <= 1e4
    if dtype == "i16":
        kinds |= {network.dense[-1].activation.kind} - {"identity"}
        if not kinds <= allowed:
            raise ExportError(
                f"i16 needs tanh, fast_tanh or sigmoid layers, not {', '.join(sorted(kinds - allowed))}"
            )
        if obs.range is None:
            raise ExportError("i16 needs the declared range of every observed value (ObsSpec.range, --range)")
    elif not kinds <= allowed and not declared:
        raise ExportError(
            f"{dtype} needs bounded layers, but {', '.join(sorted(kinds - allowed))} has no bound",
            remedy="declare the range of the observed values (--range), or export as f32",
        )


def quantise(
    network: Network, dtype: str, obs: ObsSpec, order: npt.NDArray[np.int64]
) -> IntegerNetwork | WeightNetwork:
    """Return the integer form of a network: `.fields`, `.proofs`, `.forward(x)` and `.controller(init)`."""
    if not network.is_mlp:
        raise ExportError(f"{dtype} needs a network of dense layers only; export as f32")
    _check(network, dtype, obs)
    first = network.dense[0]
    past = obs.history_width
    weight = first.weight.astype(np.float64)[:, order]
    entry = obs.history[1] if obs.history else 1
    split = (pad_columns(weight[:, :past], entry), weight[:, past:])
    if dtype == "i16":
        return _all_integer(network, obs, order, split)
    return _weights_only(network, dtype, obs, order, split)


def _weights_only(
    network: Network,
    dtype: str,
    obs: ObsSpec,
    order: npt.NDArray[np.int64],
    split: tuple[F64, F64],
) -> WeightNetwork:
    largest, bits = (32767, 16) if dtype == "w16" else (127, 8)
    bounds = interval_bounds(
        network, np.concatenate([np.minimum(obs.ranges, obs.limits), np.ones(obs.history_width)])
    )
    state = split[1]
    small = dtype == "w16" and split[0].shape[1] > 0
    fields: list[Field] = []
    layers: list[Any] = []
    margins: list[float] = []
    for i, layer in enumerate(network.dense):
        source = split[0] if i == 0 else layer.weight.astype(np.float64)
        if source.shape[1] == 0:
            fields += pack_dense("0", state.astype(np.float32), layer.bias)
            layers.append(None)
            continue
        bound = 1.0 if i == 0 else _bound(network.dense[i - 1].activation, bounds[i - 1])
        rows = quantise_rows(source, M, largest, other=state if i == 0 and small else None)
        scale = (bound / (rows.cap * M)).astype(np.float32)
        bias = (layer.bias.astype(np.float64) / scale).astype(np.float32)
        margins.append(rows.margin)
        if i == 0 and small:
            words, effective = split_halves(state * rows.cap[:, None])
            fields += [Field("p0", words), Field("b0", _pad(bias, np.float32, 8))]
        elif i == 0:
            effective = (state / scale[:, None]).astype(np.float32)
            fields += pack_dense("0", effective, bias)
        else:
            fields.append(Field(f"b{i}", _pad(bias, np.float32)))
        fields += [Field(f"q{i}", pack_pairs(rows.q, bits=bits)), Field(f"s{i}", _pad(scale, np.float32))]
        layers.append(WeightLayer(rows.q, scale, bias, bound))
    if bits == 8:
        fields = [_to_words(item) for item in fields]
    weight = effective if split[0].shape[1] else state.astype(np.float32)
    gain = np.ones(state.shape[1] + state.shape[1] % 2, np.float32)
    if small:
        gain[::2], gain[1::2] = M, M / 65536
    proofs = {
        "overflow_margin": [round(m, 6) for m in margins],
        "largest_weight": largest,
        "activation_counts": M,
    }
    return WeightNetwork(network, obs, order, tuple(fields), proofs, tuple(layers), weight, gain)


def split_halves(scaled: F64) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float32]]:
    """Pack two columns per word as [tile of 8 rows][pair][row].

    Return the words and the weights they stand for.

    The kernel takes the low half as an integer, and the whole word for the high half (its inputs are
    divided by 65536 beforehand): the high weight is rounded with that remainder in mind.
    """
    n_out, n_in = scaled.shape
    full = np.zeros((-(-n_out // 8) * 8, n_in + n_in % 2))
    full[:n_out, :n_in] = scaled
    low = np.trunc(full[:, ::2] + np.copysign(0.5, full[:, ::2])).astype(np.int64)
    rest = low & 0xFFFF
    high = np.clip(np.floor(full[:, 1::2] - rest / 65536 + 0.5), -32768, 32767).astype(np.int64)
    if n_in % 2:
        high[:, -1] = 0
    word = (high << 16) + rest
    effective = np.empty(full.shape, np.float32)
    effective[:, ::2] = low.astype(np.float32)
    effective[:, 1::2] = word.astype(np.float32)
    packed = word.reshape(-1, 8, word.shape[1]).transpose(0, 2, 1).reshape(-1)
    return (packed & 0xFFFFFFFF).astype(np.uint32), effective[:n_out]


def _to_words(item: Field) -> Field:
    """Pad an 8-bit array to whole words, so that the struct has no gap."""
    if item.values.dtype != np.int8:
        return item
    return Field(item.name, np.pad(item.values, (0, -item.values.size % 4)))


def _bound(activation: Activation, found: float) -> float:
    return 1.0 if activation.bounded else found


def _all_integer(
    network: Network, obs: ObsSpec, order: npt.NDArray[np.int64], split: tuple[F64, F64]
) -> IntegerNetwork:
    fields: list[Field] = []
    layers: list[Any] = []
    margins: list[float] = []
    ranges = np.array(obs.ranges, np.float64)
    scaled = split[1] * ranges
    for i, layer in enumerate(network.dense):
        bias = np.round(layer.bias.astype(np.float64) * 65536).astype(np.int64)
        parts = []
        sources = (
            [(scaled, 4096, 2**36 / 2**11), (split[0], M, 2**40 / M)]
            if i == 0
            else [(layer.weight.astype(np.float64), M, 2**40 / M)]
        )
        reach = np.abs(bias).astype(np.float64)
        for source, counts, unit in sources:
            if source.shape[1] == 0:
                continue
            rows = quantise_rows(source, counts, 32767)
            factor = np.round(unit / rows.cap).astype(np.int64)
            if factor.max() >= _LIMIT:
                weakest = int(np.argmax(factor))
                factor = np.minimum(factor, _LIMIT - 1)
                if np.abs(rows.q[weakest]).max():
                    raise ExportError(
                        f"layer {i} has a row {weakest} too large for i16", remedy="export as w16 or f32"
                    )
            margins.append(rows.margin)
            parts.append((rows.q, factor, counts))
            reach += np.abs(source).sum(axis=1) * 65536 * (1 + 2**-10) + 4
        if reach.max() >= _LIMIT:
            raise ExportError(
                f"layer {i} can reach {reach.max() / 65536:.0f}, beyond the range of i16",
                remedy="export as w16",
            )
        names = ("u", "q") if len(parts) == 2 else (("u",) if i == 0 else ("q",))
        for key, (q, factor, _) in zip(names, parts, strict=True):
            fields += [Field(f"{key}{i}", pack_rows(q)), Field(f"m{key}{i}", _pad(factor, np.int32))]
        fields.append(Field(f"b{i}", _pad(bias, np.int32)))
        layers.append(IntegerLayer(tuple(parts), bias, layer.activation.kind))
    kinds = {layer.activation.kind for layer in network.dense}
    tables = {}
    for kind in ("tanh", "fast_tanh"):
        wanted = {"tanh", "sigmoid"} if kind == "tanh" else {"fast_tanh"}
        if kinds & wanted:
            tables[kind] = table_values(kind)
            fields.append(Field(f"t_{kind}", np.append(tables[kind], 0).astype(np.int16)))
    gain = (2.0**23 / ranges).astype(np.float32)
    fields.append(Field("gain", gain))
    proofs = {
        "overflow_margin": [round(m, 6) for m in margins],
        "q16_reach_below": 2**15,
        "activation_counts": M,
    }
    return IntegerNetwork(network, obs, order, tuple(fields), proofs, tuple(layers), tables, gain)
