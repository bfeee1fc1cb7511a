"""Random numbers inside a body: a function of a lane, of keys and of nothing else (a counter-based generator).

A lane is the number of a row, a key is a seed, a time step or the name of a draw: whole numbers in [0, 2**24), stored
as float32. So the same numbers come out whatever the batch, the threads and the backend (Salmon et al., Parallel
Random Numbers: As Easy as 1, 2, 3, SC 2011, for the idea). Normals: Box & Muller (1958).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from flocklet.kernels.body.dsl import Number, log2, maximum, sqrt, where
from flocklet.kernels.body.expr import hashed_uniform

__all__ = ["Draws", "cosine_sine", "seed_keys"]

# Odd and even Taylor polynomials on a quarter turn to either side: 4e-8 and 5e-9 at the ends.
_SINE = (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800)
_COSINE = (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600)


def _horner(coefficients: Sequence[float], x: Number) -> Number:
    out: Number = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        out = x * out + c
    return out


def cosine_sine(turns: Number) -> tuple[Number, Number]:
    """Return (cos, sin) of 2 pi `turns` for turns in [0, 1]."""
    half = turns - 0.5
    size = maximum(half, -half)  # the angle folded on [0, pi], less a quarter turn: x in [-pi/2, pi/2]
    x = (size - 0.25) * (2.0 * math.pi)
    squared = x * x
    up, along = _horner(_COSINE, squared), x * _horner(_SINE, squared)
    return along, where(half < 0.0, up, -up)


class Draws:
    """Hand out independent numbers: every draw has a number of its own, so the order of calls is part of the stream."""

    def __init__(self, lane: Number, keys: Sequence[Number], first: int = 0) -> None:
        self._lane, self._keys, self._next = lane, list(keys), first

    def uniform(self, low: Number = 0.0, high: Number = 1.0) -> Number:
        """Return a number uniform in [low, high), on a grid of 2**24 values."""
        self._next += 1
        return self._bits(0) * (high - low) + low

    def normals(self, count: int) -> list[Number]:
        """Return `count` independent standard normals, two from one word: 20 bits of radius, 12 of angle.

        None is larger than 5.4.
        """
        out: list[Number] = []
        while len(out) < count:
            self._next += 1
            radius = sqrt(maximum(log2(self._bits(1) + 2.0**-21) * (-2.0 * math.log(2.0)), 0.0))
            cosine, sine = cosine_sine(self._bits(2))
            out += [radius * cosine, radius * sine]
        return out[:count]

    def _bits(self, part: int) -> Number:
        keys, lane = [*self._keys, float(self._next)], self._lane
        return lane.random(part, *keys) if hasattr(lane, "random") else hashed_uniform(lane, part, *keys)


def seed_keys(rng: np.random.Generator) -> tuple[float, float]:
    """Return two keys that carry 48 bits of a generator's state."""
    a, b = rng.integers(0, 1 << 24, 2)
    return float(a), float(b)
