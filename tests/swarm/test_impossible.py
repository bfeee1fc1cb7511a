"""Numbers and combinations that no swarm can have: one line that names them, exit code 2; peers that have nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flocklet.__main__ import main
from flocklet.errors import UsageError
from flocklet.models.layout import Layout
from flocklet.swarm.aggregators.averaging import Mean, Metropolis
from flocklet.swarm.protocols import Context, Message, Update
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.strategy import Strategy
from kit.faulty_swarm import Faulty
from kit.swarm_tasks import blobs, simulate


def context(n: int = 1) -> Context:
    start = np.zeros(2, np.float32)
    return Context(1, b"z", start, Layout({"w": (2,)}), np.random.default_rng(0), n=n)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "-1"], "--seed"),
        (["--peers", "1"], "--peers"),
        (["--peers", "99999999999"], "--peers"),
        (["--rounds", "0"], "--rounds"),
        (["--strategy", "fedavg|sgd(lr=nan)"], "nan"),
        (["--strategy", "fedavg|sgd(lr=inf)"], "inf"),
        (["--strategy", "window(nan)"], "nan"),
        (["--strategy", "ring|bulyan"], "bulyan needs 7 models"),
        (["--strategy", "fedavg|trimmed"], "trimmed needs 5 models"),
        (["--strategy", "poisson|int8"], "poisson"),
        (["--strategy", "poisson|median"], "poisson"),
        (["--attack", "noise", "--attackers", "4"], "attacker"),
    ],
)
def test_one_line_names_what_is_impossible(options, named, capsys):
    arguments = ["--peers", "4", "--rounds", "1", "--model", "reranker", "--strategy", "fedavg", *options]
    assert main([*SIMULATE, *arguments]) == 2
    said = capsys.readouterr().err.strip()
    assert named in said and "Traceback" not in said and len(said.splitlines()) <= 2


SIMULATE = ["swarm", "simulate"]


@pytest.mark.parametrize("text", ["ring|krum", "ring|trimmed", "regular(4)|bulyan", "modest(s=4)|trimmed(0.2)",
                                  "buffer(2)|median", "ba(1)|median", "onepeer|rfa", "ring|trimmed|vc"])  # fmt: skip
def test_a_rule_that_would_be_the_mean_is_refused_and_one_that_is_not_runs(text):
    with pytest.raises(UsageError, match=r"needs \d+ models"):
        Strategy.parse(text).check(20)
    for strong in (
        "regular(6)|bulyan",
        "ring|median",
        "modest(s=5)|trimmed(0.2)",
        "ring|trimmed(0.4)",
        "ring|mean",
    ):
        Strategy.parse(strong).check(20)


def test_the_least_number_of_models_is_where_the_rule_leaves_the_mean():
    rng = np.random.default_rng(1)
    for text in ("trimmed(0.2)", "krum(0.2)", "multikrum(0.2)", "bulyan(0.2)", "median", "trimmed(2)"):
        rule = Strategy.parse(f"full|{text}").aggregator
        rows = rng.normal(size=(rule.least, 6)).astype(np.float32)
        rows[-1] = 1e6  # one liar
        there = [Update(bytes([i]), row) for i, row in enumerate(rows)]
        wide = dataclasses.replace(context(), start=np.zeros(6, np.float32))
        assert np.abs(rule.merge(None, there, wide)).max() < 10, text
        if "krum" in text:  # told of no liar it still leaves out the farthest
            continue
        few = [Update(u.sender, u.vector) for u in there[1:]]
        assert np.abs(rule.merge(None, few, wide)).max() > 10, (
            text
        )  # the control: one model fewer is the mean


@pytest.mark.parametrize("own", [None, np.array([1, 2], np.float32)])
def test_counts_of_nothing_are_the_plain_mean(own):
    updates = [Update(bytes([k]), np.array([3, 4 + k], np.float32), n=0) for k in range(3)]
    for n in (0, 100):
        found = Mean(by_samples=True).merge(own, updates, context(n))
        np.testing.assert_array_equal(found, Mean().merge(own, updates, context(n)))


def test_a_row_count_is_worth_at_most_three_medians():
    updates = [Update(bytes([k]), np.array([0, 0], np.float32), n=100) for k in range(9)]
    liar = Update(b"\x09", np.array([1, 1], np.float32), n=10**9)
    weighted = Mean(by_samples=True).merge(None, [*updates, liar], context())
    np.testing.assert_allclose(weighted, 300 / 1200, rtol=1e-6)
    uncapped = Mean(by_samples=True, cap=1e12).merge(None, [*updates, liar], context())
    assert uncapped[0] > 0.99  # the control: without the cap the liar's model is everybody's


def test_a_metropolis_weight_knows_both_degrees():
    update = Update(b"a", np.array([1, 1], np.float32), degree=9)
    alone = Metropolis().merge(
        np.array([0, 0], np.float32), [update], dataclasses.replace(context(), degree=1)
    )
    np.testing.assert_allclose(alone, 0.1)


def test_a_change_that_overflows_its_base_is_refused():
    task = blobs(3)
    peer = Simulation("full", task, rounds=1).start()
    peer.run()
    one = peer.peers[0]
    huge = {name: np.full(shape, 3e38, np.float32) for name, shape in one.layout.shapes.items()}
    base = np.full(one.layout.size, 3e38, np.float32)
    message = Message("send", 1, huge, n=1, sender=b"s" * 32)
    with np.errstate(over="ignore"):
        assert one.update(message, base) is None and one.refused["finite"] == 1
    assert one.update(message, None) is not None  # the control: alone it is a legal model


def test_a_peer_that_announces_impossible_classes_is_refused():
    for fields in ({"c": 4097}, {"c": -1}, {"c": True}, {"d": 1 << 16}, {"d": "1"}, {"e": 1}, {"c": 4096}):

        def twist(message, fields=fields):
            return [dataclasses.replace(message, body={**message.body, **fields})]

        swarm = Faulty("full(deadline=0.1)", blobs(3), seed=1, rounds=2, twist=twist)
        refused = swarm.run().refused["field"]
        assert refused == (0 if fields == {"c": 4096} else 4), fields


@pytest.mark.parametrize("text", ["fedavg", "modest(s=4)|int8", "full|weighted", "ring", "window(0.05)", "buffer(3)",
                                  "poisson(train=0.1,swap=0.05)"])  # fmt: skip
def test_a_peer_without_rows_takes_part_and_changes_nothing(text):
    task = blobs(7)
    poor = dataclasses.replace(task, shares=(*task.shares[:6], task.shares[6][:0]))
    swarm, report = simulate(text, poor, rounds=12)
    assert report.accuracy > 0.85 and not report.refused and not report.is_dead
    assert float(task.accuracy(swarm.peers[6].x[None])[0]) > 0.8  # it holds what the others learnt


def test_a_training_that_leaves_the_numbers_is_counted_and_not_sent():
    task = blobs(5)
    features = task.features.copy()
    features[task.shares[4]] = np.nan
    swarm, report = simulate("fedavg", dataclasses.replace(task, features=features), rounds=8)
    assert report.refused["diverged"] > 0 and report.accuracy > 0.85
    assert all(np.isfinite(peer.x).all() for peer in swarm.peers)


def test_krum_counts_the_neighbours_of_blanchard():
    """p - f - 2 neighbours: here p - f - 1 and p - f - 3 would each choose another row."""
    from flocklet.swarm.aggregators import rules

    rng, told = np.random.default_rng(0), 0
    for _ in range(300):
        rows = np.concatenate([rng.normal(0, 1, (5, 2)), rng.normal(3, 0.3, (4, 2))]).astype(np.float32)
        distance = np.sort(((rows[:, None].astype(float) - rows[None]) ** 2).sum(axis=2), axis=1)[:, 1:]
        chosen = [
            int(distance[:, :near].sum(axis=1).argmin()) for near in (4, 5, 6)
        ]  # p = 9, f = 2: 5 of them
        np.testing.assert_array_equal(rules.krum(rows, 2), rows[chosen[1]])
        told += len(set(chosen)) == 3
    assert told > 5
