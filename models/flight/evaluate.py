"""How well a policy flies: hovering among disturbances, and figure-eights at 100 Hz or by the firmware's 500 Hz rule.

All episodes of all seeds fly at once. Every seed has its own Generator, so the same seeds give the same bytes. An
episode is lost when the vehicle leaves the box; its row is then parked at the origin and no longer counts.

Protocol: the task of Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024), see `environment` and
`figure_eight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.dynamics import ACTIONS, Vehicle
from flocklet.models.flight.environment import DT_S, TARGET_WEIGHTS, Options, is_lost, reward
from flocklet.models.flight.figure_eight import WARM_UP_S, FigureEight
from flocklet.models.flight.loop import SUB_TICKS, Actor, Draws, Flight, Recorder, fly, park, starts, still

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
) -> Hover:
    """Fly `episodes` hovers per seed from random states, with noise and disturbances; keep `record` flights.

    `vehicles` is one vehicle, or a row per episode (seed by seed). At the firmware's rate times stay in units of 10 ms.
    """
    at, per = options or Options(), SUB_TICKS if is_firmware_rate else 1
    steps, tail = at.steps * per, min(_LAST, at.steps) * per
    generators = [np.random.default_rng(seed) for seed in seeds]
    n = episodes * len(seeds)
    state, calm = starts(generators, episodes, vehicles, at, dtype), still(n, vehicles, dtype)
    lost = np.zeros(n, bool)
    length, error, returns, change, last = (np.zeros(n) for _ in range(5))
    previous = np.zeros((n, ACTIONS), dtype)
    kept = Recorder(steps, min(record, n), DT_S / per, None)
    noise = Draws(generators) if is_noisy else None
    ticks = fly(policy, state, vehicles, noise, steps, is_firmware_rate=is_firmware_rate)
    tick = next(ticks)
    for step in range(steps):
        length += ~lost
        gained = reward(tick.before.body, tick.action, tick.after.body, TARGET_WEIGHTS, at)
        returns += np.where(lost, 0.0, gained)
        lost |= is_lost(tick.after.body, at.limit_m)
        if step >= steps - tail:
            last = np.linalg.norm(tick.after.body[:, 0:3].astype(np.float64), axis=1)
            error += last
            change += np.abs(tick.action - previous).mean(axis=1, dtype=np.float64)
        previous = tick.action
        kept.take(step, tick, lost)
        if lost.all():
            break
        if step < steps - 1:
            tick = ticks.send(park(tick.after, lost, calm))
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
    calm = still(len(ends), vehicle, dtype)
    lost, errors = np.zeros(len(ends), bool), np.full((max(ends) - warm, len(ends), 3), np.nan)
    kept = Recorder(max(ends), len(ends) if record else 0, DT_S / per, path)
    noise = Draws(generators) if is_noisy else None
    ticks = fly(policy, calm, vehicle, noise, max(ends), is_firmware_rate=is_firmware_rate, path=path)
    tick = next(ticks)
    for step in range(max(ends)):
        error = tick.after.body[:, 0:3] - path.at(tick.time_s)[0]
        lost |= ~(np.abs(error) <= LOST_M).all(axis=1) & (step < ends)
        if step >= warm:
            errors[step - warm] = np.where(lost[:, None], np.nan, error)
        kept.take(step, tick, lost)
        if (lost | (step + 1 >= ends)).all():
            break
        if step < max(ends) - 1:
            tick = ticks.send(park(tick.after, lost | (step + 1 >= ends), calm))
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
