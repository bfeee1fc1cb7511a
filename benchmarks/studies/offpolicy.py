"""Estimate what another policy would have earned from the log of one that ran: IPS, SNIPS, doubly robust.

Inverse propensity scoring (Horvitz & Thompson 1952), self-normalised (Swaminathan & Joachims, NeurIPS 2015) and doubly
robust (Dudik, Langford & Li, ICML 2011), with a 95 % bootstrap interval and the effective sample size
(sum w)^2 / sum w^2. Report all of these, and beside them what the logging policy earned: a difference inside the
interval is no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Log", "doubly_robust", "ips", "snips"]

Floats = NDArray[np.float64]
_ROUNDS = 400


@dataclass(frozen=True, slots=True)
class Log:
    """What happened: `action` (n,) int64, `reward` (n,), `propensity` (n,) > 0 of the taken action then."""

    action: NDArray[np.int64]
    reward: Floats
    propensity: Floats

    def __post_init__(self) -> None:
        if not len(self.action) == len(self.reward) == len(self.propensity) > 0:
            raise ValueError("a log needs equally many actions, rewards and propensities, at least one")
        if not (self.propensity > 0).all():
            raise ValueError("an action that was taken had a propensity of 0")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval, the effective sample size, and what the logging policy earned."""

    value: float
    low: float
    high: float
    effective: float
    logged: float


def ips(log: Log, policy: Floats, rng: np.random.Generator) -> Estimate:
    """Return the mean of weight x reward; `policy` (n, actions) is the new policy's distribution in each row."""
    weight = _weights(log, policy)
    return _estimate(log, weight, weight * log.reward, np.ones_like(weight), rng)


def snips(log: Log, policy: Floats, rng: np.random.Generator) -> Estimate:
    """Return the weighted mean reward: a little biased, of much smaller variance."""
    weight = _weights(log, policy)
    return _estimate(log, weight, weight * log.reward, weight, rng)


def doubly_robust(log: Log, policy: Floats, model: Floats, rng: np.random.Generator) -> Estimate:
    """Return the model's value plus the weighted error of the model; `model` (n, actions) predicts rewards."""
    weight = _weights(log, policy)
    rows = np.arange(len(weight))
    direct = (policy * model).sum(axis=1)
    parts = direct + weight * (log.reward - model[rows, log.action])
    return _estimate(log, weight, parts, np.ones_like(weight), rng)


def _weights(log: Log, policy: Floats) -> Floats:
    if policy.ndim != 2 or len(policy) != len(log.action) or not np.allclose(policy.sum(axis=1), 1.0):
        raise ValueError("a policy has one distribution for each row of the log")
    return np.asarray(policy[np.arange(len(policy)), log.action] / log.propensity)


def _estimate(log: Log, weight: Floats, above: Floats, below: Floats, rng: np.random.Generator) -> Estimate:
    rows = len(above)
    means = np.empty(_ROUNDS)
    for number in range(_ROUNDS):
        drawn = rng.integers(0, rows, rows)
        means[number] = above[drawn].sum() / max(float(below[drawn].sum()), 1e-12)
    low, high = np.quantile(means, [0.025, 0.975])
    total = max(float(below.sum()), 1e-12)
    squares = max(float((weight**2).sum()), 1e-12)
    return Estimate(
        float(above.sum()) / total,
        float(low),
        float(high),
        float(weight.sum()) ** 2 / squares,
        float(log.reward.mean()),
    )
