"""A combination lock: H steps, ten actions, two good states and a bad one that cannot be left.

In a good state the one right action leads to a good state (either, at random), any other to the bad state, which pays .1
half the time: greed leads away from the 1 that waits at the end. The right actions are drawn from the level.
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

__all__ = ["Lock", "LockState"]

_ACTIONS, _GOOD, _BAD = 10, 2, 2
_LURE = 0.1


@dataclass(frozen=True)
class LockState:
    """M worlds: `place` (M,) 0 and 1 good, 2 bad; `time` (M,); `level` (M, 1) the lock's code."""

    place: NDArray[np.int32]
    time: NDArray[np.int32]
    level: Floats


class Lock:
    """See one-hot the place, and the time over H."""

    def __init__(self, horizon: int = 20, actions: int = _ACTIONS) -> None:
        self.spec = Spec("lock", seen=4, actions=actions, steps=horizon, level={"code": (0.0, 0.0)})

    def right(self, level: Floats) -> NDArray[np.int64]:
        """Return the right actions (H, 2) of one level (1,)."""
        code = int(np.float32(level[0]).view(np.uint32))
        return np.random.default_rng([20231108, code]).integers(
            self.spec.actions or 0, size=(self.spec.steps, _GOOD)
        )

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> LockState:
        """Start in a good state."""
        level = draw_levels(self.spec, rng, worlds, levels)
        return LockState(rng.integers(_GOOD, size=worlds, dtype=np.int32), np.zeros(worlds, np.int32), level)

    def observe(self, state: LockState, rng: np.random.Generator) -> Floats:
        """Return the place one-hot and the time over H."""
        out = np.zeros((len(state.time), 1, 4), np.float32)
        out[np.arange(len(out)), 0, state.place] = 1.0
        out[:, 0, 3] = np.minimum(state.time, self.spec.steps) / self.spec.steps
        return out

    def observe_privileged(self, state: LockState) -> Floats:
        """Return the same."""
        return self.observe(state, np.random.default_rng(0))[:, 0]

    def allowed(self, state: LockState) -> Bools | None:
        """Allow every action."""
        return None

    def step(self, state: LockState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Turn the lock once."""
        chosen = discrete_action(self.spec, action, len(state.time))[:, 0]
        codes, which = np.unique(state.level, axis=0, return_inverse=True)
        table = np.stack([self.right(code) for code in codes])
        at = np.minimum(state.time, self.spec.steps - 1)
        good = state.place < _BAD
        right = chosen == table[which.reshape(-1), at, np.minimum(state.place, 1)]
        fresh, lure = rng.integers(_GOOD, size=len(chosen)), rng.random(len(chosen)) < 0.5
        place = np.where(good & right, fresh, _BAD).astype(np.int32)
        time = state.time + np.int32(1)
        over = time >= self.spec.steps
        reward = _LURE * (good & ~right & lure) + (over & (place < _BAD))
        after = LockState(place, time, state.level)
        return Step(after, reward[:, None].astype(np.float32), over, np.zeros(len(over), bool))

    def replace(self, state: LockState, mask: Bools, fresh: LockState) -> LockState:
        """Swap finished rows."""
        return replace_rows(state, mask, fresh)
