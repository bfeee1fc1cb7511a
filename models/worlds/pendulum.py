"""Swing a pendulum up and hold it: the equations and numbers of Gymnasium's Pendulum-v1.

g 10, mass 1, length 1, step 50 ms, torque +-2, speed clipped at 8; never terminates, 200 steps truncate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import (
    Bools,
    Floats,
    Spec,
    Step,
    continuous_action,
    draw_levels,
    replace_rows,
)

__all__ = ["Pendulum", "PendulumState"]

_GRAVITY, _TAU, _TORQUE, _MOST_RATE = 10.0, 0.05, 2.0, 8.0


@dataclass(frozen=True)
class PendulumState:
    """M worlds: `body` (M, 2) float64 angle (0 is upright) and rate; `time` (M,); `level` (M, 1) mass in kg."""

    body: Floats
    time: NDArray[np.int32]
    level: Floats


class Pendulum:
    """One control, the torque over 2 N m; reward -(angle^2 + 0.1 rate^2 + 0.001 torque^2)."""

    spec = Spec("pendulum", seen=3, controls=1, steps=200, level={"mass_kg": (1.0, 1.0)})

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> PendulumState:
        """Start at any angle with a rate in +-1."""
        level = draw_levels(self.spec, rng, worlds, levels)
        body = rng.uniform(-1.0, 1.0, (worlds, 2)) * [np.pi, 1.0]
        return PendulumState(body, np.zeros(worlds, np.int32), level)

    def observe(self, state: PendulumState, rng: np.random.Generator) -> Floats:
        """Return cosine, sine and rate."""
        angle, rate = state.body.T
        return np.stack([np.cos(angle), np.sin(angle), rate], axis=1)[:, None, :].astype(np.float32)

    def observe_privileged(self, state: PendulumState) -> Floats:
        """Return angle and rate."""
        return state.body.astype(np.float32)

    def allowed(self, state: PendulumState) -> Bools | None:
        """Mask nothing: controls are numbers."""
        return None

    def step(self, state: PendulumState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Advance 50 ms."""
        torque = _TORQUE * continuous_action(self.spec, action, len(state.time))[:, 0, 0]
        angle, rate = state.body.T
        wrapped = (angle + np.pi) % (2.0 * np.pi) - np.pi
        cost = wrapped**2 + 0.1 * rate**2 + 0.001 * torque**2
        mass = state.level[:, 0]
        rate = rate + (1.5 * _GRAVITY * np.sin(angle) + 3.0 / mass * torque) * _TAU
        rate = np.clip(rate, -_MOST_RATE, _MOST_RATE)
        body = np.stack([angle + rate * _TAU, rate], axis=1)
        time = state.time + np.int32(1)
        after = PendulumState(body, time, state.level)
        never = np.zeros(len(time), bool)
        return Step(after, -cost[:, None].astype(np.float32), never, time >= self.spec.steps)

    def replace(self, state: PendulumState, mask: Bools, fresh: PendulumState) -> PendulumState:
        """Swap finished rows."""
        return replace_rows(state, mask, fresh)

    def picture(self, state: PendulumState) -> Floats:
        """Return the first world as shapes: rod and bob."""
        angle = state.body[0, 0]
        tip = -0.8 * np.sin(angle), 0.8 * np.cos(angle)
        return np.array([[0, 0, 0, *tip], [1, *tip, 0.06, 0]])
