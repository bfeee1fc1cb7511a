"""Schedules without rounds: windows, buffers, memory and Poisson pairs; slow peers, lost keepers, bad reports."""

from dataclasses import replace

import numpy as np
import pytest

from flocklet.errors import UsageError
from flocklet.swarm.samplers import hash_order
from flocklet.swarm.sim.churn import Happening
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.start import peer_identities
from flocklet.swarm.strategy import Strategy
from kit.faulty_swarm import Faulty, with_body
from kit.swarm_tasks import blobs, simulate

ALL = ("window(0.05)", "buffer(4)", "async", "buffer(5,memory=1)", "poisson(train=0.1,swap=0.05)")
SLOW = np.linspace(20, 4, 10)  # the fastest needs a fifth of the slowest


@pytest.mark.parametrize("text", ALL)
def test_they_learn_with_slow_peers_and_the_same_seed_gives_the_same_log(text):
    task, rounds = blobs(10), 100 if text == "async" else 15
    reports = [simulate(text, task, rounds=rounds, every=10, speeds=SLOW)[1] for _ in range(2)]
    assert reports[0].log_hash == reports[1].log_hash
    assert reports[0].accuracy > 0.9 and not reports[0].refused and not reports[0].is_dead


def test_a_window_does_not_wait_for_the_slowest_and_rounds_do():
    task = blobs(10)
    reached = {
        text: simulate(text, task, rounds=60, speeds=SLOW, stop_at=0.9)[1].reached(0.9)[1]
        for text in ("fedavg", "window(0.03)", "buffer(3)")
    }
    assert (
        reached["fedavg"] > 1.6 * reached["window(0.03)"] and reached["fedavg"] > 1.6 * reached["buffer(3)"]
    )


@pytest.mark.parametrize("codec", ["int8", "int4", "topk(0.2)"])
def test_small_codecs_save_bytes_both_ways(codec):
    task = blobs(10, sizes=(16, 48, 4))
    plain = simulate("window(0.05)", task, rounds=20, every=20, speeds=SLOW)[1]
    small = simulate(f"window(0.05)|{codec}", task, rounds=20, every=20, speeds=SLOW)[1]
    assert small.bytes < 0.5 * plain.bytes and small.accuracy > 0.9 and not small.refused


@pytest.mark.parametrize("text", ["window(0.05,deadline=1)", "buffer(3,deadline=1)|int8"])
def test_the_next_in_order_keeps_when_the_keeper_dies(text):
    ids = [identity.device_id for identity in peer_identities(8, 1)]
    keeper = ids.index(hash_order(ids, 0)[0])
    report = simulate(text, blobs(8), rounds=40, script=[Happening(5, "crash", (keeper,))])[1]
    assert report.curve[-1][0] == 40 and report.accuracy > 0.9 and not report.is_dead


FAULTS = {
    "schema": lambda m: [with_body(m, w0=np.zeros((3, 3), np.float32))],
    "base": lambda m: [replace(m, base=bytes(16))],
    "field": lambda m: [with_body(m, ms=-1)],
    "twice": lambda m: [m, m],
}


@pytest.mark.parametrize("reason", FAULTS)
def test_bad_reports_are_refused_by_name_and_the_rest_goes_on(reason):
    simulation = Faulty(
        "buffer(4,deadline=1)",
        blobs(6),
        seed=1,
        rounds=8,
        twist=FAULTS[reason],
        judged=range(1, 6),
    )
    keeper = hash_order([identity.device_id for identity in peer_identities(6, 1)], 0)[0]
    assert keeper != peer_identities(6, 1)[0].device_id  # peer 0 lies, so it must not keep
    report = simulation.run()
    assert report.refused[reason] > 0 and report.curve[-1][0] == 8 and report.accuracy > 0.8


def test_memory_with_every_arrival_is_one_step_of_everybody():
    """AFA-CS that waits for all is federated averaging; AFA-CD is the buffer with equal weights."""
    task = blobs(5)
    models = []
    for text in ("buffer(5,memory=1)", "buffer(5)"):
        simulation = Simulation(text, task, seed=1, rounds=4).start()
        simulation.run()
        models.append(simulation.peers[0].x)
    np.testing.assert_allclose(models[0], models[1], atol=1e-6)


def test_an_exchange_of_pairs_keeps_the_sum_of_all_models():
    task = blobs(6)
    simulation = Simulation("poisson(train=8,swap=0.05)", task, seed=1, rounds=1, shared_start=False).start()
    starts = []
    switch_on = simulation._switch_on

    def noted(i):
        starts.append(simulation.peers[i].x)
        switch_on(i)

    simulation._switch_on = noted
    simulation.peers.clear()
    finished = []
    original = simulation.model

    def first_only(peer, round, vector):
        finished.append(np.stack([p.x for p in simulation.peers]))
        simulation._stop.set()
        original(peer, round, vector)

    simulation.model = first_only
    simulation.run()
    before, after = np.stack(starts), finished[0]
    assert np.abs(after.std(axis=0)).max() < 0.1 * np.abs(before.std(axis=0)).max()  # they agree
    np.testing.assert_allclose(
        after.mean(axis=0), before.mean(axis=0), atol=2e-2
    )  # on the mean of the starts


def test_impossible_settings_are_named():
    for text in ("window(0)", "buffer(0)", "poisson(swap=0)", "buffer(rate=-1)"):
        with pytest.raises(UsageError):
            Strategy.parse(text)
