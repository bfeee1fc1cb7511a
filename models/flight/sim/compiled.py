"""The environment as compiled kernels over struct-of-arrays batches: step, reward, end, observations, resets.

One turn is `advance` (clip, RK4, clamp, reward, termination, next observation with fresh noise, privileged observation)
then `renew` (rows that ended get a fresh initial state; the observation for the next action is read). Fresh states are
drawn for all rows every 4 turns, as no episode is shorter. The action history
is a time line (turn, action, row): the policy's window of 32 is an address that moves by one row per turn, nothing is
shifted. Random numbers are counted (`flocklet.kernels.noise`): the same seed gives the same bytes for any batch split.
Task: Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flocklet.kernels.body.dsl import maximum, minimum, where
from flocklet.kernels.body.expr import Graph, trace
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.maps import Window, block_kernel, map_kernel
from flocklet.kernels.noise import Draws
from flocklet.kernels.program import Program, View
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, STATES, Vehicle, derivative, rk4, step
from flocklet.models.flight.sim.task import (
    CORE,
    HISTORY,
    PRIVILEGED,
    SETTINGS,
    fresh,
    noisy,
    outside,
    privileged,
    reward,
    vehicle_from,
    vehicle_numbers,
)

__all__ = [
    "CLOCK",
    "FRESH_TURNS",
    "Layout",
    "advance_graph",
    "flight_program",
    "rigid_step",
    "rk4_program",
    "tick",
    "turn_program",
]

FRESH_TURNS = 4
CLOCK = 4  # two keys of the seed, the turn's number in two parts
_FRESH, _ADVANCE, _SENSE = 0, 1000, 2000  # where the draws of each kernel begin, so that they are independent


@dataclass(frozen=True)
class Layout:
    """How a batch lies in memory: `n` rows; planes `stride` numbers apart, padded so that they do not share cache sets."""

    n: int
    stride: int

    @classmethod
    def of(cls, n: int) -> Layout:
        """Return the layout of `n` rows."""
        return cls(n, 1 if n == 1 else -(-n // 16) * 16 + 16)

    def planes(self, count: int, mode: str = "in") -> Window:
        """Return a window on `count` planes."""
        return Window(mode, planes=count, plane_stride=self.stride)

    def size(self, count: int) -> int:
        """Return how many numbers `count` planes take."""
        return count * self.stride


def _shared(count: int, mode: str = "in") -> Window:
    return Window(mode, planes=count, plane_stride=1, column_stride=0)


def _declare(program: Program, at: Layout, vehicles: int) -> None:
    for name, planes in (
        ("body", STATES),
        ("push", 6),
        ("age", 1),
        ("lane", 1),
        ("reward", 1),
        ("ends", 2),
        ("core", CORE),
        ("after", CORE),
        ("privileged", PRIVILEGED),
        ("new", STATES + 6),
    ):
        program.buffer(name, at.size(planes))
    program.buffer("settings", SETTINGS), program.buffer("clock", CLOCK)
    if vehicles:
        program.buffer("vehicle", at.size(vehicles))
    program.buffer("log", at.size(ACTIONS) * (HISTORY + 2))


def advance_graph(vehicle: Vehicle | None, *, dt_s: float = 0.01, is_observed: bool = True) -> Graph:
    """Return the body of one step: see the module; without `vehicle` its constants are inputs, one set per row."""
    many = 0 if vehicle is not None else len(vehicle_numbers(CRAZYFLIE))

    def body(
        s: list[Any], age: list[Any], a: list[Any], push: list[Any], lane: list[Any], *rest: list[Any]
    ) -> list[Any]:
        settings, clock, constants = rest
        given = vehicle if vehicle is not None else vehicle_from(constants)
        action = [minimum(maximum(x, -1.0), 1.0) for x in a]
        after = step(s, action, dt_s, given, push[:3], push[3:])
        terminated = outside(after, settings)
        steps = age[0] + 1.0
        truncated = where(steps > settings[8] - 0.5, 1.0 - terminated, 0.0)
        out = [*after, steps, *action, reward(s, action, settings, terminated), terminated, truncated]
        if is_observed:
            draws = Draws(lane[0], clock, _ADVANCE)
            out += [*noisy(after, draws, settings), *privileged(after, push[:3], push[3:], given)]
        return out

    return trace(body, STATES, 1, ACTIONS, 6, 1, SETTINGS, CLOCK, many)


def fresh_graph(vehicle: Vehicle | None) -> Graph:
    """Return the body that draws an initial state: body (17), force (3), torque (3)."""
    many = 0 if vehicle is not None else len(vehicle_numbers(CRAZYFLIE))

    def body(lane: list[Any], settings: list[Any], clock: list[Any], constants: list[Any]) -> list[Any]:
        given = vehicle if vehicle is not None else vehicle_from(constants)
        return fresh(Draws(lane[0], clock, _FRESH), settings, given)

    return trace(body, 1, SETTINGS, CLOCK, many)


def renew_graph(*, is_observed: bool = True) -> Graph:
    """Return the body that gives rows that ended the fresh state, then reads the policy's observation."""

    def body(s: list[Any], push: list[Any], age: list[Any], ends: list[Any], *rest: list[Any]) -> list[Any]:
        new, lane, settings, clock = rest
        is_over = ends[0] + ends[1] > 0.5
        out = [where(is_over, x, y) for x, y in zip(new, [*s, *push], strict=True)]
        out.append(where(is_over, 0.0, age[0]))
        return [*out, *noisy(out[:STATES], Draws(lane[0], clock, _SENSE), settings)] if is_observed else out

    return trace(body, STATES, 6, 1, 2, STATES + 6, 1, SETTINGS, CLOCK)


