"""How well a policy flies: hovering among disturbances, and a figure-eight at 100 Hz or by the firmware's 500 Hz rule.

All episodes of all seeds fly at once. Every seed has its own Generator, so the same seeds give the same bytes. An
episode is lost when the vehicle leaves the box; its row is then parked at the origin and no longer counts.

Protocol: Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024), task of `models.flight.environment`. The
500 Hz rule is that of its public controller: the policy runs every 2 ms, the history moves on at every fifth call and
its newest slot is the running mean of the actions since.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.dynamics import ACTIONS, STATES, Vehicle
from flocklet.models.flight.environment import (
    DT_S,
    TARGET_WEIGHTS,
    Options,
    State,
    advance,
    is_lost,
    observe,
    reset,
    reward,
)
from flocklet.models.flight.path import WARM_UP_S, FigureEight
from flocklet.models.flight.vehicle import count, rows

__all__ = [
    "PERIODS_S",
    "SEEDS",
    "Actor",
    "Flight",
    "Hover",
    "Tick",
    "Track",
    "figure_eight",
    "fly",
    "hover",
]

Floats: TypeAlias = NDArray[Any]
Actor: TypeAlias = Callable[[Floats], Floats]
"""Observations (n, 146) to actions (n, 4). One with a memory has `reset()`, called before the first step."""

SEEDS = tuple(range(10))
PERIODS_S = (15.0, 5.5, 3.5)
LOST_M = 1.5
CLIP = (0.6, 2.0)
SUB_TICKS = 5
_LAST = 100


class Tick(NamedTuple):
    """One control step: the state before, the action (clipped), the state after, the time after it in seconds."""

    before: State
    action: Floats
    after: State
    time_s: float


@dataclass(frozen=True, eq=False)
class Flight:
    """Recorded rows: `bodies` (steps, k, 17) after each step, `actions` (steps, k, 4), `targets` (steps, 3), `dt_s`.

    Steps after a row was lost are NaN.
    """

    bodies: Floats
    actions: Floats
    targets: Floats
    dt_s: float


@dataclass(frozen=True, eq=False)
class Hover:
    """Results of hovering; the arrays (n,) hold one value per episode, the properties sum them up.

    `length` counts steps up to and including the one that was lost; `error_m` and `change` are means over the last 100
    steps (NaN where lost); `last_m` is |p| after the last step; `returns` has the target weights.
    """

    seed: NDArray[np.int64]
    lost: NDArray[np.bool_]
    length: NDArray[np.int32]
    error_m: Floats
    last_m: Floats
    returns: Floats
    change: Floats
    flight: Flight

    def of_seed(self, seed: int) -> Hover:
        """Return the results of one seed."""
        rows = self.seed == seed
        names = ("seed", "lost", "length", "error_m", "last_m", "returns", "change")
        return with_fields(self, **{name: getattr(self, name)[rows] for name in names})

    def summary(self) -> dict[str, float | int | None]:
        """Return the figures of the protocol; None where no episode survived."""
        alive = ~self.lost
        error = self.error_m[alive].astype(np.float64)
        return {
            "survival": float(alive.mean()),
            "error_m": _mean(error),
            "p95_m": float(np.quantile(error, 0.95)) if len(error) else None,
            "settled": float((alive & (self.last_m < 0.2)).mean()),
            "episode_length": float(self.length.mean()),
            "target_return": float(self.returns.mean(dtype=np.float64)),
            "action_change": _mean(self.change[alive].astype(np.float64)),
            "episodes": len(self.lost),
        }


@dataclass(frozen=True, eq=False)
class Track:
    """Results of following a path: `lost` (n,), and the errors (steps, n, 3) m after the warm-up, NaN where lost."""

    seed: NDArray[np.int64]
    lost: NDArray[np.bool_]
    error: Floats
    flight: Flight

    def summary(self) -> dict[str, float | int | None]:
        """Return alive, root mean square errors in space and in the plane, the maximum; None where all are lost."""
        kept = self.error[:, ~self.lost].astype(np.float64)
        squares = kept * kept
        some = kept.size > 0
        return {
            "alive": float((~self.lost).mean()),
            "rmse_m": float(np.sqrt(squares.sum(axis=2).mean())) if some else None,
            "rmse_xy_m": float(np.sqrt(squares[..., :2].sum(axis=2).mean())) if some else None,
            "max_m": float(np.sqrt(squares.sum(axis=2).max())) if some else None,
            "flights": len(self.lost),
        }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


class _Draws:
    """Normal numbers of several generators, each for its own rows; looks like one generator to `observe`."""

    def __init__(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def standard_normal(self, size: tuple[int, ...], dtype: Any = np.float64) -> Floats:
        """Return normal numbers; the rows are shared out evenly."""
        each = (size[0] // len(self._generators), *size[1:])
        return np.concatenate([rng.standard_normal(each, dtype=dtype) for rng in self._generators])


def fly(
    policy: Actor,
    state: State,
    vehicles: Vehicle,
    noise: Any,
    steps: int,
    *,
    is_firmware_rate: bool = False,
    path: FigureEight | None = None,
) -> Generator[Tick, State | None, None]:
    """Yield `steps` control steps of 10 ms, or of 2 ms by the firmware's rule; without a path nothing is clipped.

    `noise` is a Generator or None. The caller may `send` a state to go on from instead of `after`.
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
        history = state.history
        sub = tick % SUB_TICKS if is_firmware_rate else 0
        history = np.concatenate([history[:, 1:], history[:, -1:]], axis=1) if sub == 0 else history.copy()
        if is_firmware_rate:
            history[:, -1] = (history[:, -1] * sub + raw) / (sub + 1)
        else:
            history[:, -1] = action
        after = with_fields(state, body=body, history=history, time=state.time + np.int32(1))
        sent = yield Tick(state, action, after, (tick + 1) * dt_s)
        state = after if sent is None else sent


