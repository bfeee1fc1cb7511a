"""Balance a pole on a cart: Barto, Sutton and Anderson 1983, with the numbers of Gymnasium's CartPole-v1.

Force 10 N, step 20 ms, explicit Euler; a pole beyond 12 degrees or a cart beyond 2.4 m terminates, 500 steps truncate.
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
    discrete_action,
    draw_levels,
    replace_rows,
)

__all__ = ["CartPole", "CartPoleState"]

_FORCE, _TAU, _GRAVITY = 10.0, 0.02, 9.8
_CART, _POLE, _HALF = 1.0, 0.1, 0.5
_MOST_X, _MOST_ANGLE = 2.4, 12 * 2 * np.pi / 360


@dataclass(frozen=True)
class CartPoleState:
    """M worlds: `body` (M, 4) float64 position, speed, angle, rate; `time` (M,) steps; `level` (M, 1) N of force."""

    body: Floats
    time: NDArray[np.int32]
    level: Floats


class CartPole:
    """Push left or right; reward 1 per step. The level is the force of a push (10 N unless levels are given)."""

    spec = Spec("cartpole", seen=4, actions=2, steps=500, level={"force_n": (_FORCE, _FORCE)})

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> CartPoleState:
        """Start near upright: uniform in +-0.05."""
        level = draw_levels(self.spec, rng, worlds, levels)
        return CartPoleState(rng.uniform(-0.05, 0.05, (worlds, 4)), np.zeros(worlds, np.int32), level)

    def observe(self, state: CartPoleState, rng: np.random.Generator) -> Floats:
        """Return position, speed, angle and rate; no noise."""
        return state.body[:, None, :].astype(np.float32)

    def observe_privileged(self, state: CartPoleState) -> Floats:
        """Return the same."""
        return state.body.astype(np.float32)

    def allowed(self, state: CartPoleState) -> Bools | None:
        """Allow both pushes."""
        return None

    def step(self, state: CartPoleState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Advance 20 ms."""
        push = discrete_action(self.spec, action, len(state.time))[:, 0]
        x, v, angle, rate = state.body.T
        force = np.where(push == 1, 1.0, -1.0) * state.level[:, 0]
        sine, cosine = np.sin(angle), np.cos(angle)
        total, lever = _CART + _POLE, _POLE * _HALF
        pushed = (force + lever * rate**2 * sine) / total
        turn = (_GRAVITY * sine - cosine * pushed) / (_HALF * (4.0 / 3.0 - _POLE * cosine**2 / total))
        move = pushed - lever * turn * cosine / total
        body = np.stack([x + _TAU * v, v + _TAU * move, angle + _TAU * rate, rate + _TAU * turn], axis=1)
        body = np.clip(body, -1e6, 1e6)  # rows that fell go on harmlessly
        time = state.time + np.int32(1)
        fell = (np.abs(body[:, 0]) > _MOST_X) | (np.abs(body[:, 2]) > _MOST_ANGLE)
        after = CartPoleState(body, time, state.level)
        return Step(after, np.ones((len(time), 1), np.float32), fell, (time >= self.spec.steps) & ~fell)

    def replace(self, state: CartPoleState, mask: Bools, fresh: CartPoleState) -> CartPoleState:
        """Swap finished rows."""
        return replace_rows(state, mask, fresh)

    def picture(self, state: CartPoleState) -> Floats:
        """Return the first world as shapes: ground, cart and pole."""
        x, _, angle, _ = state.body[0]
        at = float(np.clip(x / _MOST_X, -1.0, 1.0))
        tip = at + 0.8 * np.sin(angle), -0.3 + 0.8 * np.cos(angle)
        return np.array([[0, -1, -0.35, 1, -0.35], [0, at - 0.1, -0.3, at + 0.1, -0.3], [0, at, -0.3, *tip]])
