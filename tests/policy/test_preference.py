"""Preferences that go round in a circle: self-play finds what nothing beats, a reward model cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.models.policy.preference import (
    Answers,
    bradley_terry,
    exploitability,
    has_cycle,
    nash_policy,
    next_pair,
    policy_from_answers,
    self_play,
)
from flocklet.models.worlds.choose import cyclic, rater_of, transitive


def reward_model(rater, rng, items=10):
    first, second = rng.choice(items, (2, 4000), p=rng.dirichlet(np.ones(items)))
    return bradley_terry(first, second, rater(first, second), items)


@pytest.mark.parametrize("flipped, most", [(0.0, 0.05), (0.2, 0.06)])
def test_a_circle_is_held_by_self_play_and_not_by_a_reward_model(flipped, most):
    wins, rng = cyclic(), np.random.default_rng(0)
    rater = rater_of(wins, rng, flipped)
    model = exploitability(reward_model(rater, rng), wins)
    last, average = nash_policy(rater, 10, rng), self_play(rater, 10, rng)
    assert exploitability(last, wins) <= 0.03
    assert exploitability(last, wins) <= model / 5
    assert exploitability(average, wins) <= most
    assert model > 0.15


def test_where_there_is_an_order_the_reward_model_is_best_and_self_play_near():
    wins, rng = transitive(), np.random.default_rng(0)
    rater = rater_of(wins, rng)
    assert exploitability(reward_model(rater, rng), wins) < 0.01
    assert exploitability(nash_policy(rater, 10, rng), wins) <= 0.03
    assert exploitability(self_play(rater, 10, rng), wins) <= 0.04


def test_controls_a_coin_and_a_pull_that_never_lets_go():
    wins, rng = cyclic(), np.random.default_rng(0)

    def coin(first, second):
        return rng.integers(2, size=len(first)).astype(float)

    assert exploitability(self_play(coin, 10, rng), wins) >= 0.15
    assert exploitability(nash_policy(rater_of(wins, rng), 10, rng, pull=1.0, rounds=5), wins) >= 0.2


def test_a_hundred_answers_of_a_person_are_enough_for_a_circle():
    wins, found = cyclic(), []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rater, answers = rater_of(wins, rng), Answers(10)
        for _ in range(100):
            first, second, chance = next_pair(answers, rng)
            answers.add(first, second, float(rater(np.array([first]), np.array([second]))[0]), chance)
        found.append(exploitability(policy_from_answers(answers), wins))
    assert has_cycle(wins) and not has_cycle(transitive())
    assert sorted(found)[3] <= 0.15  # four of five; one seed in five asks about the wrong pairs


def test_answers_that_are_none_are_refused():
    answers = Answers(3)
    for bad in ((0, 3, 1.0), (0, 1, 0.7), (-1, 0, 1.0)):
        with pytest.raises(ValueError, match="no answer"):
            answers.add(*bad)


def answer(monkeypatch, judge):
    """Answer at the terminal: `judge` gets the two items."""
    asked = []

    def say(prompt):
        first, second = (line[3:] for line in prompt.splitlines()[:2])
        asked.append((first, second))
        return judge(first, second)

    monkeypatch.setattr("builtins.input", say)
    return asked


def test_a_person_says_what_they_prefer_and_goes_on_later(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rank = ["tea", "coffee", "water"]
    answer(monkeypatch, lambda a, b: "1" if rank.index(a) < rank.index(b) else "2")
    assert main(["learn", "prefer", *rank, "--answers", "9", "--keep", "mine.json"]) == 0
    assert "you prefer tea" in capsys.readouterr().out
    assert main(["--json", "learn", "prefer", *rank, "--answers", "3", "--keep", "mine.json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"] == 12
    assert main(["learn", "prefer", "tea", "milk", "--keep", "mine.json"]) == 3
    assert "other items" in capsys.readouterr().err


def test_a_circle_keeps_its_mixture(tmp_path, monkeypatch, capsys):
    (tmp_path / "items.txt").write_text("rock\npaper\nscissors\n")
    beats = {("rock", "scissors"), ("paper", "rock"), ("scissors", "paper")}
    answer(monkeypatch, lambda a, b: "1" if (a, b) in beats else "2")
    assert main(["learn", "prefer", "--items", str(tmp_path / "items.txt"), "--answers", "30"]) == 0
    out = capsys.readouterr().out
    assert "round in a circle" in out
    assert all(name in out for name in ("rock", "paper", "scissors"))


def test_nothing_answered_and_one_item_are_one_line(monkeypatch, capsys):
    answer(monkeypatch, lambda a, b: "q")
    assert main(["learn", "prefer", "a", "b"]) == 2
    assert main(["learn", "prefer", "a"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
