"""An annotator that looks at captions makes learning faster; one that is gone, or tosses coins, does not."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.models.policy.annotator import HashRewards, Queue, WordRewards, features, words
from flocklet.models.policy.captioned import CaptionedLearner
from flocklet.models.worlds.cartpole import CartPole
from flocklet.models.worlds.keyroom import KeyRoom


def learnt(annotator, seed=0, steps=30_000, labels=None):
    queue = Queue(labels or HashRewards(), annotator)
    learner = CaptionedLearner(KeyRoom(), queue, seed=seed)
    while learner.steps < steps and learner.episodes_to(0.8) is None:
        for _ in range(500):
            learner.step()
    return learner.episodes_to(0.8) or 999, queue


def test_labels_of_captions_speed_learning_up_and_each_is_asked_once():
    episodes, queue = learnt(words(["key"]), 1)
    assert learnt(None, 1)[0] >= 1.6 * episodes
    assert queue.calls <= len(queue.count)


def test_labels_at_random_do_not_help():
    rng = np.random.default_rng(0)
    coin = learnt(lambda captions: [float(rng.random() < 0.5) for _ in captions], steps=12_000)[0]
    assert coin >= learnt(None)[0]


@pytest.mark.parametrize("gone", [None, lambda captions: [None] * len(captions)])
def test_an_annotator_that_is_gone_equals_none_exactly(gone):
    values = []
    for annotator in (None, gone):
        learner = CaptionedLearner(KeyRoom(), Queue(HashRewards(), annotator))
        for _ in range(3000):
            learner.step()
        values.append(learner.value.tobytes())
    assert values[0] == values[1]


def test_words_generalise_to_captions_never_labelled_and_the_table_of_labels_does_not():
    seen = {f"you take the {kind} key": 1.0 for kind in ("red", "blue", "green")}
    seen |= {f"you stand at the {place}": 0.0 for place in ("wall", "bench", "rug", "shelf", "lamp")}
    exact, general, shuffled = HashRewards(), WordRewards(), WordRewards()
    labels = np.random.default_rng(3).permutation(list(seen.values()))
    for (caption, label), other in zip(seen.items(), labels, strict=True):
        exact.learn(caption, label)
        general.learn(caption, label)
        shuffled.learn(" ".join(reversed(caption.split())) if other else caption, float(other))
    assert general.worth("you take the black key") == 1.0
    assert general.worth("you stand at the chair") == 0.0
    assert exact.worth("you take the black key") == 0.0


def test_a_clock_makes_no_new_words():
    assert np.array_equal(features("you take the key at 12:04"), features("you take the key at 13:59"))


def test_waiting_captions_are_bounded_newest_first_and_counted():
    asked = []

    def judge(captions):
        asked.extend(captions)
        return [1.0] * len(captions)

    queue = Queue(HashRewards(), judge, size=3)
    for number in range(5):
        queue.reward(f"c{number}")
    queue.ask()
    assert asked == ["c4"]
    assert queue.waiting == ["c2", "c3"]
    assert queue.reward("c4") == pytest.approx(2**-0.5)
    assert queue.reward("c4") == pytest.approx(3**-0.5)


def test_a_person_answers_and_leaves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    said = iter(["n"] * 30 + ["what"] + ["q"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(said))
    assert main(["learn", "train", "keyroom", "--annotator", "ask", "--rounds", "30", "--out", "k.onnx"]) == 0
    assert "captions asked" in capsys.readouterr().out
    assert main(["learn", "eval", "keyroom", "k.onnx", "--at-least", ".8"]) == 0


@pytest.mark.parametrize(
    "who, task, said",
    [
        ("me", "keyroom", "no annotator"),
        ("words:w.txt", "cartpole", "no captions"),
        ("words:e.txt", "keyroom", "no words"),
    ],
)
def test_bad_annotators_are_one_line(tmp_path, monkeypatch, capsys, who, task, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.txt").write_text("key")
    (tmp_path / "e.txt").write_text("")
    assert main(["learn", "train", task, "--annotator", who, "--out", "k.onnx"]) in (2, 3)
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    with pytest.raises(ValueError, match="no captions"):
        CaptionedLearner(CartPole(), Queue(HashRewards(), None))
