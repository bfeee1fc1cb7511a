"""What one round of learning says about itself, and the returns of episodes that cross rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Bools, Floats

__all__ = ["Report", "Returns", "generator_state", "load_generator"]

_KEPT = 40


@dataclass(frozen=True)
class Report:
    """One round: `mean_return` of the last 40 finished episodes (NaN before the first one), `kl` of the new policy
    from the one that acted (mean over the rollout), `explained` variance of the critic, `cpu_s` of the process.
    """

    round: int
    steps: int
    mean_return: float
    kl: float
    entropy: float
    explained: float
    cpu_s: float
    note: str = ""


class Returns:
    """Running returns of M worlds, and those of the last episodes that ended."""

    def __init__(self, worlds: int) -> None:
        self.running = np.zeros(worlds)
        self.last = np.zeros(0)

    def add(self, reward: Floats, ended: Bools) -> None:
        """Take in rewards (T, M) and ends (T, M)."""
        for now, over in zip(reward, ended, strict=True):
            self.running += now
            if over.any():
                self.last = np.concatenate([self.last, self.running[over]])[-_KEPT:]
                self.running[over] = 0.0

    @property
    def mean(self) -> float:
        """Return the mean return of the last finished episodes; NaN before the first."""
        return float(self.last.mean()) if len(self.last) else float("nan")


def generator_state(rng: np.random.Generator) -> NDArray[np.uint64]:
    """Return the state of a PCG64 generator as (6,) uint64."""
    inner: dict[str, Any] = dict(rng.bit_generator.state)
    core, mask = inner["state"], (1 << 64) - 1
    words = [core["state"] >> 64, core["state"] & mask, core["inc"] >> 64, core["inc"] & mask]
    return np.array([*words, inner["has_uint32"], inner["uinteger"]], np.uint64)


def load_generator(rng: np.random.Generator, words: NDArray[np.uint64]) -> None:
    """Put a PCG64 generator into a state of `generator_state`."""
    a, b, c, d, has, value = (int(word) for word in words)
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": a << 64 | b, "inc": c << 64 | d},
        "has_uint32": has,
        "uinteger": value,
    }
