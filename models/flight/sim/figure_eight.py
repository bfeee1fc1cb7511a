"""Where to fly: the figure-eight, with its velocity.

Source: Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024), trajectory tracking; the public controller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["WARM_UP_S", "FigureEight", "Path"]

WARM_UP_S = 2.0


class Path(Protocol):
    """What can be followed."""

    def at(self, time_s: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return position (m) and velocity (m/s) of the target, (3,) for all rows or (n, 3).

        Times (k, 1) give (k, 1, 3) for all rows or (k, n, 3).
        """
        ...


@dataclass(frozen=True)
class FigureEight:
    """A lying eight of 2 m x 1 m (times `scale`) flown in `period_s`; the speed ramps up linearly for two seconds.

    It starts at the origin, where it crosses itself. Peak speed: sqrt(2) * 2 pi / period_s * scale in m/s. A period
    per row, (n,), gives a target per row.
    """

    period_s: Any = 5.5
    scale: float = 1.0

    @property
    def duration_s(self) -> Any:
        """Return the length of the test flight: the warm-up and two laps."""
        return WARM_UP_S + 2 * self.period_s

    def at(self, time_s: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return position and velocity of the target, (3,), (n, 3) for periods (n,), (k, n, 3) for times (k, 1)."""
        t = np.asarray(time_s, np.float64)
        ramp = t < WARM_UP_S
        progress = np.where(ramp, t * t / (2 * WARM_UP_S), t - WARM_UP_S / 2) / self.period_s
        rate = np.where(ramp, t / WARM_UP_S, 1.0) / self.period_s
        angle = 2 * np.pi * progress + np.pi / 2
        turn = 2 * np.pi * rate
        zero = np.zeros_like(angle)
        position = np.stack([np.cos(angle), np.sin(2 * angle) / 2, zero], axis=-1)
        velocity = np.stack([-np.sin(angle) * turn, np.cos(2 * angle) * turn, zero], axis=-1)
        return position * self.scale, velocity * self.scale
