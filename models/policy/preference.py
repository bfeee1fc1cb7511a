"""Learn from which of two is better: self-play (SPO), iterative Nash (INPO), and a reward model for comparison.

A rater says whether the first of each pair is better; 1/2 is "cannot say". Where preferences go round in a circle no
reward model can hold them, and self-play finds the mixture that nothing beats (the minimax winner). Items are discrete;
a policy over them is a vector of logits.

Sources: Swamy et al. 2024 (SPO), Zhang et al. 2024 (INPO), Bradley and Terry 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.losses import nash_error, nash_margin

__all__ = [
    "Answers",
    "Rater",
    "bradley_terry",
    "exploitability",
    "has_cycle",
    "nash_policy",
    "next_pair",
    "policy_from_answers",
    "self_play",
]

Floats: TypeAlias = NDArray[Any]
Rater: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
"""(first (n,), second (n,)) -> 1 where the first is better, 0 where the second is, 1/2 for "cannot say"."""


@dataclass
class Answers:
    """What was said so far: `first`, `second` and `won` (n,), and how likely each pair was to be asked."""

    items: int
    first: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    won: list[float] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)

    def add(self, first: int, second: int, won: float, chance: float = 1.0) -> None:
        """Add an answer; raise ValueError for items that do not exist or an answer that is none."""
        if not (
            0 <= first < self.items and 0 <= second < self.items and won in (0.0, 0.5, 1.0) and chance > 0
        ):
            raise ValueError(f"no answer: {first} against {second}, {won}")
        for into, value in zip(
            (self.first, self.second, self.won, self.chance), (first, second, won, chance), strict=True
        ):
            into.append(value)  # type: ignore[attr-defined]

    def shares(self) -> Floats:
        """Return how often i beat j, (items, items), with one coin toss added to every pair."""
        wins = np.full((self.items, self.items), 0.5)
        for a, b, won in zip(self.first, self.second, self.won, strict=True):
            wins[a, b] += won
            wins[b, a] += 1.0 - won
        return np.asarray(wins / (wins + wins.T))


def exploitability(policy: Floats, wins: Floats) -> float:
    """Return how much the best answer to `policy` (K,) wins above a half; `wins` (K, K) is P(i beats j)."""
    return float((wins @ policy).max() - 0.5)


def has_cycle(wins: Floats, margin: float = 0.1) -> bool:
    """Return whether somebody is beaten by somebody whom they beat, over any number of steps."""
    beats = wins > 0.5 + margin
    reach = beats.copy()
    for k in range(len(reach)):
        reach |= reach[:, k : k + 1] & reach[k : k + 1]
    return bool(np.diag(reach).any())


def bradley_terry(first: Floats, second: Floats, won: Floats, items: int, *, steps: int = 400) -> Floats:
    """Return the greedy policy (K,) of a reward per item fitted to answers by logistic regression."""
    score = np.zeros(items)
    for _ in range(steps):
        gap = won - 1.0 / (1.0 + np.exp(-(score[first] - score[second])))
        slope = np.bincount(first, gap, items) - np.bincount(second, gap, items)
        score += 4.0 * (slope / len(won) - 1e-4 * score)
    policy = np.zeros(items)
    policy[score.argmax()] = 1.0
    return policy


def self_play(
    rater: Rater,
    items: int,
    rng: np.random.Generator,
    *,
    rounds: int = 800,
    batch: int = 64,
    queue: int = 1000,
    drawn: int = 16,
    step: float = 0.15,
) -> Floats:
    """Return the average policy (K,) of self-play against a queue of its own last results.

    The reward of a result is its share of wins against `drawn` members of the queue. The guarantee is for the average.
    """
    logits, total = np.zeros(items), np.zeros(items)
    held = rng.integers(items, size=queue)
    for _ in range(rounds):
        probs = _softmax(logits)
        total += probs
        chosen = rng.choice(items, batch, p=probs)
        against = held[rng.integers(len(held), size=(batch, drawn))]
        reward = rater(np.repeat(chosen, drawn), against.reshape(-1)).reshape(batch, drawn).mean(axis=1)
        gain = np.bincount(chosen, reward - reward.mean(), items) / batch
        logits += step * gain / np.maximum(probs, 1.0 / (4.0 * items))
        held = np.concatenate([held, chosen])[-queue:]
    return np.asarray(total / total.sum())


def nash_policy(
    rater: Rater,
    items: int,
    rng: np.random.Generator,
    *,
    rounds: int = 60,
    pairs: int = 4096,
    eta: float = 2.0,
    pull: float = 0.01,
    uniform: float = 0.1,
) -> Floats:
    """Return the last policy (K,) of iterative Nash optimisation; pairs come from the policy that they improve.

    `pull` is tau/eta, the pull to a uniform reference (1: stuck there); `uniform` is mixed into the sampler so that no
    item dies.
    """
    logits = np.zeros(items)
    for _ in range(rounds):
        sampler = (1.0 - uniform) * _softmax(logits) + uniform / items
        one, two = rng.choice(items, (2, pairs), p=sampler)
        answer = rater(one, two)
        logits = _fit(logits, one, two, answer, np.ones(pairs), eta, pull)
    return _softmax(logits)


def next_pair(answers: Answers, rng: np.random.Generator) -> tuple[int, int, float]:
    """Return the pair to ask next, and how likely it was: likely winners by the answers so far, a third at random."""
    policy = policy_from_answers(answers) if answers.won else np.full(answers.items, 1.0 / answers.items)
    sampler = 2.0 / 3.0 * policy + 1.0 / (3.0 * answers.items)
    first = int(rng.choice(answers.items, p=sampler))
    rest = sampler.copy()
    rest[first] = 0.0
    second = int(rng.choice(answers.items, p=rest / rest.sum()))
    return first, second, float(sampler[first] * sampler[second])


def policy_from_answers(answers: Answers, *, rounds: int = 300, step: float = 0.5) -> Floats:
    """Return the policy (K,) that nothing beats by few answers of a person: the average of mirror descent on them.

    Every answer counts in every iteration, as the share of wins of its pair with one coin toss added: a few hundred
    answers are a matrix, and sampling pairs from it would only add noise.
    """
    wins, logits = answers.shares(), np.zeros(answers.items)
    total = np.zeros(answers.items)
    for _ in range(rounds):
        policy = _softmax(logits)
        total += policy
        logits = logits + step * (wins @ policy - 0.5)
    return np.asarray(total / rounds)


def _fit(
    old: Floats, one: Floats, two: Floats, answer: Floats, weight: Floats, eta: float, pull: float
) -> Floats:
    """Return the logits that minimise the squared distance of the margins to 1/(2 eta), from the old ones."""
    is_first, is_tie = answer > 0.5, answer == 0.5
    better, worse = np.where(is_first, one, two), np.where(is_first, two, one)
    reference = np.zeros(len(old))
    last = _log_softmax(old)
    logits = old.copy()
    # a tie is half an answer each way: its target is 0
    goal = np.where(is_tie, 0.0, 1.0 / (2.0 * eta))
    for _ in range(200):
        probs, new = _softmax(logits), _log_softmax(logits)
        margin = nash_margin(new, reference, last, better, worse, pull)
        logits = logits - 0.5 * len(old) / 4.0 * nash_error(probs, margin, better, worse, goal, weight)
    return np.asarray(logits - logits.mean())


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
