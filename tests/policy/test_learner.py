"""Learning works where it should, fails where the control says so, and goes on bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.models.policy.check import check_policy
from flocklet.models.policy.environment import Spec
from flocklet.models.policy.evaluate import compare, evaluate, iqm, summary
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.methods import METHODS, fresh_policy, make_learner
from flocklet.models.policy.policy import NetPolicy
from flocklet.models.policy.soft import SoftLearner, SoftSettings
from flocklet.models.worlds.cartpole import CartPole
from flocklet.models.worlds.pendulum import Pendulum
from kit.worlds import Chain, Point


def train(loss, rounds, seed=0, env=None, **settings):
    env = env or CartPole()
    policy = NetPolicy(env.spec, np.random.default_rng([seed, 0]))
    learner = Learner(env, policy, loss, seed=seed, settings=Settings(rounds=rounds, **settings))
    return policy, [learner.round() for _ in range(rounds)]


def judged(policy, env=None):
    return iqm(evaluate(env or CartPole(), policy, [7], 20))


@pytest.mark.parametrize("loss", ["mdpo", "ppo"])
def test_mirror_descent_and_ppo_balance_the_pole(loss):
    policy, reports = train(loss, 55)
    assert judged(policy) >= 400
    assert max(report.kl for report in reports) <= 0.1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a2c_and_a_single_step_do_not():
    finals = {
        name: [judged(train(name, 98, seed)[0]) for seed in range(3)] for name in ("mdpo", "ppo", "a2c")
    }
    once = [judged(train("mdpo", 98, seed, epochs=1)[0]) for seed in range(3)]
    assert min(finals["mdpo"]) >= 475
    assert min(finals["ppo"]) >= 475
    assert max(finals["a2c"]) < 350
    assert np.median(once) < 0.7 * np.median(finals["ppo"])


def test_the_natural_gradient_keeps_its_trust_region():
    policy, reports = train("npg", 40)
    assert judged(policy) >= 150  # 20 untrained
    assert max(report.kl for report in reports) <= 0.015
    assert max(report.kl for report in reports) > 0.001


def test_an_anchor_keeps_the_policy_near():
    far, near = [], []
    for weight, kept in ((0.0, far), (30.0, near)):
        env, home = CartPole(), NetPolicy(CartPole.spec, np.random.default_rng(5))
        policy = home.copy()
        learner = Learner(env, policy, "mdpo", settings=Settings(rounds=8), anchors=[(home, weight)])
        for _ in range(8):
            learner.round()
        seen = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32) * 0.1
        kept.append(float(policy.dist(seen).kl(home.dist(seen)).mean()))
    assert near[0] < 0.1 * far[0]


def same(one, two):
    return one.keys() == two.keys() and all(one[k].tobytes() == two[k].tobytes() for k in one)


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_state_goes_on_bit_for_bit(method):
    env = Point() if method in ("soft", "mdpo") else Chain()

    def fresh(seed=0):
        policy = fresh_policy(env.spec, method, seed)
        return policy, make_learner(
            method, env, policy, seed=seed, settings=Settings(worlds=4, steps=16, rounds=6)
        )

    whole, learner = fresh()
    if isinstance(learner, SoftLearner):
        learner.settings = SoftSettings(warm=40, refresh=3)
    for at in range(6):
        if at == 3:
            kept = learner.state()
        learner.round(at / 6)
    again, second = fresh()
    if isinstance(second, SoftLearner):
        second.settings = SoftSettings(warm=40, refresh=3)
    second.load_state(kept)
    for at in range(3, 6):
        second.round(at / 6)
    assert same(again.tensors(), whole.tensors())
    other, third = fresh(1)
    for at in range(6):
        third.round(at / 6)
    assert not same(other.tensors(), whole.tensors())
    with pytest.raises(ValueError, match="another learner"):
        second.load_state({"policy": np.zeros(3)})


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("pull", [1.0, 2.5])
def test_off_policy_learning_swings_the_pendulum_up(pull):
    env = Pendulum()
    policy = fresh_policy(env.spec, "soft", 0)
    learner = SoftLearner(env, policy, settings=SoftSettings(pull=pull))
    for _ in range(60):
        learner.round()
    assert judged(policy, env) >= -230
    assert (
        judged(fresh_policy(env.spec, "soft", 0), env) <= -800
    )  # the control: an actor that is never updated


def test_a_hostile_environment_ends_the_run_in_one_line_and_keeps_the_best():
    class Broken(Chain):
        def step(self, state, action, rng):
            turn = super().step(state, action, rng)
            return turn._replace(reward=np.full_like(turn.reward, np.nan))

    with pytest.raises(ValueError, match="chain: a reward is not a finite number"):
        train("mdpo", 1, env=Broken())


@pytest.mark.parametrize("kind", ["mlp", "linear", "table"])
@pytest.mark.parametrize("spec", [Spec("d", seen=5, actions=3), Spec("c", seen=5, controls=2, agents=2)])
def test_policies_keep_the_contract(kind, spec):
    rng = np.random.default_rng(0)
    check_policy(NetPolicy(spec, rng, kind=kind))
    check_policy(NetPolicy(spec, rng, kind=kind, activation="relu", is_squashed=True))


def test_a_policy_that_breaks_the_contract_is_told_which_rule():
    class Other(NetPolicy):
        def to_onnx(self):
            twin = self.copy()
            twin.layers[-1][1][0] += 1.0
            return NetPolicy.to_onnx(twin)

    with pytest.raises(AssertionError, match=r"^onnx: "):
        check_policy(Other(Spec("d", seen=5, actions=3), np.random.default_rng(0)))


def test_an_interval_covers_and_a_comparison_says_no_difference_when_there_is_none():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        found = summary(rng.normal(3.0, 1.0, 40))
        hits += found.low <= 3.0 <= found.high
    assert 85 <= hits <= 99
    base = rng.normal(10, 3, 60)
    assert compare(base, base + rng.normal(0, 0.1, 60)).verdict == "no difference"
    better = compare(base + 1.0, base + rng.normal(0, 0.1, 60))
    assert better.verdict == "the first is better"
    assert better.ratio > 1
    assert compare(-base - 30, -base - 60).ratio > 1
