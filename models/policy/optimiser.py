"""Adam (Kingma and Ba 2015) on one flat vector, and clipping a gradient by its norm."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Adam", "clip_norm"]

Floats: TypeAlias = NDArray[Any]


class Adam:
    """Moments of one vector (P,); `step` changes the vector in place."""

    def __init__(self, size: int, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.mean = np.zeros(size, np.float32)
        self.square = np.zeros(size, np.float32)
        self.count = 0

    def step(self, vector: Floats, gradient: Floats, rate: float) -> None:
        """Move `vector` against `gradient`."""
        self.count += 1
        self.mean *= self.beta1
        self.mean += (1.0 - self.beta1) * gradient
        self.square *= self.beta2
        self.square += (1.0 - self.beta2) * gradient * gradient
        unbias = float(np.sqrt(1.0 - self.beta2**self.count)) / (1.0 - self.beta1**self.count)
        vector -= np.float32(rate * unbias) * self.mean / (np.sqrt(self.square) + np.float32(self.epsilon))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the moments and the count."""
        return {
            "mean": self.mean.copy(),
            "square": self.square.copy(),
            "count": np.array([self.count], np.int64),
        }

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Replace moments and count."""
        self.mean, self.square = state["mean"].copy(), state["square"].copy()
        self.count = int(state["count"][0])


def clip_norm(gradient: Floats, most: float) -> float:
    """Scale `gradient` in place so that its norm is at most `most`; return the norm it had."""
    norm = float(np.sqrt(np.dot(gradient, gradient)))
    if norm > most:
        gradient *= most / norm
    return norm
