"""Copy a table into a dense net, so that it can leave the process as ONNX; accepted by its return."""

from __future__ import annotations

import numpy as np

from flocklet.models.policy.environment import Environment
from flocklet.models.policy.episodes import TablePolicy
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.optimiser import Adam
from flocklet.models.policy.policy import NetPolicy

__all__ = ["net_copy"]

_STEPS, _RATE, _TRIES, _JUDGED = 1500, 5e-3, 3, 40


def net_copy(
    table: TablePolicy, env: Environment, rng: np.random.Generator, *, accept: float = 0.95
) -> tuple[NetPolicy, float, float] | None:
    """Return a net with the table's choices, its return and the table's; None where its return is not enough.

    Cross-entropy to the table's probabilities in all states met, full batch.
    """
    rows = table.states.rows()
    table.grow()
    wanted = table.dist(rows)
    seed = int(rng.integers(2**31))
    goal = iqm(evaluate(env, table, [seed], _JUDGED))
    goal_probs = np.exp(wanted.params).astype(np.float32)
    for _ in range(_TRIES):
        policy = NetPolicy(env.spec, rng)
        policy.layers[0][0][...] *= 3.0  # observations like a time over a horizon differ little
        adam = Adam(policy.layout.size)
        for step in range(_STEPS):
            new, tape = policy.forward(rows)
            error = (np.exp(new.params) - goal_probs) / np.float32(len(rows))
            adam.step(policy.vector, policy.gradient(tape, error), _RATE * (1.0 - step / _STEPS))
        reached = iqm(evaluate(env, policy, [seed], _JUDGED))
        if reached >= goal - (1.0 - accept) * abs(goal):
            return policy, reached, goal
    return None
