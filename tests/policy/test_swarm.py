"""Peers that act in worlds of their own learn one policy together, by any strategy, also beside a liar."""

from __future__ import annotations

import json

import numpy as np

from flocklet.cli import main
from flocklet.models.policy.learner import Learner, Settings
from flocklet.swarm.tasks.catalogue import make_task
from flocklet.swarm.trainers.policy import PolicyTrainer


def simulated(capsys, *words):
    code = main(["--json", "swarm", "simulate", "--model", "cartpole", "--seed", "0", *words])
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


def best_accuracy(text):
    return max(row[-1] for row in json.loads(text)["curve"])


def test_four_peers_balance_the_pole(capsys):
    text = simulated(capsys, "--peers", "4", "--rounds", "4", "--strategy", "full(deadline=5)|mean")
    assert best_accuracy(text) >= 0.6


def test_a_sampled_schedule_and_a_small_codec_run_too(capsys):
    text = simulated(capsys, "--peers", "3", "--rounds", "4", "--strategy", "modest(s=3)|int8|mean")
    assert json.loads(text)["refused"] == {}
    assert best_accuracy(text) > 0.05  # 0.02 untrained


def test_a_peer_gets_the_same_bits_alone_and_among_others():
    task, trainer = make_task("cartpole", 2, 0), PolicyTrainer(rounds=1)
    start = np.stack([task.model.init(np.random.default_rng(i)) for i in range(2)])
    rows = [trainer.plan(64, np.random.default_rng(i), 1) for i in range(2)]
    together = trainer.train(task, start, rows, 1)
    alone = trainer.train(task, start[1:], rows[1:], 1)
    assert together[1].tobytes() == alone[0].tobytes()
    assert not np.array_equal(together[0], start[0])


def test_merging_beats_one_peers_own_steps():
    """The control: one peer with the steps of one peer, not of four."""
    task = make_task("cartpole", 4, 0)
    actor, critic = task.model.split(task.model.init(np.random.default_rng(0)))
    learner = Learner(task.model.env, actor, settings=Settings(worlds=8, steps=64, rounds=100))
    learner.critic.vector[...] = critic.vector
    for _ in range(4):
        learner.round(0.0)
    alone = task.accuracy(task.model.join(actor, learner.critic)[None])[0]
    assert alone < 0.6


def test_a_policy_is_not_learnt_from_labelled_rows(capsys):
    code = main(["swarm", "simulate", "--model", "cartpole", "--peers", "3", "--strategy", "full|sgd|mean"])
    err = capsys.readouterr().err
    assert code == 2
    assert "learnt by acting" in err
    assert err.count("\n") == 1
    assert (
        main(["swarm", "simulate", "--model", "cartpole", "--strategy", "full|policy(loss=nope)|mean"]) == 2
    )
