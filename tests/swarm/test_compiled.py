"""Trainers through tinygrad: what NumPy computes, for every model and rule, in company or alone, compiled once."""

import json
import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.errors import UsageError
from flocklet.kernels.compile.compilers import find_compilers
from flocklet.kernels.descent import Descent, padded_batch
from flocklet.models.mlp import Mlp
from flocklet.models.recommend.factor_learner import FactorLearner
from flocklet.models.search.rerank.features import FEATURES
from flocklet.models.search.rerank.list_learner import ListLearner
from flocklet.swarm.task import Task
from flocklet.swarm.trainers.compiled import Compiled, rule_of, through
from flocklet.swarm.trainers.numpy import Gradient, Sam, Sgd
from kit.swarm_tasks import blobs, simulate

needs_compiler = pytest.mark.skipif(not find_compilers(), reason="no C compiler on the path")
ROWS = 40
MODELS = {
    "mlp": Mlp((6, 9, 4)),  # odd sizes: nothing fits a vector
    "reranker": ListLearner(5),
    "reranker-mlp": ListLearner(5, 7),
    "recommender": FactorLearner(12, 3),
}
TRAINERS = {
    "sgd": Sgd(lr=0.1, steps=4, batch=6, decay=0.5),
    "momentum": Sgd(lr=0.1, steps=4, batch=8, momentum=0.9, epochs=1.0),
    "sam": Sam(lr=0.1, steps=3, batch=5, rho=0.1, momentum=0.5),
    "sam-output": Sam(lr=0.1, steps=3, batch=5, rho=0.1, output_only=True),
    "gradient": Gradient(lr=0.2, batch=16),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep what these tests compile for the module only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCKLET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def task_of(model):
    rng = np.random.default_rng(5)
    if isinstance(model, FactorLearner):
        features, classes = (rng.random((ROWS, model.n_items)) < 0.3).astype(np.float32), model.n_items
    elif isinstance(model, ListLearner):
        lists = rng.normal(size=(ROWS, model.depth, len(FEATURES))).astype(np.float32)
        lists[::3, 3:] = 0.0  # candidates that are missing
        features, classes = lists.reshape(ROWS, -1), 3
    else:
        features, classes = rng.normal(size=(ROWS, model.sizes[0])).astype(np.float32), model.sizes[-1]
    labels = rng.integers(0, classes, ROWS)
    return Task(model, features, labels, features, labels, (np.arange(ROWS),))


def job(model, trainer, peers=5):
    """Return (task, starts, plans): the later a peer, the fewer its steps."""
    rng = np.random.default_rng(6)
    start = np.stack([model.init(rng) for _ in range(peers)])
    start += rng.normal(0, 0.1, start.shape).astype(np.float32)
    plans = [trainer.plan(ROWS, rng, 2) for _ in range(peers)]
    plans = [plan[: max(1, len(plan) - i)] for i, plan in enumerate(plans)]
    return task_of(model), start, plans


@needs_compiler
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("model", "trainer"),
    [
        *((model, "sam") for model in MODELS),
        ("mlp", "sgd"),
        ("mlp", "momentum"),
        ("mlp", "sam-output"),
        ("reranker", "gradient"),
    ],
)
def test_the_result_is_that_of_numpy_and_a_peer_has_its_bits_in_any_company(model, trainer):
    inner = TRAINERS[trainer]
    task, start, plans = job(MODELS[model], inner)
    compiled = through(inner, "tinygrad")
    together = compiled.train(task, start, plans, 2)
    assert compiled.way == "native", compiled.reason
    wanted = inner.train(task, start, plans, 2)
    assert np.abs(wanted - start).max() > 1e-3
    np.testing.assert_allclose(together, wanted, atol=2e-5, rtol=1e-4)
    other = Sgd(lr=inner.lr * 1.5, steps=inner.steps, batch=inner.batch).train(task, start, plans, 2)
    assert np.abs(together - other).max() > 1e-3  # the tolerance can tell rules apart
    assert (compiled.train(task, start, plans, 2) == together).all()
    for i in (0, 3):
        assert (compiled.train(task, start[i : i + 1], plans[i : i + 1], 2)[0] == together[i]).all()


