"""Distil any policy into a small table of boosted trees, and accept it by its return, never by agreement.

Dataset aggregation (DAgger, Ross et al. 2011): round by round the states that the student visits are
labelled by the teacher. A student that agrees with its teacher in 85 % of the states may crash; so what
counts is its return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.fit import fit_oblivious
from flocklet.firmware_export.trees.trees import ObliviousTrees

__all__ = ["CartPole", "Distilled", "Environment", "distil", "mean_return"]

F32: TypeAlias = npt.NDArray[np.float32]
Policy: TypeAlias = Callable[[F32], F32]


class Environment(Protocol):
    """Name what a task must offer: `reset` gives an observation, `step` gives (observation, reward, done)."""

    def reset(self, rng: np.random.Generator) -> F32:
        """Start an episode."""

    def step(self, action: F32) -> tuple[F32, float, bool]:
        """Act once."""


class CartPole:
    """Balance a pole on a cart (Barto, Sutton and Anderson 1983); the sign of the one action is the push."""

    def __init__(self, limit: int = 500) -> None:
        self.limit = limit
        self.state = np.zeros(4)
        self.count = 0

    def reset(self, rng: np.random.Generator) -> F32:
        """Start near upright."""
        self.state, self.count = rng.uniform(-0.05, 0.05, 4), 0
        return self.state.astype(np.float32)

    def step(self, action: F32) -> tuple[F32, float, bool]:
        """Push with +-10 N for 20 ms (explicit Euler)."""
        x, v, angle, rate = self.state
        force = 10.0 if action[0] > 0 else -10.0
        sine, cosine = np.sin(angle), np.cos(angle)
        push = (force + 0.05 * rate**2 * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        move = push - 0.05 * turn * cosine / 1.1
        self.state = np.array([x + 0.02 * v, v + 0.02 * move, angle + 0.02 * rate, rate + 0.02 * turn])
        self.count += 1
        fell = abs(self.state[0]) > 2.4 or abs(self.state[2]) > 12 * np.pi / 180
        return self.state.astype(np.float32), 1.0, bool(fell or self.count >= self.limit)


@dataclass(frozen=True, eq=False)
class Distilled:
    """Hold a student, the returns of both on the same episodes, and how often their actions had the same
    sign.
    """

    trees: ObliviousTrees
    student_return: float
    teacher_return: float
    agreement: float


def mean_return(policy: Policy, environment: Environment, rng: np.random.Generator, episodes: int) -> float:
    """Return the mean undiscounted return over episodes."""
    total = 0.0
    for _ in range(episodes):
        obs, done = environment.reset(rng), False
        while not done:
            obs, reward, done = environment.step(policy(obs[None])[0])
            total += reward
    return total / episodes


def _collect(
    actor: Policy, environment: Environment, rng: np.random.Generator, states: int, noise: float
) -> F32:
    seen: list[F32] = []
    while len(seen) < states:
        obs, done = environment.reset(rng), False
        while not done and len(seen) < states:
            seen.append(obs)
            action = actor(obs[None])[0]
            obs, _, done = environment.step(-action if rng.random() < noise else action)
    return np.array(seen, np.float32)


def distil(
    teacher: Policy,
    environment: Environment,
    rng: np.random.Generator,
    *,
    states: int = 14_400,
    rounds: int = 3,
    trees: int = 10,
    depth: int = 3,
    noise: float = 0.1,
    episodes: int = 20,
    accept: float = 0.95,
) -> Distilled:
    """Return a tree policy whose return reaches `accept` times the teacher's on the same episodes.

    Raises `ExportError` with both returns where it does not: high agreement is no excuse.
    """
    per_round = states // rounds
    x = _collect(teacher, environment, rng, per_round, noise)
    student = fit_oblivious(x, teacher(x), trees=trees, depth=depth)
    for _ in range(rounds - 1):
        x = np.concatenate([x, _collect(student.predict, environment, rng, per_round, noise)])
        student = fit_oblivious(x, teacher(x), trees=trees, depth=depth)
    seed = int(rng.integers(2**32))
    reached, wanted = (
        mean_return(policy, environment, np.random.default_rng(seed), episodes)
        for policy in (student.predict, teacher)
    )
    agreement = float((np.sign(student.predict(x)) == np.sign(teacher(x))).all(axis=1).mean())
    if reached < wanted - (1 - accept) * abs(wanted):
        raise ExportError(
            f"the distilled policy returns {reached:.1f}, the teacher {wanted:.1f} "
            f"(agreement {agreement:.0%})",
            remedy="allow more trees, a larger depth or more states",
        )
    return Distilled(student, reached, wanted, agreement)
