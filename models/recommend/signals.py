"""Re-rank by a main signal while staying close to what auxiliary signals want (after Cai et al., arXiv 2302.01680).

The two-stage constrained actor-critic for short-video feeds, in its deterministic form and with linear critics:

1. *Critics*: one ridge regression per signal (finished, liked, skipped, ...) of the discounted sum of that signal from
   here on, over features of (person, item). *Stage 1*: the policy of auxiliary i is softmax(critic_i / temperature).
2. *Stage 2*: the actor maximises, over each list of candidates,
   E_pi[A_main] - sum_i lambda_i KL(pi || pi_i), where A_main is the main critic less its mean over the list.
   The optimum is pi proportional to exp(A_main / L) prod_i pi_i^(lambda_i / L) with L = sum lambda_i (their theorem 1;
   the form follows by setting the derivative to zero). `order` uses it as it stands; `Actor` is a linear policy that
   is trained towards it by gradient ascent, for lists too long or critics too slow to ask each time.

No figure of the paper is claimed here: its data set is in no package registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Actor", "Critic", "ReRanker", "discounted", "log_softmax"]

Floats = NDArray[np.float64]


def discounted(rewards: Floats, gamma: float) -> Floats:
    """Return the discounted sum from each step on, (sessions, steps); gamma 0 is the reward itself."""
    total = np.array(rewards, np.float64)
    for step in range(total.shape[1] - 2, -1, -1):
        total[:, step] += gamma * total[:, step + 1]
    return total


def log_softmax(scores: Floats) -> Floats:
    """Return log probabilities along the last axis."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


class Critic:
    """Predict what a signal brings: ridge regression on features (n, d) float64.

    Without `is_centred` nothing learnt means 0, not the mean of what was seen: one step alone says something then.
    """

    def __init__(self, ridge: float = 1.0, *, is_centred: bool = True) -> None:
        self.ridge, self.is_centred = ridge, is_centred
        self.weights: Floats = np.zeros(0)
        self.mean = 0.0

    def fit(self, features: Floats, returns: Floats, sample_weight: Floats | None = None) -> None:
        """Learn from logged steps, each counted by `sample_weight` (1 / propensity removes the logger's taste)."""
        weight = np.ones(len(returns)) if sample_weight is None else sample_weight
        self.mean = float(np.average(returns, weights=weight)) if len(returns) and self.is_centred else 0.0
        left = (features.T * weight) @ features + self.ridge * np.eye(features.shape[1])
        right = features.T @ (weight * (returns - self.mean))
        self.weights = np.linalg.solve(left, right).astype(np.float64)

    def value(self, features: Floats) -> Floats:
        """Return the expected return, (...,) for features (..., d)."""
        return np.asarray(features @ self.weights + self.mean)


@dataclass(frozen=True)
class ReRanker:
    """Order candidates by the main critic, held to the policies of the auxiliaries by `strength` (lambda) each.

    Without strengths the main signal alone decides: the control that shows what the constraint protects.
    """

    main: Critic
    auxiliary: Mapping[str, Critic]
    strength: Mapping[str, float]
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if set(self.strength) - set(self.auxiliary) or any(value < 0 for value in self.strength.values()):
            raise ValueError("each strength is not negative and belongs to an auxiliary signal")

    @property
    def total_strength(self) -> float:
        """Lambda, the sum of the strengths."""
        return float(sum(self.strength.values()))

    def log_policies(self, features: Floats) -> dict[str, Floats]:
        """Return the stage-1 log policies over candidates, features (..., candidates, d)."""
        return {
            name: log_softmax(critic.value(features) / self.temperature)
            for name, critic in self.auxiliary.items()
        }

    def scores(self, features: Floats) -> Floats:
        """Return log of the optimal policy up to a constant, (..., candidates)."""
        value = self.main.value(features)
        advantage = value - value.mean(axis=-1, keepdims=True)
        total = self.total_strength
        if total == 0:
            return np.asarray(advantage / self.temperature)
        policies = self.log_policies(features)
        scores = advantage / total
        for name, strength in self.strength.items():
            scores = scores + strength / total * policies[name]
        return np.asarray(scores)

    def order(self, features: Floats) -> NDArray[np.int64]:
        """Return the candidates (candidates, d), best first."""
        return np.argsort(-self.scores(features), kind="stable")


class Actor:
    """A linear softmax policy that is trained towards the optimum of stage 2."""

    def __init__(self, dimensions: int) -> None:
        self.weights: Floats = np.zeros(dimensions)

    def train(self, ranker: ReRanker, lists: Floats, *, rounds: int = 400, rate: float = 0.1) -> list[float]:
        """Climb E_pi[A] - sum lambda KL(pi || pi_i) over lists (n, candidates, d); return its course.

        The gradient is exact: over a list the policy is known, nothing is sampled. RMSprop steps.
        """
        value = ranker.main.value(lists)
        advantage = value - value.mean(axis=-1, keepdims=True)
        policies = ranker.log_policies(lists)
        pull = sum(
            (ranker.strength.get(name, 0.0) * log for name, log in policies.items()), np.zeros_like(advantage)
        )
        total = ranker.total_strength
        course, square = [], np.zeros_like(self.weights)
        for number in range(rounds):
            log_policy = log_softmax(lists @ self.weights)
            policy = np.exp(log_policy)
            gain = advantage + pull - total * log_policy
            mean = (policy * gain).sum(axis=-1, keepdims=True)
            course.append(float(mean.mean()))
            slope = np.einsum("nc,ncd->d", policy * (gain - mean), lists) / len(lists)
            square = 0.9 * square + 0.1 * slope**2
            self.weights += rate * (1 - number / rounds) * slope / (np.sqrt(square) + 1e-8)
        return course

    def scores(self, features: Floats) -> Floats:
        """Return the actor's log policy up to a constant, (..., candidates)."""
        return np.asarray(features @ self.weights)