@needs_compiler
@pytest.mark.timeout(60)
def test_frozen_tensors_keep_their_bits():
    inner = Sgd(lr=0.1, steps=2, batch=4, frozen="w0+b1", momentum=0.9)
    task, start, plans = job(MODELS["mlp"], inner)
    trained = through(inner, "tinygrad").train(task, start, plans, 0)
    np.testing.assert_allclose(trained, inner.train(task, start, plans, 0), atol=2e-5)
    for name, where in task.model.layout.slices.items():
        assert (trained[:, where] == start[:, where]).all() == (name in ("w0", "b1")), name
    with pytest.raises(UsageError, match="no tensor 'w9'"):
        through(Sgd(frozen="w9"), "tinygrad").train(task, start, plans, 0)


@needs_compiler
@pytest.mark.timeout(60)
def test_a_swarm_learns_the_same_and_its_log_repeats():
    task, text = blobs(12), "ring|sgd(lr=0.2,steps=3,batch=8)"
    logs = [simulate(text, task, rounds=5, compute="tinygrad")[1] for _ in range(2)]
    plain = simulate(text, task, rounds=5)[1]
    assert logs[0].log_hash == logs[1].log_hash != plain.log_hash
    assert logs[0].bytes == plain.bytes
    assert abs(logs[0].accuracy - plain.accuracy) < 0.01


@needs_compiler
@pytest.mark.timeout(60)
def test_uneven_shares_compile_a_few_batch_sizes_and_no_more(monkeypatch):
    made = []
    original = Descent.compile

    def counted(self, **settings):
        made.append(self.batch)
        return original(self, **settings)

    monkeypatch.setattr(Descent, "compile", counted)
    task, inner = task_of(MODELS["mlp"]), Sgd(lr=0.1, steps=2, batch=12)
    compiled = through(inner, "tinygrad")
    rng = np.random.default_rng(0)
    for count in (1, 3, 200):  # and any number of peers
        for rows in (7, 8, 9, 12, 30):
            start = np.stack([task.model.init(rng) for _ in range(count)])
            plans = [inner.plan(rows, rng, 0) for _ in range(count)]
            trained = compiled.train(task, start, plans, 0)
            np.testing.assert_allclose(trained, inner.train(task, start, plans, 0), atol=2e-5)
    assert made == [8, 12]
    assert [padded_batch(rows, 20) for rows in (1, 2, 3, 9, 16, 17, 20)] == [1, 2, 4, 16, 16, 20, 20]


def test_without_a_compiler_numpy_trains_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setenv("FLOCKLET_CC", "none")
    caplog.set_level(logging.WARNING, "flocklet.swarm")
    inner = Sgd(lr=0.1, steps=2, batch=4)
    task, start, plans = job(MODELS["mlp"], inner)
    compiled = through(inner, "tinygrad")
    for _ in range(2):
        assert (compiled.train(task, start, plans, 0) == inner.train(task, start, plans, 0)).all()
    assert compiled.way == "numpy" and "no C compiler" in compiled.reason
    assert [record.message.split(":")[0] for record in caplog.records] == ["trainers compute with NumPy"]


class _Linear(Mlp):
    """A model that says nothing of tinygrad."""

    loss = None


class _Odd(Mlp):
    """A model whose loss makes tinygrad put a sum into a sum."""

    def loss(self, tensors, features, labels):
        return (tensors["w0"].sum((1, 2)).unsqueeze(1) * features.sum(-1) * 1e-3).exp()


def test_what_cannot_be_compiled_is_named(caplog):
    inner = Sgd(steps=1, batch=4)
    task, start, plans = job(_Linear((6, 4)), inner)
    with pytest.raises(UsageError, match="_Linear declares no loss"):
        through(inner, "tinygrad").train(task, start, plans, 0)
    with pytest.raises(UsageError, match="do not compute with 'abacus'"):
        simulate("ring", blobs(4), compute="abacus")
    with pytest.raises(UsageError, match="has no form in tinygrad"):
        through(object(), "tinygrad")
    if find_compilers():
        caplog.set_level(logging.WARNING, "flocklet.swarm")
        task, start, plans = job(_Odd((6, 4)), inner)
        compiled = through(inner, "tinygrad")
        assert (compiled.train(task, start, plans, 0) == inner.train(task, start, plans, 0)).all()
        assert "a sum inside a sum has no C form" in compiled.reason


