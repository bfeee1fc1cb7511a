"""What flies compiled flies as the NumPy loop does: bodies, actions, figures, at both rates, for any number of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flocklet.errors import ExportError
from flocklet.models.flight.judge import evaluate
from flocklet.models.flight.judge.compiled_loop import CompiledLoop
from flocklet.models.flight.judge.evaluate import figure_eights, hover
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.control_loop import Draws
from flocklet.models.flight.sim.dynamics import CRAZYFLIE
from flocklet.models.flight.sim.environment import Options
from flocklet.models.flight.sim.vehicle import L2F_2025, stack
from flocklet.models.flight.train.bptt import fresh_params
from flocklet.models.flight.train.recipes import policy_of
from kit.kernel_runs import compiler


def drifter(seed: int = 0) -> Policy:
    """A policy that nearly hovers: what it does depends on all it sees, and small errors stay small for a second."""
    return policy_of(fresh_params(np.random.default_rng(seed)))


def same(one: Any, other: Any) -> None:
    """Bodies by kind of number, actions: equal to what rounding explains."""
    for kind, near in ((slice(0, 3), 1e-4), (slice(3, 13), 1e-3), (slice(13, 17), 1.0)):
        np.testing.assert_allclose(one.bodies[:, :, kind], other.bodies[:, :, kind], rtol=1e-3, atol=near)
    np.testing.assert_allclose(one.actions, other.actions, atol=1e-3)
    np.testing.assert_array_equal(one.targets, other.targets)


def test_draws_ahead_are_the_draws_one_by_one():
    kinds = [Draws([np.random.default_rng((seed, 7)) for seed in (3, 4)]) for _ in range(2)]
    one_by_one = [kinds[0].standard_normal((6, 18), np.float32) for _ in range(5)]
    np.testing.assert_array_equal(kinds[1].ahead(5, (6, 18)), np.stack(one_by_one))


@pytest.mark.parametrize("is_firmware_rate", [False, True])
def test_hovers_are_those_of_the_numpy_loop(is_firmware_rate: bool) -> None:
    """130 turns cross the border between two calls; 3 x 11 rows are more than one block; a vehicle per row."""
    compiler()
    vehicles = stack([CRAZYFLIE, L2F_2025, CRAZYFLIE] * 11)
    options = Options(steps=130, limit_m=50.0, angle_rad=0.3)

    def flown(is_native: bool) -> evaluate.Hover:
        return hover(
            drifter(),
            vehicles,
            seeds=(0, 1, 2),
            episodes=11,
            options=options,
            is_firmware_rate=is_firmware_rate,
            record=33,
            is_native=is_native,
        )

    native, numpy = flown(True), flown(False)
    same(native.flight, numpy.flight)
    for name in ("length", "error_m", "last_m", "change"):
        np.testing.assert_allclose(getattr(native, name), getattr(numpy, name), rtol=1e-3, atol=1e-5)
    assert not native.lost.any()


@pytest.mark.parametrize("is_firmware_rate", [False, True])
def test_figure_eights_are_those_of_the_numpy_loop(is_firmware_rate: bool) -> None:
    compiler()

    def flown(is_native: bool) -> dict[float, evaluate.Track]:
        return figure_eights(
            drifter(1),
            CRAZYFLIE,
            periods_s=(0.2, 0.1),
            scale=0.05,
            seeds=(0, 1),
            is_firmware_rate=is_firmware_rate,
            record=True,
            is_native=is_native,
        )

    native, numpy = flown(True), flown(False)
    for period in (0.2, 0.1):
        one, other = native[period], numpy[period]
        np.testing.assert_array_equal(one.lost, other.lost)
        lived = min(len(one.flight.bodies), 100 * (5 if is_firmware_rate else 1))
        np.testing.assert_allclose(
            one.flight.bodies[:lived], other.flight.bodies[:lived], rtol=1e-2, atol=1e-2
        )
        np.testing.assert_array_equal(one.flight.targets[:lived], other.flight.targets[:lived])


def test_lost_episodes_are_counted_the_same() -> None:
    compiler()
    options = Options(steps=120)
    native, numpy = (
        hover(
            drifter(2), CRAZYFLIE, seeds=(0, 1), episodes=20, options=options, record=5, is_native=is_native
        )
        for is_native in (True, False)
    )
    assert native.lost.sum() > 0
    np.testing.assert_array_equal(native.lost, numpy.lost)
    np.testing.assert_array_equal(native.length, numpy.length)
    np.testing.assert_allclose(native.returns, numpy.returns, rtol=1e-3, atol=0.05)
    np.testing.assert_array_equal(np.isnan(native.flight.bodies), np.isnan(numpy.flight.bodies))


def test_the_two_rates_are_told_apart() -> None:
    """The control: what would pass if the rule of the history did not matter."""
    compiler()
    options = Options(steps=130, limit_m=50.0, angle_rad=0.3)
    slow, fast = (
        hover(drifter(), CRAZYFLIE, seeds=(0,), episodes=4, options=options, is_firmware_rate=rate, record=4)
        for rate in (False, True)
    )
    assert np.abs(slow.flight.bodies[-1] - fast.flight.bodies[-1])[:, 0:3].max() > 1e-3


def test_other_shapes_fly_and_unknown_activations_are_refused() -> None:
    compiler()
    rng = np.random.default_rng(0)
    layers = [(rng.normal(0, 0.05, (20, 146)), rng.normal(0, 0.1, 20), "relu")]
    layers.append((rng.normal(0, 0.05, (4, 20)), np.full(4, 0.36), "tanh"))
    policy = Policy(tuple((w.astype(np.float32), b.astype(np.float32), kind) for w, b, kind in layers))
    options = Options(steps=40, limit_m=50.0, angle_rad=0.3)
    native, numpy = (
        hover(policy, CRAZYFLIE, seeds=(0,), episodes=3, options=options, record=3, is_native=is_native)
        for is_native in (True, False)
    )
    same(native.flight, numpy.flight)
    odd = Policy(tuple((w, b, "gelu") for w, b, _ in policy.layers))
    with pytest.raises(ExportError, match="'gelu' is unknown"):
        CompiledLoop(odd)


def test_without_a_compiler_the_numpy_loop_flies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOCKLET_CC", "none")
    options = Options(steps=20)
    one, other = (
        hover(drifter(), CRAZYFLIE, seeds=(0,), episodes=2, options=options, record=2, is_native=is_native)
        for is_native in (True, False)
    )
    np.testing.assert_array_equal(one.flight.bodies, other.flight.bodies)
