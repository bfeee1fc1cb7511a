"""The control loop of `loop.fly` in compiled code: many control steps of many vehicles per call.

One turn is 10 ms: one control step, or the five of the firmware's 500 Hz rule. Rows fly in blocks of 32, so that one
compiled program serves any number of them, any vehicle and any path; only the shape of the policy is compiled in. It
agrees with `loop.fly` up to the rounding of float32 sums, which a flight that is under control does not amplify.

Rows that are lost are not parked: they fly on, and what becomes of them must not be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError
from flocklet.kernels.body.dsl import ACTIVATIONS, maximum, minimum
from flocklet.kernels.body.expr import Graph, trace
from flocklet.kernels.compile.executable import Executable, aligned
from flocklet.kernels.dense import dense
from flocklet.kernels.maps import Window, map_kernel
from flocklet.kernels.program import Program, View
from flocklet.kernels.sliding import SlidingShape, sliding_dense
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.control_loop import CLIP, SUB_TICKS, Draws
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, STATES, Vehicle, step
from flocklet.models.flight.sim.environment import DT_S, HISTORY, NOISE, State
from flocklet.models.flight.sim.figure_eight import Path
from flocklet.models.flight.sim.task import seen, vehicle_from, vehicle_numbers
from flocklet.models.flight.sim.vehicle import leaves

__all__ = ["CompiledLoop", "Flown"]

Floats = NDArray[Any]

_ROWS = 32
_TURNS = 100
_SEEN = len(NOISE)
_WINDOW = HISTORY * ACTIONS
_STRIDE = ACTIONS * ((_TURNS + HISTORY) | 1)
_PUSH = 6
_TARGET = 6
_NUMBERS = (
    4  # seconds per step, limits of the seen position and velocity error, limit of an action in the history
)
_FREE = 1e30


class Flown(NamedTuple):
    """Consecutive control steps: the bodies after each (k, n, 17), and the actions, clipped (k, n, 4)."""

    bodies: Floats
    actions: Floats


def _held(value: Any, limit: Any) -> Any:
    return minimum(maximum(value, -limit), limit)


@lru_cache(maxsize=1)
def _look() -> Graph:
    def body(s: list[Any], target: list[Any], noise: list[Any], numbers: list[Any]) -> list[Any]:
        exact = seen(s)
        for first, limit, there in ((0, numbers[1], target[:3]), (12, numbers[2], target[3:])):
            for i, place in enumerate(there):
                exact[first + i] = _held(exact[first + i] - place, limit)
        return [x + e * scale for x, e, scale in zip(exact, noise, NOISE, strict=True)]

    return trace(body, STATES, _TARGET, _SEEN, _NUMBERS)


@lru_cache(maxsize=1)
def _move() -> Graph:
    many = len(vehicle_numbers(CRAZYFLIE))

    def body(
        s: list[Any], raw: list[Any], vehicle: list[Any], push: list[Any], *rest: list[Any]
    ) -> list[Any]:
        numbers, sub, newest = rest
        action = [_held(a, 1.0) for a in raw]
        after = step(s, action, numbers[0], vehicle_from(vehicle), push[:3], push[3:])
        kept = [_held(a, numbers[3]) for a in raw]
        mean = [(old * sub[0] + a) / (sub[0] + 1.0) for old, a in zip(newest, kept, strict=True)]
        return [*mean, *after, *action]

    return trace(body, STATES, ACTIONS, many, _PUSH, _NUMBERS, 1, ACTIONS)


def _planes(count: int, mode: str = "in") -> Window:
    return Window(mode, planes=count, plane_stride=_ROWS)


def _by_row(count: int, stride: int, mode: str = "in") -> Window:
    return Window(mode, planes=count, plane_stride=1, column_stride=stride)


def _program(sizes: tuple[int, ...], kinds: tuple[str, ...], per: int) -> Program:
    """Return the program of one turn of `per` control steps; its axis is time."""
    program = Program("fly")
    many = len(vehicle_numbers(CRAZYFLIE))
    first = SlidingShape(_ROWS, _SEEN, _WINDOW, sizes[1], _STRIDE, 0, _SEEN)
    state, target, noise, acted = (_ROWS * width for width in (STATES, _TARGET, _SEEN, ACTIONS))
    program.buffer("states", (per + 1) * state)
    program.buffer("log", first.log_size + ACTIONS)
    for name, size in (("targets", per * target), ("noise", per * noise), ("actions", per * acted)):
        program.buffer(name, size)
    program.buffer("vehicles", many * _ROWS), program.buffer("push", _PUSH * _ROWS)
    program.buffer("numbers", _NUMBERS), program.buffer("sub", SUB_TICKS)
    program.scratch("seen", noise), program.scratch("slopes", _ROWS * sizes[1])
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        program.buffer(f"w{i}", inputs * outputs), program.buffer(f"b{i}", outputs)
        program.scratch(f"h{i}", _ROWS * outputs)
    numbers = Window(planes=_NUMBERS, plane_stride=1, column_stride=0)
    look = map_kernel(
        _look(),
        [_planes(STATES), _planes(_TARGET), _by_row(_SEEN, _SEEN), numbers, _by_row(_SEEN, _SEEN, "out")],
        1,
        _ROWS,
    )
    move = map_kernel(
        _move(),
        [
            _planes(STATES),
            _by_row(ACTIONS, ACTIONS),
            _planes(many),
            _planes(_PUSH),
            numbers,
            Window(planes=1, column_stride=0),
            _by_row(ACTIONS, _STRIDE, "inout"),
            _planes(STATES, "out"),
            _by_row(ACTIONS, ACTIONS, "out"),
        ],
        1,
        _ROWS,
    )
    for sub in range(per):
        now = View("states", sub * state, per * state)
        targets, heard = View("targets", sub * target, per * target), View("noise", sub * noise, per * noise)
        program.call(look, now, targets, heard, View("numbers"), View("seen"))
        # the policy is asked before the history moves on: the first step of a turn sees the older window
        log = View("log", ACTIONS if sub else 0, ACTIONS)
        program.call(
            sliding_dense(first, kinds[0]),
            *(View("seen"), log, View("w0"), View("b0"), View("h0"), View("slopes")),
        )
        for i, (inputs, outputs) in enumerate(pairwise(sizes[1:]), 1):
            layer = dense(_ROWS, inputs, outputs, kinds[i])
            program.call(layer, View(f"h{i - 1}"), View(f"w{i}"), View(f"b{i}"), View(f"h{i}"))
        program.call(
            move,
            now,
            View(f"h{len(kinds) - 1}"),
            View("vehicles"),
            View("push"),
            View("numbers"),
            View("sub", sub),
            View("log", _WINDOW, ACTIONS),
            View("states", (sub + 1) * state, per * state),
            View("actions", sub * acted, per * acted),
        )
    return program


class CompiledLoop:
    """A policy that flies in compiled code, at 100 Hz or by the firmware's rule.

    `backend` is "native", or "numpy" where nothing compiles: then `loop.fly` is faster. Raise ExportError for an
    activation without a kernel.
    """

    def __init__(self, policy: Policy, *, is_firmware_rate: bool = False, is_native: bool = True) -> None:
        self.per = SUB_TICKS if is_firmware_rate else 1
        kinds = tuple(kind for _, _, kind in policy.layers)
        for kind in kinds:
            if kind not in ACTIVATIONS:
                raise ExportError(f"the activation '{kind}' is unknown to the flight simulator")
        program = _program(policy.sizes, kinds, self.per)
        self._run: Executable = program.compile() if is_native else program.interpret()
        self.backend = self._run.backend
        buffers = self._run.buffers
        for i, (weights, bias, _) in enumerate(policy.layers):
            buffers[f"w{i}"].reshape(weights.shape[::-1])[:] = weights.T
            buffers[f"b{i}"][:] = bias
        buffers["sub"][:] = np.arange(SUB_TICKS)

    def fly(
        self, state: State, vehicles: Vehicle, noise: Draws | None, steps: int, *, path: Path | None = None
    ) -> Iterator[Flown]:
        """Yield `steps` control steps, a second of flight at a time; arguments as for `loop.fly`."""
        n, per = len(state), self.per
        blocks = [
            _Block(state, vehicles, np.minimum(np.arange(i, i + _ROWS), n - 1)) for i in range(0, n, _ROWS)
        ]
        dt_s = DT_S / per
        limits = CLIP if path is not None else (_FREE, _FREE)
        self._run.buffers["numbers"][:] = (dt_s, *limits, 1.0 if per == 1 else _FREE)
        heard = np.zeros((_TURNS * per, n, _SEEN), np.float32)
        there = np.zeros((_TURNS * per, n, _TARGET), np.float32)
        for first in range(0, steps, _TURNS * per):
            count = min(_TURNS * per, steps - first)
            if noise is not None:
                heard[:count] = noise.ahead(count, (n, _SEEN))
            if path is not None:
                position, velocity = path.at(np.arange(first, first + count)[:, None] * dt_s)
                there[:count, :, :3], there[:count, :, 3:] = position, velocity
            flown = [block.fly(self._run, heard[:count], there[:count], per) for block in blocks]
            bodies = np.concatenate([part[0] for part in flown], axis=1)[:, :n]
            actions = np.concatenate([part[1] for part in flown], axis=1)[:, :n]
            yield Flown(bodies, actions)


class _Block:
    """32 rows of a flight, `index` (32,) among all rows (padded by repeating the last), with their memory."""

    def __init__(self, state: State, vehicles: Vehicle, index: NDArray[np.intp]) -> None:
        self.index = index

        def memory(*shape: int) -> Floats:
            return aligned(int(np.prod(shape))).reshape(shape)

        self._last = state.body[index].T.astype(np.float32)
        self._log = memory(_ROWS, _STRIDE // ACTIONS, ACTIONS)
        self._log[:, :HISTORY] = state.history[index]
        self._push = memory(_PUSH, _ROWS)
        self._push[:3], self._push[3:] = state.force[index].T, state.torque[index].T
        numbers = list(leaves(vehicles).values())
        self._vehicles = memory(len(numbers), _ROWS)
        for row, value in zip(self._vehicles, numbers, strict=True):
            given = np.asarray(value, np.float32).reshape(-1)
            row[:] = given[index] if given.size > 1 else given

    def fly(self, run: Executable, heard: Floats, there: Floats, per: int) -> tuple[Floats, Floats]:
        """Fly as many steps as `heard` (k, n, 18) has; return bodies (k, 32, 17) and actions (k, 32, 4)."""
        count = len(heard)
        turns = count // per
        states, actions = aligned((count + 1) * STATES * _ROWS), aligned(count * _ROWS * ACTIONS)
        states[: STATES * _ROWS] = self._last.reshape(-1)
        run.bind("states", states)
        run.bind("actions", actions)
        run.bind("log", self._log)
        run.bind("push", self._push)
        run.bind("vehicles", self._vehicles)
        run.bind("noise", np.ascontiguousarray(heard[:, self.index]))
        run.bind("targets", np.ascontiguousarray(there[:, self.index].transpose(0, 2, 1)))
        run.run(0, turns)
        self._log[:, :HISTORY] = self._log[:, turns : turns + HISTORY].copy()
        whole = states.reshape(count + 1, STATES, _ROWS)
        self._last = whole[-1].copy()
        return whole[1:].transpose(0, 2, 1), actions.reshape(count, _ROWS, ACTIONS)
