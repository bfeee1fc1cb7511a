"""The inertia of a body obeys the triangle: no moment is larger than the sum of the two others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flocklet.errors import ConfigError
from flocklet.models.flight.sim import vehicle
from flocklet.models.flight.sim.dynamics import CRAZYFLIE


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(
    ("ratio", "is_body"), [(1.5, True), (2.0, True), (2.09, True), (2.11, False), (4.0, False)]
)
def test_no_moment_exceeds_the_sum_of_the_others(axis, ratio, is_body):
    """With 5 % of grace for rounded figures: two moments of 1e-5 allow a third of 2.1e-5."""
    inertia = [1e-5, 1e-5, 1e-5]
    inertia[axis] = ratio * 1e-5
    made = replace(CRAZYFLIE, inertia=tuple(inertia))
    if is_body:
        vehicle._check(made)
    else:
        with pytest.raises(ConfigError, match="above the sum of the others"):
            vehicle._check(made)