def _still(n: int, vehicle: Vehicle, dtype: Any) -> State:
    """Return n rows at rest at the origin, rotors at their start, no disturbance, an empty history."""
    calm = Options(1.0, 0, 0, 0, 0, 0)
    state = reset(np.random.default_rng(0), n, vehicle, calm, dtype=dtype)
    return with_fields(state, history=np.zeros_like(state.history))


def _park(state: State, lost: NDArray[np.bool_], still: State) -> State:
    """Return the state with the lost rows at the origin, so that their numbers stay small."""
    body, history = state.body.copy(), state.history.copy()
    body[lost], history[lost] = still.body[lost], 0
    return with_fields(state, body=body, history=history)


class _Recorder:
    def __init__(self, steps: int, rows: int, dt_s: float, path: FigureEight | None) -> None:
        times = (np.arange(steps) + 1) * dt_s
        self.rows = slice(0, rows)
        self.flight = Flight(
            np.full((steps, rows, STATES), np.nan),
            np.full((steps, rows, ACTIONS), np.nan),
            np.zeros((steps, 3)) if path is None else path.at(times)[0],
            dt_s,
        )

    def take(self, at: int, tick: Tick, lost: NDArray[np.bool_]) -> None:
        alive = ~lost[self.rows, None]
        self.flight.bodies[at] = np.where(alive, tick.after.body[self.rows], np.nan)
        self.flight.actions[at] = np.where(alive, tick.action[self.rows], np.nan)


