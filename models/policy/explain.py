"""Say what a policy looks at: by permutation for any policy, by the splits that count for trees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flocklet.firmware_export.trees.trees import ObliviousTrees
from flocklet.models.policy.environment import Environment, Floats
from flocklet.models.policy.policy import Actor, act

__all__ = ["Importance", "Rule", "importance", "rules"]


@dataclass(frozen=True)
class Importance:
    """How much the choices change when one column is taken from other moments: mean KL and its 95 % interval."""

    column: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """One split: how much it moves the scores in all, and which choice gains most where it holds."""

    column: int
    threshold: float
    is_equal: bool
    weight: float
    choice: int

    def __str__(self) -> str:
        sign = "is" if self.is_equal else ">"
        return f"number {self.column} {sign} {self.threshold:.4g}: towards choice {self.choice}"


def importance(
    actor: Actor, env: Environment, rng: np.random.Generator, *, worlds: int = 32, repeats: int = 20
) -> list[Importance]:
    """Return the columns of the observation, the most important first.

    Rows are those that the policy visits; a column is permuted among them `repeats` times; for controls
    it is the mean change of the controls instead of a KL.
    """
    x = _visited(actor, env, rng, worlds)
    plain = actor.dist(x)
    found = []
    for column in range(env.spec.seen):
        means = []
        for _ in range(repeats):
            mixed = x.copy()
            mixed[:, column] = x[rng.permutation(len(x)), column]
            other = actor.dist(mixed)
            if env.spec.actions is not None:
                means.append(float(plain.kl(other).mean()))
            else:
                means.append(float(np.abs(plain.mode() - other.mode()).mean()))
        low, high = np.quantile(means, [0.025, 0.975])
        found.append(Importance(column, float(np.mean(means)), float(low), float(high)))
    return sorted(found, key=lambda item: -item.mean)


def rules(trees: ObliviousTrees, count: int = 10) -> list[Rule]:
    """Return the splits that move the scores most, equal splits of several trees taken together."""
    found: dict[tuple[int, float, bool], Floats] = {}
    equal = np.zeros(trees.feature.shape, bool) if trees.equal is None else trees.equal
    for t in range(len(trees.feature)):
        depth = trees.feature.shape[1]
        numbers = np.arange(1 << depth)
        for d in range(depth):
            holds = (numbers >> d & 1).astype(bool)
            push = trees.leaf[t, holds].mean(axis=0) - trees.leaf[t, ~holds].mean(axis=0)
            key = (int(trees.feature[t, d]), float(trees.threshold[t, d]), bool(equal[t, d]))
            found[key] = found.get(key, np.zeros(trees.n_out)) + push
    made = [Rule(*key, float(np.ptp(push)), int(push.argmax())) for key, push in found.items()]
    return sorted(made, key=lambda rule: (-rule.weight, rule.column, rule.threshold))[:count]


def _visited(actor: Actor, env: Environment, rng: np.random.Generator, worlds: int) -> Floats:
    state, rows = env.reset(rng, worlds), []
    alive = np.ones(worlds, bool)
    for _ in range(min(env.spec.steps, 200)):
        seen = env.observe(state, rng)
        rows.append(seen[alive].reshape(-1, env.spec.seen))
        action, _ = act(actor, seen, rng, allowed=env.allowed(state))
        turn = env.step(state, action, rng)
        alive, state = alive & ~(turn.terminated | turn.truncated), turn.state
        if not alive.any():
            break
    return np.concatenate(rows)
