"""`flocklet fly train --algorithm td3`: the paper's trainer behind the same verb."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.train.td3 import Td3

TRAIN = ("fly", "train", "--algorithm", "td3", "--seed", "3", "--out")


def test_the_verb_writes_what_the_trainer_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "td3.onnx"
    assert main([*TRAIN, str(out), "--steps", "700", "--json"]) == 0
    answer = capsys.readouterr()
    found = json.loads(answer.out)
    assert (found["algorithm"], found["steps"]) == ("td3", 700)
    assert "has learnt nothing yet" in answer.err, "the actor learns later: nobody is told that this flies"
    trainer = Td3(np.random.default_rng(3))
    trainer.advance(700)
    mine = trainer.policy()
    trainer.close()
    written = Policy.from_onnx(out.read_bytes())
    for (weights, bias, _), (theirs, other, _) in zip(mine.layers, written.layers, strict=True):
        assert np.array_equal(weights, theirs)
        assert np.array_equal(bias, other)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_past_the_warm_up_the_policy_has_moved_and_nothing_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for steps in ("700", "31000"):
        assert main([*TRAIN, str(tmp_path / "td3.onnx"), "--steps", steps, "-q"]) == 0
        files.append((tmp_path / "td3.onnx").read_bytes())
    assert files[0] != files[1]
    assert capsys.readouterr().err.count("has learnt nothing yet") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--task", "track"), "hover, on one vehicle"),
        (("--vehicle", "any"), "hover, on one vehicle"),
        (("--updates", "3"), "no --updates"),
        (("--plot", "x.svg"), "no --plot"),
        (("--steps", "0"), "--steps is 0"),
        (("--steps", "400000"), "1 to 300001"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "td3.onnx", *words]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "td3.onnx").exists()


def test_steps_belong_to_td3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly", "train", "--steps", "5", "--out", str(tmp_path / "p.onnx")]) == 2
    assert "--algorithm td3" in capsys.readouterr().err
