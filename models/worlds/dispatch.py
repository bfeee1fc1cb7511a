"""Send each job to one of four places: six categorical columns of 12 codes, a rule with exceptions.

The right place is a rule on the first column, but for 15 % of the pairs of first and fourth column. Twenty decisions;
"which of my radios, queues or batches takes this job" has this form. The rule is fixed: policies of several peers agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Bools, Floats, Spec, Step, discrete_action, replace_rows

__all__ = ["Dispatch", "DispatchState"]

_COLUMNS, _CODES, _PLACES = 6, 12, 4
_EXCEPTIONS, _RULE_SEED = 0.15, 20240708


@dataclass(frozen=True)
class DispatchState:
    """M worlds: `job` (M, 6) codes, `seed` (M,) the row's own stream of jobs, `time` (M,)."""

    job: NDArray[np.int32]
    seed: NDArray[np.uint64]
    time: NDArray[np.int32]
    level: Floats


class Dispatch:
    """Reward 1 for the right place, 0 otherwise."""

    spec = Spec("dispatch", seen=_COLUMNS, actions=_PLACES, steps=20, categorical=tuple(range(_COLUMNS)))

    def __init__(self) -> None:
        rule = np.random.default_rng(_RULE_SEED)
        plain = np.repeat(rule.permutation(_CODES)[:, None] % _PLACES, _CODES, axis=1)
        odd = rule.random((_CODES, _CODES)) < _EXCEPTIONS
        shift = rule.integers(1, _PLACES, (_CODES, _CODES))
        self.right = np.where(odd, (plain + shift) % _PLACES, plain).astype(np.int32)

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> DispatchState:
        """Start with a job each; there are no levels."""
        if levels is not None:
            raise ValueError("dispatch has no levels")
        seed = rng.integers(2**63, size=worlds, dtype=np.uint64)
        time = np.zeros(worlds, np.int32)
        return DispatchState(_jobs(seed, time), seed, time, np.zeros((worlds, 0), np.float32))

    def observe(self, state: DispatchState, rng: np.random.Generator) -> Floats:
        """Return the codes as numbers."""
        return state.job[:, None].astype(np.float32)

    def observe_privileged(self, state: DispatchState) -> Floats:
        """Return the same."""
        return state.job.astype(np.float32)

    def allowed(self, state: DispatchState) -> Bools | None:
        """Allow every place."""
        return None

    def step(self, state: DispatchState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Judge the decision and show the next job."""
        place = discrete_action(self.spec, action, len(state.time))[:, 0]
        right = place == self.right[state.job[:, 0], state.job[:, 3]]
        time = state.time + np.int32(1)
        after = DispatchState(_jobs(state.seed, time), state.seed, time, state.level)
        never = np.zeros(len(time), bool)
        return Step(after, right[:, None].astype(np.float32), never, time >= self.spec.steps)

    def replace(self, state: DispatchState, mask: Bools, fresh: DispatchState) -> DispatchState:
        """Swap finished rows."""
        return replace_rows(state, mask, fresh)


def _jobs(seed: NDArray[np.uint64], time: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the jobs (M, 6) of each row at its time: splitmix64 of (seed, time, column), so that rows keep their own."""
    step = np.uint64(0x9E3779B97F4A7C15)
    at = (
        time.astype(np.uint64)[:, None] * np.uint64(_COLUMNS) + np.arange(_COLUMNS, dtype=np.uint64)
    ) + np.uint64(1)
    z = np.asarray(seed[:, None] + at * step, np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((z ^ (z >> np.uint64(31))) % np.uint64(_CODES), np.int32)