def _forget(at: Layout, begin: float) -> Kernel:
    """Return the kernel that gives rows that ended a history of `begin`; others keep theirs."""

    def body(ends: list[Any], h: list[Any]) -> list[Any]:
        # the maximum changes nothing, but keeps this a whole vector store: a store under a condition becomes a scatter
        return [maximum(where(ends[0] + ends[1] > 0.5, begin, h[0]), -1.0)]

    windows = [at.planes(2), Window("inout", row_stride=at.stride)]
    return map_kernel(trace(body, 2, 1), windows, HISTORY * ACTIONS, at.n)


def tick(program: Program) -> None:
    """Count the turn: low part below 2**24, then the high part."""

    def body(c: list[Any]) -> list[Any]:
        low = c[0] + 1.0
        return [where(low > 16777214.5, 0.0, low), where(low > 16777214.5, c[1] + 1.0, c[1])]

    program.call(map_kernel(trace(body, 2), [_shared(2, "inout")], 1, 1), View("clock", 2))


def turn_program(
    n: int,
    *,
    vehicle: Vehicle | None = CRAZYFLIE,
    dt_s: float = 0.01,
    parts: str = "advance renew",
    is_observed: bool = True,
    is_lean: bool = False,
) -> Program:
    """Return the program of one turn of `n` rows; its axis is time, along the time line of actions `log`.

    Row 0 of `log` is spare, the window of turn t is rows t + 1 to t + 32, its action row t + 33.

    `parts` names the parts, of "fresh", "advance", "renew". `is_observed` false leaves all observations out,
    `is_lean` those right after the step (noisy and privileged), so that only the policy's next one is read.
    `vehicle` None means one vehicle
    per row, in buffer `vehicle` (planes in the order of `vehicle_numbers`).
    """
    at, program = Layout.of(n), Program("flight")
    many = 0 if vehicle is not None else len(vehicle_numbers(CRAZYFLIE))
    _declare(program, at, many)
    begin = 0.0 if vehicle is None else 2.0 * float(vehicle.start_fraction) - 1.0
    constants, line = ([View("vehicle")] if many else []), at.size(ACTIONS)
    extra = [at.planes(many)] if many else []
    if "advance" in parts:
        tick(program)
        graph = advance_graph(vehicle, dt_s=dt_s, is_observed=is_observed and not is_lean)
        windows = [at.planes(STATES, "inout"), at.planes(1, "inout"), at.planes(ACTIONS, "inout")]
        windows += [at.planes(6), at.planes(1), _shared(SETTINGS), _shared(CLOCK), *extra]
        windows += [at.planes(1, "out"), at.planes(2, "out")]
        views = [
            View("body"),
            View("age"),
            View("log", (HISTORY + 1) * line, line),
            View("push"),
            View("lane"),
        ]
        views += [View("settings"), View("clock"), *constants, View("reward"), View("ends")]
        if is_observed and not is_lean:
            windows += [at.planes(CORE, "out"), at.planes(PRIVILEGED, "out")]
            views += [View("after"), View("privileged")]
        program.call(map_kernel(graph, windows, 1, n), *views)
    if "fresh" in parts:
        windows = [at.planes(1), _shared(SETTINGS), _shared(CLOCK), *extra, at.planes(STATES + 6, "out")]
        views = [View("lane"), View("settings"), View("clock"), *constants, View("new")]
        program.call(map_kernel(fresh_graph(vehicle), windows, 1, n), *views)
    if "renew" in parts:
        graph = renew_graph(is_observed=is_observed)
        windows = [at.planes(STATES, "inout"), at.planes(6, "inout"), at.planes(1, "inout"), at.planes(2)]
        windows += [at.planes(STATES + 6), at.planes(1), _shared(SETTINGS), _shared(CLOCK)]
        views = [View(name) for name in ("body", "push", "age", "ends", "new", "lane", "settings", "clock")]
        if is_observed:
            windows.append(at.planes(CORE, "out"))
            views.append(View("core"))
        program.call(map_kernel(graph, windows, 1, n), *views)
        program.call(_forget(at, begin), View("ends"), View("log", 2 * line, line))
    return program


