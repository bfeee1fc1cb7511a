"""Several signals: the constraint protects the auxiliaries, the actor reaches the optimum, estimators are unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.models.recommend.signals import Actor, Critic, ReRanker, discounted, log_softmax
from studies.offpolicy import Log, doubly_robust, ips, snips


def critics(seed: int = 1) -> tuple[ReRanker, np.ndarray, dict[str, np.ndarray]]:
    """Two signals that disagree: dwell wants feature 0, like wants feature 1 and dislikes feature 0 a little."""
    rng = np.random.default_rng(seed)
    weights = {"dwell": np.array([1.0, 0.2, 0.0]), "like": np.array([-0.6, 1.0, 0.0])}
    features = rng.normal(size=(4_000, 3))
    made = {}
    for name, true in weights.items():
        made[name] = Critic(1.0)
        made[name].fit(features, features @ true + rng.normal(0, 0.1, 4_000))
    lists = rng.normal(size=(300, 15, 3))
    return ReRanker(made["dwell"], {"like": made["like"]}, {"like": 1.0}), lists, weights


def shown(ranker: ReRanker, lists: np.ndarray, true: np.ndarray) -> float:
    best = ranker.scores(lists).argmax(axis=1)
    return float((lists[np.arange(len(lists)), best] @ true).mean())


def test_the_constraint_is_what_protects_the_auxiliary_signal() -> None:
    ranker, lists, true = critics()
    free = ReRanker(ranker.main, ranker.auxiliary, {})
    assert shown(ranker, lists, true["like"]) > shown(free, lists, true["like"]) + 0.5
    assert shown(free, lists, true["dwell"]) > shown(ranker, lists, true["dwell"])


def test_a_larger_lambda_moves_the_ranking_towards_the_constraint_policy_step_by_step() -> None:
    ranker, lists, _ = critics()
    wanted = ranker.log_policies(lists)["like"].argsort(axis=1).argsort(axis=1)
    likeness = []
    for strength in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0):
        scores = ReRanker(ranker.main, ranker.auxiliary, {"like": strength}).scores(lists)
        ranks = scores.argsort(axis=1).argsort(axis=1)
        likeness.append(float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(ranks, wanted, strict=True)])))
    assert likeness == sorted(likeness)
    assert likeness[-1] > 0.99 > 0.5 > likeness[0]


def test_the_trained_actor_reaches_the_closed_form() -> None:
    ranker, lists, _ = critics()
    actor = Actor(3)
    course = actor.train(ranker, lists)
    optimum = log_softmax(ranker.scores(lists))
    mine = log_softmax(actor.scores(lists))
    assert course[-1] > course[0]
    assert float((np.exp(optimum) * (optimum - mine)).sum(axis=1).mean()) < 0.01  # KL, nats


def test_discounted_sums() -> None:
    rewards = np.array([[1.0, 0.0, 2.0]])
    assert discounted(rewards, 0.5).tolist() == [[1.5, 1.0, 2.0]]
    assert discounted(rewards, 0.0).tolist() == rewards.tolist()


def test_a_strength_needs_its_signal() -> None:
    ranker, _, _ = critics()
    with pytest.raises(ValueError, match="auxiliary"):
        ReRanker(ranker.main, ranker.auxiliary, {"nothing": 1.0})


def logged(rng: np.random.Generator, rows: int = 10_000) -> tuple[Log, np.ndarray, np.ndarray, float]:
    """A skewed logger of five actions and a new policy that prefers what the logger avoids."""
    chance = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    reward = np.array([0.1, 0.2, 0.3, 0.4, 0.6])
    action = rng.choice(5, rows, p=chance)
    log = Log(action, (rng.random(rows) < reward[action]).astype(float), chance[action])
    policy = np.tile(chance[::-1], (rows, 1))
    return log, policy, np.tile(reward, (rows, 1)), float(chance[::-1] @ reward)


def test_estimators_find_the_value_that_the_plain_mean_misses() -> None:
    rng = np.random.default_rng(2)
    log, policy, model, true = logged(rng)
    for guess in (ips(log, policy, rng), snips(log, policy, rng), doubly_robust(log, policy, model, rng)):
        assert guess.value == pytest.approx(true, abs=0.03)
        assert guess.low < guess.value < guess.high
        assert guess.effective < 0.5 * len(log.action)
        assert abs(guess.logged - true) > 0.15  # the control: what the logger earned is not the answer


def test_doubly_robust_survives_a_wrong_model_and_gains_by_a_right_one() -> None:
    rng = np.random.default_rng(3)
    log, policy, model, true = logged(rng)
    wrong = doubly_robust(log, policy, np.full_like(model, 0.9), rng)
    right = doubly_robust(log, policy, model, rng)
    assert wrong.value == pytest.approx(true, abs=0.05)
    assert right.high - right.low < wrong.high - wrong.low


def test_the_logging_policy_itself_is_valued_at_what_it_earned() -> None:
    rng = np.random.default_rng(4)
    log, _, _, _ = logged(rng)
    same = np.tile(np.array([0.4, 0.3, 0.15, 0.1, 0.05]), (len(log.action), 1))
    for estimate in (ips(log, same, rng), snips(log, same, rng)):
        assert estimate.value == pytest.approx(estimate.logged)
        assert estimate.effective == pytest.approx(len(log.action))


def test_a_log_without_propensities_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity"):
        Log(np.array([0]), np.array([1.0]), np.array([0.0]))
