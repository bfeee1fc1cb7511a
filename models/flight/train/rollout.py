"""Back-propagation through the simulator: one time step of policy and vehicle, forward and adjoint.

The programs have time as their axis: one compiled step serves every horizon. Only the states are kept (check-points);
the backward step runs the policy again. Struct of arrays: state t of a batch of n lies at t * 17 n, one row per variable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flocklet.kernels.body.adjoint import adjoint
from flocklet.kernels.body.expr import SymbolArithmetic, trace
from flocklet.kernels.maps import Window, map_kernel, vector
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.program import Program, View
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle, step

__all__ = ["backward_program", "forward_program", "observe", "quadratic_cost"]

HOVER = 0.334
_MIDDLE_RPM = 10851.0


def observe(state: Sequence[Any]) -> list[Any]:
    """Return the 17 states as the policy sees them: rotor speeds as a fraction of the middle, less one."""
    return [*state[:13], *[r * (1.0 / _MIDDLE_RPM) - 1.0 for r in state[13:17]]]


def quadratic_cost(state: Sequence[Any], action: Sequence[Any]) -> Any:
    """Return 5 |p|² + 5 (1 - w²) + 0.01 |v|² + 0.01 |a - hover|² (flight specification, start weights, halved there)."""

    def square(values: Sequence[Any]) -> Any:
        total = values[0] * values[0]
        for v in values[1:]:
            total = total + v * v
        return total

    lean = 1.0 - state[3] * state[3]
    away = square([a - HOVER for a in action])
    return square(state[0:3]) * 5.0 + lean * 5.0 + square(state[7:10]) * 0.01 + away * 0.01


def forward_program(net: Mlp, batch: int, *, vehicle: Vehicle | None = None, dt_s: float = 0.01) -> Program:
    """Return the program of one step: buffers `params`, `states` (two states here, bind T + 1), run turns 0 to T - 1."""
    program, size = Program("forward"), STATES * batch
    params = program.buffer("params", net.count)
    program.buffer("states", 2 * size)
    action = _policy(program, net, batch, params, View("states", 0, size))
    given = vehicle or Vehicle()
    graph = trace(lambda s, a: step(s, a, dt_s, given), STATES, ACTIONS)
    windows = [_soa(batch), _rows(ACTIONS), _soa(batch, "out")]
    program.call(
        map_kernel(graph, windows, 1, batch), View("states", 0, size), action, View("states", size, size)
    )
    return program


def backward_program(
    net: Mlp,
    batch: int,
    *,
    vehicle: Vehicle | None = None,
    dt_s: float = 0.01,
    cost: Callable[[Sequence[Any], Sequence[Any]], Any] = quadratic_cost,
) -> Program:
    """Return the adjoint of one step; for T steps bind the same `states` and run turns 1 - T to 0.

    `flow` (17, batch) is the gradient with respect to the state after the step (zeros for the last one) and becomes
    that of the state before it; `total` collects the gradient of the parameters. The objective is the mean over the
    batch of the sum of `cost(state, action)` over the steps.
    """
    program, size = Program("backward"), STATES * batch
    params = program.buffer("params", net.count)
    program.buffer("states", size)
    flow, total = program.buffer("flow", size), program.buffer("total", net.count)
    state = View("states", 0, -size)
    action = _policy(program, net, batch, params, state)
    given = vehicle or Vehicle()

    def body(s: list[Any], a: list[Any]) -> list[Any]:
        return [*step(s, a, dt_s, given), cost(s, a) * (1.0 / batch)]

    back = adjoint(trace(body, STATES, ACTIONS))

    def turn(s: list[Any], a: list[Any], g: list[Any]) -> list[Any]:
        return back.evaluate([*s, *a, *g, 1.0], SymbolArithmetic(s[0]))

    dy = program.scratch("dy", ACTIONS * batch)
    windows = [_soa(batch), _rows(ACTIONS), _soa(batch, "inout"), _rows(ACTIONS, "out")]
    kernel = map_kernel(trace(turn, STATES, ACTIONS, STATES), windows, 1, batch)
    program.call(kernel, state, action, flow, dy)
    grads, dx = program.scratch("grads", net.count), program.scratch("dx", size)
    mlp_backward(program, "policy", net, batch, params, View("seen"), dy, grads=grads, dx=dx)
    add = trace(lambda t, g: [t[0] + g[0]], 1, 1)
    program.call(map_kernel(add, [vector("inout"), vector()], 1, net.count), total, grads)
    scale = [1.0] * 13 + [1.0 / _MIDDLE_RPM] * 4

    def join(g: list[Any], d: list[Any]) -> list[Any]:
        return [a + b * k for a, b, k in zip(g, d, scale, strict=True)]

    windows = [_soa(batch, "inout"), _rows(STATES)]
    program.call(map_kernel(trace(join, STATES, STATES), windows, 1, batch), flow, dx)
    return program


def _policy(program: Program, net: Mlp, batch: int, params: View, state: View) -> View:
    """Append obs and action; return the view of the actions (batch, 4)."""
    seen = program.scratch("seen", STATES * batch)
    look = map_kernel(trace(observe, STATES), [_soa(batch), _rows(STATES, "out")], 1, batch)
    program.call(look, state, seen)
    return mlp_forward(program, "policy", net, batch, params, seen)


def _soa(batch: int, mode: str = "in") -> Window:
    return Window(mode, planes=STATES, plane_stride=batch)


def _rows(width: int, mode: str = "in") -> Window:
    return Window(mode, planes=width, plane_stride=1, column_stride=width)
