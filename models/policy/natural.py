"""The natural gradient: F^-1 g by conjugate gradients, then the longest step that a trust region allows.

Kakade 2001; Schulman et al. 2015 for the line search. The Fisher product is J' F_dist J v: forward-mode by a finite
step would lose digits in float32, so J v is taken in float64 by a central difference of the net's outputs, and J' by
back-propagation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Bools, Floats
from flocklet.models.policy.policy import NetPolicy

__all__ = ["natural_step"]

_ITERATIONS, _DAMPING, _HALVINGS = 10, 0.1, 10


def _outputs(policy: NetPolicy, vector: Floats, seen: Floats) -> Floats:
    """Return logits, or means beside log-deviations, in float64 for a vector (P,)."""
    layers = policy.net.bind(vector, policy.layout)
    out = policy.net.forward(layers, seen)[-1]
    if policy.spec.controls is None:
        return out
    spread = np.broadcast_to(policy.layout.split(vector)["log_deviation"], out.shape)
    return np.concatenate([out, spread], axis=1)


def natural_step(
    policy: NetPolicy,
    seen: Floats,
    allowed: Bools | None,
    action: NDArray[Any],
    advantage: Floats,
    delta: float = 0.01,
) -> float:
    """Move the policy along the natural gradient of mean rho A until its mean KL from itself is at most `delta`.

    Rows are (B, D); return the KL reached, 0 where no step on the line improves the surrogate.
    """
    start = policy.vector.copy()
    old, tape = policy.forward(seen, allowed)
    rows = len(seen)
    goal = policy.gradient(tape, old.log_prob_gradient(action) * (advantage / rows)[:, None]).astype(
        np.float64
    )
    if not goal.any():
        return 0.0
    wide, deep = start.astype(np.float64), seen.astype(np.float64)

    def fisher(direction: Floats) -> Floats:
        size = 1e-4 / max(float(np.linalg.norm(direction)), 1e-12)
        up, down = (_outputs(policy, wide + sign * size * direction, deep) for sign in (1.0, -1.0))
        moved = np.asarray((up - down) / (2.0 * size), np.float32)
        if allowed is not None:
            moved = np.where(allowed, moved, 0.0).astype(np.float32)
        back = policy.gradient(tape, old.fisher(moved) / np.float32(rows))
        return np.asarray(back.astype(np.float64) + _DAMPING * direction)

    step = _conjugate(fisher, goal)
    length = float(np.sqrt(2.0 * delta / max(float(step @ fisher(step)), 1e-12)))
    before = old.log_prob(action)
    for _ in range(_HALVINGS):
        policy.vector[...] = start + (length * step).astype(np.float32)
        new = policy.dist(seen, allowed)
        kl = float(old.kl(new).mean())
        gain = float(((np.exp(new.log_prob(action) - before) - 1.0) * advantage).mean())
        if kl <= delta and gain > 0.0:
            return kl
        length *= 0.5
    policy.vector[...] = start
    return 0.0


def _conjugate(product: Any, goal: Floats) -> Floats:
    x = np.zeros_like(goal)
    rest = goal.copy()
    direction = rest.copy()
    left = float(rest @ rest)
    for _ in range(_ITERATIONS):
        image = product(direction)
        alpha = left / float(direction @ image)
        x += alpha * direction
        rest -= alpha * image
        now = float(rest @ rest)
        if now < 1e-10 * left:
            break
        direction = rest + now / left * direction
        left = now
    return x
