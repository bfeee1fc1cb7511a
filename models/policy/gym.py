"""Gymnasium in both directions: a person's environment to learn in, and ours for anybody's trainer.

Needs the package `gymnasium` (extra `sim`). A Gymnasium environment keeps its state inside, so `FromGymnasium` cannot go
back: stepping an old state raises ValueError. Its own auto-reset is off; the learner replaces finished rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError, MissingExtra
from flocklet.models.policy.environment import (
    Bools,
    Environment,
    Floats,
    Spec,
    Step,
    continuous_action,
    discrete_action,
    heads_of,
    replace_rows,
)

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise MissingExtra("gymnasium", "sim", "learning in a Gymnasium environment") from error

__all__ = ["FromGymnasium", "ToGymnasium", "ToGymnasiumVector", "from_gymnasium", "to_gymnasium"]

_STEPS = 1000
_SPARE = 4


@dataclass(frozen=True)
class GymState:
    """M episodes by number: `episode` (M,) is the seed that each was reset with, `time` (M,) its steps so far."""

    episode: NDArray[np.int64]
    time: NDArray[np.int32]


@dataclass
class _Episode:
    env: Any
    seen: Floats
    time: int = 0
    is_over: bool = field(default=False)


class FromGymnasium:
    """Worlds of one Gymnasium environment each, made by `make`; boxes are flattened, controls scaled to [-1, 1]."""

    def __init__(self, make: Callable[[], Any], name: str = "") -> None:
        self._make = make
        first = self._new()
        self._free = [first]
        self._running: OrderedDict[int, _Episode] = OrderedDict()
        self._worlds = 1
        seen: Any = first.observation_space
        action: Any = first.action_space
        kinds: Any = gymnasium.spaces
        if not isinstance(seen, kinds.Box | kinds.Discrete):
            raise ConfigError(
                f"observations are {type(seen).__name__}; a policy here sees numbers",
                remedy="wrap it with gymnasium.wrappers.FlattenObservation",
            )
        if not isinstance(action, kinds.Box | kinds.Discrete):
            raise ConfigError(
                f"actions are {type(action).__name__}; a policy here chooses one of n, or gives numbers",
                remedy="wrap it so that the action space is Discrete or Box",
            )
        limit = getattr(first.spec, "max_episode_steps", None) or _STEPS
        is_box = isinstance(action, kinds.Box)
        if is_box and not (np.isfinite(action.low).all() and np.isfinite(action.high).all()):
            raise ConfigError(
                "the action space has no bounds", remedy="wrap it with gymnasium.wrappers.RescaleAction"
            )
        self._action, self._seen = action, seen
        self.spec = Spec(
            name or (first.spec.id if first.spec else type(first.unwrapped).__name__),
            seen=int(np.prod(seen.shape)) if isinstance(seen, kinds.Box) else int(seen.n),
            actions=None if is_box else int(action.n),
            controls=int(np.prod(action.shape)) if is_box else None,
            steps=int(limit),
        )

    def _new(self) -> Any:
        try:
            return self._make()
        except MissingExtra:
            raise
        except Exception as error:
            raise ConfigError(f"the environment cannot be made: {error}", remedy="check its name") from error

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> GymState:
        """Return `worlds` fresh episodes; each environment is seeded from `rng` when it is first looked at."""
        if levels is not None:
            raise ValueError(f"{self.spec.name}: a Gymnasium environment has no levels")
        self._worlds = max(self._worlds, worlds)
        return GymState(rng.integers(2**31, size=worlds, dtype=np.int64), np.zeros(worlds, np.int32))

    def _at(self, number: int) -> _Episode:
        found = self._running.get(number)
        if found is None:
            while len(self._running) >= _SPARE * self._worlds:  # what nobody looked at for long
                self._free.append(self._running.popitem(last=False)[1].env)
            env = self._free.pop() if self._free else self._new()
            found = _Episode(env, self._flat(env.reset(seed=number)[0]))
            self._running[number] = found
        self._running.move_to_end(number)
        return found

    def _flat(self, seen: Any) -> Floats:
        if isinstance(self._seen, gymnasium.spaces.Discrete):
            out = np.zeros(self.spec.seen, np.float32)
            out[int(seen) - int(self._seen.start)] = 1.0
            return out
        return np.asarray(seen, np.float32).reshape(-1)

    def observe(self, state: GymState, rng: np.random.Generator) -> Floats:
        """Return the last observations; raise ValueError for a state that has been stepped on from."""
        return np.stack([self._held(*row).seen for row in zip(state.episode, state.time, strict=True)])[
            :, None
        ]

    def _held(self, number: int, time: int) -> _Episode:
        episode = self._at(int(number))
        if episode.time != time:
            raise ValueError(f"{self.spec.name}: a Gymnasium environment cannot go back to an earlier state")
        return episode

    def observe_privileged(self, state: GymState) -> Floats:
        """Return nothing more than the policy sees."""
        return self.observe(state, np.random.default_rng(0))[:, 0]

    def allowed(self, state: GymState) -> Bools | None:
        """Mask nothing."""
        return None

    def step(self, state: GymState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Step every environment once; one that is over stays over, with reward 0."""
        worlds = len(state.time)
        if self.spec.actions is not None:
            chosen: Any = discrete_action(self.spec, action, worlds)[:, 0] + int(self._action.start)
        else:
            box, unit = self._action, continuous_action(self.spec, action, worlds)[:, 0]
            low, high = box.low.reshape(-1), box.high.reshape(-1)
            chosen = (low + (unit + 1.0) / 2.0 * (high - low)).reshape(worlds, *box.shape).astype(box.dtype)
        reward, ends = np.zeros((worlds, 1)), np.zeros((2, worlds), bool)
        for i in range(worlds):
            episode = self._held(state.episode[i], state.time[i])
            episode.time += 1
            if episode.is_over:
                ends[0, i] = True
                continue
            act = int(chosen[i]) if self.spec.actions is not None else chosen[i]
            seen, reward[i, 0], is_end, is_late, _ = episode.env.step(act)
            episode.seen = self._flat(seen)
            late = bool(is_late) or episode.time >= self.spec.steps
            ends[:, i] = bool(is_end), late and not is_end
            episode.is_over = bool(ends[:, i].any())
        return Step(with_fields(state, time=state.time + np.int32(1)), reward, ends[0], ends[1])

    def replace(self, state: GymState, mask: Bools, fresh: GymState) -> GymState:
        """Swap finished rows; their environments are reset and used again."""
        for number in state.episode[mask].tolist():
            episode = self._running.pop(number, None)
            if episode is not None:
                self._free.append(episode.env)
        return replace_rows(state, mask, fresh)


