"""What the trainer by back-propagation minimises: one smooth cost per step, over any number.

The form and the first weights are those of the flight specification, section 3.2; here every weight is data, so that
one compiled program serves every task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.body.dsl import maximum, minimum, sqrt

__all__ = ["Cost", "step_cost"]

Number = Any


@dataclass(frozen=True)
class Cost:
    """Weights of the cost of one step; errors are against the target of the moment.

    position * sqrt(|p|² + soft) + square * |p|² + velocity * sqrt(|v|² + 1e-3) + attitude * (1 - q_w²)
    + rate * sqrt(|w|² + 1e-2) + change * |a - a_before|² + effort * |a - hover|² + wall * (sum of what |p_i| is
    above `inside`)², at most `cap`, times `scale` (one over the number of summands makes it a mean).
    """

    position: float = 4.0
    soft: float = 1e-4
    square: float = 10.0
    velocity: float = 0.3
    attitude: float = 0.5
    rate: float = 0.02
    change: float = 0.05
    effort: float = 0.02
    hover: float = 0.334
    wall: float = 500.0
    inside: float = 0.45
    cap: float = 60.0
    scale: float = 1.0

    @classmethod
    def count(cls) -> int:
        """Return how many weights there are."""
        return len(fields(cls))

    def numbers(self) -> NDArray[np.float32]:
        """Return the weights in the order of the fields."""
        return np.array(astuple(self), np.float32)


def step_cost(
    state: Sequence[Number],
    action: Sequence[Number],
    before: Sequence[Number],
    target: Sequence[Number],
    weights: Cost | Sequence[Number],
) -> Number:
    """Return the cost of the state after a step (17), the action that led there, and the one before it.

    `target` is position and velocity (6) to be at after the step.
    """
    w = Cost(*weights) if not isinstance(weights, Cost) else weights
    p = [a - b for a, b in zip(state[0:3], target[0:3], strict=True)]
    v = [a - b for a, b in zip(state[7:10], target[3:6], strict=True)]
    away = _square(p)
    # |p_i| as the larger of p_i and -p_i; what is inside the wall costs nothing
    outside = [maximum(maximum(x, -x) - w.inside, 0.0) for x in p]
    excess = outside[0] + outside[1] + outside[2]
    total = sqrt(away + w.soft) * w.position + away * w.square + sqrt(_square(v) + 1e-3) * w.velocity
    total = total + (1.0 - state[3] * state[3]) * w.attitude
    total = total + sqrt(_square(state[10:13]) + 1e-2) * w.rate
    total = total + _square([a - b for a, b in zip(action, before, strict=True)]) * w.change
    total = total + _square([a - w.hover for a in action]) * w.effort
    total = total + excess * excess * w.wall
    return minimum(total, w.cap) * w.scale


def _square(values: Sequence[Number]) -> Number:
    total = values[0] * values[0]
    for v in values[1:]:
        total = total + v * v
    return total
