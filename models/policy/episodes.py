"""Whole episodes as rows, and a policy that is a table over the observations it has met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError
from flocklet.models.policy.distribution import Categorical, Distribution
from flocklet.models.policy.environment import Bools, Environment, Floats, Spec, heads_of
from flocklet.models.policy.policy import Actor, act

__all__ = ["Episodes", "States", "TablePolicy", "play"]


@dataclass(frozen=True, eq=False)
class Episodes:
    """Steps of whole episodes in order: `seen` (n, D), `action` (n,), `reward` (n,), `end` (n,) the last of an episode."""

    seen: Floats
    action: NDArray[np.int64]
    reward: Floats
    end: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.reward)
        if not (self.seen.ndim == 2 and len(self.seen) == len(self.action) == len(self.end) == n > 0):
            raise ValueError("episodes need as many observations, actions, rewards and ends")
        if not (np.isfinite(self.seen).all() and np.isfinite(self.reward).all()):
            raise ValueError("an observation or a reward is not a finite number")
        if not self.end[-1]:
            raise ValueError("the last episode has no end")

    def returns(self) -> Floats:
        """Return what is still to come at each step, (n,), undiscounted."""
        out, later = np.zeros(len(self.reward)), 0.0
        for i in range(len(out) - 1, -1, -1):
            later = float(self.reward[i]) + (0.0 if self.end[i] else later)
            out[i] = later
        return out

    def time(self) -> NDArray[np.int64]:
        """Return the step within its episode, (n,)."""
        starts = np.flatnonzero(np.concatenate([[True], self.end[:-1]]))
        return np.asarray(
            np.arange(len(self.end)) - np.repeat(starts, np.diff(np.append(starts, len(self.end))))
        )

    def totals(self) -> Floats:
        """Return the return of each episode."""
        return np.asarray(np.diff(np.cumsum(self.reward, dtype=float)[self.end], prepend=0.0))

    @property
    def mean_return(self) -> float:
        """Return the mean return of an episode."""
        return float(self.reward.sum() / self.end.sum())


class States:
    """Numbers for observations: equal rows have equal numbers."""

    def __init__(self) -> None:
        self._number: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._number)

    def rows(self) -> Floats:
        """Return the observations met, (S, D), by number."""
        return np.stack([np.frombuffer(key, np.float32) for key in self._number])

    def of(self, seen: Floats, *, is_new: bool = True) -> NDArray[np.int64]:
        """Return the numbers (n,) of rows (n, D); rows never met get a new one, or -1 without `is_new`."""
        rows = np.ascontiguousarray(seen, np.float32)
        out = np.empty(len(rows), np.int64)
        for i, row in enumerate(rows):
            key = row.tobytes()
            found = self._number.get(key, -1)
            if found < 0 and is_new:
                found = self._number[key] = len(self._number)
            out[i] = found
        return out


class TablePolicy:
    """Logits per observation met, (S, A); uniform for one never met."""

    def __init__(self, spec: Spec, states: States) -> None:
        if spec.actions is None:
            raise ValueError(f"{spec.name}: a table chooses among actions; this task has continuous controls")
        self.spec, self.states = spec, states
        self.logits = np.zeros((0, spec.actions))

    def grow(self) -> None:
        """Make room for every state met so far."""
        missing = len(self.states) - len(self.logits)
        if missing > 0:
            self.logits = np.concatenate([self.logits, np.zeros((missing, self.logits.shape[1]))])

    def copy(self) -> TablePolicy:
        """Return another policy over the same states."""
        twin = TablePolicy(self.spec, self.states)
        twin.logits = self.logits.copy()
        return twin

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution for rows (B, D)."""
        self.grow()
        at = self.states.of(seen, is_new=False)
        rows = np.concatenate([self.logits, np.zeros((1, self.logits.shape[1]))])[at]  # -1 is the last
        return Categorical(rows, allowed)

    def to_onnx(self) -> bytes:
        """Refuse: `net_copy` makes a net of a table."""
        raise ExportError("a table cannot be written as ONNX", remedy="copy it into a net first")

    def tensors(self) -> dict[str, Any]:
        """Return the logits."""
        return {"logits": self.logits.astype(np.float32)}

    def load(self, tensors: Mapping[str, Floats]) -> None:
        """Replace the logits; raise ValueError for more states than were met."""
        given = np.asarray(tensors["logits"], float)
        if given.shape[1:] != self.logits.shape[1:] or len(given) > len(self.states):
            raise ValueError("this table belongs to another task")
        self.logits = given.copy()
        self.grow()


def play(env: Environment, actor: Actor, episodes: int, rng: np.random.Generator) -> Episodes:
    """Return whole episodes of a policy (one agent), played side by side."""
    state, alive = env.reset(rng, episodes), np.ones(episodes, bool)
    rows: list[list[tuple[Floats, int, float]]] = [[] for _ in range(episodes)]
    for _ in range(env.spec.steps):
        seen = env.observe(state, rng)
        action, _ = act(actor, seen, rng, allowed=env.allowed(state))
        turn = env.step(state, action, rng)
        reward = heads_of(turn.reward, env.spec).sum(axis=-1)[:, 0]
        for i in np.flatnonzero(alive).tolist():
            rows[i].append((seen[i, 0], int(action[i, 0]), float(reward[i])))
        alive, state = alive & ~(turn.terminated | turn.truncated), turn.state
        if not alive.any():
            break
    flat = [step for one in rows for step in one]
    end = np.zeros(len(flat), bool)
    end[np.cumsum([len(one) for one in rows]) - 1] = True
    seen, action, reward = (np.array(column) for column in zip(*flat, strict=True))
    return Episodes(seen.astype(np.float32), action.astype(np.int64), reward, end)
