"""Peers that misuse the protocol or learn from poison: one script each, in the simulator and over real TCP."""

import logging

import numpy as np
import pytest

from flocklet.errors import UsageError
from flocklet.swarm.attacks.link import EXPECTED, HOSTILE, HostileLink, ground_id
from flocklet.swarm.attacks.model import ATTACKS, POISONS, Attack, poison
from flocklet.swarm.lan.launcher import launch
from flocklet.swarm.samplers import hash_order
from flocklet.swarm.start import peer_identities
from flocklet.swarm.tasks.catalogue import CATALOGUE
from kit.swarm_tasks import blobs, simulate


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("text", ["full(deadline=0.5)|trimmed(0.2)", "modest(s=4,aggregation_s=1)"])
def test_misuse_is_refused_by_name_logged_once_and_does_not_stop_the_rest(text, kind, caplog):
    caplog.set_level(logging.WARNING, "flocklet.swarm")
    rounds, judged = 12, range(7)
    report = simulate(text, blobs(8), rounds=rounds, attacks={7: Attack(kind)}, judged=judged)[1]
    expected = EXPECTED[kind]
    if kind == "views" and text.startswith("full"):
        expected = ()  # no view travels there
    assert report.curve[-1][0] == rounds and not report.is_dead
    assert bool(set(report.refused) & set(expected)) == bool(expected), report.refused
    if text.startswith("full") or kind != "denormal":  # one zero model among four halves a mean for a while
        assert report.accuracy > 0.85
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize("kind", [*POISONS, "noise", "alie"])
def test_poisoned_rows_stay_with_the_attacker(kind):
    task = blobs(8)
    attacked = poison(task, {7: kind})
    for i in range(7):
        assert (attacked.labels[attacked.shares[i]] == task.labels[task.shares[i]]).all()
    theirs = attacked.labels[attacked.shares[7]]
    assert (kind in POISONS) == bool((theirs != task.labels[task.shares[7]]).any())


def test_poison_costs_the_mean_more_than_a_robust_rule():
    task = blobs(9)
    attacks = {i: Attack("reversed") for i in (6, 7, 8)}
    found = {
        rule: simulate(f"full|{rule}", task, rounds=15, attacks=attacks)[1].accuracy
        for rule in ("mean", "krum(3)")
    }
    clean = simulate("full|mean", task, rounds=15)[1].accuracy
    assert found["krum(3)"] > 0.85 and found["mean"] <= clean


def test_every_attack_is_a_script_of_the_simulator():
    task = blobs(6)
    for kind in ATTACKS:
        report = simulate("full|rfa", task, rounds=3, attacks={5: Attack(kind)})[1]
        assert report.curve[-1][0] == 3
    with pytest.raises(UsageError):
        Attack("wish")
    with pytest.raises(UsageError):
        HostileLink(None, "wish", np.random.default_rng(0))


def test_a_ground_id_wins_its_round_and_no_other():
    ids, rng = [identity.device_id for identity in peer_identities(30, 1)], np.random.default_rng(1)
    ground = ground_id(ids, 7, 2000, rng)
    wins = [hash_order([*ids, ground], k)[0] == ground for k in range(300)]
    assert wins[7] and sum(wins) < 300 * 0.12  # 1 in 31 is fair


@pytest.mark.parametrize("kind", ["schema", "overflow", "replay"])
async def test_the_same_scripts_misuse_real_links(kind):
    text = f"full(deadline=2)|{CATALOGUE['recommender'].trainer}"
    real = await launch(3, text, seed=1, rounds=3, model="recommender", attacks={2: kind}, is_mdns_on=False)
    refused = [summary["refused"] for summary in real.summaries[:2]]
    assert all(set(one) & set(EXPECTED[kind]) for one in refused)
    assert all(summary["models"][-1][0] == 3 for summary in real.summaries)
