"""Small worlds whose answer is known, and ones that break a rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Spec, Step, continuous_action, discrete_action, replace_rows


@dataclass(frozen=True)
class ChainState:
    time: NDArray[np.int32]
    level: NDArray[np.float32]


class Chain:
    """One state, reward 1 for ever; truncated after `steps` (or terminated, with `is_end`): V = 1 / (1 - gamma)."""

    def __init__(self, steps: int = 5, *, is_end: bool = False) -> None:
        self.spec, self.is_end = Spec("chain", seen=1, actions=2, steps=steps), is_end

    def reset(self, rng, worlds, levels=None):
        return ChainState(np.zeros(worlds, np.int32), np.zeros((worlds, 0), np.float32))

    def observe(self, state, rng):
        return np.ones((len(state.time), 1, 1), np.float32)

    def observe_privileged(self, state):
        return np.ones((len(state.time), 1), np.float32)

    def allowed(self, state) -> NDArray[np.bool_] | None:
        return None

    def step(self, state, action, rng) -> Step:
        discrete_action(self.spec, action, len(state.time))
        after = replace(state, time=state.time + np.int32(1))
        over, never = after.time >= self.spec.steps, np.zeros(len(state.time), bool)
        ends = (over, never) if self.is_end else (never, over)
        return Step(after, np.ones((len(over), 1), np.float32), *ends)

    def replace(self, state, mask, fresh):
        return replace_rows(state, mask, fresh)


@dataclass(frozen=True)
class PointState:
    body: NDArray[Any]
    time: NDArray[np.int32]
    level: NDArray[np.float32]


class Point:
    """A point on a plane: heads `reach` (minus the distance to the origin) and `effort`, the latter times `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        self.spec, self.scale = Spec("point", seen=2, controls=2, heads=("reach", "effort"), steps=30), scale

    def reset(self, rng, worlds, levels=None):
        body = rng.uniform(-1, 1, (worlds, 2)).astype(np.float32)
        return PointState(body, np.zeros(worlds, np.int32), np.zeros((worlds, 0), np.float32))

    def observe(self, state, rng):
        return state.body[:, None].copy()

    def observe_privileged(self, state):
        return state.body

    def allowed(self, state):
        return None

    def step(self, state, action, rng) -> Step:
        push = continuous_action(self.spec, action, len(state.time))[:, 0]
        body = np.clip(state.body + 0.1 * push, -2, 2)
        reach = -np.linalg.norm(body, axis=1).astype(np.float64)
        effort = -np.square(push).sum(axis=1).astype(np.float32).astype(np.float64) * self.scale
        after = PointState(body, state.time + np.int32(1), state.level)
        reward = np.stack([reach, effort], axis=1)[:, None]
        return Step(after, reward, np.zeros(len(body), bool), after.time >= self.spec.steps)

    def replace(self, state, mask, fresh):
        return replace_rows(state, mask, fresh)
