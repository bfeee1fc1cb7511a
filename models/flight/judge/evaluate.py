"""How well a policy flies: hovering among disturbances, and figure-eights at 100 Hz or by the firmware's 500 Hz rule.

All episodes of all seeds fly at once. Every seed has its own Generator, so the same seeds give the same bytes. An
episode is lost when the vehicle leaves the box; its row is then parked at the origin and no longer counts.

Protocol: the task of Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024), see `environment` and
`figure_eight`. What is a `Policy` flies compiled (`compiled_loop`) where there is a compiler, anything else in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.judge.compiled_loop import CompiledLoop, Flown
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.control_loop import (
    SUB_TICKS,
    Actor,
    Draws,
    Flight,
    Recorder,
    fly,
    park,
    starts,
    still,
)
from flocklet.models.flight.sim.dynamics import ACTIONS, Vehicle
from flocklet.models.flight.sim.environment import DT_S, TARGET_WEIGHTS, Options, State, is_lost, reward
from flocklet.models.flight.sim.figure_eight import WARM_UP_S, FigureEight

__all__ = ["PERIODS_S", "SEEDS", "Figures", "Hover", "Track", "figure_eight", "figure_eights", "hover"]

Floats: TypeAlias = NDArray[Any]
Figures: TypeAlias = dict[str, float | int | None]

SEEDS = tuple(range(10))
PERIODS_S = (15.0, 5.5, 3.5)
LOST_M = 1.5
_LAST = 100


@dataclass(frozen=True, eq=False)
class Hover:
    """Results of hovering; the arrays (n,) hold one value per episode, `summary` sums them up.

    `length` counts steps up to and including the one that was lost; `error_m` and `change` are means over the last
    second, `last_m` is |p| after the last step (NaN where lost); `returns` has the target weights (NaN: no
    reward there).
    """

    seed: NDArray[np.int64]
    lost: NDArray[np.bool_]
    length: Floats
    error_m: Floats
    last_m: Floats
    returns: Floats
    change: Floats
    flight: Flight

    def of_seed(self, seed: int) -> Hover:
        """Return the results of one seed."""
        mine = self.seed == seed
        names = ("seed", "lost", "length", "error_m", "last_m", "returns", "change")
        return with_fields(self, **{name: getattr(self, name)[mine] for name in names})

    def summary(self) -> Figures:
        """Return the figures of the protocol; None where no episode survived."""
        alive = ~self.lost
        error = self.error_m[alive]
        return {
            "survival": float(alive.mean()),
            "error_m": _mean(error),
            "p95_m": float(np.quantile(error, 0.95)) if len(error) else None,
            "settled": float((alive & (self.last_m < 0.2)).mean()),
            "episode_length": float(self.length.mean()),
            "target_return": _mean(self.returns[~np.isnan(self.returns)]),
            "action_change": _mean(self.change[alive]),
            "episodes": len(self.lost),
        }


@dataclass(frozen=True, eq=False)
class Track:
    """Results of following a path: `lost` (n,), and errors (steps, n, 3) m after the warm-up, NaN where lost."""

    seed: NDArray[np.int64]
    lost: NDArray[np.bool_]
    error: Floats
    flight: Flight

    def summary(self) -> Figures:
        """Return alive, root mean square errors in space and in the plane, the maximum; None where all are lost."""
        squares = self.error[:, ~self.lost] ** 2
        some = squares.size > 0
        return {
            "alive": float((~self.lost).mean()),
            "rmse_m": float(np.sqrt(squares.sum(axis=2).mean())) if some else None,
            "rmse_xy_m": float(np.sqrt(squares[..., :2].sum(axis=2).mean())) if some else None,
            "max_m": float(np.sqrt(squares.sum(axis=2).max())) if some else None,
            "flights": len(self.lost),
        }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _each(of: Callable[..., Floats], bodies: Floats, **options: Any) -> Floats:
    """Return a function of bodies (n, 17) for bodies (k, n, 17), (k, n)."""
    return of(bodies.reshape(-1, bodies.shape[2]), **options).reshape(bodies.shape[:2])


def _fly(
    policy: Actor,
    state: State,
    vehicles: Vehicle,
    noise: Draws | None,
    steps: int,
    calm: State,
    parked: NDArray[np.bool_],
    is_firmware_rate: bool,
    path: FigureEight | None,
    is_native: bool,
) -> Iterator[Flown]:
    """Yield control steps: a second at a time where the policy can be compiled, one by one in NumPy.

    The caller marks rows in `parked` that no longer count; in NumPy they go on from `calm`.
    """
    if (
        is_native
        and isinstance(policy, Policy)
        and policy.layers[0][0].dtype == state.body.dtype == np.float32
    ):
        loop = CompiledLoop(policy, is_firmware_rate=is_firmware_rate)
        if loop.backend == "native":
            yield from loop.fly(state, vehicles, noise, steps, path=path)
            return
    ticks = fly(policy, state, vehicles, noise, steps, is_firmware_rate=is_firmware_rate, path=path)
    tick = next(ticks)
    for done in range(1, steps + 1):
        yield Flown(tick.after.body[None], tick.action[None])
        if done < steps:
            tick = ticks.send(park(tick.after, parked, calm))


def hover(
    policy: Actor,
    vehicles: Vehicle,
    *,
    seeds: Sequence[int] = SEEDS,
    episodes: int = 100,
    options: Options | None = None,
    is_firmware_rate: bool = False,
    is_noisy: bool = True,
    record: int = 0,
    dtype: Any = np.float32,
    is_native: bool = True,
) -> Hover:
    """Fly `episodes` hovers per seed from random states, with noise and disturbances; keep `record` flights.

    `vehicles` is one vehicle, or a row per episode (seed by seed). At the firmware's rate times stay in units of 10 ms.
    `is_native` False flies in NumPy even what could fly compiled.
    """
    at, per = options or Options(), SUB_TICKS if is_firmware_rate else 1
    steps, tail = at.steps * per, min(_LAST, at.steps) * per
    generators = [np.random.default_rng(seed) for seed in seeds]
    n = episodes * len(seeds)
    state, calm = starts(generators, episodes, vehicles, at, dtype), still(n, vehicles, dtype)
    lost = np.zeros(n, bool)
    length, error, returns, change, last = (np.zeros(n) for _ in range(5))
    previous, before = np.zeros((1, n, ACTIONS), dtype), state.body[None]
    kept = Recorder(steps, min(record, n), DT_S / per)
    noise = Draws(generators) if is_noisy else None
    first = 0
    for flown in _fly(policy, state, vehicles, noise, steps, calm, lost, is_firmware_rate, None, is_native):
        k = len(flown.bodies)
        gone = lost | np.logical_or.accumulate(_each(is_lost, flown.bodies, limit_m=at.limit_m), axis=0)
        bodies = np.where(gone[..., None], calm.body, flown.bodies)
        befores, actions = np.concatenate([before, bodies[:-1]]), np.concatenate([previous, flown.actions])
        length += k - gone.sum(axis=0) + (gone[-1] & ~lost)
        gained = reward(
            befores.reshape(k * n, -1),
            flown.actions.reshape(k * n, -1),
            bodies.reshape(k * n, -1),
            TARGET_WEIGHTS,
            at,
        )
        returns += np.where(gone, 0.0, gained.reshape(k, n)).sum(axis=0)
        late = max(0, min(k, steps - tail - first))
        if late < k:
            far = np.linalg.norm(bodies[late:, :, 0:3].astype(np.float64), axis=2)
            error, last = error + far.sum(axis=0), far[-1]
            moved = np.abs(np.diff(actions[late:], axis=0)).mean(axis=2, dtype=np.float64)
            change += moved.sum(axis=0)
        previous, before = flown.actions[-1:], bodies[-1:]
        kept.take(first, flown.bodies, flown.actions, gone)
        lost[:] = gone[-1]
        first += k
        if lost.all():
            break
    nowhere = np.where(lost, np.nan, 1.0)
    return Hover(
        np.repeat(np.asarray(seeds, np.int64), episodes),
        lost,
        length / per,
        error / tail * nowhere,
        last * nowhere,
        returns / per,
        change / tail * nowhere,
        kept.flight,
    )


def figure_eights(
    policy: Actor,
    vehicle: Vehicle,
    *,
    periods_s: Sequence[float] = PERIODS_S,
    scale: float = 1.0,
    seeds: Sequence[int] = SEEDS,
    is_firmware_rate: bool = False,
    is_noisy: bool = True,
    record: bool = False,
    dtype: Any = np.float32,
    is_native: bool = True,
) -> dict[float, Track]:
    """Follow a figure-eight per seed and period, all at once, from rest at the start, undisturbed.

    `is_noisy` is False for policies that want no observation noise. Record the first seed's flights if asked to. Rows
    of shorter flights go on to the end but no longer count.
    """
    k = len(seeds)
    path = FigureEight(np.repeat(np.asarray(periods_s, float), k), scale)
    per = SUB_TICKS if is_firmware_rate else 1
    warm, ends = round(WARM_UP_S / DT_S) * per, np.round(path.duration_s / DT_S).astype(int) * per
    generators = [np.random.default_rng((seed, round(1000 * T))) for T in periods_s for seed in seeds]
    n, dt_s = len(ends), DT_S / per
    calm = still(n, vehicle, dtype)
    lost, parked = np.zeros(n, bool), np.zeros(n, bool)
    errors = np.full((max(ends) - warm, n, 3), np.nan)
    kept = Recorder(max(ends), n if record else 0, dt_s)
    if record:  # all of them, however early the flight ends
        kept.flight.targets[:] = path.at((np.arange(max(ends))[:, None] + 1) * dt_s)[0]
    noise = Draws(generators) if is_noisy else None
    first = 0
    for flown in _fly(
        policy, calm, vehicle, noise, max(ends), calm, parked, is_firmware_rate, path, is_native
    ):
        steps = np.arange(first, first + len(flown.bodies))[:, None]
        places = path.at((steps + 1) * dt_s)[0]
        error = flown.bodies[:, :, 0:3] - places
        out = ~(np.abs(error) <= LOST_M).all(axis=2) & (steps < ends)
        gone = lost | np.logical_or.accumulate(out, axis=0)
        late, end = max(first, warm), first + len(steps)
        if late < end:
            errors[late - warm : end - warm] = np.where(gone[..., None], np.nan, error)[late - first :]
        kept.take(first, flown.bodies, flown.actions, gone)
        lost = gone[-1]
        first = end
        parked[:] = lost | (first >= ends)
        if parked.all():
            break
    found = {}
    for i, period in enumerate(periods_s):
        mine, end = slice(i * k, (i + 1) * k), ends[i * k]
        shown = slice(i * k, i * k + 1) if record else slice(0, 0)
        whole = kept.flight
        flight = Flight(
            whole.bodies[:end, shown], whole.actions[:end, shown], whole.targets[:end, shown], whole.dt_s
        )
        found[period] = Track(np.asarray(seeds), lost[mine], errors[: end - warm, mine], flight)
    return found


def figure_eight(policy: Actor, vehicle: Vehicle, path: FigureEight | None = None, **options: Any) -> Track:
    """Follow one figure-eight per seed; the options are those of `figure_eights`."""
    eight = path or FigureEight()
    period = float(eight.period_s)
    return figure_eights(policy, vehicle, periods_s=(period,), scale=eight.scale, **options)[period]
