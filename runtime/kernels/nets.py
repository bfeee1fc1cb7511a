"""Multi-layer perceptrons in a program: where the parameters lie, forward, backward.

All parameters of a net are one flat float32 vector W1, b1, W2, b2, ... with W stored (inputs, outputs)
row-major, so that an optimiser is one kernel and a delta one slice. `Mlp.export` gives the (outputs,
inputs) matrices of ONNX and firmware.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.dense import (
    bias_grad,
    dense,
    input_grad,
    output_grad,
    transpose,
    weight_grad,
    weight_step,
)
from flocklet.kernels.optim import sgd
from flocklet.kernels.program import Program, View

__all__ = ["Layer", "Mlp", "mlp_backward", "mlp_forward"]


@dataclass(frozen=True)
class Layer:
    """One dense layer: its shape and where weights and bias begin in the flat vector."""

    inputs: int
    outputs: int
    weights: int
    bias: int
    activation: str


@dataclass(frozen=True)
class Mlp:
    """A net of dense layers, for example Mlp((18, 64, 64, 4), "relu", "tanh")."""

    sizes: tuple[int, ...]
    hidden: str = "relu"
    output: str = "none"

    @property
    def layers(self) -> list[Layer]:
        """Return the layers, first to last."""
        out, at = [], 0
        for i, (a, b) in enumerate(zip(self.sizes[:-1], self.sizes[1:], strict=True)):
            name = self.output if i == len(self.sizes) - 2 else self.hidden
            out.append(Layer(a, b, at, at + a * b, name))
            at += a * b + b
        return out

    @property
    def count(self) -> int:
        """Return the number of parameters."""
        return sum(layer.inputs * layer.outputs + layer.outputs for layer in self.layers)

    def init(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return fresh parameters, uniform in ±1/sqrt(inputs) (He et al. scaled as rl_tools and PyTorch
        do).
        """
        parts = []
        for layer in self.layers:
            bound = 1.0 / np.sqrt(layer.inputs)
            parts.append(rng.uniform(-bound, bound, layer.inputs * layer.outputs + layer.outputs))
        return np.concatenate(parts).astype(np.float32)

    def export(self, flat: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], NDArray[np.float32], str]]:
        """Return (weights (outputs, inputs), bias, activation) per layer, as copies."""
        out = []
        for layer in self.layers:
            weights = flat[layer.weights : layer.bias].reshape(layer.inputs, layer.outputs).T
            bias = flat[layer.bias : layer.bias + layer.outputs]
            out.append((np.ascontiguousarray(weights), bias.copy(), layer.activation))
        return out


def _shift(view: View, offset: int) -> View:
    return replace(view, offset=view.offset + offset)


def mlp_forward(
    program: Program,
    name: str,
    net: Mlp,
    rows: int,
    params: View,
    x: View,
    *,
    y: View | None = None,
    is_training: bool = True,
) -> View:
    """Append y = net(x) for `rows` rows; return the view of y. Hidden outputs stay in scratch `{name}.h1`, ...

    Layers with fast_tanh also keep their slopes in `{name}.d1`, ... for the backward pass, unless `is_training` is false.
    """
    source = x
    for i, layer in enumerate(net.layers, 1):
        is_last = i == len(net.layers)
        target = y if is_last and y is not None else program.scratch(f"{name}.h{i}", rows * layer.outputs)
        keep = is_training and layer.activation == "fast_tanh"
        views = [source, _shift(params, layer.weights), _shift(params, layer.bias), target]
        if keep:
            views.append(program.scratch(f"{name}.d{i}", rows * layer.outputs))
        program.call(dense(rows, layer.inputs, layer.outputs, layer.activation, keep_slope=keep), *views)
        source = target
    return source


def mlp_backward(
    program: Program,
    name: str,
    net: Mlp,
    rows: int,
    params: View,
    x: View,
    dy: View,
    *,
    grads: View | None = None,
    dx: View | None = None,
    dx_first: int = 0,
    y: View | None = None,
    turned: str = "",
    step: float | None = None,
) -> None:
    """Append the backward pass of the forward pass called `name`: from `dy` to `grads` (flat, as params)
    and/or `dx`
    (from column `dx_first` on).

    `turned` names a scratch buffer of transposed weights that an earlier backward pass of the same
    parameters filled; it is filled here when empty. `y` is where the forward pass put its output, if not in
    scratch. With `step` the parameters themselves are moved by -step times their gradient (SGD), which is then never
    written to memory; this forbids a later backward pass with the same `turned`.
    """
    layers = net.layers
    flow = dy
    top = layers[-1]
    if top.activation != "none":
        kept = _kept(program, name, net, rows, len(layers), y)
        flow = program.scratch(f"{name}.z{len(layers)}", rows * top.outputs)
        program.call(output_grad(rows, top.outputs, _below(top)), dy, kept, flow)
    is_filled = bool(turned)
    turned = turned or f"{name}.turned"
    for i in range(len(layers), 0, -1):
        layer = layers[i - 1]
        source = x if i == 1 else View(f"{name}.h{i - 1}")
        weights, above = _shift(params, layer.weights), flow
        if i > 1 or dx is not None:
            if layer.inputs > 1 and layer.outputs > 1:
                turned_view = program.scratch(f"{turned}{i}", layer.inputs * layer.outputs)
                if not is_filled:
                    program.call(transpose(layer.inputs, layer.outputs), weights, turned_view)
                weights = turned_view
            if i == 1 and dx is not None:
                kernel = input_grad(rows, layer.inputs, layer.outputs, first=dx_first)
                program.call(kernel, flow, weights, dx)
            else:
                flow = _flow_below(program, name, net, rows, i, flow, weights)
        if step is not None:
            shape = (rows, layer.inputs, layer.outputs)
            program.call(weight_step(*shape, step), source, above, _shift(params, layer.weights))
            slope = program.scratch(f"{name}.db{i}", layer.outputs)
            program.call(bias_grad(rows, layer.outputs), above, slope)
            program.call(sgd(layer.outputs, step), _shift(params, layer.bias), slope)
        elif grads is not None:
            shape = (rows, layer.inputs, layer.outputs)
            program.call(weight_grad(*shape), source, above, _shift(grads, layer.weights))
            program.call(bias_grad(rows, layer.outputs), above, _shift(grads, layer.bias))


def _flow_below(program: Program, name: str, net: Mlp, rows: int, i: int, flow: View, weights: View) -> View:
    """Append the gradient with respect to what layer i - 1 gave before its activation; return its view."""
    layer, below = net.layers[i - 1], net.layers[i - 2]
    target = program.scratch(f"{name}.z{i - 1}", rows * layer.inputs)
    if below.activation == "none":
        program.call(input_grad(rows, layer.inputs, layer.outputs), flow, weights, target)
    else:
        kept = _kept(program, name, net, rows, i - 1, None)
        kernel = input_grad(rows, layer.inputs, layer.outputs, _below(below))
        program.call(kernel, flow, weights, kept, target)
    return target


def _below(layer: Layer) -> str:
    return "slope" if layer.activation == "fast_tanh" else layer.activation


def _kept(program: Program, name: str, net: Mlp, rows: int, i: int, y: View | None) -> View:
    layer = net.layers[i - 1]
    if layer.activation == "fast_tanh":
        return program.scratch(f"{name}.d{i}", rows * layer.outputs)
    return y if y is not None else program.scratch(f"{name}.h{i}", rows * layer.outputs)
