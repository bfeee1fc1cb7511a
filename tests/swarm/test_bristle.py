"""Bristle: what it costs when nobody lies, what it stands, and whom its prioritiser looks at."""

from dataclasses import replace

import numpy as np
import pytest

from flocklet.models.layout import Layout
from flocklet.swarm.aggregators.bristle import Bristle
from flocklet.swarm.attacks.model import Attack
from flocklet.swarm.protocols import Context, Update
from flocklet.swarm.trainers.numpy import Sgd
from kit.swarm_tasks import blobs, simulate


def test_bristle_learns_foreign_classes_and_ignores_noise():
    task = blobs(8, per_peer=2, sizes=(16, 4))
    noise = {6: Attack("noise"), 7: Attack("noise")}
    accuracy = {
        rule: simulate(f"full|sgd(lr=0.05)|{rule}", task, rounds=20, attacks=noise)[1].accuracy
        for rule in ("bristle", "mean")
    }
    assert accuracy["bristle"] > 0.8 and accuracy["bristle"] > accuracy["mean"] + 0.1


@pytest.mark.timeout(120)
def test_bristle_costs_little_when_nobody_lies_and_stands_a_majority_of_noise():
    task = blobs(22, per_peer=2, sizes=(16, 4))
    honest = {
        rule: simulate(f"full|sgd(lr=0.05)|{rule}", task, rounds=20)[1].accuracy
        for rule in ("bristle", "mean")
    }
    assert honest["bristle"] > honest["mean"] - 0.03
    noise = {i: Attack("noise", 0.5) for i in range(10, 22)}
    assert (
        simulate("full|sgd(lr=0.05)|bristle", task, rounds=20, attacks=noise)[1].accuracy
        > honest["mean"] - 0.05
    )


def _prioritised(away: list[float], step: float, **settings) -> list[int]:
    own = np.zeros(4, np.float32)
    updates = [Update(vector=own + np.float32(d / 2), sender=bytes([i])) for i, d in enumerate(away)]
    layout = Layout({"w0": (2, 1), "b0": (2,)})
    context = Context(
        1, b"me", own + np.float32(step / 2), layout, np.random.default_rng(0), degree=len(away)
    )
    return [update.sender[0] for update in Bristle(**settings)._prioritise(own, updates, context)]


def test_bristle_looks_at_the_near_and_some_others_but_not_at_the_far():
    assert _prioritised([1, 1.2, 1.1, 40, 50, 2], 0.5) == [0, 1, 2, 5]
    assert _prioritised([1, 1.2, 1.1, 40, 50, 2], 0.5, reach=100.0) == [0, 1, 2, 3, 4, 5]  # control
    assert len(_prioritised([1.0] * 40, 0.5)) == 25
    assert len(_prioritised([1.0] * 40, 0.5, explore=0)) == 20


def test_peers_that_echo_our_model_do_not_push_the_honest_out():
    assert _prioritised([0.0] * 6 + [3, 3, 3], 1.0) == list(range(9))
    assert _prioritised([0.0] * 6 + [3, 3, 3], 0.0) == list(
        range(6)
    )  # control: nothing but echoes to compare with


def test_attackers_do_not_take_each_other_for_honest():
    attack = Attack("invert", accomplices=frozenset((b"b",)))
    honest, forged = np.ones(3, np.float32), np.full(3, -3.0, np.float32)
    attack.saw([Update(vector=honest, sender=b"a"), Update(vector=forged, sender=b"b")])
    np.testing.assert_array_equal(attack.craft(honest, honest, None), forged)
    alone = Attack("invert")
    alone.saw([Update(vector=honest, sender=b"a"), Update(vector=forged, sender=b"b")])
    np.testing.assert_array_equal(alone.craft(honest, honest, None), np.full(3, 3.0, np.float32))  # control


def test_a_peer_that_holds_its_own_rows_only_learns_and_judges_as_with_all_of_them():
    whole = blobs(6, per_peer=2, sizes=(16, 4))
    for i in range(6):
        part, rng = whole.held_by(i), np.random.default_rng(1)
        plan = Sgd(momentum=0.5).plan(len(whole.shares[i]), rng, 1)
        start = whole.model.init(rng)[None]
        trained = [Sgd(momentum=0.5).train(task, start, [task.shares[i][plan]], 1) for task in (whole, part)]
        np.testing.assert_array_equal(*trained)
        np.testing.assert_array_equal(whole.features[whole.probe], part.features[part.probe])
        np.testing.assert_array_equal(whole.labels[whole.probe], part.labels[part.probe])
        assert len(part.labels) == len(whole.shares[i]) + len(whole.probe) < len(whole.labels)
        assert [len(share) for share in part.shares] == [len(whole.shares[i]) * (j == i) for j in range(6)]
    bare = replace(whole, probe=None)
    assert bare.held_by(0) is bare


def test_bristle_judges_their_output_layer_on_our_hidden_layers():
    task = blobs(3, sizes=(16, 8, 4))
    model, rng = task.model, np.random.default_rng(1)
    own, theirs = model.init(rng), model.init(rng)
    head = Bristle._head(own, theirs, model)
    for name, where in model.layout.slices.items():
        np.testing.assert_array_equal(head[where], (theirs if name in model.output else own)[where])
