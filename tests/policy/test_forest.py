"""Trees that learn to act: on numbers, on codes, as ONNX, as a small copy, as C on an emulated core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flocklet.firmware_export.trees.fit import Splits, fit_oblivious
from flocklet.firmware_export.trees.oblivious_onnx import read_oblivious
from flocklet.firmware_export.trees.tree_export import export_trees
from flocklet.firmware_export.trees.tree_file import load_trees
from flocklet.firmware_export.trees.tree_model import export_tree_model
from flocklet.firmware_export.verify import unicorn_engine
from flocklet.models.policy.check import check_policy
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.explain import importance, rules
from flocklet.models.policy.forest import ForestPolicy
from flocklet.models.policy.forest_learner import ForestLearner, ForestSettings
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.policy import NetPolicy
from flocklet.models.policy.small_copy import small_copy
from flocklet.models.worlds.cartpole import CartPole
from flocklet.models.worlds.dispatch import Dispatch
from flocklet.onnx_io.model import OnnxSession


def grown(env, rounds, seed=0, **settings):
    policy = ForestPolicy(env.spec)
    learner = ForestLearner(env, policy, seed=seed, settings=ForestSettings(**settings))
    for _ in range(rounds):
        learner.round()
    policy.load(learner.best)
    return policy


def learning(env, rounds, seed, **settings):
    """Return what the best policy returns greedily and what the last episodes returned while it still sampled."""
    policy = ForestPolicy(env.spec)
    learner = ForestLearner(env, policy, seed=seed, settings=ForestSettings(**settings))
    curve = [learner.round().mean_return for _ in range(rounds)]
    policy.load(learner.best)
    return judged(env, policy), curve[-1]


def judged(env, policy):
    return iqm(evaluate(env, policy, [7], 40))


@pytest.fixture(scope="module")
def pole():
    return grown(CartPole(), 35)


@pytest.fixture(scope="module")
def sender():
    return grown(Dispatch(), 36, fold=256)


class Ordered(Dispatch):
    """The same task with codes taken for numbers."""

    spec = replace(Dispatch.spec, categorical=())


def test_a_forest_balances_the_pole(pole):
    assert judged(CartPole(), pole) >= 120  # 20 before


def test_codes_are_split_by_equality(sender):
    assert judged(Dispatch(), sender) >= 17.5
    assert sender.count <= 256
    assert sender.trees().equal.any()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_makes_the_forest_learn():
    many, once = ([learning(CartPole(), 98, seed, epochs=epochs) for seed in range(2)] for epochs in (4, 1))
    assert min(final for final, _ in many) >= 475
    assert max(sampled for _, sampled in once) <= 400 < min(sampled for _, sampled in many)
    assert judged(Ordered(), grown(Ordered(), 59, fold=256)) <= 17.4
    env = Ordered()
    policy = NetPolicy(env.spec, np.random.default_rng(0))
    learner = Learner(env, policy, "ppo", settings=Settings(rounds=59))
    for _ in range(59):
        learner.round()
    assert judged(env, policy) <= 15.5


def test_policies_of_trees_keep_the_contract(pole):
    check_policy(pole)
    with pytest.raises(ValueError, match="continuous controls"):
        ForestPolicy(replace(CartPole.spec, actions=None, controls=1))
    with pytest.raises(ValueError, match="do not fit"):
        pole.load({**pole.tensors(), "leaf": np.zeros((2, 4, 3), np.float32)})
    with pytest.raises(ValueError, match="does not show"):
        pole.load({**pole.tensors(), "feature": pole.tensors()["feature"] + 9})


def test_onnxruntime_and_our_reader_give_the_same_trees(sender, pole, tmp_path):
    for policy, x in (
        (sender, np.random.default_rng(0).integers(12, size=(500, 6)).astype(np.float32)),
        (pole, np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)),
    ):
        (tmp_path / "p.onnx").write_bytes(policy.to_onnx())
        (out,) = OnnxSession(policy.to_onnx()).run({"x": x}).values()
        read = read_oblivious(tmp_path / "p.onnx")
        assert read is not None
        assert np.array_equal(read.predict(x), policy.trees().predict(x))
        assert np.abs(out - read.predict(x)).max() < 1e-4


def test_an_export_of_codes_keeps_its_tables(sender, tmp_path):
    made = small_copy(sender, Dispatch(), np.random.default_rng(0))
    assert made is not None
    (tmp_path / "s.onnx").write_bytes(made.policy.to_onnx())
    manifest = export_tree_model(tmp_path / "s.onnx", tmp_path / "c")
    assert manifest["kind"] == "oblivious_trees"
    assert manifest["table_bytes"] <= 4096
    x = np.random.default_rng(0).integers(12, size=(300, 6)).astype(np.float32)
    assert np.array_equal(load_trees(tmp_path / "c" / "model.npz").predict(x), made.trees.predict(x))


def test_a_small_copy_is_accepted_by_its_return(sender, tmp_path):
    made = small_copy(sender, Dispatch(), np.random.default_rng(0))
    assert made is not None
    assert made.copy_return >= 0.95 * made.teacher_return
    assert made.trees.table_bytes <= 4096
    assert judged(Dispatch(), made.policy) >= 17
    hopeless = small_copy(sender, Dispatch(), np.random.default_rng(0), sizes=((1, 1),))
    assert hopeless is None


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_small_copy_of_the_pole_runs_in_the_emulator_bit_for_bit(tmp_path):
    if not unicorn_engine.available():
        pytest.skip("the package unicorn is not installed")
    from flocklet.firmware_export.trees.tree_proof import verify_trees

    for env, rounds, x in (
        (CartPole(), 98, np.random.default_rng(1).normal(size=(10_000, 4)) * [1, 1, 0.1, 1]),
        (Dispatch(), 45, np.random.default_rng(1).integers(12, size=(10_000, 6))),
    ):
        made = small_copy(
            grown(env, rounds, fold=256 if env.spec.categorical else 0), env, np.random.default_rng(0)
        )
        assert made is not None
        export_trees(made.trees, tmp_path, name="small")
        report = verify_trees(made.trees, tmp_path, name="small", x=x.astype(np.float32), cc=("zig",))
        assert report.verified
        assert made.trees.table_bytes <= 4096


def test_a_categorical_tree_cannot_be_copied_by_order():
    rng = np.random.default_rng(0)
    x = rng.integers(12, size=(2000, 1)).astype(np.float32)
    y = np.isin(x[:, 0], [1, 4, 9]).astype(float)
    equal, ordered = (fit_oblivious(x, y, trees=6, depth=1, rate=1.0, categorical=c) for c in ((0,), ()))
    assert np.mean((equal.predict(x)[:, 0] - y) ** 2) < 1e-3
    assert np.mean((ordered.predict(x)[:, 0] - y) ** 2) > 0.05


def test_one_split_is_the_best_of_all():
    rng = np.random.default_rng(0)
    x, goal = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    splits = Splits(x, bins=8)
    tree = splits.grow(splits.passed(x), goal, 1)
    best = []
    for j, t in zip(splits.feature, splits.threshold, strict=True):
        side = x[:, j].astype(np.float32) > t
        best.append(sum(np.square(goal[s].sum(axis=0)).sum() / (s.sum() + 1.0) for s in (side, ~side)))
    assert tree.chosen == [int(np.argmax(best))]
    assert tree.gain[0] == pytest.approx(max(best), rel=1e-5)


def test_explaining_finds_the_column_that_counts_and_ranks_noise_last(sender):
    found = importance(sender, Dispatch(), np.random.default_rng(0))
    assert found[0].column == 0
    assert found[0].low > 10 * found[-1].high
    assert all(rule.is_equal and rule.column == 0 for rule in rules(sender.trees(), 5))

    class Noisy(CartPole):
        spec = replace(CartPole.spec, seen=5)

        def observe(self, state, rng):
            plain = super().observe(state, rng)
            return np.concatenate([plain, rng.normal(size=(len(plain), 1, 1)).astype(np.float32)], axis=2)

    env = Noisy()
    policy = NetPolicy(env.spec, np.random.default_rng(0))
    learner = Learner(env, policy, "ppo", settings=Settings(rounds=20))
    for _ in range(20):
        learner.round()
    ranked = [item.column for item in importance(policy, env, np.random.default_rng(0))]
    assert ranked.index(4) >= 3  # noise: last, or beside the cart's place, which hardly counts
