"""The control loop: a policy flies vehicles, at 100 Hz as it was trained or by the firmware's 500 Hz rule.

The 500 Hz rule is that of the public controller of Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024):
the policy runs every 2 ms, the history moves on at every fifth call and its newest slot is the running mean of the
actions since: slot = (slot * sub + action) / (sub + 1). The policy is asked before the history changes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle
from flocklet.models.flight.sim.environment import DT_S, Normals, Options, State, advance, observe, reset
from flocklet.models.flight.sim.figure_eight import Path
from flocklet.models.flight.sim.vehicle import count, rows

__all__ = [
    "CLIP",
    "SUB_TICKS",
    "Actor",
    "Draws",
    "Flight",
    "Recorder",
    "Tick",
    "fly",
    "park",
    "starts",
    "still",
]

Floats: TypeAlias = NDArray[Any]
Actor: TypeAlias = Callable[[Floats], Floats]
"""Observations (n, 146) to actions (n, 4). One with a memory has `reset()`, called before the first step."""

CLIP = (0.6, 2.0)
"""Limits of the seen position (m) and velocity (m/s) error per axis when a path is followed."""

SUB_TICKS = 5


class Tick(NamedTuple):
    """One control step: the state before, the action (clipped), the state after, the time after it in seconds."""

    before: State
    action: Floats
    after: State
    time_s: float


class Draws:
    """Normal numbers of several generators, each for its own equal share of the rows."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def standard_normal(self, size: tuple[int, ...], dtype: Any = np.float64) -> Floats:
        """Return normal numbers; a row's numbers do not depend on the other generators."""
        each = (size[0] // len(self._generators), *size[1:])
        return np.concatenate([rng.standard_normal(each, dtype=dtype) for rng in self._generators])

    def ahead(self, times: int, size: tuple[int, ...]) -> Floats:
        """Return what `times` calls would give in float32, stacked: (times, *size)."""
        each = (times, size[0] // len(self._generators), *size[1:])
        parts = [rng.standard_normal(each, dtype=np.float32) for rng in self._generators]
        return np.concatenate(parts, axis=1)


def fly(
    policy: Actor,
    state: State,
    vehicles: Vehicle,
    noise: Normals | None,
    steps: int,
    *,
    is_firmware_rate: bool = False,
    path: Path | None = None,
) -> Generator[Tick, State | None, None]:
    """Yield `steps` control steps of 10 ms, or of 2 ms by the firmware's rule; without a path nothing is clipped.

    The caller may `send` a state to go on from instead of `after`.
    """
    dt_s = DT_S / SUB_TICKS if is_firmware_rate else DT_S
    if hasattr(policy, "reset"):
        policy.reset()
    for tick in range(steps):
        target = path.at(tick * dt_s) if path is not None else None
        seen = observe(state, noise, target=target, clip=CLIP if path is not None else None)
        raw = np.asarray(policy(seen), state.body.dtype)
        action = np.clip(raw, -1.0, 1.0)
        body = advance(state.body, action, vehicles, state.force, state.torque, dt_s)
        history, sub = state.history, tick % SUB_TICKS if is_firmware_rate else 0
        history = np.concatenate([history[:, 1:], history[:, -1:]], axis=1) if sub == 0 else history.copy()
        history[:, -1] = (history[:, -1] * sub + raw) / (sub + 1) if is_firmware_rate else action
        after = with_fields(state, body=body, history=history, time=state.time + np.int32(1))
        sent = yield Tick(state, action, after, (tick + 1) * dt_s)
        state = after if sent is None else sent


def starts(
    generators: Sequence[np.random.Generator], each: int, vehicles: Vehicle, options: Options, dtype: Any
) -> State:
    """Return `each` initial states per generator, one after another; `vehicles` is one, or a row per state."""
    shared = count(vehicles) == 1
    parts = []
    for i, rng in enumerate(generators):
        mine = vehicles if shared else rows(vehicles, slice(i * each, (i + 1) * each))
        parts.append(reset(rng, each, mine, options, dtype=dtype))
    names = State.__dataclass_fields__
    return State(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def still(n: int, vehicles: Vehicle, dtype: Any) -> State:
    """Return n rows at rest at the origin, rotors at their start, no disturbance, an empty history."""
    state = reset(np.random.default_rng(0), n, vehicles, Options(1.0, 0, 0, 0, 0, 0), dtype=dtype)
    return with_fields(state, history=np.zeros_like(state.history))


def park(state: State, lost: NDArray[np.bool_], calm: State) -> State:
    """Return the state with the bodies and histories of lost rows taken from `calm`: their numbers stay small."""
    if not lost.any():
        return state
    body, history = state.body.copy(), state.history.copy()
    body[lost], history[lost] = calm.body[lost], 0
    return with_fields(state, body=body, history=history)


@dataclass(frozen=True, eq=False)
class Flight:
    """Recorded rows: `bodies` (steps, k, 17) after each step, `actions` (steps, k, 4), `targets` (steps, k, 3) m.

    Steps after a row was lost are NaN.
    """

    bodies: Floats
    actions: Floats
    targets: Floats
    dt_s: float


class Recorder:
    """Keep the first rows of a flight."""

    def __init__(self, steps: int, chosen: int, dt_s: float) -> None:
        self.rows = slice(0, chosen)
        bodies, actions = np.full((steps, chosen, STATES), np.nan), np.full((steps, chosen, ACTIONS), np.nan)
        self.flight = Flight(bodies, actions, np.zeros((steps, chosen, 3)), dt_s)

    def take(
        self,
        at: int,
        bodies: Floats,
        actions: Floats,
        lost: NDArray[np.bool_],
    ) -> None:
        """Keep k steps from step `at` on: bodies (k, n, 17), actions (k, n, 4), lost (k, n)."""
        here, alive = slice(at, at + len(bodies)), ~lost[:, self.rows, None]
        self.flight.bodies[here] = np.where(alive, bodies[:, self.rows], np.nan)
        self.flight.actions[here] = np.where(alive, actions[:, self.rows], np.nan)
