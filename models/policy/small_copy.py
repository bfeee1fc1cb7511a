"""Copy a policy into a few trees for a microcontroller, accepted by its return, never by agreement.

Dataset aggregation (Ross et al. 2011): round by round the states that the copy visits are labelled by the teacher; a
tenth of the actions are flipped so that mistakes are seen too. The trees fit the logits, centred and clipped to +-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.firmware_export.trees.fit import fit_oblivious
from flocklet.firmware_export.trees.trees import ObliviousTrees
from flocklet.models.policy.distribution import Categorical, Distribution
from flocklet.models.policy.environment import Bools, Environment, Floats, Spec
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.policy import Actor, act

__all__ = ["SIZES", "SmallCopy", "TreePolicy", "small_copy"]

SIZES = ((10, 3), (16, 3), (16, 4), (32, 4), (64, 4))
"""(trees, depth), smallest first."""
_ROUNDS, _EPISODES, _FLIPPED, _CLIP = 3, 20, 0.1, 3.0


class TreePolicy:
    """Tables of trees that act."""

    def __init__(self, spec: Spec, trees: ObliviousTrees) -> None:
        self.spec, self.trees = spec, trees

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution for rows (B, D)."""
        return Categorical(self.trees.predict(seen), allowed)

    def tensors(self) -> dict[str, Any]:
        """Return the tables by name."""
        return {"threshold": self.trees.threshold.copy(), "leaf": self.trees.leaf.copy()}

    def load(self, tensors: Any) -> None:
        """Refuse: a copy is fitted, not loaded."""
        raise ValueError("a small copy is fitted, not loaded")

    def to_onnx(self) -> bytes:
        """Return the logits as an ONNX file."""
        from flocklet.onnx_io.oblivious import encode_oblivious

        t = self.trees
        return encode_oblivious(t.feature, t.threshold, t.leaf, t.base, t.n_in, t.equal, name="policy")


@dataclass(frozen=True, eq=False)
class SmallCopy:
    """The copy, the returns of both on the same worlds, and in how many of its states both choose the same."""

    policy: TreePolicy
    copy_return: float
    teacher_return: float
    agreement: float

    @property
    def trees(self) -> ObliviousTrees:
        """The tables."""
        return self.policy.trees


def small_copy(
    teacher: Actor,
    env: Environment,
    rng: np.random.Generator,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
    accept: float = 0.95,
    judge: int = 40,
) -> SmallCopy | None:
    """Return the smallest copy whose return is at least `accept` of the teacher's; None where no size reaches it."""
    seed = int(rng.integers(2**31))
    wanted = iqm(evaluate(env, teacher, [seed], judge))
    for trees, depth in sizes:
        made = _copy(teacher, env, rng, trees, depth)
        reached = iqm(evaluate(env, made, [seed], judge))
        if reached >= wanted - (1.0 - accept) * abs(wanted):
            x = _visit(made, env, rng, 0.0)
            same = float((made.dist(x).mode() == teacher.dist(x).mode()).mean())
            return SmallCopy(made, reached, wanted, same)
    return None


def _copy(teacher: Actor, env: Environment, rng: np.random.Generator, trees: int, depth: int) -> TreePolicy:
    x = _visit(teacher, env, rng, _FLIPPED)
    made = _fit(teacher, env, x, trees, depth)
    for _ in range(_ROUNDS - 1):
        x = np.concatenate([x, _visit(made, env, rng, _FLIPPED)])
        made = _fit(teacher, env, x, trees, depth)
    return made


def _fit(teacher: Actor, env: Environment, x: Floats, trees: int, depth: int) -> TreePolicy:
    logits = teacher.dist(x).params.astype(np.float64)
    logits = np.clip(logits - logits.mean(axis=1, keepdims=True), -_CLIP, _CLIP)
    found = fit_oblivious(x, logits, trees=trees, depth=depth, categorical=env.spec.categorical)
    return TreePolicy(env.spec, found)


def _visit(actor: Actor, env: Environment, rng: np.random.Generator, flipped: float) -> Floats:
    """Return the observations of some episodes side by side, (n, D), some actions drawn at random."""
    spec = env.spec
    state, alive, rows = env.reset(rng, _EPISODES), np.ones(_EPISODES, bool), []
    for _ in range(spec.steps):
        seen, allowed = env.observe(state, rng), env.allowed(state)
        rows.append(seen[alive].reshape(-1, spec.seen))
        action, dist = act(actor, seen, rng, greedy=True, allowed=allowed)
        if flipped:
            weight = np.isfinite(dist.params) & (dist.params > -1e8)
            other = (weight * rng.random(weight.shape)).argmax(axis=1).astype(np.int32).reshape(action.shape)
            action = np.where(rng.random(action.shape) < flipped, other, action)
        turn = env.step(state, action, rng)
        alive = alive & ~(turn.terminated | turn.truncated)
        state = turn.state
        if not alive.any():
            break
    return np.concatenate(rows)
