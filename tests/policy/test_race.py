"""Logs must win their place: a good one opens the lock, a poisoned one ruins only those who trust it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.models.policy.distribution import Categorical
from flocklet.models.policy.episodes import play
from flocklet.models.policy.race import Log, Race
from flocklet.models.worlds.lock import Lock


class Author:
    """Whoever wrote the log: right but for a share of random actions."""

    def __init__(self, env, careless):
        self.spec, self.careless = env.spec, careless
        self.right = env.right(np.zeros(1))

    def dist(self, seen, allowed=None):
        time = np.minimum(np.rint(seen[:, 3] * self.spec.steps).astype(int), self.spec.steps - 1)
        place = np.minimum(seen[:, :3].argmax(axis=1), 1)
        probs = np.full((len(seen), self.spec.actions), self.careless / self.spec.actions)
        probs[np.arange(len(seen)), self.right[time, place]] += 1 - self.careless
        return Categorical(np.log(probs))


def written(env, seed=0, episodes=500):
    return play(env, Author(env, 1 / env.spec.steps), episodes, np.random.default_rng(seed))


def poisoned(env, log):
    place = np.minimum(log.seen[:, :3].argmax(axis=1), 1)
    wrong = log.action != env.right(np.zeros(1))[log.time(), place]
    return replace(log, reward=wrong.astype(float))


def final(env, episodes, *, is_raced=True, rounds=60, seed=0):
    race = Race(env, [Log("log", one) for one in episodes], seed=seed, is_raced=is_raced)
    for _ in range(rounds):
        race.round()
    return play(env, race.winner.policy, 200, np.random.default_rng(99)).mean_return, race


def test_a_log_opens_the_lock_that_experience_alone_does_not():
    env = Lock(20)
    log = written(env)
    got, race = final(env, [log])
    assert got >= 0.9
    assert got > log.mean_return + 0.3
    assert race.logs[0].won > 0.5 * race.logs[0].run
    assert final(env, [], rounds=30)[0] <= 0.2


def test_a_poisoned_log_ruins_a_learner_that_trusts_it_and_not_the_race():
    env = Lock(6, 3)
    bad = poisoned(env, written(env))
    alone = final(env, [])[0]
    assert final(env, [bad], is_raced=False)[0] <= 0.5
    for seed in range(3):
        got, race = final(env, [bad], seed=seed)
        assert got >= 0.95 * alone
        assert race.logs[0].won == 0


def test_a_log_of_random_rewards_costs_nothing():
    env = Lock(6, 3)
    log = written(env)
    noise = replace(log, reward=np.random.default_rng(0).permutation(log.reward))
    assert final(env, [noise])[0] >= 0.95 * final(env, [])[0]


def test_the_race_costs_no_more_rollouts():
    env = Lock(6, 3)
    log = written(env)
    steps = [final(env, logs, rounds=10)[1].steps for logs in ([], [log], [log, log, log])]
    assert max(steps) <= 1.05 * min(steps)
    with pytest.raises(ValueError, match="at most 3"):
        Race(env, [Log("x", log)] * 4)


def save(path, log, head="time,a,b,c,h,action,reward,end"):
    rows = [
        ",".join(f"{v:.9g}" for v in [t, *seen, action, reward, end])
        for t, seen, action, reward, end in zip(
            log.time(), log.seen, log.action, log.reward, log.end, strict=True
        )
    ]
    path.write_text("\n".join([head, *rows]) + "\n")


def test_a_log_from_a_file_and_one_that_lies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = written(Lock(20))
    save(tmp_path / "yesterday.csv", log)
    save(tmp_path / "neighbour.csv", poisoned(Lock(20), log))
    words = [
        "learn",
        "train",
        "lock",
        "--logs",
        "yesterday.csv",
        "--logs",
        "neighbour.csv",
        "--out",
        "l.onnx",
        "--rounds",
        "40",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "yesterday.csv helped in" in out
    assert "neighbour.csv helped in 0 of" in out
    assert main(["learn", "eval", "lock", "l.onnx", "--at-least", ".9"]) == 0


@pytest.mark.parametrize(
    "text, said",
    [
        ("time,a,b,c,h,action,end\n", "no column 'reward'"),
        ("time,a,action,reward,end\n0,1,1,1,1\n", "shows 1 numbers, the task 4"),
        ("time,a,b,c,h,action,reward,end\n0,1,0,0,0,x,1,1\n", "line 2"),
        ("time,a,b,c,h,action,reward,end\n0,1,0,0,0,1,nan,1\n", "not a finite number"),
        ("time,a,b,c,h,action,reward,end\n0,1,0,0,0,99,1,1\n", "an action that lock does not have"),
        ("time,a,b,c,h,action,reward,end\n0,1,0,0,0,.5,1,1\n", "no whole number"),
        ("time,a,b,c,h,action,reward,end\n", "no rows"),
        ("", "no column 'time'"),
    ],
)
def test_a_bad_log_is_one_line(tmp_path, monkeypatch, capsys, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text(text)
    assert main(["learn", "train", "lock", "--logs", "log.csv", "--out", "l.onnx"]) == 3
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "l.onnx").exists()
