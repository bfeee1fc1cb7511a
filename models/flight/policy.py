"""A policy: the small network that flies, as arrays, as one flat vector, as an ONNX file.

Shape of Learning to Fly in Seconds: 146-64-64-4, FAST_TANH after every layer, 13,828 parameters in the order W1, b1, W2,
b2, W3, b3, weights [out][in]. FAST_TANH is x (27 + x²) / (27 + 9 x²) of x clamped to [-3, 3]: it is not tanh, and a
policy trained with one does not fly with the other (up to 0.1 in an action), so the kind is part of the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError
from flocklet.models.flight.sim.dynamics import ACTIONS
from flocklet.models.flight.sim.environment import OBSERVED
from flocklet.onnx_io import model as onnx_io

__all__ = ["SIZES", "Layer", "Policy", "fast_tanh"]

Floats = NDArray[Any]
Layer = tuple[Floats, Floats, str]
"""Weights (out, in), biases (out,), activation: "fast_tanh", "tanh", "relu", "sigmoid" or "none"."""

SIZES = (OBSERVED, 64, 64, ACTIONS)


def fast_tanh(x: Floats) -> Floats:
    """Return FAST_TANH in the type of `x`, in the order of operations of the generated C."""
    held: Floats = np.clip(x, -3.0, 3.0)
    below = held * held
    above = below + 27.0
    above *= held
    below *= 9.0
    below += 27.0
    above /= below
    return above


def _activate(x: Floats, kind: str) -> Floats:
    if kind == "fast_tanh":
        return fast_tanh(x)
    if kind == "tanh":
        return np.asarray(np.tanh(x))
    if kind == "relu":
        return np.maximum(x, np.zeros_like(x))
    if kind == "sigmoid":
        return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)
    if kind == "none":
        return x
    raise ExportError(f"the activation '{kind}' is unknown to the flight simulator")


@dataclass(frozen=True, eq=False)
class Policy:
    """Layers that turn observations (n, 146) into actions (n, 4), in the type of their weights."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        # Copies in one order: BLAS gives other last bits for another layout of the same weights.
        fresh = [(np.array(w, order="C"), np.array(b), kind) for w, b, kind in self.layers]
        object.__setattr__(self, "layers", tuple(fresh))
        width = OBSERVED
        for i, (weights, bias, _) in enumerate(self.layers):
            if weights.ndim != 2 or weights.shape[1] != width or bias.shape != weights.shape[:1]:
                raise ExportError(
                    f"layer {i} has weights {weights.shape} and bias {bias.shape} but gets {width} values",
                    remedy=f"a policy takes {OBSERVED} values and gives {ACTIONS} actions",
                )
            if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
                raise ExportError(f"layer {i} holds a weight that is not finite", remedy="train it again")
            width = weights.shape[0]
        if width != ACTIONS:
            raise ExportError(
                f"the policy gives {width} values, not {ACTIONS} actions",
                remedy=f"a policy takes {OBSERVED} values and gives {ACTIONS} actions",
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the widths, (146, 64, 64, 4) for the usual one."""
        return (self.layers[0][0].shape[1], *(weights.shape[0] for weights, _, _ in self.layers))

    def __call__(self, observation: Floats) -> Floats:
        """Return the actions (n, 4) for observations (n, 146); not clipped."""
        x = observation
        for weights, bias, kind in self.layers:
            x = x @ weights.T
            x += bias
            x = _activate(x, kind)
        return x

    def vector(self) -> Floats:
        """Return all parameters, (13828,) for the usual shape: W1, b1, W2, b2, ..., weights row by row."""
        return np.concatenate([part.reshape(-1) for w, b, _ in self.layers for part in (w, b)])

    @classmethod
    def from_vector(
        cls, vector: Floats, sizes: Sequence[int] = SIZES, activation: str | Sequence[str] = "fast_tanh"
    ) -> Policy:
        """Return the policy of a flat vector; `activation` is one for all layers or one each."""
        kinds = [activation] * (len(sizes) - 1) if isinstance(activation, str) else list(activation)
        need = sum((n + 1) * m for n, m in pairwise(sizes))
        if vector.shape != (need,):
            raise ExportError(
                f"{vector.shape} parameters do not fit a policy of {'-'.join(map(str, sizes))}: it has {need}"
            )
        return cls(tuple(_cut(vector, sizes, kinds)))

    @classmethod
    def fresh(cls, rng: np.random.Generator, sizes: Sequence[int] = SIZES) -> Policy:
        """Return an untrained policy: weights and biases uniform in +-1/sqrt(inputs), float32."""
        parts = [rng.uniform(-1, 1, (n + 1) * m) / np.sqrt(n) for n, m in pairwise(sizes)]
        return cls.from_vector(np.concatenate(parts).astype(np.float32), sizes)

    def to_onnx(self) -> bytes:
        """Return the policy as an ONNX file."""
        return onnx_io.encode_mlp(
            [(w.astype(np.float32), b.astype(np.float32), kind) for w, b, kind in self.layers], name="policy"
        )

    @classmethod
    def from_onnx(cls, data: bytes) -> Policy:
        """Return the policy of a file that `to_onnx` wrote; raise ExportError for any other."""
        return cls(tuple(onnx_io.decode_mlp(data)))


def _cut(vector: Floats, sizes: Sequence[int], kinds: Sequence[str]) -> Iterator[Layer]:
    at = 0
    for n, m, kind in zip(sizes, sizes[1:], kinds, strict=False):
        weights = vector[at : at + n * m].reshape(m, n)
        at += n * m
        yield weights, vector[at : at + m], kind
        at += m
