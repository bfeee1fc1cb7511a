"""Q-learning over a table in a world whose steps have captions: the task's reward and the annotator's, added up."""

from __future__ import annotations

from typing import Any

import numpy as np

from flocklet.models.policy.annotator import Queue
from flocklet.models.policy.environment import heads_of
from flocklet.models.policy.episodes import States, TablePolicy

__all__ = ["CaptionedLearner"]

_OUTSIDE, _INSIDE = 10.0, 0.4
_GREED = 20.0


class CaptionedLearner:
    """One world, one step at a time; `successes` holds for each finished episode whether the task paid.

    The environment has `captions` and gives `info["caption"]`. `asks` is the share of steps at which the annotator is
    given a chance. `is_counted` replaces the annotator by a bonus for rare captions (a control).
    """

    def __init__(
        self,
        env: Any,
        queue: Queue,
        *,
        seed: int = 0,
        rate: float = 0.2,
        gamma: float = 0.98,
        explore: float = 0.1,
        asks: float = 0.02,
        is_counted: bool = False,
    ) -> None:
        if not hasattr(env, "captions"):
            raise ValueError(f"{env.spec.name} has no captions for an annotator")
        self.env, self.queue = env, queue
        self.rate, self.gamma, self.explore, self.asks = rate, gamma, explore, asks
        self.is_counted = is_counted
        self.rng = np.random.default_rng([seed, 8])
        self.patience = np.random.default_rng([seed, 9])
        self.policy = TablePolicy(env.spec, States())
        self.value = np.zeros((0, env.spec.actions))
        self.successes: list[bool] = []
        self.state = env.reset(self.rng, 1)
        self.steps = 0

    def step(self) -> None:
        """Act once and learn from it."""
        env, rng = self.env, self.rng
        at = self._number(self.state)
        row = self.value[at]
        best = np.flatnonzero(row == row.max())
        is_odd = rng.random() < self.explore
        action = int(rng.integers(len(row))) if is_odd else int(best[rng.integers(len(best))])
        turn = env.step(self.state, np.array([[action]], np.int32), rng)
        outside = float(heads_of(turn.reward, env.spec).sum())
        caption = env.captions[int(turn.info["caption"][0])]
        inside = self.queue.reward(caption)
        if self.is_counted:
            inside = 1.0 / self.queue.count[caption] ** 0.5
        is_over = bool(turn.terminated[0])
        after = self._number(turn.state)
        ahead = 0.0 if is_over else self.gamma * float(self.value[after].max())
        goal = _OUTSIDE * outside + _INSIDE * inside + ahead
        self.value[at, action] += self.rate * (goal - self.value[at, action])
        self.state = turn.state
        self.steps += 1
        if self.patience.random() < self.asks:
            self.queue.ask()
        if is_over or turn.truncated[0]:
            self.successes.append(outside > 0.0)
            self.state = env.reset(rng, 1)

    def _number(self, state: Any) -> int:
        at = int(self.policy.states.of(self.env.observe(state, self.rng)[:, 0])[0])
        if at == len(self.value):
            self.value = np.concatenate([self.value, np.zeros((1, self.value.shape[1]))])
        return at

    def episodes_to(self, share: float, window: int = 20) -> int | None:
        """Return after how many episodes the last `window` succeeded at least so often; None if never."""
        wins = np.cumsum([0, *self.successes])
        for end in range(window, len(wins)):
            if wins[end] - wins[end - window] >= share * window:
                return end
        return None

    def finish(self) -> TablePolicy:
        """Return the greedy policy of the table."""
        self.policy.logits = self.value / max(float(np.abs(self.value).max()), 1e-9) * _GREED
        return self.policy