def hover(
    policy: Actor,
    vehicles: Vehicle,
    *,
    seeds: Sequence[int] = SEEDS,
    episodes: int = 100,
    options: Options | None = None,
    record: int = 0,
    dtype: Any = np.float32,
) -> Hover:
    """Fly `episodes` hovers per seed from random states, with noise and disturbances; keep `record` flights.

    `vehicles` is one vehicle, or a row per episode (seed by seed).
    """
    at = options or Options()
    generators = [np.random.default_rng(seed) for seed in seeds]
    n = episodes * len(seeds)
    state = _starts(generators, episodes, vehicles, at, dtype)
    still = _still(n, vehicles, dtype)
    lost, length = np.zeros(n, bool), np.zeros(n, np.int32)
    error, returns, change = (np.zeros(n) for _ in range(3))
    last, previous = np.zeros(n), np.zeros((n, ACTIONS), dtype)
    flights = _Recorder(at.steps, min(record, n), DT_S, None)
    ticks = fly(policy, state, vehicles, _Draws(generators), at.steps)
    tick = next(ticks)
    for step in range(at.steps):
        length += ~lost
        gone = is_lost(tick.after.body, at.limit_m) & ~lost
        gained = reward(tick.before.body, tick.action, tick.after.body, TARGET_WEIGHTS, at)
        returns += np.where(lost, 0.0, gained)
        lost |= gone
        last = np.linalg.norm(tick.after.body[:, 0:3], axis=1).astype(np.float64)
        if step >= at.steps - _LAST:
            error += last
            change += np.abs(tick.action - previous).mean(axis=1, dtype=np.float64)
        previous = tick.action
        flights.take(step, tick, lost)
        if lost.all():
            break
        if step < at.steps - 1:
            tick = ticks.send(_park(tick.after, lost, still))
    tail = min(_LAST, at.steps)
    nowhere = np.where(lost, np.nan, 1.0)
    return Hover(
        np.repeat(np.asarray(seeds, np.int64), episodes),
        lost,
        length,
        error / tail * nowhere,
        last * nowhere,
        returns,
        change / tail * nowhere,
        flights.flight,
    )


def _starts(
    generators: Sequence[np.random.Generator], each: int, vehicles: Vehicle, options: Options, dtype: Any
) -> State:
    shared = count(vehicles) == 1
    parts = [
        reset(
            rng,
            each,
            vehicles if shared else rows(vehicles, slice(i * each, (i + 1) * each)),
            options,
            dtype=dtype,
        )
        for i, rng in enumerate(generators)
    ]
    names = State.__dataclass_fields__
    return State(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def figure_eight(
    policy: Actor,
    vehicles: Vehicle,
    path: FigureEight | None = None,
    *,
    seeds: Sequence[int] = SEEDS,
    flights: int = 1,
    is_firmware_rate: bool = False,
    record: int = 0,
    dtype: Any = np.float32,
) -> Track:
    """Follow a figure-eight (`flights` per seed) from rest at its start, with noise, without disturbances."""
    eight = path or FigureEight()
    n = flights * len(seeds)
    generators = [np.random.default_rng((seed, round(eight.period_s * 1000))) for seed in seeds]
    dt_s = DT_S / SUB_TICKS if is_firmware_rate else DT_S
    steps, warm = round(eight.duration_s / dt_s), round(WARM_UP_S / dt_s)
    still = _still(n, vehicles, dtype)
    lost, errors = np.zeros(n, bool), np.full((steps - warm, n, 3), np.nan)
    kept = _Recorder(steps, min(record, n), dt_s, eight)
    ticks = fly(
        policy, still, vehicles, _Draws(generators), steps, is_firmware_rate=is_firmware_rate, path=eight
    )
    tick = next(ticks)
    for step in range(steps):
        target = eight.at(tick.time_s)[0]
        error = tick.after.body[:, 0:3] - target
        lost |= ~(np.abs(error) <= LOST_M).all(axis=1)
        if step >= warm:
            errors[step - warm] = np.where(lost[:, None], np.nan, error)
        kept.take(step, tick, lost)
        if lost.all():
            break
        if step < steps - 1:
            tick = ticks.send(_park(tick.after, lost, still))
    return Track(np.repeat(np.asarray(seeds, np.int64), flights), lost, errors, kept.flight)
