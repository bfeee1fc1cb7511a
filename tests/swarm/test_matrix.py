"""The matrix of attacks and rules: its fast paths change nothing, its attacks and rules do what they say, its picture."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from flocklet.models.mlp import Mlp
from flocklet.plots.swarm import heat_map
from flocklet.swarm.aggregators import rules as robust
from flocklet.swarm.attacks.model import Attack, forge
from flocklet.swarm.sim.laboratory import LAB_ATTACKS, LAB_RULES, attack_success, contest, duel
from flocklet.swarm.tasks.digits import Images
from kit.swarm_tasks import blobs, simulate

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import swarm_matrix

    yield swarm_matrix
    for name in ("swarm_matrix", "swarm_matrix_gossip"):
        sys.modules.pop(name, None)


@pytest.fixture
def images():
    """Ten classes of noisy 14 x 14 pictures: enough for the matrix of MNIST to run, not to mean anything."""
    rng = np.random.default_rng(0)
    centres = rng.random((10, 196))
    labels = rng.integers(0, 10, 24000)
    features = np.clip(centres[labels] + rng.normal(0, 0.3, (24000, 196)), 0, 1).astype(np.float32)
    return Images(features[:20000], labels[:20000]), Images(features[20000:], labels[20000:])


@pytest.mark.parametrize("p", [*range(1, 18), 70])
def test_columns_are_sorted_as_numpy_sorts_them(p):
    rows = np.random.default_rng(p).normal(size=(p, 40)).astype(np.float32)
    rows[:, :5] = np.round(rows[:, :5])  # ties
    kept = rows.copy()
    np.testing.assert_array_equal(np.stack(robust.sorted_columns(rows)), np.sort(rows, axis=0))
    np.testing.assert_array_equal(robust.median(rows), np.median(rows, axis=0))
    np.testing.assert_array_equal(rows, kept)
    rows[0, 0] = np.nan
    np.testing.assert_array_equal(np.stack(robust.sorted_columns(rows)), np.sort(rows, axis=0))
    assert np.isnan(robust.median(rows)[0])


def test_one_gradient_call_for_many_models_gives_each_the_bits_that_it_has_alone():
    rng = np.random.default_rng(0)
    model = Mlp((16, 12, 4))
    models = np.stack([model.init(rng) for _ in range(3)])
    features, labels = rng.random((5, 8, 16), np.float32), rng.integers(0, 4, (5, 8))
    together, losses = model.gradient(models[:, None], features, labels)
    for x, found, loss in zip(models, together, losses, strict=True):
        alone = model.gradient(np.broadcast_to(x, (5, x.size)).copy(), features, labels)
        np.testing.assert_array_equal(found, alone[0])
        np.testing.assert_array_equal(loss, alone[1])


@pytest.mark.parametrize("attack", ["noise", "drop 80 %", "replay", "stale", "x(-10)", "sybil clones"])
def test_rules_side_by_side_get_what_they_get_alone(attack):
    task, rules = blobs(15, rows=900), ("mean", "cclip", "bucketing+median", "foolsgold+history")
    together = contest(task, rules, attack, f=3, rounds=12, seed=1)
    assert together == {rule: duel(task, rule, attack, f=3, rounds=12, seed=1) for rule in rules}


def test_every_cell_of_the_laboratory_runs():
    task = blobs(15, rows=900, sizes=(16, 4))
    for attack in LAB_ATTACKS:
        found = contest(task, LAB_RULES, attack, f=3, rounds=2, seed=1)
        assert set(found) == set(LAB_RULES)
        assert all(0 <= value <= 1 for cell in found.values() for value in cell)


def test_clones_are_cut_by_foolsgold_and_believed_by_krum():
    task = blobs(15, rows=1500, sizes=(16, 4))
    success = {
        rule: cell[1]
        for rule, cell in contest(
            task, ("foolsgold", "foolsgold+history", "mean", "krum"), "sybil clones", f=8, rounds=60, seed=1
        ).items()
    }
    assert max(success["foolsgold"], success["foolsgold+history"]) < 0.1
    assert min(success["mean"], success["krum"]) > 0.3  # the controls


def test_what_never_changes_costs_less_than_a_lie():
    task = blobs(15, rows=1500)
    clean = duel(task, "mean", "none", f=3, rounds=60, seed=1)[0]
    for attack in ("stale", "replay", "free rider", "drop 80 %"):
        assert duel(task, "mean", attack, f=3, rounds=60, seed=1)[0] > clean - 0.1
    assert duel(task, "mean", "x(-10)", f=3, rounds=60, seed=1)[0] < clean - 0.2  # the control


def test_dropped_values_are_zero_and_the_others_stay():
    own = np.arange(1, 10001, dtype=np.float32)
    out = forge("drop", own[None], own, np.random.default_rng(0), 0.8)
    assert set(np.flatnonzero(out) + 1) == set(out[out > 0].astype(int)) and 0.75 < np.mean(out == 0) < 0.85


def test_success_is_the_share_of_answers_that_the_attacker_wants():
    task = blobs(4, sizes=(16, 4))
    good = simulate("full|sgd(lr=0.3)|mean", task, rounds=15)[0].peers[0].x[None]
    swapped = good.copy()
    for where, shape in ((task.model.layout.slices[n], task.model.layout.shapes[n]) for n in ("w0", "b0")):
        swapped[0, where] = good[0, where].reshape(shape)[..., [1, 0, 2, 3]].reshape(-1)
    reverse = good.copy()
    for where, shape in ((task.model.layout.slices[n], task.model.layout.shapes[n]) for n in ("w0", "b0")):
        reverse[0, where] = good[0, where].reshape(shape)[..., ::-1].reshape(-1)
    for attack, bad in (("label flip", swapped), ("sybil clones", swapped), ("labels reversed", reverse)):
        assert attack_success(task, bad, attack) > 0.9 > 0.1 > attack_success(task, good, attack)
    assert attack_success(task, swapped, "noise") == 0


def test_dissensus_drives_the_mean_and_metropolis_apart_and_not_the_median():
    task = blobs(10, sizes=(16, 4), alpha=0.5)  # peers that agree leave nothing to push apart
    for rule in ("mean", "metropolis", "median"):
        accuracy = [
            simulate(f"regular(6)|sgd(lr=0.1)|{rule}", task, rounds=20, attacks=attacks)[1].accuracy
            for attacks in ({}, {8: Attack("dissensus", 4.0), 9: Attack("dissensus", 4.0)})
        ]
        assert accuracy[0] > 0.9
        assert accuracy[1] > 0.9 if rule == "median" else accuracy[1] < 0.8, (rule, accuracy)


@pytest.mark.timeout(120)
def test_cells_between_neighbours_run_for_every_rule_and_attack(matrix, images):
    import swarm_matrix_gossip as gossip

    for attack in gossip.ATTACKS:
        task, graph, liars = gossip.setting(images, 1, attack)
        is_sybil = attack.startswith("sybil")
        assert len(liars) == (0 if attack == "none" else gossip.SYBILS if is_sybil else gossip.LIARS)
        assert all(
            len(set(row) & set(liars)) <= (3 if is_sybil else gossip.MOST) for row in graph[: gossip.PEERS]
        )
        accuracy, success = gossip.cell(task, graph, liars, 1, attack, "mean", rounds=1)
        assert 0 <= accuracy <= 1 and 0 <= success <= 1
    task, graph, liars = gossip.setting(images, 1, "noise")
    for rule in gossip.RULES:
        assert gossip.cell(task, graph, liars, 1, "noise", rule, rounds=2)[0] > 0.05, rule


def test_a_measured_cell_is_never_measured_again(matrix, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "load_mnist", lambda: images)
    asked = []

    class Small(matrix.Laboratory):
        splits, attacks, rules = ("IID",), ("none", "backdoor"), ("mean", "krum")

        def measure(self, mnist, seed, split, attack, rules):
            asked.append((seed, attack, tuple(rules)))
            yield from ((rule, (0.9 if rule == "mean" else 0.5, 0.25)) for rule in rules)

    keep, found = tmp_path / "cells.json", {"IID|none|mean|1": (0.8, 0.0)}
    matrix.measure(Small(), found, range(1, 3), float("inf"), keep)
    assert asked == [(1, "none", ("krum",)), (1, "backdoor", ("mean", "krum")), (2, "none", ("mean", "krum")),
                     (2, "backdoor", ("mean", "krum"))]  # fmt: skip
    asked.clear()
    matrix.measure(Small(), matrix.json.loads(keep.read_text()), range(1, 3), float("inf"), keep)
    assert not asked
    matrix.show(Small(), found, tmp_path)
    shown = capsys.readouterr().out
    assert "| none | **.850** | .500 |" in shown and "| backdoor | **.900** / 25 % | .500 / 25 % |" in shown
    assert ".850" in (tmp_path / "swarm-laboratory-iid.svg").read_text()


def test_the_heat_map_shows_every_number_and_frames_the_best():
    values = {("a<b", "mean"): 0.1, ("a<b", "krum"): 0.9, ("c", "mean"): 0.612, ("c", "krum"): 0.6}
    text = heat_map(("a<b", "c"), ("mean", "krum"), values, title="T & T", notes={("c", "krum"): "7 %"})
    root = ElementTree.fromstring(text)
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert {"T & T", "a<b", "c", "mean", "krum", ".100", ".900", ".612", ".600", "7 %"} <= set(words)
    bold = [
        node.text for node in root.iter(f"{SVG}text") if node.get("font-weight") and str(node.text)[0] == "."
    ]
    assert bold == [".900", ".612"]
    frames = [node for node in root.iter(f"{SVG}rect") if node.get("fill") == "none"]
    assert len(frames) == 3  # one a row, one in the legend
    fills = [node.get("fill", "") for node in root.iter(f"{SVG}path")]
    light = [sum(w * int(f[at : at + 2], 16) for at, w in ((1, 0.3), (3, 0.59), (5, 0.11))) for f in fills]
    assert light[0] < light[3] < light[2] < light[1]  # order survives without colours
