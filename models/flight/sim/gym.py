"""The environment as Gymnasium 1.x wants it: one episode, or many at once with a reset of finished rows in the next step.

Needs the package `gymnasium` (extra `sim`). The observation is the noisy 146 values, the action four motor commands in
[-1, 1], the reward that of the paper's task; leaving the box terminates, 500 steps truncate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import MissingExtra
from flocklet.models.flight.sim import environment as env
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, Vehicle

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise MissingExtra("gymnasium", "sim", "flying in Gymnasium") from error

__all__ = ["FlightEnv", "FlightVectorEnv", "register"]

Observation = NDArray[np.float32]


def _spaces() -> tuple[Any, Any]:
    """Return the spaces of observations and actions; the simulator clips no observation."""
    seen = gymnasium.spaces.Box(-np.inf, np.inf, (env.OBSERVED,), np.float32)
    return seen, gymnasium.spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


class FlightEnv(gymnasium.Env[Observation, Observation]):
    """One episode at a time; `info` holds the privileged observation under "privileged"."""

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own name and form)

    def __init__(
        self,
        vehicle: Vehicle = CRAZYFLIE,
        options: env.Options | None = None,
        weights: env.Weights = env.TARGET_WEIGHTS,
        render_mode: str | None = None,
    ) -> None:
        self.vehicle, self.options, self.weights = vehicle, options or env.Options(), weights
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces()
        self._state: env.State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; without a seed the random numbers go on."""
        super().reset(seed=seed)
        self._state = env.reset(self.np_random, 1, self.vehicle, self.options)
        return env.observe(self._state, self.np_random)[0], self._info()

    def step(self, action: Observation) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Fly 10 ms."""
        assert self._state is not None, "call reset() first"  # noqa: S101  (Gymnasium's contract)
        turn = env.step(self._state, _numbers(action)[None], self.vehicle, self.weights, self.options)
        self._state = turn.state
        seen = env.observe(self._state, self.np_random)[0]
        return seen, float(turn.reward[0]), bool(turn.terminated[0]), bool(turn.truncated[0]), self._info()

    def _info(self) -> dict[str, Any]:
        assert self._state is not None  # noqa: S101
        return {"privileged": env.observe_privileged(self._state, self.vehicle)[0]}


class FlightVectorEnv(gymnasium.vector.VectorEnv[Observation, Observation, NDArray[Any]]):
    """`num_envs` episodes at once; a finished row starts anew in the step after (AutoresetMode.NEXT_STEP)."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        vehicles: Vehicle = CRAZYFLIE,
        options: env.Options | None = None,
        weights: env.Weights = env.TARGET_WEIGHTS,
    ) -> None:
        self.num_envs, self.vehicles = num_envs, vehicles
        self.options, self.weights = options or env.Options(), weights
        self.render_mode = None
        self.single_observation_space, self.single_action_space = _spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._done = np.zeros(num_envs, bool)
        self._state: env.State | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start all rows anew."""
        super().reset(seed=seed)
        self._state = env.reset(self.np_random, self.num_envs, self.vehicles, self.options)
        self._done = np.zeros(self.num_envs, bool)
        return env.observe(self._state, self.np_random), self._info()

    def step(
        self, actions: Observation
    ) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Fly 10 ms; rows that finished in the last step start anew instead, with reward 0."""
        assert self._state is not None, "call reset() first"  # noqa: S101
        turn = env.step(self._state, _numbers(actions), self.vehicles, self.weights, self.options)
        done = self._done
        fresh = env.reset(self.np_random, self.num_envs, self.vehicles, self.options)
        self._state = env.replace(turn.state, done, fresh) if done.any() else turn.state
        reward = np.where(done, 0.0, turn.reward).astype(np.float64)
        terminated, truncated = turn.terminated & ~done, turn.truncated & ~done
        self._done = terminated | truncated
        return env.observe(self._state, self.np_random), reward, terminated, truncated, self._info()

    def _info(self) -> dict[str, Any]:
        assert self._state is not None  # noqa: S101
        return {
            "privileged": env.observe_privileged(self._state, self.vehicles),
            "level": self._state.level.copy(),
        }


def _numbers(actions: Observation) -> Observation:
    """Return the actions as an array; raise ValueError for a NaN: it would end every episode with a reward of 0."""
    given = np.asarray(actions)
    if np.isnan(given).any():
        raise ValueError("an action is no number (NaN): the policy that made it has diverged")
    return given


def register() -> None:
    """Make `gymnasium.make("flocklet/Hover-v0")` and its vector form known."""
    here = "flocklet.models.flight.sim.gym"
    gymnasium.register("flocklet/Hover-v0", f"{here}:FlightEnv", vector_entry_point=f"{here}:FlightVectorEnv")
