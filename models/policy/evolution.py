"""Learn without gradients: an antithetic evolution strategy whose message is 12 bytes per evaluation.

w += rate m, m = .8 m + .2 mean_i d_i e_i / std(d), d_i = F(w + s e_i) - F(w - s e_i), both in the same worlds (Salimans
et al. 2017). A peer that knows w rebuilds e_i from the seed, so a whole evaluation travels as (seed, fitness,
fitness), whatever the size of the policy.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flocklet.errors import WireError
from flocklet.models.base import Parameters, State
from flocklet.models.policy.environment import Environment, Floats
from flocklet.models.policy.evaluate import evaluate
from flocklet.models.policy.policy import NetPolicy
from flocklet.models.policy.report import Report, generator_state, load_generator

__all__ = ["Evolution", "Trial", "decode_trials", "direction", "encode_trials"]

_TRIAL = struct.Struct("<Iff")
_MOST_TRIALS = 4096


@dataclass(frozen=True)
class Trial:
    """One antithetic pair: the seed of its direction, the fitness on both sides."""

    seed: int
    above: float
    below: float


def encode_trials(trials: Sequence[Trial]) -> bytes:
    """Return 12 bytes per trial."""
    return b"".join(_TRIAL.pack(trial.seed, trial.above, trial.below) for trial in trials)


def decode_trials(data: bytes) -> list[Trial]:
    """Return the trials of a message; raise WireError for a torn one, too many, or a fitness that is no number."""
    if len(data) % _TRIAL.size or len(data) > _MOST_TRIALS * _TRIAL.size:
        raise WireError(f"{len(data)} bytes are no list of trials", reason="es")
    trials = [Trial(*_TRIAL.unpack_from(data, at)) for at in range(0, len(data), _TRIAL.size)]
    if not all(np.isfinite([trial.above, trial.below]).all() for trial in trials):
        raise WireError("a fitness is not a finite number", reason="finite")
    return trials


def direction(seed: int, size: int) -> Floats:
    """Return the direction (P,) of a trial, the same on every machine."""
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


class Evolution:
    """An evolution strategy on the tensors of a policy: `trials`, then `apply` to one's own and the peers' trials."""

    def __init__(
        self,
        env: Environment,
        policy: NetPolicy,
        *,
        seed: int = 0,
        pairs: int = 12,
        worlds: int = 8,
        spread: float = 0.15,
        rate: float = 0.15,
        fitness: Callable[[int], float] | None = None,
    ) -> None:
        self.env, self.policy = env, policy
        self.pairs, self.worlds, self.spread, self.rate = pairs, worlds, spread, rate
        self.rng = np.random.default_rng([seed, 3])
        self.fitness = fitness or self._return
        self.momentum = np.zeros(policy.layout.size, np.float32)
        self.done = self.steps = 0
        self.best_return = -np.inf
        self.best: Parameters = policy.tensors()

    def trials(self) -> list[Trial]:
        """Return the evaluated pairs of one round; the policy is as before."""
        centre = self.policy.vector.copy()
        out = []
        for _ in range(self.pairs):
            seed, world = (int(n) for n in self.rng.integers(2**32, size=2))
            step = self.spread * direction(seed, len(centre))
            sides = []
            for sign in (1.0, -1.0):
                self.policy.vector[...] = centre + np.float32(sign) * step
                sides.append(self.fitness(world))
            out.append(Trial(seed, float(np.float32(sides[0])), float(np.float32(sides[1]))))
        self.policy.vector[...] = centre
        return out

    def apply(self, trials: Sequence[Trial]) -> None:
        """Move the policy by these trials."""
        gaps = np.array([trial.above - trial.below for trial in trials], np.float32)
        spread = float(gaps.std()) or 1.0
        mean = np.zeros_like(self.momentum)
        for gap, trial in zip(gaps, trials, strict=True):
            mean += gap / np.float32(spread * len(gaps)) * direction(trial.seed, len(mean))
        self.momentum = np.float32(0.8) * self.momentum + np.float32(0.2) * mean
        self.policy.vector += np.float32(self.rate) * self.momentum

    def round(self, progress: float | None = None) -> Report:
        """Evaluate and move once; `mean_return` is that of all trials."""
        started = time.process_time()
        found = self.trials()
        mean = float(np.mean([(trial.above + trial.below) / 2 for trial in found]))
        if mean > self.best_return:
            self.best_return, self.best = mean, self.policy.tensors()
        self.apply(found)
        self.done += 1
        spent = time.process_time() - started
        return Report(self.done, self.steps, mean, 0.0, 0.0, 0.0, spent)

    def state(self) -> State:
        """Return everything that the next round depends on."""

        out: State = {"policy": self.policy.vector.copy(), "momentum": self.momentum.copy()}
        out["rng"], out["counts"] = generator_state(self.rng), np.array([self.done, self.steps], np.int64)
        out["best_return"] = np.array([self.best_return])
        return out | {f"best.{name}": value.copy() for name, value in self.best.items()}

    def load_state(self, state: State) -> None:
        """Go on from a state; raise ValueError for that of another learner."""

        if state.keys() != self.state().keys() or state["policy"].shape != self.policy.vector.shape:
            raise ValueError("this state belongs to another learner")
        self.policy.vector[...], self.momentum = state["policy"], state["momentum"].copy()
        load_generator(self.rng, state["rng"])
        self.done, self.steps = (int(n) for n in state["counts"])
        self.best_return = float(state["best_return"][0])
        self.best = {k[5:]: v.copy() for k, v in state.items() if k.startswith("best.")}

    def _return(self, world: int) -> float:
        self.steps += self.worlds * self.env.spec.steps
        return float(evaluate(self.env, self.policy, [world], self.worlds).mean())
