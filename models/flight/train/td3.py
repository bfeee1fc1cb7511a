"""TD3 as Learning to Fly in Seconds trains it: the control for our own trainer, and a test of the environment.

One environment, asymmetric critics (they see the exact state and the disturbances), curriculum on the reward with all
stored rewards recomputed. Order of one iteration, constants and networks: Eschmann, Albani & Loianno, RA-L 2024, and its
public code. Everything between two updates is one compiled call, and so is every update; with two threads the critics
learn side by side and the actor's batch is halved, with the same bytes as on one thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import FlockletError
from flocklet.kernels.compile.compilers import Compiler
from flocklet.kernels.compile.executable import Executable
from flocklet.kernels.noise import seed_keys
from flocklet.kernels.program import Program
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, STATES, Vehicle
from flocklet.models.flight.sim.environment import START_WEIGHTS, Options, Weights, harder, reset, reward
from flocklet.models.flight.sim.task import HISTORY, Settings
from flocklet.models.flight.train.td3_program import (
    ACTOR,
    AFTER,
    BEFORE,
    CRITIC,
    RECORD,
    REWARD,
    actor_program,
    collect_program,
    critic_program,
    decay_of,
    settle_program,
    target_program,
)

__all__ = ["Recipe", "Td3"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """The paper's constants; an update happens at iterations beyond its warm-up that its interval divides."""

    steps: int = 300_001
    batch: int = 256
    discount: float = 0.99
    tau: float = 0.005
    exploration: float = 0.1
    smoothing: float = 0.2
    smoothing_limit: float = 0.5
    decay: float = 5e-5
    critic_warm_up: int = 15_000
    actor_warm_up: int = 30_000
    critic_interval: int = 10
    actor_interval: int = 20
    curriculum_interval: int = 100_000

    def updates_critics(self, t: int) -> bool:
        """Tell whether iteration `t` updates the critics."""
        return t > self.critic_warm_up and t % self.critic_interval == 0

    def updates_actor(self, t: int) -> bool:
        """Tell whether iteration `t` updates the actor."""
        return t > self.actor_warm_up and t % self.actor_interval == 0

    def hardens(self, t: int) -> bool:
        """Tell whether the curriculum moves before the step of iteration `t`."""
        return t > 0 and t % self.curriculum_interval == 0 and t < self.steps - 1


_BULK = 256
_PATIENCE = 3
_NOT_KEPT = {"records", "log", "clock", "dice", "index", "settings"}
_log = logging.getLogger("flocklet.models.flight")


@dataclass(frozen=True, eq=False)
class _State:
    """Where training can go on from: the next iteration, the reward weights, a copy of every buffer that learns."""

    t: int
    weights: Weights
    buffers: dict[tuple[int, str], Floats]