@needs_compiler
@pytest.mark.timeout(60)
def test_a_warm_start_needs_neither_tinygrad_nor_a_compiler():
    code = textwrap.dedent("""
        import sys, subprocess
        import numpy as np
        if sys.argv[1] == "warm":
            subprocess.Popen = None
        from flocklet.models.mlp import Mlp
        from flocklet.swarm.trainers.compiled import through
        from flocklet.swarm.task import Task
        from flocklet.swarm.trainers.numpy import Sgd
        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 3, 9)
        task = Task(Mlp((5, 4, 3)), features, labels, features, labels, (np.arange(9),))
        trainer = through(Sgd(batch=4, steps=2, lr=float(sys.argv[2])), "tinygrad")
        trained = trainer.train(task, task.model.init(rng)[None], [trainer.plan(9, rng, 0)], 0)
        assert trainer.way == "native", trainer.reason
        assert ("tinygrad" in sys.modules) == (sys.argv[1] == "cold")
    """)
    for heat, rate in (("cold", "0.1"), ("warm", "0.1"), ("warm", "0.3")):  # the rate is no part of the code
        subprocess.run([sys.executable, "-c", code, heat, rate], check=True)


def test_the_code_is_named_by_model_rule_and_settings():
    task = task_of(MODELS["mlp"])
    key = rule_of(Sgd(), task).key
    assert key and key == rule_of(Sgd(lr=0.7, steps=9), task).key
    others = [
        rule_of(Sam(), task).key,
        rule_of(Sam(rho=0.1), task).key,
        rule_of(Sgd(momentum=0.9), task).key,
        rule_of(Sgd(), task_of(Mlp((6, 8, 4)))).key,
        rule_of(Sgd(), task_of(MODELS["reranker"])).key,
        rule_of(Sgd(), task_of(FactorLearner(12, 3, ridge=0.2))).key,
        rule_of(Sgd(), task_of(FactorLearner(12, 3, ridge=0.3))).key,
    ]
    assert len({key, *others}) == len(others) + 1
    learner = Mlp((6, 4))
    learner.teacher = object()  # what cannot be named is not looked up
    assert rule_of(Sgd(), task_of(learner)).key == ""


@needs_compiler
def test_what_does_not_fit_is_refused_before_c_sees_it():
    inner = Sgd(steps=2, batch=12)
    task, start, plans = job(MODELS["mlp"], inner)
    steps = Descent(rule_of(inner, task), 12).compile()
    for wrong in (
        (start[:2], task.features, task.labels, plans),
        (start.astype(np.float64), task.features, task.labels, plans),
        (start, task.features[:, :3], task.labels, plans),
        (start, task.features[:5], task.labels[:5], plans),
        (start, task.features, task.labels, [plan - 99 for plan in plans]),
        (start, task.features, task.labels, [np.zeros((1, 13), np.int64)] * len(start)),
    ):
        with pytest.raises(ValueError):
            steps.run(*wrong, 0.1)
    steps.run(start[:0], task.features, task.labels, [], 0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "trainer", [Sgd(lr=0.1, momentum=0.9, steps=3, batch=2), Sam(lr=0.1, steps=3, batch=1)]
)
def test_the_form_for_a_gpu_computes_the_same_on_tinygrads_interpreter(trainer):
    task, start, plans = job(Mlp((2, 2, 2)), trainer, peers=2)
    trained = Compiled(trainer, "PYTHON").train(task, start, plans, 1)
    np.testing.assert_allclose(trained, trainer.train(task, start, plans, 1), atol=2e-5)


@needs_compiler
@pytest.mark.timeout(60)
def test_the_verb_takes_the_way_to_compute(capsys, tmp_path):
    arguments = [
        "--home",
        str(tmp_path),
        "--json",
        "swarm",
        "simulate",
        "--peers",
        "4",
        "--model",
        "reranker",
    ]
    arguments += ["--strategy", "fedavg|sgd(lr=0.03,steps=2,batch=4)", "--rounds", "2"]
    found = {}
    for way in ("numpy", "tinygrad"):
        assert main([*arguments, "--compute", way]) == 0
        found[way] = json.loads(capsys.readouterr().out)
    assert found["numpy"]["log"] != found["tinygrad"]["log"]
    assert abs(found["numpy"]["curve"][-1][3] - found["tinygrad"]["curve"][-1][3]) < 0.01
