"""Judge a policy by its return: an inter-quartile mean with an interval, never a single number.

Bootstrap with a fixed seed (Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", for the inter-quartile mean). Two policies are compared in the same worlds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flocklet.models.policy.environment import Environment, Floats, heads_of
from flocklet.models.policy.policy import Actor, act

__all__ = ["Comparison", "Summary", "compare", "evaluate", "iqm", "summary"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """Inter-quartile mean and its 95 % interval, over `count` episodes."""

    iqm: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.iqm:.4g} ({self.low:.4g} to {self.high:.4g}, {self.count} episodes)"


@dataclass(frozen=True)
class Comparison:
    """How the first policy does against the second in the same worlds.

    `ratio` is above 1 where the first is better (the second's over the first's where both are negative, NaN where
    signs differ); the verdict follows the interval of the paired difference.
    """

    ratio: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Say it in words."""
        if self.low <= 0.0 <= self.high:
            return "no difference"
        return "the first is better" if self.low > 0.0 else "the second is better"


def evaluate(
    env: Environment,
    actor: Actor,
    seeds: Sequence[int],
    episodes: int,
    *,
    greedy: bool = True,
    levels: Floats | None = None,
    heads: bool = False,
) -> Floats:
    """Return undiscounted returns (len(seeds), episodes), or (..., H) with `heads`; one generator per seed.

    Episodes run side by side until the last has ended; `levels` (episodes, L) fixes their levels.
    """
    spec = env.spec
    out = np.zeros((len(seeds), episodes, len(spec.heads)))
    for row, seed in enumerate(seeds):
        rng = np.random.default_rng(seed)
        state = env.reset(rng, episodes, levels)
        alive = np.ones(episodes, bool)
        for _ in range(spec.steps):
            action, _ = act(actor, env.observe(state, rng), rng, greedy=greedy, allowed=env.allowed(state))
            turn = env.step(state, action, rng)
            out[row, alive] += heads_of(turn.reward, spec).mean(axis=1)[alive]
            alive = alive & ~(turn.terminated | turn.truncated)
            state = turn.state
            if not alive.any():
                break
    return out if heads else np.asarray(out.sum(axis=-1))


def iqm(values: Floats) -> float:
    """Return the mean of the middle half."""
    flat = np.sort(np.asarray(values, np.float64), axis=None)
    cut = len(flat) // 4
    return float(flat[cut : len(flat) - cut].mean())


def summary(values: Floats, seed: int = 0) -> Summary:
    """Return the inter-quartile mean with a bootstrap 95 % interval over all values."""
    flat = np.asarray(values, np.float64).reshape(-1)
    rng = np.random.default_rng(seed)
    drawn = np.sort(flat[rng.integers(len(flat), size=(_RESAMPLES, len(flat)))], axis=1)
    cut = len(flat) // 4
    means = drawn[:, cut : len(flat) - cut].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Summary(iqm(flat), float(low), float(high), len(flat))


def compare(first: Floats, second: Floats, seed: int = 0) -> Comparison:
    """Compare returns of two policies in the same worlds (arrays of one shape): ratio, paired difference, interval."""
    a, b = (np.asarray(v, np.float64).reshape(-1) for v in (first, second))
    gap = a - b
    rng = np.random.default_rng(seed)
    means = gap[rng.integers(len(gap), size=(_RESAMPLES, len(gap)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    mine, theirs = iqm(a), iqm(b)
    ratio = float("nan")
    if mine > 0.0 and theirs > 0.0:
        ratio = mine / theirs
    elif mine < 0.0 and theirs < 0.0:
        ratio = theirs / mine
    return Comparison(ratio, float(gap.mean()), float(low), float(high))
