"""The Gymnasium adapters pass Gymnasium's own checks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("gymnasium", reason="the package gymnasium is not installed")

from gymnasium.utils.env_checker import check_env

from flocklet.models.flight.sim.environment import Options
from flocklet.models.flight.sim.gym import FlightEnv, FlightVectorEnv


def test_the_single_environment_passes_the_checker():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|minimum|maximum|render|spec).*")
        check_env(FlightEnv(), skip_render_check=True)


def test_the_vector_environment_restarts_finished_rows():
    flights = FlightVectorEnv(3, options=Options(steps=5))
    seen, info = flights.reset(seed=1)
    assert seen in flights.observation_space
    assert info["privileged"].shape == (3, 28)
    for _ in range(5):
        seen, reward, terminated, truncated, info = flights.step(np.zeros((3, 4), np.float32))
        assert seen in flights.observation_space
    assert truncated.all()
    assert not terminated.any()
    seen, reward, terminated, truncated, info = flights.step(np.zeros((3, 4), np.float32))
    assert (reward == 0).all()
    assert not truncated.any()
    assert (seen[:, 18:] == 0).all()


def test_the_vector_form_flies_as_the_single_one_does():
    single, many = FlightEnv(), FlightVectorEnv(1)
    first, second = single.reset(seed=3)[0], many.reset(seed=3)[0]
    np.testing.assert_array_equal(first, second[0])
    action = np.full(4, 0.3, np.float32)
    assert single.step(action)[1] == pytest.approx(float(many.step(action[None])[1][0]))


def test_the_environment_can_be_made_by_name():
    import gymnasium

    from flocklet.models.flight.sim.gym import register

    register()
    try:
        assert gymnasium.make_vec("flocklet/Hover-v0", num_envs=2).reset(seed=0)[0].shape == (2, 146)
    finally:
        del gymnasium.registry["flocklet/Hover-v0"]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_an_action_that_is_no_number_is_refused_and_the_episode_goes_on(place):
    action = np.zeros(4, np.float32)
    action[place] = np.nan
    one, two = FlightEnv(), FlightVectorEnv(2)
    one.reset(seed=0)
    two.reset(seed=0)
    with pytest.raises(ValueError, match="NaN"):
        one.step(action)
    with pytest.raises(ValueError, match="NaN"):
        two.step(np.stack([np.zeros(4, np.float32), action]))
    seen, reward, *_ = one.step(np.full(4, np.inf, np.float32))
    assert np.isfinite(seen).all() and reward < 0, "the largest action there is"
    assert (two.step(np.zeros((2, 4), np.float32))[1] < 0).all()
