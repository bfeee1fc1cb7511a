"""Learners by the name that a person types, and the one protocol they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.base import Parameters, State
from flocklet.models.policy.environment import Environment, Spec
from flocklet.models.policy.evolution import Evolution
from flocklet.models.policy.forest import ForestPolicy
from flocklet.models.policy.forest_learner import ForestLearner
from flocklet.models.policy.hook import Hook
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.policy import Actor, NetPolicy
from flocklet.models.policy.report import Report
from flocklet.models.policy.soft import SoftLearner

__all__ = ["METHODS", "AnyLearner", "fresh_policy", "make_learner"]

METHODS = ("mdpo", "ppo", "a2c", "npg", "soft", "es", "trees")


class AnyLearner(Protocol):
    """A learner that goes on round by round."""

    best: Parameters
    best_return: float
    done: int
    steps: int

    def round(self, progress: float | None = None) -> Report:
        """Learn for one round; `progress` in [0, 1] anneals."""
        ...

    def state(self) -> State:
        """Return everything that the next round depends on."""
        ...

    def load_state(self, state: State) -> None:
        """Go on from a state; raise ValueError for that of another learner."""
        ...


def fresh_policy(spec: Spec, method: str, seed: int) -> NetPolicy | ForestPolicy:
    """Return an untrained policy of the form that the method learns best: small for evolution, squashed for `soft`."""
    rng = np.random.default_rng([seed, 0])
    if method == "soft":
        return NetPolicy(spec, rng, activation="relu", is_squashed=True)
    if method == "es":
        return NetPolicy(spec, rng, hidden=(16,))
    if method == "trees":
        if spec.actions is None:
            raise UsageError(
                f"trees choose among actions; {spec.name} has continuous controls", remedy="mdpo and ppo fit"
            )
        return ForestPolicy(spec)
    return NetPolicy(spec, rng)


def make_learner(
    method: str,
    env: Environment,
    policy: NetPolicy | ForestPolicy,
    *,
    seed: int = 0,
    settings: Settings | None = None,
    anchors: Sequence[tuple[Actor, float]] = (),
    hooks: Sequence[Hook] = (),
) -> AnyLearner:
    """Return a learner of `policy` by name; raise UsageError where the method does not fit the environment."""
    if method not in METHODS:
        raise UsageError(f"there is no method '{method}'", remedy=", ".join(METHODS))
    if method in ("soft", "es", "trees") and anchors:
        raise UsageError(f"'{method}' takes no policy to stay near", remedy="mdpo, ppo, a2c and npg do")
    if isinstance(policy, ForestPolicy) != (method == "trees"):
        raise UsageError(f"'{method}' cannot go on from this kind of policy", remedy="leave out --from")
    if isinstance(policy, ForestPolicy):
        return ForestLearner(env, policy, seed=seed, hooks=hooks)
    if method == "es":
        return Evolution(env, policy, seed=seed)
    if method == "soft":
        if env.spec.controls is None or env.spec.agents != 1 or not policy.is_squashed:
            raise UsageError(
                f"'soft' needs one agent with continuous controls; {env.spec.name} does not fit",
                remedy="mdpo and ppo fit any task",
            )
        return SoftLearner(env, policy, seed=seed)
    held = settings or Settings()
    if anchors and method == "npg":
        raise UsageError("'npg' takes no policy to stay near", remedy="mdpo does")
    return Learner(env, policy, method, seed=seed, settings=held, anchors=anchors, hooks=hooks)
