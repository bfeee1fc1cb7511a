"""Time limits are not ends, advantages are per head, and a head's unit does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.models.policy.environment import Spec
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.net import orthogonal
from flocklet.models.policy.policy import Critic, NetPolicy
from flocklet.models.policy.rollout import advantages, combine, rollout
from kit.worlds import Chain, Point

GAMMA = 0.9


def fitted_value(env, *, as_end=False):
    """Iterate targets to a fixed point with a critic that is one number."""
    rng = np.random.default_rng(0)
    policy, critic = NetPolicy(env.spec, rng), Critic(1, 1, rng, hidden=())
    state = env.reset(rng, 3)
    for _ in range(60):
        run, state = rollout(env, policy, critic, state, 20, rng)
        if as_end:
            run = type(run)(**{**run.__dict__, "final_value": np.zeros_like(run.final_value)})
        _, target = advantages(run, GAMMA, 0.5)
        critic.layers[0][0][...] = 0.0
        critic.layers[0][1][...] = target.mean()
    return float(target.mean())


def test_a_time_limit_is_exact():
    assert fitted_value(Chain(5)) == pytest.approx(1 / (1 - GAMMA), rel=1e-4)


def test_treating_a_time_limit_as_an_end_is_wrong():
    assert fitted_value(Chain(5), as_end=True) < 0.9 / (1 - GAMMA)


def test_an_end_has_no_value_behind_it():
    assert fitted_value(Chain(5, is_end=True)) < 0.9 / (1 - GAMMA)


def test_the_last_observation_is_taken_before_the_world_is_replaced():
    env, rng = Point(), np.random.default_rng(0)
    policy, critic = NetPolicy(env.spec, rng), Critic(2, 2, rng)
    run, _ = rollout(env, policy, critic, env.reset(rng, 4), 31, rng)
    (t,) = np.flatnonzero(run.truncated[:, 0])
    last, fresh = run.next_seen[t], run.seen[t + 1]
    assert np.abs(last - fresh).max() > 0.1
    assert np.allclose(run.final_value[t, :, 0], critic(last[:, 0]), atol=1e-6)


def test_a_rollout_records_the_probabilities_of_the_policy_that_acted():
    env, rng = Point(), np.random.default_rng(0)
    policy, critic = NetPolicy(env.spec, rng), Critic(2, 2, rng)
    run, _ = rollout(env, policy, critic, env.reset(rng, 4), 8, rng)
    policy.vector += 1.0
    again = policy.recorded(run.probs.reshape(-1, 4)).log_prob(run.action.reshape(-1, 2))
    assert np.allclose(again, run.log_prob.reshape(-1), atol=1e-6)
    now = policy.dist(run.seen.reshape(-1, 2)).log_prob(run.action.reshape(-1, 2))
    assert not np.allclose(now, again)


def test_the_orthogonal_start_of_a_wide_layer_has_orthonormal_rows():
    rng = np.random.default_rng(0)
    wide, tall = orthogonal(rng, 3, 8, 2.0), orthogonal(rng, 8, 3, 2.0)
    assert np.allclose(wide @ wide.T, 4 * np.eye(3), atol=1e-5)
    assert np.allclose(tall.T @ tall, 4 * np.eye(3), atol=1e-5)


def learnt(scale, mode="normalised"):
    env = Point(scale)
    policy = NetPolicy(env.spec, np.random.default_rng(0))
    learner = Learner(env, policy, settings=Settings(worlds=8, steps=32, rounds=5, mode=mode))
    for _ in range(5):
        learner.round()
    return policy.vector.tobytes()


def test_a_reward_head_in_other_units_changes_no_bit():
    assert learnt(1.0) == learnt(1000.0) == learnt(7.0)
    assert learnt(1.0, "sum") != learnt(1000.0, "sum")


def test_heads_are_weighted_after_they_are_made_equal():
    heads = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 1e4] + 5.0
    mixed = combine(heads, np.array([1.0, 0.0]))
    assert np.corrcoef(mixed, heads[:, 0])[0, 1] == pytest.approx(1.0)
    assert np.abs(combine(heads, np.array([1.0, 1.0]), "sum") - heads.sum(axis=1)).max() < 1e-9


def test_a_spec_must_say_what_the_policy_does():
    with pytest.raises(ValueError, match="either actions"):
        Spec("none", seen=2)
