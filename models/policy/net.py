"""A small dense net in one flat vector, with its own back-propagation.

At the sizes of a policy (64-64) a tensor graph costs ten times the arithmetic on a CPU, so forward and backward are
written out. Weights are (inputs, outputs); hidden layers are tanh or ReLU, the last layer is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.layout import Layout

__all__ = ["Activation", "Net", "orthogonal"]

Floats: TypeAlias = NDArray[Any]
Activation: TypeAlias = Literal["tanh", "relu"]


def orthogonal(rng: np.random.Generator, rows: int, columns: int, gain: float) -> Floats:
    """Return a (rows, columns) matrix with orthonormal rows or columns (the fewer), times `gain`.

    Saxe et al. 2013. A wide matrix is the transpose of a tall one: its rows, not its columns, are orthonormal.
    """
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return np.asarray(gain * (q if rows >= columns else q.T), np.float32)


class Net:
    """Layers of `sizes` units, e.g. (4, 64, 64, 2); tensors `w0`, `b0`, ... behind `prefix`."""

    def __init__(self, sizes: Sequence[int], activation: Activation = "tanh", *, prefix: str = "") -> None:
        self.sizes, self.activation, self.prefix = tuple(sizes), activation, prefix
        self.depth = len(self.sizes) - 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        for i, (rows, columns) in enumerate(pairwise(self.sizes)):
            self.shapes[f"{prefix}w{i}"] = (rows, columns)
            self.shapes[f"{prefix}b{i}"] = (columns,)

    def init(self, rng: np.random.Generator, last_gain: float) -> dict[str, Floats]:
        """Return fresh tensors: orthogonal with gain sqrt 2, the last layer with `last_gain`; biases zero."""
        out: dict[str, Floats] = {}
        for i, (rows, columns) in enumerate(pairwise(self.sizes)):
            gain = last_gain if i == self.depth - 1 else float(np.sqrt(2.0))
            out[f"{self.prefix}w{i}"] = orthogonal(rng, rows, columns, gain)
            out[f"{self.prefix}b{i}"] = np.zeros(columns, np.float32)
        return out

    def bind(self, vector: Floats, layout: Layout) -> list[tuple[Floats, Floats]]:
        """Return (weights, bias) of every layer as views of `vector`."""
        parts = layout.split(vector)
        return [(parts[f"{self.prefix}w{i}"], parts[f"{self.prefix}b{i}"]) for i in range(self.depth)]

    def forward(self, layers: Sequence[tuple[Floats, Floats]], x: Floats) -> list[Floats]:
        """Return the input and every layer's output for rows (B, n)."""
        outs = [x]
        for i, (weights, bias) in enumerate(layers):
            y = outs[-1] @ weights
            y += bias
            if i < self.depth - 1:
                (np.tanh if self.activation == "tanh" else _relu)(y, out=y)
            outs.append(y)
        return outs

    def backward(
        self,
        layers: Sequence[tuple[Floats, Floats]],
        outs: Sequence[Floats],
        error: Floats,
        into: Sequence[tuple[Floats, Floats]],
        *,
        to_input: bool = False,
    ) -> Floats | None:
        """Write the gradients of all tensors into `into`; return that of the input rows if asked for.

        `error` (B, outputs) is d loss / d output, summed over rows in the gradient, not averaged.
        """
        for i in reversed(range(self.depth)):
            weights_out, bias_out = into[i]
            np.matmul(outs[i].T, error, out=weights_out)
            np.sum(error, axis=0, out=bias_out)
            if i or to_input:
                error = error @ layers[i][0].T
            if i:
                hidden = outs[i]
                if self.activation == "tanh":
                    error *= 1.0 - hidden * hidden
                else:
                    error *= hidden > 0.0
        return error if to_input else None


def _relu(x: Floats, out: Floats) -> Floats:
    return np.maximum(x, 0.0, out=out)
