"""Moving targets for training: each vehicle follows a path of its own, with velocities that are its derivative.

A path is a sum of two sines per axis in a progress s(t), ds/dt = min(t / 2, 1): slow at first, as in the test flight of
the flight specification, section 6. A figure-eight is such a sum, a random smooth path another; zeros are a hover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.sim.environment import DT_S
from flocklet.models.flight.sim.figure_eight import WARM_UP_S

__all__ = ["Mix", "Paths"]

Floats = NDArray[Any]
_SINES = 2


@dataclass(frozen=True)
class Mix:
    """Which part of the vehicles follows figure-eights, and which random paths; the rest hovers.

    `periods_s` is the range of one lap of an eight of scale 0.5 to 1.1; `speed_m_s` bounds random paths (root mean
    square of the velocity). `rest` is the part of the paths that starts from rest, the others join at full speed.
    """

    eights: float = 0.0
    wanders: float = 0.0
    periods_s: tuple[float, float] = (3.3, 12.0)
    speed_m_s: float = 1.2
    rest: float = 0.5


class Paths:
    """The paths of n vehicles; `targets` gives a window of them, `renew` draws new ones for some."""

    def __init__(self, n: int, mix: Mix, rng: np.random.Generator) -> None:
        self.mix = mix
        self._rng = rng
        self.size = np.zeros((3, _SINES, n))
        self.turn = np.ones((3, _SINES, n))
        self.phase = np.zeros((3, _SINES, n))
        self.offset = np.zeros((3, n))
        self.clock = np.zeros(n)
        self.is_moving = mix.eights + mix.wanders > 0

    def renew(self, index: NDArray[np.intp]) -> None:
        """Draw a path for each vehicle of `index`; all start at the origin."""
        if not self.is_moving or not len(index):
            return
        rng, mix, k = self._rng, self.mix, len(index)
        kind = rng.random(k)
        size, turn, phase = np.zeros((3, _SINES, k)), np.ones((3, _SINES, k)), np.zeros((3, _SINES, k))
        eight = kind < mix.eights
        low, high = mix.periods_s
        lap = 2 * np.pi * rng.uniform(1 / high, 1 / low, k)
        scale, way = rng.uniform(0.5, 1.1, k), rng.choice([-1.0, 1.0], k)
        # (cos θ, sin 2θ / 2) with θ = lap s + π/2 is (-sin lap s, -sin(2 lap s) / 2)
        size[0, 0], turn[0, 0] = -scale * eight, lap
        size[1, 0], turn[1, 0] = -0.5 * scale * way * eight, 2 * lap
        wander = (kind >= mix.eights) & (kind < mix.eights + mix.wanders)
        rates = rng.uniform(0.4, 3.5, (3, _SINES, k))
        speeds = rng.standard_normal((3, _SINES, k)) * (mix.speed_m_s / np.sqrt(3 * _SINES))
        size += np.clip(speeds * np.sqrt(2.0) / rates, -1.0, 1.0) * wander
        turn = np.where(wander, rates, turn)
        phase = rng.uniform(0, 2 * np.pi, (3, _SINES, k)) * wander
        self.size[..., index], self.turn[..., index], self.phase[..., index] = size, turn, phase
        at_rest = rng.random(k) < mix.rest
        self.clock[index] = np.where(at_rest, 0.0, rng.uniform(WARM_UP_S, WARM_UP_S + 12.0, k))
        self.offset[:, index] = 0.0
        position, _ = self._at(self.clock[index], index)
        self.offset[:, index] = -position

    def start(self, index: NDArray[np.intp]) -> tuple[Floats, Floats]:
        """Return where the paths of `index` are and how fast, (3, k) each."""
        return self._at(self.clock[index], index)

    def targets(self, steps: int, out: Floats) -> None:
        """Write positions and velocities of the next `steps` + 1 times into `out` (steps + 1, 6, n); go on by `steps`."""
        if not self.is_moving:
            return
        times = self.clock + DT_S * np.arange(steps + 1)[:, None]
        position, velocity = self._at(times, slice(None))
        out[: steps + 1, 0:3] = np.moveaxis(position, 0, 1)
        out[: steps + 1, 3:6] = np.moveaxis(velocity, 0, 1)
        self.clock += DT_S * steps

    def _at(self, times: Floats, index: Any) -> tuple[Floats, Floats]:
        """Return position and velocity, (3, ..., k), of the paths `index` at `times` (..., k)."""
        ramp = times < WARM_UP_S
        progress = np.where(ramp, times * times / (2 * WARM_UP_S), times - WARM_UP_S / 2)
        rate = np.where(ramp, times / WARM_UP_S, 1.0)
        position = np.zeros((3, *times.shape))
        velocity = np.zeros((3, *times.shape))
        for axis in range(3):
            position[axis] += self.offset[axis, index]
            for i in range(_SINES):
                size, turn = self.size[axis, i, index], self.turn[axis, i, index]
                if not size.any():
                    continue
                angle = turn * progress + self.phase[axis, i, index]
                position[axis] += size * np.sin(angle)
                velocity[axis] += size * turn * rate * np.cos(angle)
        return position, velocity
