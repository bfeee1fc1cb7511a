"""Rankers, recommenders and matching in a swarm: right gradients, better than alone, and loadable on a device."""

import asyncio
import itertools
import json

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.errors import UsageError
from flocklet.models.mlp import Mlp
from flocklet.models.recommend.factor_learner import FactorLearner
from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.likes import Profile
from flocklet.models.search.rerank.features import FEATURES
from flocklet.models.search.rerank.list_learner import ListLearner
from flocklet.models.search.rerank.pdgd import PdgdRanker
from flocklet.swarm.aggregators.dimat import assign, matched
from flocklet.swarm.lan.launcher import launch
from flocklet.swarm.tasks.catalogue import CATALOGUE, make_task
from flocklet.swarm.verify import SimHash, majority
from kit.swarm_tasks import blobs, simulate


@pytest.fixture(scope="module")
def tasks():
    return {name: make_task(name, 4, 1) for name in ("reranker", "reranker-mlp", "recommender")}


def rows_of(learner, rng, peers, batch):
    if isinstance(learner, FactorLearner):
        return (rng.random((peers, batch, learner.n_items)) < 0.3).astype(np.float32)
    return rng.normal(size=(peers, batch, learner.depth * len(FEATURES))).astype(np.float32)


@pytest.mark.parametrize("learner", [ListLearner(5), ListLearner(5, 7), FactorLearner(12, 3)])
def test_gradients_are_slopes_and_bits_do_not_depend_on_company(learner):
    rng = np.random.default_rng(0)
    params = np.stack([learner.init(rng) for _ in range(4)])
    params += rng.normal(0, 0.1, params.shape).astype(np.float32)
    features, labels = rows_of(learner, rng, 4, 6), rng.integers(0, 5, (4, 6))
    together, loss = learner.gradient(params, features, labels)
    for i in range(4):
        alone, one = learner.gradient(params[i : i + 1], features[i : i + 1], labels[i : i + 1])
        assert (alone[0] == together[i]).all() and one[0] == loss[i]
    step = np.zeros_like(params)
    for at in rng.choice(params.shape[1], 8, replace=False):
        step[:] = 0
        step[:, at] = 1e-2
        rise = learner.gradient(params + step, features, labels)[1]
        fall = learner.gradient(params - step, features, labels)[1]
        if isinstance(
            learner, FactorLearner
        ):  # the ridge on people and items is no part of the reported loss
            continue
        np.testing.assert_allclose((rise - fall) / 2e-2, together[:, at], atol=3e-3)


def test_the_gradient_of_item_vectors_is_that_of_the_whole_loss():
    learner, rng = FactorLearner(10, 3), np.random.default_rng(1)
    params = learner.init(rng)[None].astype(np.float64)
    profiles = (rng.random((1, 5, 10)) < 0.4).astype(np.float64)

    def loss(x):
        people = learner.people(x, profiles)
        items = x.reshape(10, 3)
        scores = people[0] @ items.T
        fit = (profiles[0] * (1 - scores) ** 2).sum() + 0.1 * (scores**2).sum() + 0.3 * (people**2).sum()
        return fit / 5 + 0.3 * (items**2).sum() / 10

    gradient = learner.gradient(params, profiles, np.zeros((1, 5), int))[0][0]
    for at in range(0, 30, 4):
        step = np.zeros_like(params)
        step[0, at] = 1e-3
        assert (loss(params + step) - loss(params - step)) / 2e-3 == pytest.approx(gradient[at], abs=2e-3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("reranker", "fedavg|int4"),
        ("reranker", "full|trimmed(0.3)|vc"),
        ("reranker", "poisson"),
        ("reranker-mlp", "modest(s=3)|int8"),
        ("recommender", "ring|metropolis"),
        ("recommender", "window(0.05)"),
    ],
)
def test_any_strategy_trains_rankers_and_recommenders(tasks, name, text):
    task = tasks[name]
    report = simulate(f"{text}|{CATALOGUE[name].trainer}", task, rounds=8, every=8)[1]
    start = task.accuracy(task.model.init(np.random.default_rng(0))[None])[0]
    assert report.accuracy > start + (0.01 if "rank" in name else 0.08) and not report.refused


def test_what_a_swarm_learns_goes_into_a_device(tasks):
    for name, is_deep in (("reranker", False), ("reranker-mlp", True)):
        task = tasks[name]
        x = simulate(f"fedavg|{CATALOGUE[name].trainer}", task, rounds=4)[0].peers[0].x
        ranker = PdgdRanker(np.random.default_rng(0), is_deep=is_deep)
        ranker.load(task.model.layout.split(x))
        listed = task.test_features[0].reshape(-1, len(FEATURES))
        present = listed.any(axis=1)
        ours = task.model.scores(x[None], task.test_features[:1])[0, 0][present]
        np.testing.assert_allclose(ranker.scores(listed[present]), ours, rtol=1e-4, atol=1e-5)
    task = tasks["recommender"]
    x = simulate(f"fedavg|{CATALOGUE['recommender'].trainer}", task, rounds=4)[0].peers[0].x
    factors = Factors(rank=task.model.rank)
    factors.use(task.model.layout.split(x)["items"])
    hits = 0
    for profile, hidden in zip(task.test_features, task.test_labels, strict=True):
        scores = factors.score(Profile(np.flatnonzero(profile)))
        scores[profile > 0] = -np.inf
        hits += int((scores > scores[hidden]).sum() < 10)
    assert hits / len(task.test_labels) > 0.2  # 10 of 109 by chance


