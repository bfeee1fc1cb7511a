"""Hold a policy as a short list of layers: what the reader makes and what the emitter writes.

A network maps one float32 vector of `n_in` values to one of `n_out`. Layers are applied in order. A `Gru`
keeps a hidden vector between calls; every other layer is stateless. Weights are (outputs, inputs) float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError

__all__ = ["Activation", "Affine", "Dense", "Gru", "Layer", "LayerNorm", "Network", "mlp", "seeded_actor"]

F32: TypeAlias = npt.NDArray[np.float32]

ACTIVATIONS = ("identity", "tanh", "fast_tanh", "relu", "leaky_relu", "sigmoid", "clip")


@dataclass(frozen=True)
class Activation:
    """Name an activation; `a` and `b` are the slope of a leaky ReLU, or the bounds of a clip."""

    kind: str = "identity"
    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise ExportError(f"unknown activation '{self.kind}'; known: {', '.join(ACTIVATIONS)}")

    @property
    def bounded(self) -> bool:
        """Return whether the output lies in [-1, 1] whatever the input."""
        return self.kind in {"tanh", "fast_tanh", "sigmoid"} or (
            self.kind == "clip" and -1.0 <= self.a <= self.b <= 1.0
        )


@dataclass(frozen=True)
class Dense:
    """Hold y = activation(weight @ x + bias); weight (n_out, n_in), bias (n_out,)."""

    weight: F32
    bias: F32
    activation: Activation = Activation()

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1] or 0 in self.weight.shape:
            raise ExportError(f"a dense layer has weight {self.weight.shape} and bias {self.bias.shape}")

    @property
    def n_in(self) -> int:
        """Return the number of inputs."""
        return int(self.weight.shape[1])

    @property
    def n_out(self) -> int:
        """Return the number of outputs."""
        return int(self.weight.shape[0])


@dataclass(frozen=True)
class Affine:
    """Hold y = activation(x * scale + offset), element by element: a normaliser or an activation."""

    scale: F32
    offset: F32
    activation: Activation = Activation()

    @property
    def n_in(self) -> int:
        """Return the number of inputs."""
        return int(self.scale.size)

    n_out = n_in


@dataclass(frozen=True)
class LayerNorm:
    """Hold y = (x - mean) / sqrt(variance + epsilon) * scale + offset (Ba et al. 2016)."""

    scale: F32
    offset: F32
    epsilon: float

    @property
    def n_in(self) -> int:
        """Return the number of inputs."""
        return int(self.scale.size)

    n_out = n_in


@dataclass(frozen=True)
class Gru:
    """Hold a gated recurrent cell in ONNX order (z, r, h): w (3H, n_in), r (3H, H), wb and rb (3H,), h0 (H,).

    With `reset_after` the reset gate multiplies R h + rb (PyTorch, Keras v3), else it multiplies h first.
    """

    w: F32
    r: F32
    wb: F32
    rb: F32
    reset_after: bool

    @property
    def n_in(self) -> int:
        """Return the number of inputs."""
        return int(self.w.shape[1])

    @property
    def n_out(self) -> int:
        """Return the number of hidden values, which are the outputs."""
        return int(self.r.shape[1])


Layer: TypeAlias = Dense | Affine | LayerNorm | Gru


@dataclass(frozen=True)
class Network:
    """Hold layers in order and the names and widths of the inputs that are concatenated into the first."""

    layers: tuple[Layer, ...]
    inputs: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.layers:
            raise ExportError("the network has no layer")
        for i, (left, right) in enumerate(zip(self.layers, self.layers[1:], strict=False)):
            if left.n_out != right.n_in:
                raise ExportError(f"layer {i} gives {left.n_out} values but layer {i + 1} takes {right.n_in}")
        for i, layer in enumerate(self.layers):
            for array in _arrays(layer):
                if not np.isfinite(array).all():
                    raise ExportError(f"layer {i} holds a weight that is NaN or infinite")

    @property
    def n_in(self) -> int:
        """Return the number of inputs."""
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        """Return the number of outputs."""
        return self.layers[-1].n_out

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the widths, inputs first."""
        return (self.n_in, *(layer.n_out for layer in self.layers))

    @property
    def is_mlp(self) -> bool:
        """Return whether every layer is dense, as the tiled and integer kernels need it."""
        return all(isinstance(layer, Dense) for layer in self.layers)

    @property
    def dense(self) -> tuple[Dense, ...]:
        """Return the layers of an MLP; raise `ExportError` for any other network."""
        found = tuple(layer for layer in self.layers if isinstance(layer, Dense))
        if len(found) != len(self.layers):
            raise ExportError("this needs a network of dense layers only")
        return found

    @property
    def recurrent(self) -> tuple[Gru, ...]:
        """Return the layers that keep hidden values."""
        return tuple(layer for layer in self.layers if isinstance(layer, Gru))

    @property
    def n_parameters(self) -> int:
        """Return the number of trained values."""
        return sum(array.size for layer in self.layers for array in _arrays(layer))

    def sha256(self) -> str:
        """Return the hash of the layers.

        Kinds, shapes, activations and the little-endian bytes of the weights.
        """
        digest = hashlib.sha256()
        for layer in self.layers:
            extra = [getattr(layer, key, None) for key in ("activation", "epsilon", "reset_after")]
            digest.update(f"{type(layer).__name__} {layer.n_in} {layer.n_out} {extra!r}\n".encode())
            for array in _arrays(layer):
                digest.update(np.ascontiguousarray(array, "<f4").tobytes())
        return digest.hexdigest()


def _arrays(layer: Layer) -> tuple[F32, ...]:
    if isinstance(layer, Dense):
        return (layer.weight, layer.bias)
    if isinstance(layer, Gru):
        return (layer.w, layer.r, layer.wb, layer.rb)
    return (layer.scale, layer.offset)


def mlp(
    weights: Sequence[npt.NDArray[Any]],
    biases: Sequence[npt.NDArray[Any]],
    activations: Sequence[str | Activation],
) -> Network:
    """Return a network from lists of (n_out, n_in) weights, biases and activation names."""
    layers = [
        Dense(
            np.ascontiguousarray(w, np.float32),
            np.ascontiguousarray(b, np.float32),
            a if isinstance(a, Activation) else Activation(a),
        )
        for w, b, a in zip(weights, biases, activations, strict=True)
    ]
    return Network(tuple(layers))


def seeded_actor(
    rng: np.random.Generator,
    dims: tuple[int, ...] = (146, 64, 64, 4),
    activation: str = "tanh",
    last: str | None = None,
) -> Network:
    """Return a random actor of the shape of Learning-to-Fly: weights N(0, 1/n_in), biases N(0, 0.01)."""
    weights = [rng.normal(0, 1 / np.sqrt(i), (o, i)) for i, o in pairwise(dims)]
    biases = [rng.normal(0, 0.1, o) for o in dims[1:]]
    kinds: Sequence[str | Activation] = [activation] * (len(dims) - 2) + [
        activation if last is None else last
    ]
    return mlp(weights, biases, kinds)