def flight_program(n: int, steps: int, *, vehicle: Vehicle = CRAZYFLIE, dt_s: float = 0.01) -> Program:
    """Return RK4 over 17 states with disturbances, `steps` steps per call: buffers `body`, `held` (rpm commands, force,
    torque: 10 planes), `next`; row S2 of the benchmark.
    """

    def body(s: list[Any], h: list[Any]) -> list[Any]:
        return rk4(s, h[:4], dt_s, vehicle, h[4:7], h[7:10])

    return _block("flight", trace(body, STATES, 10), n, STATES, 10, steps)


def rk4_program(n: int, steps: int, *, vehicle: Vehicle = CRAZYFLIE, dt_s: float = 0.01) -> Program:
    """Return RK4 over the 13 states of a rigid body at held rotor speeds: buffers `body`, `held` (4 rotor speeds, rpm),
    `next`; row S1 of the benchmark, the step of the paper's GPU kernel.
    """
    return _block("rigid", trace(rigid_step(vehicle, dt_s), 13, 4), n, 13, 4, steps)


def rigid_step(vehicle: Vehicle, dt_s: float) -> Callable[[list[Any], list[Any]], list[Any]]:
    """Return the body of one RK4 step of 13 states at held rotor speeds."""

    def slope(s: list[Any], rpm: list[Any]) -> list[Any]:
        return derivative([*s, *rpm], rpm, vehicle)[:13]

    def body(s: list[Any], rpm: list[Any]) -> list[Any]:
        def ahead(k: list[Any], h: float) -> list[Any]:
            return [x + d * h for x, d in zip(s, k, strict=True)]

        k1 = slope(s, rpm)
        k2 = slope(ahead(k1, dt_s / 2), rpm)
        k3 = slope(ahead(k2, dt_s / 2), rpm)
        k4 = slope(ahead(k3, dt_s), rpm)
        ks = zip(s, k1, k2, k3, k4, strict=True)
        return [x + ((a + d) + (b + c) * 2.0) * (dt_s / 6) for x, a, b, c, d in ks]

    return body


def _block(name: str, graph: Graph, n: int, states: int, held: int, steps: int) -> Program:
    at, program = Layout.of(n), Program(name)
    views = [program.buffer(b, at.size(p)) for b, p in (("body", states), ("held", held), ("next", states))]
    windows = [at.planes(states), at.planes(held), at.planes(states, "out")]
    program.call(block_kernel(graph, windows, n, steps), *views)
    return program