def test_a_swarm_recommends_better_than_each_alone(tasks):
    task = tasks["recommender"]
    text = f"full(deadline=0.1)|{CATALOGUE['recommender'].trainer}"
    together = simulate(text, task, rounds=10, every=10)[1].accuracy
    alone = simulate(text, task, rounds=10, every=10, graph=[[] for _ in range(4)])[1].accuracy
    assert together > alone + 0.01


def test_unknown_models_are_named():
    with pytest.raises(UsageError, match="no model"):
        make_task("poems", 3, 1)


def test_the_verb_learns_a_recommender(capsys):
    arguments = ["swarm", "simulate", "--peers", "4", "--model", "recommender", "--strategy", "fedavg"]
    assert main([*arguments, "--rounds", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "recommender" and told["curve"][-1][0] == 3


@pytest.mark.parametrize(
    ("model", "text"), [("recommender", "fedavg|int4"), ("recommender", "ring|int8|metropolis")]
)
async def test_processes_over_tcp_learn_what_the_simulation_learns(model, text):
    """Three processes, TLS over loopback TCP, no multicast: the same models, bit for bit."""
    text = f"{text}|{CATALOGUE[model].trainer}"
    real = await launch(3, text, seed=1, rounds=3, model=model, is_mdns_on=False)
    models = {(round, name) for summary in real.summaries for round, name in summary["models"]}
    report = (await asyncio.to_thread(simulate, text, make_task(model, 3, 1), rounds=3))[1]
    assert models == set(report.model_ids) and len(models) >= 3
    assert real.bytes_out > 0 and all(not summary["refused"] for summary in real.summaries)


def test_assignments_are_the_cheapest():
    rng = np.random.default_rng(0)
    for n in (1, 2, 4, 6):
        for _ in range(10):
            cost = rng.normal(size=(n, n))
            found = assign(cost)
            assert sorted(found.tolist()) == list(range(n))
            best = min(cost[range(n), order].sum() for order in itertools.permutations(range(n)))
            assert cost[range(n), found].sum() == pytest.approx(best)


def test_matching_undoes_a_permutation_and_averaging_does_not():
    model, rng = Mlp((16, 12, 9, 4)), np.random.default_rng(3)
    x = model.init(rng)
    tensors = {name: tensor.copy() for name, tensor in model.layout.split(x).items()}
    for layer, width in ((0, 12), (1, 9)):
        order = rng.permutation(width)
        tensors[f"w{layer}"], tensors[f"b{layer}"] = (
            tensors[f"w{layer}"][:, order],
            tensors[f"b{layer}"][order],
        )
        tensors[f"w{layer + 1}"] = tensors[f"w{layer + 1}"][order]
    shuffled = model.layout.join(tensors)
    probe = rng.normal(size=(200, 16)).astype(np.float32)
    assert np.abs(shuffled - x).max() > 0.1
    np.testing.assert_allclose(matched(model, x, shuffled, probe), x, atol=1e-6)


def test_matching_saves_the_average_of_models_from_different_starts():
    task = blobs(6, rows=900)
    text = "full|sgd(lr=0.2,steps=60,batch=20)"
    plain, ours = (
        simulate(text + rule, task, rounds=1, shared_start=False)[1].accuracy for rule in ("", "|matching")
    )
    assert ours > plain + 0.03


def test_fingerprints_of_a_batch_tell_models_apart_and_forgive_rounding():
    rng = np.random.default_rng(0)
    model, inputs = Mlp((16, 12, 4)), rng.normal(size=(64, 16)).astype(np.float32)
    x = model.init(rng)
    outputs = model.forward(x[None], inputs[None])[-1][0]
    other = model.forward(model.init(rng)[None], inputs[None])[-1][0]
    check = SimHash()
    honest = check.fingerprint(outputs)
    noisy = check.fingerprint(outputs + rng.normal(0, 1e-5, outputs.shape).astype(np.float32))
    assert check.agree(honest, noisy) and not check.agree(honest, check.fingerprint(other))
    assert not check.agree(honest, honest[:-1]) and not check.agree(b"", b"")
    assert majority([True, True, False]) and not majority([True, False]) and not majority([])


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("nowhere/x.svg", "no folder"),
        ("x.png", "must end in .svg"),
        (".", "must end in"),
        ("taken.svg", "cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_told_before_anybody_learns(place, told, tmp_path, capsys):
    (tmp_path / "taken.svg").mkdir()
    arguments = [
        "swarm",
        "simulate",
        "--model",
        "reranker",
        "--strategy",
        "fedavg",
        "--plot",
        str(tmp_path / place),
    ]
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert told in error and len(error.splitlines()) == 1 and not out
