"""An evolution strategy whose evaluation travels in 12 bytes, and the replay that remembers where rows came from."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.errors import WireError
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.evolution import Evolution, decode_trials, encode_trials
from flocklet.models.policy.methods import fresh_policy
from flocklet.models.policy.replay import Batch, Replay
from flocklet.models.worlds.cartpole import CartPole
from kit.worlds import Chain


def test_evolution_balances_the_pole_without_gradients():
    env = CartPole()
    policy = fresh_policy(env.spec, "es", 0)
    learner = Evolution(env, policy, pairs=8, worlds=4)
    before = iqm(evaluate(env, policy, [3], 20))
    for _ in range(12):
        learner.round()
    policy.load(learner.best)
    assert iqm(evaluate(env, policy, [3], 20)) > 5 * before


def test_a_peer_rebuilds_the_step_from_twelve_bytes_a_trial():
    env = Chain()
    ours, theirs = fresh_policy(env.spec, "es", 0), fresh_policy(env.spec, "es", 0)
    sender = Evolution(env, ours, fitness=lambda world: float(ours.vector[:5].sum()))
    receiver = Evolution(env, theirs, seed=9)
    trials = sender.trials()
    message = encode_trials(trials)
    assert len(message) == 12 * len(trials)
    sender.apply(trials)
    receiver.apply(decode_trials(message))
    assert ours.vector.tobytes() == theirs.vector.tobytes()
    assert not np.array_equal(ours.vector, fresh_policy(env.spec, "es", 0).vector)


@pytest.mark.parametrize("data", [b"x" * 11, b"\xff" * 12, b"\0" * 12 * 5000])
def test_hostile_trials_are_refused(data):
    with pytest.raises(WireError):
        decode_trials(data)


def batch(n, value):
    ones = np.full((n, 2), value, np.float32)
    return Batch(ones, np.zeros(n, np.int32), ones[:, 0], ones, np.zeros(n, bool))


def test_a_replay_forgets_the_oldest_and_knows_its_sources():
    replay, rng = Replay(10, 2, None), np.random.default_rng(0)
    replay.push(batch(6, 1.0), "log")
    replay.push(batch(3, 2.0))
    assert set(replay.sample(50, rng, ["own"]).reward.tolist()) == {2.0}
    assert set(replay.sample(200, rng).reward.tolist()) == {1.0, 2.0}
    replay.push(batch(8, 3.0), "peer")
    assert replay.count == 10
    assert set(replay.sample(200, rng).reward.tolist()) == {2.0, 3.0}
    with pytest.raises(ValueError, match="no transition from log"):
        replay.sample(1, rng, ["log"])
    twin = Replay(10, 2, None)
    twin.load_state(replay.state())
    same = [r.sample(20, np.random.default_rng(1), ["peer"]).reward.tobytes() for r in (replay, twin)]
    assert same[0] == same[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_replay_refuses_what_is_no_number(bad):
    replay = Replay(10, 2, None)
    with pytest.raises(ValueError, match="not finite"):
        replay.push(batch(1, bad), "peer")
    with pytest.raises(ValueError, match="no source"):
        replay.push(batch(1, 1.0), "stranger")
    assert replay.count == 0
