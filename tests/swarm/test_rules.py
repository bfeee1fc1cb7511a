"""Every rule against its definition, against byzfl where that is installed, and under attack with the mean as control."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.errors import UsageError
from flocklet.swarm.aggregators import rules as robust
from flocklet.swarm.aggregators.similarity import flag, fltrust, foolsgold_weights
from flocklet.swarm.attacks.model import Attack, add_sybils, forge
from flocklet.swarm.sim.churn import hubs
from flocklet.swarm.sim.laboratory import LAB_ATTACKS, LAB_RULES, duel
from flocklet.swarm.topologies import barabasi_albert, components, geometric, metropolis, regular, ring
from kit.swarm_tasks import blobs, simulate

F = 2
RULES = {
    "mean": lambda s: s.mean(axis=0),
    "median": robust.median,
    "trimmed": lambda s: robust.trimmed_mean(s, F),
    "krum": lambda s: robust.krum(s, F),
    "multikrum": lambda s: robust.multi_krum(s, F),
    "bulyan": lambda s: robust.bulyan(s, F),
    "rfa": robust.geometric_median,
    "cclip": robust.centred_clipping,
    "flag": flag,
}


def stack(seed, p=12, n=30):
    return np.random.default_rng(seed).normal(size=(p, n)).astype(np.float32)


# Bulyan's last picks are mutual nearest neighbours, whose scores tie: the order of senders decides, for everybody alike.
@pytest.mark.parametrize("name", sorted(set(RULES) - {"bulyan"}))
def test_rules_do_not_care_who_comes_first(name):
    for seed in range(5):
        rows = stack(seed)
        order = np.random.default_rng(seed).permutation(len(rows))
        np.testing.assert_allclose(RULES[name](rows), RULES[name](rows[order]), atol=2e-5)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"flag"}))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_rules_move_and_scale_with_their_rows(name, seed, shift, scale):
    rows = stack(seed, n=6)
    moved = RULES[name]((rows * np.float32(scale) + np.float32(shift)).astype(np.float32))
    np.testing.assert_allclose(moved, RULES[name](rows) * scale + shift, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["median", "trimmed", "krum", "multikrum", "bulyan", "rfa", "cclip"])
@pytest.mark.parametrize("size", [1e3, 1e6])
def test_liars_within_f_cannot_move_a_robust_rule_far(name, size):
    rows = stack(0)
    rows[-F:] = size
    honest = rows[:-F]
    spread = np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()
    assert np.linalg.norm(RULES[name](rows) - honest.mean(axis=0)) < 2 * spread
    assert np.linalg.norm(RULES["mean"](rows) - honest.mean(axis=0)) > 20 * spread  # the control


def test_krum_multikrum_and_bulyan_are_their_definitions():
    rows = stack(3, p=11, n=7).astype(np.float64).astype(np.float32)
    p, f = len(rows), F
    distance = ((rows[:, None].astype(float) - rows[None]) ** 2).sum(axis=2)
    scores = [sorted(distance[i][[j for j in range(p) if j != i]])[: p - f - 2] for i in range(p)]
    scores = np.array([sum(score) for score in scores])
    np.testing.assert_array_equal(robust.krum(rows, f), rows[scores.argmin()])
    best = np.argsort(scores)[: p - f - 2]
    np.testing.assert_allclose(robust.multi_krum(rows, f), rows[best].mean(axis=0), atol=1e-6)
    left, chosen = list(range(p)), []
    while len(chosen) < p - 2 * f:
        part = distance[np.ix_(left, left)]
        near = max(1, len(left) - f - 2)
        s = [sum(sorted(np.delete(part[i], i))[:near]) for i in range(len(left))]
        chosen.append(left.pop(int(np.argmin(s))))
    picked = rows[chosen]
    wanted = []
    for column in picked.T:
        near_median = np.argsort(np.abs(column - np.median(column)), kind="stable")[: p - 4 * f]
        wanted.append(column[near_median].mean())
    np.testing.assert_allclose(robust.bulyan(rows, f), wanted, atol=1e-5)


def test_the_geometric_median_minimises_the_sum_of_distances():
    rows = stack(4, p=9, n=5)
    found = robust.geometric_median(rows, steps=200)
    cost = lambda x: np.linalg.norm(rows - x, axis=1).sum()  # noqa: E731
    rng = np.random.default_rng(0)
    assert all(cost(found) <= cost(found + rng.normal(0, 0.05, 5)) + 1e-4 for _ in range(200))


def test_rules_agree_with_byzfl_where_it_has_them():
    byzfl = pytest.importorskip("byzfl", reason="byzfl is a development-only oracle")
    # Multi-Krum is left out: byzfl averages p - f rows, the rule here the p - f - 2 of the design's table.
    for seed in range(5):
        rows = stack(seed, p=15, n=40)
        wide = rows.astype(np.float64)
        pairs = {
            "trimmed": (robust.trimmed_mean(rows, F), byzfl.TrMean(f=F)(wide)),
            "median": (robust.median(rows), byzfl.Median()(wide)),
            "krum": (robust.krum(rows, F), byzfl.Krum(f=F)(wide)),
            "rfa": (robust.geometric_median(rows, steps=100), byzfl.GeometricMedian(nu=1e-6, T=100)(wide)),
            "nnm": (robust.nearest_mixing(rows, F), byzfl.NNM(f=F)(wide)),
            "cclip": (
                robust.centred_clipping(rows, start=np.zeros(40, np.float32), tau=2.0),
                byzfl.CenteredClipping(L=3, tau=2.0)(wide),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            np.testing.assert_allclose(ours, theirs, atol=1e-5, err_msg=name)


def test_flag_keeps_a_common_direction_and_drops_a_lonely_one():
    rng = np.random.default_rng(0)
    common = rng.normal(size=200)
    rows = (common + 0.3 * rng.normal(size=(9, 200))).astype(np.float32)
    rows[-1] = 50 * rng.normal(size=200)
    out = flag(rows, dimensions=2)
    cosine = out @ common / np.linalg.norm(out) / np.linalg.norm(common)
    assert (
        cosine > 0.9 > rows.mean(axis=0) @ common / np.linalg.norm(rows.mean(axis=0)) / np.linalg.norm(common)
    )


def test_foolsgold_finds_clones_and_spares_the_others():
    rows = stack(5, p=10, n=200)
    rows[7:] = rows[7] + 1e-3 * stack(6, p=3, n=200)
    weights = foolsgold_weights(rows)
    assert weights[7:].max() < 0.01 and weights[:7].min() > 0.5


def test_fltrust_ignores_what_points_away():
    root = stack(0, p=1)[0]
    rows = np.stack([root * 2, root * 0.5, -100 * root])
    np.testing.assert_allclose(fltrust(rows, root), root, rtol=1e-5)


def test_rules_say_how_many_models_they_need():
    with pytest.raises(UsageError, match="Bulyan needs 11"):
        robust.bulyan(stack(0, p=10), F)


def test_forged_changes_are_what_their_names_say():
    honest, rng = stack(1, p=8), np.random.default_rng(0)
    own = honest[0]
    np.testing.assert_allclose(
        forge("alie", honest, own, rng, 1.0), honest.mean(0) - honest.std(0), atol=1e-6
    )
    np.testing.assert_allclose(forge("ipm", honest, own, rng, 0.5), -0.5 * honest.mean(0), atol=1e-6)
    np.testing.assert_array_equal(forge("scale", honest, own, rng), -10 * own)
    assert 0 <= forge("uniform", honest, own, rng).min() <= forge("uniform", honest, own, rng).max() < 1


def test_the_laboratory_shows_the_mean_fall_and_a_robust_rule_stand():
    task = blobs(15, rows=1500)
    for attack in ("x(-10)", "constant 100"):
        mean, _ = duel(task, "mean", attack, f=3, rounds=40, seed=1)
        robust_, _ = duel(task, "multikrum", attack, f=3, rounds=40, seed=1)
        assert robust_ > 0.9 and mean < robust_ - 0.2, attack
    for rule, attack in itertools.product(LAB_RULES, LAB_ATTACKS):
        if attack != "backdoor":  # blobs are no images
            assert 0 <= duel(task, rule, attack, f=3, rounds=2, seed=1)[0] <= 1


@pytest.mark.parametrize(
    "kind",
    ["noise", "signflip", "scale", "alie", "ipm", "freerider", "stale", "dissensus", "constant", "invert"],
)
def test_attackers_take_part_in_a_swarm_and_a_median_survives_them(kind):
    task = blobs(10)
    attacks = {i: Attack(kind) for i in (8, 9)}
    report = simulate("full|sgd(lr=0.1)|median", task, attacks=attacks, rounds=15)[1]
    assert report.accuracy > 0.85


def test_noise_breaks_the_mean_as_the_control():
    assert (
        simulate("full|sgd(lr=0.1)|mean", blobs(10), attacks={9: Attack("constant")}, rounds=5)[1].accuracy
        < 0.6
    )


def test_a_liar_about_its_rows_weighs_no_more_than_the_cap():
    task = blobs(6)
    honest = simulate("full|weighted(cap=1.5)", task)[1].accuracy
    lied = simulate("full|weighted(cap=1.5)", task, attacks={5: Attack("liar")})[1].accuracy
    assert abs(honest - lied) < 0.05


def test_second_hand_models_stop_sybils_that_foolsgold_does_not_see():
    task = blobs(16, rows=800, sizes=(16, 4))
    rng = np.random.default_rng(0)
    some = np.flatnonzero(task.labels < 2)
    task = add_sybils(task, 4, task.features[some], 1 - task.labels[some])
    graph = [list(row) for row in regular(16, 4, rng)] + [[] for _ in range(4)]
    for i in range(16):  # one edge to a sybil each: a victim sees no two of them
        graph[i].append(16 + i % 4)
        graph[16 + i % 4].append(i)
    flips = {}
    for rule in ("foolsgold", "sybilwall", "centred"):
        attacks = {16 + i: Attack("sybil", cabal={}) for i in range(4)}
        shared = {}
        for attack in attacks.values():
            attack.cabal = shared
        simulation, _ = simulate(
            f"regular(4)|sgd(lr=0.3)|{rule}", task, rounds=15, attacks=attacks, graph=graph
        )
        models = np.stack([simulation.peers[i].x for i in range(16)])
        wrong = [
            (task.model.predict(models, task.test_features[task.test_labels == c]) == 1 - c).mean()
            for c in (0, 1)
        ]
        flips[rule] = float(np.mean(wrong))
    assert flips["centred"] < 0.1 and flips["sybilwall"] < 0.1 < flips["foolsgold"]


def test_variance_correction_lets_strangers_average():
    task = blobs(12, sizes=(16, 24, 24, 4))
    learn = "regular(4)|sgd(lr=0.02,momentum=0.9,batch=16)"
    plain = simulate(learn, task, rounds=12, shared_start=False)[1].accuracy
    corrected = simulate(f"{learn}|vc", task, rounds=12, shared_start=False)[1].accuracy
    assert corrected > plain + 0.1


def test_graphs_are_what_they_say():
    rng = np.random.default_rng(0)
    for graph in (ring(9), regular(20, 5, rng), barabasi_albert(30, 2, rng), geometric(25, 0.5, rng)):
        assert len(components(graph)) == 1
        assert all(i in graph[j] for i, row in enumerate(graph) for j in row)
        weights = metropolis(graph)
        np.testing.assert_allclose(weights, weights.T)
        np.testing.assert_allclose(weights.sum(axis=0), 1.0)
        assert weights.min() >= 0
    assert {len(row) for row in regular(20, 5, rng)} == {5}
    assert len(hubs(barabasi_albert(30, 2, rng), 3)) == 3


@pytest.mark.parametrize(("p", "f"), [(5, 1), (7, 2), (9, 2), (11, 4)])
def test_krum_sums_the_distances_to_its_nearest_others(p: int, f: int) -> None:
    """Blanchard et al. 2017, section 4: the p - f - 2 closest, oneself left out; worked out pair by pair."""
    rows = np.random.default_rng(p).normal(size=(p, 4)).astype(np.float32)
    wanted = []
    for mine in rows:
        far = sorted(
            sum((float(a) - float(b)) ** 2 for a, b in zip(mine, other, strict=True)) for other in rows
        )
        wanted.append(sum(far[1 : p - f - 1]))
    np.testing.assert_allclose(robust.krum_scores(robust.squared_distances(rows), f), wanted, rtol=1e-4)
