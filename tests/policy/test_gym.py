"""Gymnasium in both directions, judged by Gymnasium's own checker and its own physics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="the package gymnasium is not installed")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from flocklet.errors import ConfigError  # noqa: E402
from flocklet.models.policy.check import check_environment  # noqa: E402
from flocklet.models.policy.gym import FromGymnasium, from_gymnasium, to_gymnasium  # noqa: E402
from flocklet.models.policy.learner import Learner, Settings  # noqa: E402
from flocklet.models.policy.policy import NetPolicy  # noqa: E402
from flocklet.models.worlds.cartpole import CartPole  # noqa: E402
from flocklet.models.worlds.pendulum import Pendulum  # noqa: E402


@pytest.mark.parametrize("make", [CartPole, Pendulum])
def test_ours_pass_gymnasiums_checker(make):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(infinity|minimum|maximum|render|spec).*")
        check_env(to_gymnasium(make()), skip_render_check=True)


def test_finished_rows_wait_for_their_reset():
    flock = to_gymnasium(CartPole(), 3)
    assert flock.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.DISABLED
    flock.reset(seed=0)
    for _ in range(60):
        seen, _, terminated, _, _ = flock.step(np.array([1, 1, 0]))
    assert terminated.all()
    again, _ = flock.reset(options={"reset_mask": np.array([True, False, False])})
    assert np.abs(again[0]).max() <= 0.05
    assert np.array_equal(again[1:], seen[1:])


@pytest.mark.parametrize("name, make", [("CartPole-v1", CartPole), ("Pendulum-v1", Pendulum)])
def test_our_equations_are_gymnasiums(name, make):
    theirs, ours, rng = gymnasium.make(name).unwrapped, make(), np.random.default_rng(0)
    theirs.reset(seed=0)
    state = ours.reset(rng, 1)
    theirs.state = state.body[0].copy()
    for _ in range(8):
        if ours.spec.actions:
            action = rng.integers(2, size=(1, 1))
            seen, reward, _, _, _ = theirs.step(int(action[0, 0]))
        else:
            action = rng.uniform(-1, 1, (1, 1, 1))
            seen, reward, _, _, _ = theirs.step(2.0 * action[0, 0])
        turn = ours.step(state, action, rng)
        state = turn.state
        assert np.allclose(ours.observe(state, rng)[0, 0], seen, atol=1e-5)
        assert float(turn.reward[0, 0]) == pytest.approx(float(reward), abs=1e-4)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_theirs_learn_here(name):
    env = from_gymnasium(name)
    policy = NetPolicy(env.spec, np.random.default_rng(0))
    learner = Learner(env, policy, "ppo", settings=Settings(worlds=4, steps=210, rounds=2))
    reports = [learner.round() for _ in range(2)]
    assert np.isfinite(reports[-1].mean_return)
    assert reports[-1].steps == 1680


def test_theirs_keep_the_rules_that_a_machine_with_a_state_can_keep():
    with pytest.raises(ValueError, match="cannot go back"):
        check_environment(lambda: from_gymnasium("CartPole-v1"))  # it steps twice from one state
    env = from_gymnasium("CartPole-v1")
    rng = np.random.default_rng(0)
    state = env.reset(rng, 2)
    env.observe(state, rng)
    env.step(state, np.zeros((2, 1), np.int32), rng)
    with pytest.raises(ValueError, match="cannot go back"):
        env.step(state, np.zeros((2, 1), np.int32), rng)


def test_what_a_policy_cannot_see_or_do_is_one_line():
    class Odd(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Discrete(2)})
        action_space = gymnasium.spaces.Discrete(2)

    with pytest.raises(ConfigError, match="observations are Dict"):
        FromGymnasium(Odd)
    with pytest.raises(ConfigError, match="cannot be made"):
        from_gymnasium("Nope-v0")