def from_gymnasium(name: str) -> FromGymnasium:
    """Return the registered environment of that name; raise ConfigError for one that cannot be made."""
    return FromGymnasium(lambda: gymnasium.make(name, disable_env_checker=True), name=f"gym:{name}")


def _spaces(spec: Spec) -> tuple[Any, Any]:
    seen = gymnasium.spaces.Box(-np.inf, np.inf, (spec.seen,), np.float32)
    if spec.actions is not None:
        return seen, gymnasium.spaces.Discrete(spec.actions)
    return seen, gymnasium.spaces.Box(-1.0, 1.0, (spec.controls or 0,), np.float32)


class ToGymnasium(gymnasium.Env[Any, Any]):
    """One episode of one of our environments (of one agent); heads of the reward are added up."""

    metadata = {"render_modes": []}  # noqa: RUF012  (Gymnasium's own name and form)

    def __init__(self, env: Environment) -> None:
        self.worlds = env
        self.observation_space, self.action_space = _spaces(env.spec)
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed the random numbers go on."""
        super().reset(seed=seed)
        self._state = self.worlds.reset(self.np_random, 1)
        return self.worlds.observe(self._state, self.np_random)[0, 0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act once."""
        shape = (1, 1) if self.worlds.spec.actions is not None else (1, 1, -1)
        turn = self.worlds.step(self._state, np.asarray(action).reshape(shape), self.np_random)
        self._state = turn.state
        seen = self.worlds.observe(self._state, self.np_random)[0, 0]
        reward = float(heads_of(turn.reward, self.worlds.spec).sum())
        return seen, reward, bool(turn.terminated[0]), bool(turn.truncated[0]), {}


class ToGymnasiumVector(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Many episodes at once; finished rows wait for `reset(options={"reset_mask": mask})` (AutoresetMode.DISABLED)."""

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012

    def __init__(self, env: Environment, worlds: int) -> None:
        self.worlds, self.num_envs, self.render_mode = env, worlds, None
        self.single_observation_space, self.single_action_space = _spaces(env.spec)
        self.observation_space = batch_space(self.single_observation_space, worlds)
        self.action_space = batch_space(self.single_action_space, worlds)
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all rows anew, or those of the option `reset_mask`."""
        super().reset(seed=seed)
        fresh = self.worlds.reset(self.np_random, self.num_envs)
        mask = (options or {}).get("reset_mask")
        if mask is None or self._state is None:
            self._state = fresh
        else:
            self._state = self.worlds.replace(self._state, np.asarray(mask, bool), fresh)
        return self.worlds.observe(self._state, self.np_random)[:, 0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act once in every row."""
        turn = self.worlds.step(self._state, np.asarray(actions)[:, None], self.np_random)
        self._state = turn.state
        seen = self.worlds.observe(self._state, self.np_random)[:, 0]
        reward = heads_of(turn.reward, self.worlds.spec).sum(axis=-1)[:, 0].astype(np.float64)
        return seen, reward, turn.terminated, turn.truncated, {}


def to_gymnasium(env: Environment, worlds: int | None = None) -> Any:
    """Return a Gymnasium environment, or a vector one of `worlds` rows."""
    if env.spec.agents != 1:
        raise ConfigError(f"{env.spec.name} has {env.spec.agents} agents; Gymnasium knows one")
    return ToGymnasium(env) if worlds is None else ToGymnasiumVector(env, worlds)
