"""One time step of a vehicle as the trainer by back-propagation sees it, over any number, and the kernels made of it.

`move` is the step with its cost and the observation of the state after it; its adjoint is the backward step. Tracing
them takes longer than loading the compiled library, so the kernels here are named by the bytes of the files that define
the bodies and are traced only when something must be compiled or run as NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from flocklet.kernels.attitude import rotation
from flocklet.kernels.body.adjoint import adjoint
from flocklet.kernels.body.dsl import clip
from flocklet.kernels.body.expr import Graph, SymbolArithmetic, trace
from flocklet.kernels.kernel import Floats, Kernel, Tile
from flocklet.kernels.maps import Window, map_kernel
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle, step
from flocklet.models.flight.train.cost import Cost, step_cost

__all__ = ["DISTURBANCES", "PITCH", "SEEN", "TARGETS", "VEHICLE", "kernels", "look", "move"]

SEEN = 18  # what the policy sees besides the history
PITCH = 20  # the same, a constant 1 and a 0
TARGETS = 6
DISTURBANCES = 6
VEHICLE = 24
DT_S = 0.01
_CLIP_M = 0.6
_CLIP_M_S = 2.0
Number = Any


def vehicle_of(v: Sequence[Number]) -> Vehicle:
    """Return the vehicle whose 24 numbers these are."""
    return Vehicle(
        mass=v[0],
        inertia=(v[1], v[2], v[3]),
        rotor_x=tuple(v[4:8]),
        rotor_y=tuple(v[8:12]),
        yaw_sign=tuple(v[12:16]),
        thrust=(v[16], v[17], v[18]),
        torque_per_thrust=v[19],
        lag_up=v[20],
        lag_down=v[21],
        rpm_min=v[22],
        rpm_max=v[23],
    )


def look(state: Sequence[Number], target: Sequence[Number]) -> list[Number]:
    """Return the 18 numbers that the policy sees, before noise.

    Position error held inside ±0.6 m, R(q) row by row, velocity error inside ±2 m/s, angular velocity (flight
    specification, sections 1.3, 1.5 and 3.2).
    """
    p = [clip(a - b, -_CLIP_M, _CLIP_M) for a, b in zip(state[0:3], target[0:3], strict=True)]
    v = [clip(a - b, -_CLIP_M_S, _CLIP_M_S) for a, b in zip(state[7:10], target[3:6], strict=True)]
    return [*p, *rotation(state[3:7]), *v, *state[10:13]]


def move(
    state: Sequence[Number],
    action: Sequence[Number],
    before: Sequence[Number],
    vehicle: Sequence[Number],
    disturbance: Sequence[Number],
    target: Sequence[Number],
    cost: Sequence[Number],
) -> list[Number]:
    """Return the 17 states after one step, then its cost; `before` is the action of the step before."""
    after = step(state, action, DT_S, vehicle_of(vehicle), disturbance[0:3], disturbance[3:6])
    return [*after, step_cost(after, action, before, target, cost)]


_ARITIES = (STATES, ACTIONS, ACTIONS, VEHICLE, DISTURBANCES, TARGETS, Cost.count())


def _observed() -> Graph:
    def body(s: list[Any], target: list[Any], noise: list[Any]) -> list[Any]:
        return [*[a + b for a, b in zip(look(s, target), noise, strict=True)], 1.0, 0.0]

    return trace(body, STATES, TARGETS, SEEN)


def _forward() -> Graph:
    def body(*given: list[Any]) -> list[Any]:
        return [*move(*given), *given[1], *given[1]]

    return trace(body, *_ARITIES)


def _backward() -> Graph:
    """Return (step's inputs, flow 17, seen 18, pull 8, slope 4) -> (flow 17, pull 8, dz 4).

    `flow` is the gradient with respect to the state after the step, `seen` that of the observation of that state,
    `pull` that of the action before and of this action from what comes later, `slope` that of the policy's output.
    """
    wanted = [*range(STATES + 2 * ACTIONS)]

    def both(s: list[Any], a: list[Any], b: list[Any], *rest: list[Any]) -> list[Any]:
        after = move(s, a, b, *rest)
        return [*after, *look(after, rest[2])]

    back = adjoint(trace(both, *_ARITIES), wanted)

    def body(*given: list[Any]) -> list[Any]:
        flow, seen, pull, slope = given[len(_ARITIES) :]
        flat = [x for part in given[: len(_ARITIES)] for x in part]
        found = back.evaluate([*flat, *flow, 1.0, *seen], SymbolArithmetic(flat[0]))
        g, own, earlier = found[:STATES], found[STATES : STATES + ACTIONS], found[STATES + ACTIONS :]
        total = [a + b for a, b in zip(own, pull[ACTIONS:], strict=True)]
        dz = [a * b for a, b in zip(total, slope, strict=True)]
        return [*g, *[a + b for a, b in zip(earlier, pull[:ACTIONS], strict=True)], *total, *dz]

    return trace(body, *_ARITIES, STATES, SEEN, 2 * ACTIONS, ACTIONS)


def kernels(rows: int, stride: int) -> dict[str, Kernel]:
    """Return the kernels `observe`, `forward` and `backward` for `rows` vehicles; logs have `stride` numbers per row.

    observe: states, targets, noise (18 numbers per row and step), seen out (rows, 20).
    forward: states, actions (rows, 4), actions before, vehicles, disturbances, targets, cost weights; states after,
    cost (rows), actions into the log by row and the log by time.
    backward: the seven inputs of forward; flow (in place), gradient of the observation (rows, 18), pull (in place: two
    actions of the log by row), slope of the actions (rows, 4), dz out (rows, 4).
    """

    def planes(width: int, mode: str = "in") -> Window:
        return Window(mode, planes=width, plane_stride=rows)

    def beside(width: int, mode: str = "in", pitch: int = 0) -> Window:
        return Window(mode, planes=width, plane_stride=1, column_stride=pitch or width)

    given = [
        planes(STATES),
        beside(ACTIONS),
        beside(ACTIONS),
        planes(VEHICLE),
        planes(DISTURBANCES),
        planes(TARGETS),
        Window(planes=Cost.count(), plane_stride=1, column_stride=0),
    ]
    after = [planes(STATES, "out"), Window("out"), beside(ACTIONS, "out", stride), beside(ACTIONS, "out")]
    back = [
        planes(STATES, "inout"),
        beside(SEEN),
        beside(2 * ACTIONS, "inout", stride),
        beside(ACTIONS),
        beside(ACTIONS, "out"),
    ]
    seen = [planes(STATES), planes(TARGETS), planes(SEEN), beside(PITCH, "out")]
    return {
        "observe": _named("flight_observe", _observed, seen, rows),
        "forward": _named("flight_forward", _forward, [*given, *after], rows),
        "backward": _named("flight_backward", _backward, [*given, *back], rows),
    }


def _named(name: str, graph: Callable[[], Graph], windows: Sequence[Window], rows: int) -> Kernel:
    """Return the map kernel of `graph()` under a key that needs no tracing."""

    @lru_cache(maxsize=1)
    def made() -> Kernel:
        return map_kernel(graph(), windows, 1, rows)

    def emit(symbol: str, tile: Tile) -> Any:
        return made().emit(symbol, tile)

    def twin(*arrays: Floats) -> None:
        made().twin(*arrays)

    sizes = tuple(w.size(1, rows) for w in windows)
    shapes = ";".join(f"{w.mode},{w.planes},{w.plane_stride},{w.column_stride}" for w in windows)
    return Kernel(
        f"{name}({_bodies()}|{shapes}|{rows})", sizes, tuple(w.is_written for w in windows), emit, twin
    )


@cache
def _bodies() -> str:
    """Return a digest of the files that the bodies are made of."""
    digest = hashlib.sha256()
    for name in ("cost.py", "../sim/dynamics.py", "time_step.py"):
        digest.update(Path(__file__).parent.joinpath(name).read_bytes())
    return digest.hexdigest()[:24]
