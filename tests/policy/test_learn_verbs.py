"""`flocklet learn` as a person types it: files, bad input in one line, Ctrl-C, resume."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.models.policy.learner import Learner

ENVIRONMENT = """
import numpy as np
from dataclasses import dataclass, replace
from flocklet.models.policy.environment import Spec, Step, discrete_action, replace_rows

@dataclass(frozen=True)
class State:
    time: np.ndarray

class Mine:
    spec = Spec("mine", seen=1, actions=2, steps=4)
    def reset(self, rng, worlds, levels=None): return State(np.zeros(worlds, np.int32))
    def observe(self, state, rng): return np.ones((len(state.time), 1, 1), np.float32)
    def observe_privileged(self, state): return self.observe(state, None)
    def allowed(self, state): return None
    def step(self, state, action, rng):
        chosen = discrete_action(self.spec, action, len(state.time))
        after = State(state.time + np.int32(1))
        return Step(after, REWARD, np.zeros(len(chosen), bool), after.time >= 4)
    def replace(self, state, mask, fresh): return replace_rows(state, mask, fresh)

class Empty: pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(ENVIRONMENT.replace("REWARD", "chosen.astype(np.float32)"))
    (tmp_path / "nan.py").write_text(ENVIRONMENT.replace("REWARD", "np.full(chosen.shape, np.nan)"))
    (tmp_path / "broken.py").write_text("raise RuntimeError('on purpose')")
    return tmp_path


def run(capsys, *words):
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_an_environment_of_ones_own_is_trained_and_judged(here, capsys):
    code, out, err = run(capsys, "learn", "train", "mine.py:Mine", "--out", "m.onnx", "--rounds", 12)
    assert code == 0, err
    assert "flocklet learn eval mine.py:Mine m.onnx" in out
    code, out, _ = run(capsys, "--json", "learn", "eval", "mine.py:Mine", "m.onnx", "--replay", "m.html")
    found = json.loads(out)["policies"][0]
    assert code == 0
    assert found["iqm"] == 4.0
    assert found["low"] <= found["iqm"] <= found["high"]
    assert "RUNS" in (here / "m.html").read_text()


def test_the_same_seed_gives_the_same_bytes_and_resume_goes_on(here, capsys):
    for name, rounds in (("a", 4), ("b", 4), ("c", 2)):
        assert run(capsys, "learn", "train", "cartpole", "--out", f"{name}.onnx", "--rounds", rounds)[0] == 0
    assert (here / "a.onnx").read_bytes() == (here / "b.onnx").read_bytes()
    code, out, err = run(capsys, "learn", "train", "cartpole", "--out", "c.onnx", "--rounds", 4, "--resume")
    assert code == 0, err
    assert "4,096 steps" in out
    code, _, err = run(capsys, "learn", "train", "cartpole", "--out", "c.onnx", "--resume", "--seed", 1)
    assert code == 2
    assert "seed 0" in err
    (here / "c.learner.npz").write_bytes(b"nonsense")
    code, _, err = run(capsys, "learn", "train", "cartpole", "--out", "c.onnx", "--resume")
    assert code == 3
    assert "damaged" in err


def test_ctrl_c_keeps_the_best(here, capsys, monkeypatch):
    plain = Learner.round

    def interrupted(self, progress=None):
        if self.done == 3:
            raise KeyboardInterrupt
        return plain(self, progress)

    monkeypatch.setattr(Learner, "round", interrupted)
    code, out, _ = run(capsys, "learn", "train", "cartpole", "--out", "p.onnx", "--plot", "p.png")
    assert code == 0
    assert "stopped after 3 rounds" in out
    assert (here / "p.onnx").stat().st_size > 1000
    assert (here / "p.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["train", "cartpol", "--out", "x.onnx"], 2, "did you mean cartpole"),
        (["train", "nan.py:Mine", "--out", "x.onnx"], 3, "mine: a reward is not a finite number"),
        (["train", "mine.py:Nope", "--out", "x.onnx"], 2, "no class 'Nope'"),
        (["train", "mine.py:Empty", "--out", "x.onnx"], 3, "neither an Environment"),
        (["train", "gone.py:Mine", "--out", "x.onnx"], 2, "no file gone.py"),
        (["train", "broken.py:Mine", "--out", "x.onnx"], 3, "RuntimeError: on purpose"),
        (["train", "cartpole", "--out", "x.txt"], 2, "must end in .onnx"),
        (["train", "cartpole", "--out", "no/x.onnx"], 2, "no folder"),
        (["train", "cartpole", "--out", "x.onnx", "--seconds", "-1"], 2, "--seconds is -1"),
        (["train", "cartpole", "--out", "x.onnx", "--seconds", "nan"], 2, "--seconds is nan"),
        (["train", "cartpole", "--out", "x.onnx", "--rounds", "0"], 2, "--rounds is 0"),
        (["train", "cartpole", "--out", "x.onnx", "--with", "soft"], 2, "continuous controls"),
        (["train", "cartpole", "--out", "x.onnx", "--from", "gone.onnx"], 2, "no policy gone.onnx"),
        (["eval", "cartpole", "gone.onnx"], 2, "no policy gone.onnx"),
        (["eval", "cartpole", "mine.py"], 8, "onnxruntime refuses"),
        (["tasks", "gym:Nope-v1"], 3, "cannot be made"),
    ],
)
def test_bad_input_is_one_line(here, capsys, words, code, said):
    if "gym" in words[-1]:
        pytest.importorskip("gymnasium", reason="the package gymnasium is not installed")
    found, out, err = run(capsys, "learn", *words)
    assert found == code
    assert said in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (here / "x.onnx").exists()


def test_a_policy_of_another_task_is_refused_by_its_numbers(here, capsys):
    assert run(capsys, "learn", "train", "cartpole", "--out", "p.onnx", "--rounds", 1)[0] == 0
    for words in (
        ["eval", "pendulum", "p.onnx"],
        ["train", "pendulum", "--out", "q.onnx", "--from", "p.onnx"],
    ):
        code, _, err = run(capsys, "learn", *words)
        assert code == 2
        assert "pendulum shows 3 and wants 1" in err


def test_a_gate_fails_with_exit_code_8(here, capsys):
    run(capsys, "learn", "train", "cartpole", "--out", "p.onnx", "--rounds", 1)
    assert run(capsys, "learn", "eval", "cartpole", "p.onnx", "--at-least", 1)[0] == 0
    code, _, err = run(capsys, "learn", "eval", "cartpole", "p.onnx", "--at-least", 499)
    assert code == 8
    assert "below 499" in err
    code, out, _ = run(capsys, "learn", "eval", "cartpole", "p.onnx", "--against", "p.onnx")
    assert "no difference" in out


def test_tasks_are_listed(capsys):
    code, out, _ = run(capsys, "--json", "learn", "tasks")
    names = {task["name"]: task for task in json.loads(out)["tasks"]}
    assert code == 0
    assert names["cartpole"]["actions"] == 2
    assert all(np.isfinite(task["steps"]) and task["good"] for task in names.values())
