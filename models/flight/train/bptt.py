"""Train a policy by back-propagation through the simulator: windows of flight, exact gradients, Adam.

Recipe and constants: flight specification, section 3.2; Adam: Kingma & Ba, ICLR 2015. Two threads fly half of the
vehicles each and add their gradients. A gradient that is not finite skips the whole update, Adam's moments included;
training that diverges goes back to the last finite state and says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.sim.dynamics import ACTIONS, Vehicle
from flocklet.models.flight.sim.environment import HISTORY, NOISE, Options, reset
from flocklet.models.flight.sim.moving_targets import Mix, Paths
from flocklet.models.flight.sim.vehicle import leaves
from flocklet.models.flight.train.bptt_programs import NET, Shape
from flocklet.models.flight.train.cost import Cost
from flocklet.models.flight.train.window import Flight, Programs, turn_weights

__all__ = ["Report", "Settings", "Trainer"]

Floats = NDArray[Any]
_FIELDS = 24
_POOL = 4096
_LOOK_BACK = 20
_WORSE = 3.0


@dataclass(frozen=True)
class Settings:
    """How to train.

    `rows` vehicles per thread fly windows of `steps` steps; the learning rate falls from `rate` to `rate_end` along half
    a cosine over `updates`. After a window a vehicle outside `limit_m` (of its target) starts afresh, and any other with
    the probability `fresh`.
    """

    rows: int = 16
    threads: int = 2
    steps: int = 80
    updates: int = 300
    longest: int = 160
    lags: int = HISTORY
    rate: float = 3e-3
    rate_end: float = 1e-5
    warm: int = 0
    clip: float = 1.0
    fresh: float = 0.5
    limit_m: float = 0.6
    cost: Cost = field(default_factory=Cost)
    options: Options = field(default_factory=Options)
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True)
class Report:
    """What one update did: mean cost per step, part of the vehicles that were lost, norm of the gradient."""

    update: int
    cost: float
    lost: float
    norm: float
    is_applied: bool
    note: str = ""


class _Shard:
    """The vehicles of one thread: where they start, what they follow, and what happens to them."""

    def __init__(
        self,
        flight: Flight,
        settings: Settings,
        fleet: Callable[[np.random.Generator, int], Vehicle],
        rng: np.random.Generator,
    ) -> None:
        self.flight = flight
        self.settings = settings
        self._rng = rng
        n = flight.shape.rows
        self._normals = rng.standard_normal((3 * flight.shape.longest, 18, n), dtype=np.float32)
        self._normals *= np.asarray(NOISE, np.float32)[:, None]
        scale = 1.0 / (settings.steps * n * settings.threads)  # the objective is the mean cost of a step
        flight.cost[:] = replace(settings.cost, scale=scale).numbers()
        self._fill(fleet)
        self.paths = Paths(n, settings.mix, rng)
        self.lost = 0.0
        self._put(np.arange(n))

    def _fill(self, fleet: Callable[[np.random.Generator, int], Vehicle]) -> None:
        """Draw the starts in bulk: they are used one after another, in turn."""
        vehicles = fleet(self._rng, _POOL)
        state = reset(self._rng, _POOL, vehicles, self.settings.options)
        self._bodies = np.ascontiguousarray(state.body.T)
        self._disturbances = np.ascontiguousarray(np.concatenate([state.force, state.torque], axis=1).T)
        self._history = state.history[:, -1, :]
        self._vehicles = np.empty((_FIELDS, _POOL), np.float32)
        for row, value in zip(self._vehicles, list(leaves(vehicles).values()), strict=False):
            row[:] = value
        self._next = 0

    def _put(self, index: NDArray[np.intp]) -> None:
        if not len(index):
            return
        flight = self.flight
        take = (self._next + np.arange(len(index))) % _POOL
        self._next = int(self._next + len(index)) % _POOL
        bodies = self._bodies[:, take]
        self.paths.renew(index)
        if self.paths.is_moving:
            position, velocity = self.paths.start(index)
            bodies[0:3] += position.astype(np.float32)
            bodies[7:10] += velocity.astype(np.float32)
        flight.put(index, bodies, self._history[take][:, None, :])
        flight.disturbances[:, index] = self._disturbances[:, take]
        flight.vehicles[:, index] = self._vehicles[:, take]

    def start_afresh(self) -> None:
        """Replace every vehicle."""
        self._put(np.arange(self.flight.shape.rows))

    def window(self, steps: int) -> float:
        """Fly one window and leave its gradient in `flight.grads`; return its mean cost."""
        flight = self.flight
        self.paths.targets(steps, flight.targets)
        start = int(self._rng.integers(len(self._normals) - steps))
        flight.hear(self._normals[start : start + steps])
        cost = flight.fly(steps)
        flight.gradient(steps)
        return cost / float(flight.cost[-1])

    def carry_on(self, steps: int) -> None:
        """Start the next window where this one ended; replace who is lost, and some of the others."""
        flight = self.flight
        away = np.abs(flight.states[steps, 0:3] - flight.targets[steps, 0:3])
        inside = (away <= self.settings.limit_m).all(axis=0) & np.isfinite(flight.states[steps]).all(axis=0)
        self.lost = float(1.0 - inside.mean())
        flight.carry_on(steps)
        swap = ~inside | (self._rng.random(flight.shape.rows) < self.settings.fresh)
        self._put(np.flatnonzero(swap))


class Trainer:
    """Train one policy. `update` does one step; `params` are the weights so far, (13828,) float32.

    `survival` and `mean_cost` are means over the last 20 windows, `best` the weights after the best such stretch.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Callable[[np.random.Generator, int], Vehicle],
        rng: np.random.Generator,
        *,
        params: Floats | None = None,
        programs: Programs | None = None,
        is_native: bool = True,
    ) -> None:
        self.settings = settings
        self.params = fresh_params(rng) if params is None else params.astype(np.float32)
        if settings.lags < HISTORY and params is None:
            blind(self.params, settings.lags)
        shape = Shape(settings.rows, settings.longest, settings.lags)
        self.programs = programs or Programs(shape, is_native=is_native)
        self._adam = self.programs.adam()
        self._shards = [
            _Shard(Flight(self.programs), settings, fleet, child) for child in rng.spawn(settings.threads)
        ]
        self._adam.bind("params", self.params)
        for name in ("first", "second"):
            self._adam.buffers[name][:] = 0.0
        self._turned = [self._adam.buffers[f"turned{i}"] for i in (1, 2, 3)]
        self._turn()
        self._pool = ThreadPoolExecutor(max(1, settings.threads - 1)) if settings.threads > 1 else None
        self.done = 0
        self.survival = self.mean_cost = math.nan
        self.best = self.params.copy()
        self._lowest = math.inf
        self._recent: list[tuple[float, float]] = []
        self._applied = 0
        self._kept = self._state()
        self._bad = 0
        self._slower = 1.0
        self._patience = 10 * _LOOK_BACK

    def update(self, *, progress: float | None = None) -> Report:
        """Fly one window, apply one step of Adam; `progress` in [0, 1] sets the learning rate (default: by updates)."""
        s = self.settings
        costs = self._each(lambda shard: shard.window(s.steps))
        grads = self._adam.buffers["grads"]
        grads[:] = self._shards[0].flight.grads
        for shard in self._shards[1:]:
            grads += shard.flight.grads
        cost = float(np.mean(costs))
        norm = math.sqrt(float(np.dot(grads, grads)))
        part = self.done / s.updates if progress is None else progress
        rate = s.rate * 0.5 * (1 + math.cos(math.pi * min(part, 1.0))) + s.rate_end
        rate *= self._slower
        if self.done < s.warm:
            rate *= (self.done + 1) / s.warm
        note = ""
        is_applied = math.isfinite(norm) and math.isfinite(cost)
        if is_applied:
            self._apply(norm, rate)
        else:
            note = self._recover()
        self._each(lambda shard: shard.carry_on(s.steps))
        self.done += 1
        lost = float(np.mean([shard.lost for shard in self._shards]))
        self._recent = [*self._recent[1 - _LOOK_BACK :], (cost, lost)]
        self.mean_cost, losses = (float(x) for x in np.mean(self._recent, axis=0))
        self.survival = 1.0 - losses
        if is_applied and self.done % _LOOK_BACK == 0:
            note = self._look_back()
        return Report(self.done, cost, lost, norm, is_applied, note)

    def load(self, params: Floats) -> None:
        """Go on from other parameters, (13828,); Adam's moments stay."""
        self.params[:] = params
        self._lowest = math.inf
        self._turn()

    def _turn(self) -> None:
        """Let the vehicles fly with the parameters as they are now; `_adam` keeps the transposed weights up to date."""
        for turned, weights in zip(self._turned, turn_weights(self.params), strict=True):
            turned[:] = weights
        for shard in self._shards:
            shard.flight.use(self.params, self._turned)

    def _apply(self, norm: float, rate: float) -> None:
        self._applied += 1
        t = self._applied
        self._bad = 0
        self._adam.buffers["steer"][:] = (
            min(1.0, self.settings.clip / (norm + 1e-9)),
            rate / (1 - 0.9**t),
            1.0 / (1 - 0.999**t),
        )
        self._adam()

    def _recover(self) -> str:
        """Skip an update; after three in a row go back to the last finite state."""
        self._bad += 1
        if self._bad < 3:
            return "the gradient is not finite: this update is skipped"
        self._go_back()
        return "training diverged: it goes on from the last finite state"

    def _look_back(self) -> str:
        """Keep this state if training goes well; go back if the policy has got much worse than it was."""
        if self.mean_cost < self._lowest:
            self._lowest = self.mean_cost
            self._kept = self._state()
            self.best = self._kept[0]
        elif self.mean_cost > _WORSE * self._lowest and self.done > self._patience:
            self._slower *= 0.5
            self._go_back()
            return (
                f"the cost rose from {self._lowest:.2f} to {self.mean_cost:.2f}: "
                "training goes on from its best state, half as fast"
            )
        elif self.mean_cost < 1.5 * self._lowest:
            self._kept = self._state()
        return ""

    def _go_back(self) -> None:
        self._bad = 0
        self._patience = self.done + 5 * _LOOK_BACK
        params, first, second, self._applied = self._kept
        self.params[:] = params
        self._adam.buffers["first"][:], self._adam.buffers["second"][:] = first, second
        self._turn()
        for shard in self._shards:
            shard.start_afresh()

    def _state(self) -> tuple[Floats, Floats, Floats, int]:
        buffers = self._adam.buffers
        return self.params.copy(), buffers["first"].copy(), buffers["second"].copy(), self._applied

    def _each(self, work: Callable[[_Shard], Any]) -> list[Any]:
        if self._pool is None:
            return [work(shard) for shard in self._shards]
        jobs = [self._pool.submit(work, shard) for shard in self._shards[1:]]
        return [work(self._shards[0]), *[job.result() for job in jobs]]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def fresh_params(rng: np.random.Generator) -> Floats:
    """Return initial parameters: weights U(±1/√fan_in), the last layer's x 0.1; biases 0, the output's 0.36."""
    params = NET.init(rng)
    for layer in NET.layers:
        params[layer.bias : layer.bias + layer.outputs] = 0.0
    last = NET.layers[-1]
    params[last.weights : last.bias] *= 0.1
    params[last.bias :] = 0.36
    return params


def blind(params: Floats, lags: int) -> None:
    """Set the weights of all but the newest `lags` actions of the history to zero."""
    first = NET.layers[0]
    start, end = 18, 18 + (HISTORY - lags) * ACTIONS
    params[first.weights + start * 64 : first.weights + end * 64] = 0.0
