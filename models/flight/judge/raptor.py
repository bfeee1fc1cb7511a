"""RAPTOR, a policy to compare with: recurrent, distilled from 1000 teachers, made to fly any quadrotor.

Eschmann et al., "RAPTOR: a foundation policy for quadrotor control" (arXiv 2509.11481, 2025); package
`foundation-policy` (extra `sim`). It sees 22 values: position, rotation matrix, velocity, angular velocity and its
previous action, which is the newest entry of our history; its motors are in our order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import MissingExtra

__all__ = ["Raptor"]

_CLIP = (0.6, 2.0)


class Raptor:
    """An `Actor` with a memory per row; fly it without observation noise, as it was published."""

    def __init__(self) -> None:
        try:
            from foundation_policy import Raptor as Published
        except ImportError as error:
            raise MissingExtra("foundation-policy", "sim", "comparing with RAPTOR") from error
        self._policy: Any = Published()

    def reset(self) -> None:
        """Forget everything: before each batch of episodes."""
        self._policy.reset()

    def __call__(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Return the actions (n, 4) for observations (n, 146)."""
        seen = np.empty((len(observation), 22), np.float32)
        seen[:, :18] = observation[:, :18]
        np.clip(seen[:, 0:3], -_CLIP[0], _CLIP[0], out=seen[:, 0:3])
        np.clip(seen[:, 12:15], -_CLIP[1], _CLIP[1], out=seen[:, 12:15])
        seen[:, 18:] = observation[:, -4:]
        return np.clip(np.asarray(self._policy.evaluate_step(seen), np.float32), -1.0, 1.0)