class Td3:
    """One training run: `advance(t)` runs the iterations before `t`, `policy()` is what has been learnt.

    `t` is the next iteration, `weights` the reward weights in force. When a parameter is no longer finite, training goes
    on from the last state where all were (`t` goes back, one warning says so); FlockletError when that happened four
    times in a row. Raise ValueError for a recipe whose intervals do not fit together.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        recipe: Recipe | None = None,
        vehicle: Vehicle = CRAZYFLIE,
        options: Options | None = None,
        threads: int = 1,
        compilers: Sequence[Compiler] | None = None,
    ) -> None:
        self.recipe = recipe or Recipe()
        at = self.recipe
        if at.actor_interval % at.critic_interval or at.curriculum_interval % at.critic_interval:
            raise ValueError("the critics' interval must divide those of the actor and of the curriculum")
        self.t, self.weights, self.options = 0, START_WEIGHTS, options or Options()
        self._rng, self._threads, self._round = rng, threads, 0
        self._ahead: Floats = np.zeros((0, 3 * at.batch), np.float32)
        self.records = np.zeros((at.steps, RECORD), np.float32)
        self.log = np.zeros((at.steps + HISTORY, ACTIONS), np.float32)
        actor = ACTOR.init(rng)
        critics = np.concatenate([CRITIC.init(rng), CRITIC.init(rng)])
        shared = {
            "records": self.records,
            "log": self.log,
            "actor": actor,
            "critics": critics,
            "actor_target": actor.copy(),
            "critic_targets": critics.copy(),
        }

        def made(program: Program, **more: Floats) -> Executable:
            run = program.compile(compilers=compilers)
            for name, array in {**shared, **more}.items():
                if name in run.buffers:
                    run.bind(name, array)
            run.admit(0, 1)
            return run

        self.actor, self.critics = actor, critics
        self._index: Floats = np.zeros(3 * at.batch, np.float32)
        self._settings = np.array(Settings.of(self.weights, self.options).numbers(), np.float32)
        n = at.steps
        self.collect = made(collect_program(n, vehicle, at.exploration), settings=self._settings)
        self.collect.admit(0, n)
        self.collect.buffers["slot"][:] = np.repeat(np.arange(HISTORY, 0, -1), ACTIONS)
        self.collect.buffers["clock"][:2] = seed_keys(rng)
        start = reset(rng, 1, vehicle, self.options)
        self.collect.buffers["body"][:STATES] = start.body[0]
        self.collect.buffers["push"][:] = np.concatenate([start.force[0], start.torque[0]])
        smooth = (at.smoothing, at.smoothing_limit)
        program = critic_program(n, vehicle, batch=at.batch, discount=at.discount, smooth=smooth)
        self.critic = made(program, index=self._index[: 2 * at.batch], decay=decay_of(CRITIC, at.decay))
        self.critic.buffers["rows"][:] = np.arange(at.batch)
        self._dice = self.critic.buffers["dice"].reshape(2, 4)
        self._dice[:, :2], self._dice[:, 3] = seed_keys(rng), (0, 1)
        self.gradient = made(actor_program(n, vehicle, batch=at.batch), index=self._index[2 * at.batch :])
        share = {"grads": self.gradient.buffers["grads"], "decay": decay_of(ACTOR, at.decay)}
        self.settle = made(settle_program(), **share)
        targets = {"targets": shared["critic_targets"], "params": critics}
        self.move_critics = made(target_program(2 * CRITIC.count, at.tau), **targets)
        self.move_actor = made(
            target_program(ACTOR.count, at.tau), targets=shared["actor_target"], params=actor
        )
        self.critic.admit(0, 2)
        self.gradient.admit(0, 2)
        self._runs = (
            self.collect,
            self.critic,
            self.gradient,
            self.settle,
            self.move_critics,
            self.move_actor,
        )
        self._bad = 0
        self._kept = self._state()

    @property
    def backend(self) -> str:
        """Return "native" or "numpy"."""
        return self.critic.backend

    def policy(self) -> Policy:
        """Return a copy of the policy as it is now."""
        return Policy(tuple(ACTOR.export(self.actor)))

    def advance(self, until: int) -> None:
        """Run the iterations before `until` (at most the recipe's steps)."""
        at, until = self.recipe, min(until, self.recipe.steps)
        while self.t < until:
            if at.hardens(self.t):
                self._harden()
            # collect through the next iteration that may update, and not past a change of the rewards
            last = min(-(-self.t // at.critic_interval) * at.critic_interval, until - 1)
            if last > self.t and at.hardens(last):
                last -= 1
            self.collect.run(self.t, last + 1)
            self.t = last + 1
            if at.updates_critics(last):
                self._update(last)

    def _update(self, t: int) -> None:
        at = self.recipe
        if self._round == 0:
            self._kept = self._state()  # so that what was collected before learning began stays
        self._index[:] = self._pick(t)
        self._round += 1
        self._dice[:, 2] = self._round
        self.critic.run(0, 2, threads=self._threads)
        is_acting = at.updates_actor(t)
        if is_acting:
            self.gradient.run(0, 2, threads=self._threads)
            self.settle()
        self.move_critics()
        if is_acting:
            self.move_actor()
        if self._round % _BULK == 0:
            self._look_back(t)

    def _look_back(self, t: int) -> None:
        """Keep this state if every weight is finite, else go on from the last one that was; raise after three in a row."""
        if np.isfinite(self.actor).all() and np.isfinite(self.critics).all():
            self._kept, self._bad = self._state(), 0
            return
        self._bad += 1
        if self._bad > _PATIENCE:
            raise FlockletError(
                f"the training diverged before step {t}, {self._bad} times in a row: a weight is no longer finite",
                remedy="try another seed",
            )
        self._go_back()
        _log.warning("a weight was not finite before step %d: training goes on from step %d", t, self.t)

    def _state(self) -> _State:
        kept = {
            (i, name): array.copy()
            for i, run in enumerate(self._runs)
            for name, array in run.buffers.items()
            if name not in _NOT_KEPT
        }
        return _State(self.t, self.weights, kept)

    def _go_back(self) -> None:
        """Restore weights, moments, the vehicle and the time; random numbers go on, so that the same is not met again."""
        state = self._kept
        for (i, name), array in state.buffers.items():
            self._runs[i].buffers[name][:] = array
        self.t, self._ahead = state.t, self._ahead[:0]  # what was drawn ahead may be later than this
        if state.weights != self.weights:
            self._weigh(state.weights)

    def _pick(self, t: int) -> Floats:
        """Return the transitions of three batches, uniform with replacement among the t + 1 stored ones."""
        at = self.recipe
        if not len(self._ahead):
            sizes = t + 1 + at.critic_interval * np.arange(_BULK)[:, None]
            self._ahead = np.floor(self._rng.random((_BULK, 3 * at.batch)) * sizes).astype(np.float32)
        row: Floats = self._ahead[0]
        self._ahead = self._ahead[1:]
        return row

    def _harden(self) -> None:
        """Move the curriculum on."""
        self._weigh(Weights(*harder(self.weights)))

    def _weigh(self, weights: Weights) -> None:
        """Recompute every stored reward from its stored states and action."""
        self.weights = weights
        self._settings[:] = Settings.of(self.weights, self.options).numbers()
        self.records[: self.t, REWARD] = self.rewards(self.weights)

    def rewards(self, weights: Weights) -> NDArray[np.float32]:
        """Return the rewards of all stored transitions under `weights`."""
        done = self.records[: self.t]
        before, after = done[:, BEFORE : BEFORE + STATES], done[:, AFTER : AFTER + STATES]
        action = self.log[HISTORY : HISTORY + self.t]
        out: NDArray[np.float32] = reward(before, action, after, weights, self.options).astype(np.float32)
        return out

    def close(self) -> None:
        """End the threads."""
        for run in (self.critic, self.gradient):
            run.close()
