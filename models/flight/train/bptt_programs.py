"""The compiled programs of back-propagation through the simulator, and the buffers of one window of flight.

A window is `steps` steps of `rows` vehicles. Forward keeps states and the outputs of the layers; backward walks the time
axis down, `slopes` become gradients in place; weight gradients are summed chunk by chunk of time. The history of actions
is kept twice: by row (rows, capacity, 4), where the 32 actions that a policy sees are 128 numbers in a row at any time,
and by time (capacity, rows, 4), where the weight gradient of one lag is one product over the whole chunk. Neither is
ever shifted inside a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flocklet.kernels.body.dsl import sqrt
from flocklet.kernels.body.expr import trace
from flocklet.kernels.dense import dense, transpose
from flocklet.kernels.maps import Window, map_kernel, vector
from flocklet.kernels.nets import Mlp
from flocklet.kernels.program import Program, View
from flocklet.kernels.sliding import (
    SlidingShape,
    input_grad_through,
    sliding_dense,
    sliding_input_grad,
    weight_grad_add,
)
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES
from flocklet.models.flight.train.cost import Cost
from flocklet.models.flight.train.time_step import DISTURBANCES, PITCH, SEEN, TARGETS, VEHICLE, kernels

__all__ = [
    "CHUNK",
    "HISTORY",
    "NET",
    "Shape",
    "adam_program",
    "backward_program",
    "forward_program",
    "weights_program",
]

HISTORY = 32
CHUNK = 10  # steps of a window whose weight gradients are summed in one go
NET = Mlp((SEEN + HISTORY * ACTIONS, 64, 64, ACTIONS), "fast_tanh", "fast_tanh")
_WINDOW = HISTORY * ACTIONS
_HIDDEN = 64


@dataclass(frozen=True)
class Shape:
    """How many vehicles fly at once, the longest window, and how many of the 32 past actions the policy looks at."""

    rows: int
    longest: int
    lags: int = HISTORY

    @property
    def stride(self) -> int:
        """Return the numbers of one row of the log of actions; an odd number of steps spreads rows over cache sets."""
        return ACTIONS * ((self.longest + HISTORY) | 1)

    @property
    def first(self) -> SlidingShape:
        """Return the first layer."""
        skip = (HISTORY - self.lags) * ACTIONS
        return SlidingShape(self.rows, SEEN, _WINDOW, _HIDDEN, self.stride, skip, PITCH)


def _flight(program: Program, shape: Shape) -> dict[str, View]:
    """Declare the buffers of a flight that forward and backward share; sizes are those of one turn."""
    n = shape.rows
    log = shape.first.log_size + ACTIONS
    return {
        "states": View(program.buffer("states", 2 * STATES * n).buffer, 0, STATES * n),
        "targets": View(program.buffer("targets", 2 * TARGETS * n).buffer, TARGETS * n, TARGETS * n),
        "vehicles": program.buffer("vehicles", VEHICLE * n),
        "disturbances": program.buffer("disturbances", DISTURBANCES * n),
        "cost": program.buffer("cost", Cost.count()),
        "params": program.buffer("params", NET.count),
        "by_row": program.buffer("by_row", log),
        "by_time": program.buffer("by_time", (HISTORY + 1) * n * ACTIONS),
        "slopes1": View(program.buffer("slopes1", n * _HIDDEN).buffer, 0, n * _HIDDEN),
        "slopes2": View(program.buffer("slopes2", n * _HIDDEN).buffer, 0, n * _HIDDEN),
        "slopes3": View(program.buffer("slopes3", n * ACTIONS).buffer, 0, n * ACTIONS),
    }


def forward_program(shape: Shape) -> Program:
    """Return the program of one step of flight; turn t leads from state t to state t + 1."""
    program, n = Program("flight_forward"), shape.rows
    flight, made = _flight(program, shape), kernels(n, shape.stride)
    layers = NET.layers
    seen = View(program.buffer("seen", n * PITCH).buffer, 0, n * PITCH)
    noise = View(program.buffer("noise", n * SEEN).buffer, 0, n * SEEN)
    costs = View(program.buffer("costs", n).buffer, 0, n)
    h1 = View(program.buffer("h1", n * _HIDDEN).buffer, 0, n * _HIDDEN)
    h2 = View(program.buffer("h2", n * _HIDDEN).buffer, 0, n * _HIDDEN)
    action = program.scratch("action", n * ACTIONS)
    program.call(made["observe"], flight["states"], View("targets", 0, TARGETS * n), noise, seen)

    def parameters(i: int) -> tuple[View, View]:
        return View("params", layers[i].weights), View("params", layers[i].bias)

    log = View("by_row", 0, ACTIONS)
    program.call(sliding_dense(shape.first, "fast_tanh"), seen, log, *parameters(0), h1, flight["slopes1"])
    hidden = dense(n, _HIDDEN, _HIDDEN, "fast_tanh", keep_slope=True)
    program.call(hidden, h1, *parameters(1), h2, flight["slopes2"])
    last = dense(n, _HIDDEN, ACTIONS, "fast_tanh", keep_slope=True)
    program.call(last, h2, *parameters(2), action, flight["slopes3"])
    program.call(
        made["forward"],
        flight["states"],
        action,
        View("by_time", (HISTORY - 1) * n * ACTIONS, n * ACTIONS),
        flight["vehicles"],
        flight["disturbances"],
        flight["targets"],
        flight["cost"],
        View("states", STATES * n, STATES * n),
        costs,
        View("by_row", _WINDOW, ACTIONS),
        View("by_time", HISTORY * n * ACTIONS, n * ACTIONS),
    )
    return program


def backward_program(shape: Shape) -> Program:
    """Return the adjoint of one step; run it with turns counted down (see `Window.backward`).

    `flow` starts as zeros, as do `pull` (the log by row of the gradients of the actions) and `dseen`.
    """
    program, n = Program("flight_backward"), shape.rows
    flight, made = _flight(program, shape), kernels(n, shape.stride)
    down = {name: View(view.buffer, 0, -view.step) for name, view in flight.items()}
    flow, dseen = program.buffer("flow", STATES * n), program.buffer("dseen", n * SEEN)
    program.buffer("pull", shape.first.log_size + ACTIONS)
    turned = [
        program.buffer(f"turned{i + 1}", layer.inputs * layer.outputs) for i, layer in enumerate(NET.layers)
    ]
    program.call(
        made["backward"],
        down["states"],
        View("by_time", HISTORY * n * ACTIONS, -n * ACTIONS),
        View("by_time", (HISTORY - 1) * n * ACTIONS, -n * ACTIONS),
        flight["vehicles"],
        flight["disturbances"],
        View("targets", TARGETS * n, -TARGETS * n),
        flight["cost"],
        flow,
        dseen,
        View("pull", _WINDOW - ACTIONS, -ACTIONS),
        down["slopes3"],
        View(program.buffer("dz3", n * ACTIONS).buffer, 0, -n * ACTIONS),
    )
    dz3 = View("dz3", 0, -n * ACTIONS)
    program.call(input_grad_through(n, _HIDDEN, ACTIONS), dz3, turned[2], down["slopes2"])
    program.call(input_grad_through(n, _HIDDEN, _HIDDEN), down["slopes2"], turned[1], down["slopes1"])
    program.call(
        sliding_input_grad(shape.first), down["slopes1"], turned[0], dseen, View("pull", 0, -ACTIONS)
    )
    return program


def weights_program(shape: Shape) -> Program:
    """Return the program that adds the weight gradients of CHUNK steps; its axis counts chunks.

    Buffers: `own` (20, 64) gradients of the 18 seen numbers, then of the first bias; `grads` as the parameters;
    `ones` and `bias2` (4, 64): four times the gradient of the second bias; `bias3` (64, 4) likewise.
    """
    program, n = Program("flight_weights"), shape.rows
    rows = CHUNK * n
    layers = NET.layers

    def chunk(name: str, width: int) -> View:
        return View(program.buffer(name, rows * width).buffer, 0, rows * width)

    seen, h1, h2 = chunk("seen", PITCH), chunk("h1", _HIDDEN), chunk("h2", _HIDDEN)
    dz1, dz2, dz3 = chunk("slopes1", _HIDDEN), chunk("slopes2", _HIDDEN), chunk("dz3", ACTIONS)
    program.buffer("by_time", (CHUNK + HISTORY) * n * ACTIONS)
    program.buffer("grads", NET.count)
    lag = weight_grad_add(rows, ACTIONS, _HIDDEN)
    for i in range(HISTORY - shape.lags, HISTORY):
        at = layers[0].weights + (SEEN + i * ACTIONS) * _HIDDEN
        program.call(lag, View("by_time", i * n * ACTIONS, rows * ACTIONS), dz1, View("grads", at))
    program.call(weight_grad_add(rows, PITCH, _HIDDEN), seen, dz1, program.buffer("own", PITCH * _HIDDEN))
    program.call(weight_grad_add(rows, _HIDDEN, _HIDDEN), h1, dz2, View("grads", layers[1].weights))
    program.call(weight_grad_add(rows, _HIDDEN, ACTIONS), h2, dz3, View("grads", layers[2].weights))
    ones = program.buffer("ones", rows * ACTIONS)
    program.call(lag, ones, dz2, program.buffer("bias2", ACTIONS * _HIDDEN))
    return program


def adam_program() -> Program:
    """Return one step of Adam (Kingma & Ba, ICLR 2015, algorithm 1) with numbers from a buffer.

    `steer`: factor on the gradient, learning rate over the first correction, one over the second correction. `turned1`
    to `turned3` receive the transposed weights that the backward pass reads.
    """
    program = Program("flight_adam")

    def body(p: list[Any], m: list[Any], v: list[Any], g: list[Any], c: list[Any]) -> list[Any]:
        slope = g[0] * c[0]
        first = m[0] * 0.9 + slope * 0.1
        second = v[0] * 0.999 + slope * slope * 0.001
        return [p[0] - first * c[1] / (sqrt(second * c[2]) + 1e-8), first, second]

    views = [program.buffer(name, NET.count) for name in ("params", "first", "second", "grads")]
    windows = [*[vector("inout")] * 3, vector(), Window(planes=3, plane_stride=1, column_stride=0)]
    kernel = map_kernel(trace(body, 1, 1, 1, 1, 3), windows, 1, NET.count)
    program.call(kernel, *views, program.buffer("steer", 3))
    for i, layer in enumerate(NET.layers, 1):
        turned = program.buffer(f"turned{i}", layer.inputs * layer.outputs)
        program.call(transpose(layer.inputs, layer.outputs), View("params", layer.weights), turned)
    return program
