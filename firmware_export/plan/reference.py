"""Compute a network in NumPy float32 in the order of the generated C.

The yardstick for every compiler and core.

Sums start from the bias and add one product after the other, each operation rounded by itself; `@` is
never used in float32 because BLAS changes the order and fuses. All functions take a batch (n, n_in).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.plan.numerics import activate, activate_exact, reciprocal_sqrt
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Gru, LayerNorm, Network
from flocklet.kernels.attitude import rotation

__all__ = ["forward", "forward_exact", "hidden_size", "observations"]

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
_f = np.float32
_SIGMOID, _TANH = Activation("sigmoid"), Activation("tanh")


def _dense(x: F32, weight: F32, bias: F32) -> F32:
    total = np.tile(bias, (len(x), 1)).astype(_f)
    columns = np.ascontiguousarray(weight.T)
    for k in range(weight.shape[1]):
        total = total + columns[k] * x[:, k : k + 1]
    return total


def _norm(x: F32, layer: LayerNorm) -> F32:
    share = _f(1.0) / _f(layer.n_in)
    mean = np.zeros((len(x), 1), _f)
    for k in range(layer.n_in):
        mean = mean + x[:, k : k + 1]
    centred = x - mean * share
    variance = np.zeros((len(x), 1), _f)
    for k in range(layer.n_in):
        variance = variance + centred[:, k : k + 1] * centred[:, k : k + 1]
    inverse = reciprocal_sqrt(variance * share + _f(layer.epsilon))
    return (centred * inverse) * layer.scale + layer.offset


def _gru(x: F32, layer: Gru, h: F32) -> F32:
    n = layer.n_out
    own = _dense(x, layer.w, layer.wb)
    gates = activate(own[:, : 2 * n] + _dense(h, layer.r[: 2 * n], layer.rb[: 2 * n]), _SIGMOID)
    z, r = gates[:, :n], gates[:, n:]
    if layer.reset_after:
        candidate = own[:, 2 * n :] + r * _dense(h, layer.r[2 * n :], layer.rb[2 * n :])
    else:
        candidate = own[:, 2 * n :] + _dense(r * h, layer.r[2 * n :], layer.rb[2 * n :])
    new = activate(candidate, _TANH)
    return (_f(1.0) - z) * new + z * h


def hidden_size(network: Network) -> int:
    """Return how many values a network keeps between calls."""
    return sum(layer.n_out for layer in network.layers if isinstance(layer, Gru))


def forward(
    network: Network, x: F32, *, order: npt.NDArray[np.int64] | None = None, hidden: F32 | None = None
) -> F32:
    """Return the outputs (n, n_out) for inputs in the model's own column order.

    order: the order in which the first layer adds its inputs (`Plan.order`); by default as they come.
    hidden (n, H) is updated in place.
    """
    x = np.ascontiguousarray(x, _f)
    at = 0
    if hidden is None:
        hidden = np.zeros((len(x), hidden_size(network)), _f)
    for i, layer in enumerate(network.layers):
        if isinstance(layer, Dense):
            if i == 0 and order is not None:
                x = activate(_dense(x[:, order], layer.weight[:, order], layer.bias), layer.activation)
            else:
                x = activate(_dense(x, layer.weight, layer.bias), layer.activation)
        elif isinstance(layer, Affine):
            x = activate(x * layer.scale + layer.offset, layer.activation)
        elif isinstance(layer, LayerNorm):
            x = _norm(x, layer)
        else:
            x = _gru(x, layer, hidden[:, at : at + layer.n_out])
            hidden[:, at : at + layer.n_out] = x
            at += layer.n_out
    return x


def forward_exact(network: Network, x: npt.NDArray[np.floating]) -> F64:
    """Return the outputs in float64 with exact activations, from a zero hidden state.

    The yardstick for errors.
    """
    y = np.asarray(x, np.float64)
    for layer in network.layers:
        if isinstance(layer, Dense):
            y = activate_exact(y @ layer.weight.astype(np.float64).T + layer.bias, layer.activation)
        elif isinstance(layer, Affine):
            y = activate_exact(y * layer.scale + layer.offset, layer.activation)
        elif isinstance(layer, LayerNorm):
            centred = y - y.mean(axis=1, keepdims=True)
            y = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + layer.epsilon)
            y = y * layer.scale + layer.offset
        else:
            n = layer.n_out
            own = y @ layer.w.astype(np.float64).T + layer.wb
            rest = np.broadcast_to(layer.rb.astype(np.float64), own.shape)
            gates = activate_exact(own[:, : 2 * n] + rest[:, : 2 * n], _SIGMOID)
            factor = gates[:, n:] if layer.reset_after else 1.0
            y = (1 - gates[:, :n]) * np.tanh(own[:, 2 * n :] + factor * rest[:, 2 * n :])
    return y


def observations(rng: np.random.Generator, n: int, n_in: int) -> F32:
    """Return synthetic observations.

    Those of specs (a quadrotor state and 128 past actions) where n_in is 146.

    146 inputs: position error U(-.6, .6), rotation matrix of a random tilt, velocity U(-2, 2), body rates
    3 N(0, 1), history clip(.5 N(0, 1) - .1, -1, 1). Any other width: clip(N(0, 1), -3, 3).
    """
    if n_in != 146:
        return np.clip(rng.normal(size=(n, n_in)), -3, 3).astype(_f)
    q = rng.normal(size=(n, 4)) * [1, 0.3, 0.3, 0.3] + [1, 0, 0, 0]
    turned = np.stack(rotation((q / np.linalg.norm(q, axis=1, keepdims=True)).T), axis=1)
    parts = [
        rng.uniform(-0.6, 0.6, (n, 3)),
        turned,
        rng.uniform(-2, 2, (n, 3)),
        3 * rng.normal(size=(n, 3)),
    ]
    history = np.clip(0.5 * rng.normal(size=(n, 128)) - 0.1, -1, 1)
    return np.concatenate([*parts, history], axis=1).astype(_f)
