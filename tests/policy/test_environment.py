"""Our worlds keep the contract, one that breaks a rule is told which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flocklet.models.policy.check import check_environment
from flocklet.models.worlds.catalogue import TASKS
from kit.worlds import Chain, Point


@pytest.mark.parametrize("name", list(TASKS))
def test_our_worlds_keep_the_contract(name):
    check_environment(TASKS[name].make, draws_order=TASKS[name].is_order_free)


@pytest.mark.parametrize("make", [Chain, Point, lambda: Chain(is_end=True)])
def test_the_test_worlds_keep_the_contract(make):
    check_environment(make)


class Late(Chain):
    def step(self, state, action, rng):
        turn = super().step(state, action, rng)
        return turn._replace(terminated=turn.truncated)


class Restarts(Chain):
    """An environment with auto-reset: the last observation is lost."""

    def step(self, state, action, rng):
        turn = super().step(state, action, rng)
        return turn._replace(state=replace(turn.state, time=turn.state.time % self.spec.steps))

    def observe(self, state, rng) -> Any:
        return super().observe(state, rng).astype(np.float64)


class Forgets(Chain):
    def __init__(self):
        super().__init__()
        self.count = 0

    def step(self, state, action, rng):
        self.count += 1
        turn = super().step(state, action, rng)
        return turn._replace(reward=turn.reward * np.float32(self.count % 3))

    def replace(self, state, mask, fresh):
        return fresh


class Takes(Point):
    def step(self, state, action, rng):
        return super().step(state, np.nan_to_num(np.resize(action, (len(state.time), 1, 2))), rng)


class Unfair(Point):
    def step(self, state, action, rng):
        turn = super().step(state, action, rng)
        turn.reward[0] += 1.0
        return turn


class NotANumber(Chain):
    def step(self, state, action, rng):
        return super().step(state, action, rng)._replace(reward=np.full((len(state.time), 1), np.nan))


class Writes(Point):
    def step(self, state, action, rng):
        state.body[...] += 0.1
        return super().step(state, action, rng)


@pytest.mark.parametrize(
    "make, rule",
    [(Late, "ends"), (Restarts, "shapes"), (Forgets, "replace"), (Takes, "hostile"), (Unfair, "order"),
     (NotANumber, "reward"), (Writes, "pure")],
)  # fmt: skip
def test_a_broken_rule_is_named(make, rule):
    with pytest.raises(AssertionError, match=f"^{rule}: "):
        check_environment(make)
