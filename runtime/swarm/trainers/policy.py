"""The trainer of policies: rounds of the learning core from a merged actor and critic; optimiser state stays at home.

It starts fresh in every round of the swarm (Adam's moments are never averaged), with worlds drawn from the rows that
the plan chose: the same plan gives the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.losses import LOSSES
from flocklet.swarm.task import Floats, Rows, Task
from flocklet.swarm.tasks.policies import PolicyModel

__all__ = ["PolicyTrainer"]


@dataclass(frozen=True)
class PolicyTrainer:
    """Do `rounds` rollouts of `steps` steps in `worlds` worlds, each with its updates."""

    loss: str = "mdpo"
    rounds: int = 4
    worlds: int = 4
    steps: int = 128
    epochs: int = 10
    rate: float = 1e-3

    def __post_init__(self) -> None:
        if (
            self.loss not in LOSSES
            or min(self.rounds, self.worlds, self.steps, self.epochs) < 1
            or self.rate <= 0
        ):
            raise UsageError(
                f"policy(loss={self.loss}) cannot learn",
                remedy=f"loss one of {', '.join(LOSSES)}, counts at least 1",
            )

    def plan(self, n: int, rng: np.random.Generator, round: int) -> Rows:
        """Return (rounds, 8) positions into a share of `n` rows: they are the seed of the worlds."""
        return rng.integers(n, size=(self.rounds, 8))

    def train(self, task: Task, start: Floats, rows: Sequence[Rows], round: int) -> Floats:
        """Return the trained models (N, P), each with the bits that it has alone."""
        model = task.model
        if not isinstance(model, PolicyModel):
            raise UsageError("policy(...) trains policies", remedy="leave the trainer out of the strategy")
        out = np.empty_like(start)
        for i, (vector, plan) in enumerate(zip(start, rows, strict=True)):
            actor, critic = model.split(vector)
            settings = Settings(
                worlds=self.worlds, steps=self.steps, epochs=self.epochs, rate=self.rate, rounds=len(plan)
            )
            digest = hashlib.blake2b(np.ascontiguousarray(plan, "<i8").tobytes(), digest_size=4).digest()
            learner = Learner(
                model.env, actor, self.loss, seed=int.from_bytes(digest, "little") + round, settings=settings
            )
            learner.critic.vector[...] = critic.vector
            for _ in range(len(plan)):
                learner.round(0.0)
            out[i] = model.join(actor, learner.critic)
        return out
