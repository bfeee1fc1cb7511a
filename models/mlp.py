"""A multilayer perceptron for N peers at once: ReLU layers, softmax output, stacked NumPy matmuls.

Parameters of N peers are one (N, P) float32 array in the order of `layout`. Every operation treats each peer's slice
by itself, so a peer's result has the same bits whether it was computed alone or among thousands.
Initialisation: He et al., "Delving Deep into Rectifiers" (2015), section 2.2; biases zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.layout import Layout, Vector

__all__ = ["Mlp"]

Floats = NDArray[np.float32]


class Mlp:
    """Layers of `sizes` units, e.g. (64, 64, 10); the last layer's tensors are named in `output`."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.depth = len(self.sizes) - 1
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (rows, columns) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            shapes[f"w{layer}"] = (rows, columns)
            shapes[f"b{layer}"] = (columns,)
        self.layout = Layout(shapes)
        self.output = (f"w{self.depth - 1}", f"b{self.depth - 1}")

    def init(self, rng: np.random.Generator) -> Vector:
        """Return fresh parameters, (P,)."""
        vector = np.zeros(self.layout.size, np.float32)
        for name, tensor in self.layout.split(vector).items():
            if name.startswith("w"):
                gain = 2.0 if int(name[1:]) < self.depth - 1 else 1.0
                tensor[...] = rng.normal(0.0, np.sqrt(gain / tensor.shape[0]), tensor.shape)
        return vector

    def forward(self, params: Floats, features: Floats) -> list[Floats]:
        """Return the input and every layer's output for `features` (N, B, F) or (B, F); the last one is logits."""
        activations = [features]
        for layer in range(self.depth):
            weights, bias = self._tensors(params, layer)
            out = activations[-1] @ weights
            out += bias
            if layer < self.depth - 1:
                np.maximum(out, 0.0, out=out)
            activations.append(out)
        return activations

    def gradient(
        self, params: Floats, features: Floats, labels: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Return the gradient (N, P) of the mean cross-entropy and its value (N,).

        `features` is (N, B, F), `labels` (N, B). More axes in front broadcast: params (R, 1, P) on features (N, B, F)
        give (R, N, P), each with the bits that it has alone.
        """
        activations = self.forward(params, features)
        delta, loss = _softmax_error(activations[-1], labels)
        gradient = np.empty((*delta.shape[:-2], self.layout.size), np.float32)
        for layer in reversed(range(self.depth)):
            weights, _ = self._tensors(params, layer)
            weights_out, bias_out = self._tensors(gradient, layer)
            np.matmul(activations[layer].swapaxes(-1, -2), delta, out=weights_out)
            np.sum(delta, axis=-2, keepdims=True, out=bias_out)
            if layer:
                delta = delta @ weights.swapaxes(-1, -2)
                delta *= activations[layer] > 0
        return gradient, loss

    def loss(self, tensors: Mapping[str, Any], features: Any, labels: Any) -> Any:
        """Return the cross-entropy of every row, (N, B), in tinygrad tensors: N models, features (N, B, F)."""
        out = features
        for layer in range(self.depth):
            out = out @ tensors[f"w{layer}"] + tensors[f"b{layer}"].unsqueeze(1)
            out = (out.relu() if layer < self.depth - 1 else out).contiguous()
        return out.sparse_categorical_crossentropy(labels, reduction="none")

    def predict(self, params: Floats, features: Floats) -> NDArray[np.intp]:
        """Return the most likely class, (N, T), for the same `features` (T, F) under N parameter vectors."""
        found: NDArray[np.intp] = self.forward(params, features)[-1].argmax(axis=-1)
        return found

    def accuracy(self, params: Floats, features: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the share of right answers of each of N parameter vectors, (N,)."""
        shares = [
            (self.predict(params[at : at + 16], features) == labels).mean(axis=1)
            for at in range(0, len(params), 16)
        ]
        return np.concatenate(shares)

    def _tensors(self, params: Floats, layer: int) -> tuple[Floats, Floats]:
        lead, (rows, columns) = params.shape[:-1], self.layout.shapes[f"w{layer}"]
        weights = params[..., self.layout.slices[f"w{layer}"]].reshape(*lead, rows, columns)
        bias = params[..., self.layout.slices[f"b{layer}"]].reshape(*lead, 1, columns)
        return weights, bias


def _softmax_error(logits: Floats, labels: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Return d(mean cross-entropy)/d(logits), (..., N, B, C), and the loss, (..., N)."""
    logits -= logits.max(axis=-1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=-1, keepdims=True)
    flat, rows = shares.reshape(-1, shares.shape[-1]), np.arange(shares.size // shares.shape[-1])
    right = np.broadcast_to(labels, shares.shape[:-1]).reshape(-1)
    picked = flat[rows, right]
    loss = -np.log(np.maximum(picked, 1e-12)).reshape(shares.shape[:-1]).mean(axis=-1)
    flat[rows, right] -= 1.0
    shares /= np.float32(labels.shape[-1])
    return shares, loss
