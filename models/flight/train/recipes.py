"""Recipes: settings of the trainer for each task, and policies to and from its parameters.

`hover` is the quick one: 200 windows of 80 steps, a policy in well under a second. Its policy looks at the newest 8 of
the 32 past actions (the weights of the others are zero), which costs half the time and hovers no worse. `track` adds
moving targets, `recover` throws of any attitude without walls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.dynamics import Vehicle
from flocklet.models.flight.sim.environment import Options
from flocklet.models.flight.sim.moving_targets import Mix
from flocklet.models.flight.train.bptt import Settings
from flocklet.models.flight.train.bptt_programs import NET
from flocklet.models.flight.train.cost import Cost

__all__ = ["Fleet", "fleet_of", "parameters_of", "policy_of", "recipe"]

Fleet = Callable[[np.random.Generator, int], Vehicle]
Floats = NDArray[Any]


_QUICK = Settings(
    steps=80,
    updates=200,
    lags=8,
    rate=12e-3,
    fresh=0.9,
    cost=Cost(position=6.0, wall=1000.0, inside=0.4),
)
_LONG = Settings(
    steps=120,
    updates=3000,
    rate=4e-3,
    cost=Cost(position=6.0, wall=1000.0, inside=0.4, effort=0.0),
)
_MOVING = Mix(eights=0.3, wanders=0.3)
_RECOVER = Settings(
    steps=120,
    updates=1000,
    rate=4e-3,
    fresh=0.3,
    limit_m=5.0,
    options=Options(
        guided=0.0, position_m=0.0, angle_rad=math.pi, velocity_m_s=1.0, rate_rad_s=1.0, limit_m=1e3
    ),
    cost=Cost(position=1.0, square=0.0, velocity=3.0, attitude=4.0, rate=0.3, effort=0.0, wall=0.0, cap=1e4),
)


def recipe(task: str = "hover", *, is_fleet: bool = False, updates: int | None = None) -> Settings:
    """Return the settings for a task; `is_fleet` when every vehicle is another one, `updates` for a longer training."""
    if task == "hover":
        found = _LONG if is_fleet or (updates or 0) > 2 * _QUICK.updates else _QUICK
    elif task == "track":
        found = replace(_LONG, mix=_MOVING)
    elif task == "recover":
        found = _RECOVER
    else:
        raise ValueError(f"no such task: {task!r}")
    if is_fleet:  # the hover action differs per vehicle; more vehicles at once, slower, longer
        cost = replace(found.cost, effort=0.0)
        found = replace(
            found, rows=32, steps=100, rate=3e-3, fresh=0.9, updates=10000, mix=_MOVING, cost=cost
        )
    return replace(found, updates=updates or found.updates)


def fleet_of(vehicle: Vehicle | None) -> Fleet:
    """Return what draws vehicles to train on: always `vehicle`, or with None one of the class at random each time."""
    if vehicle is None:
        from flocklet.models.flight.sim.randomise import draw

        return lambda rng, n: draw(rng, n)
    return lambda rng, n: vehicle  # plain numbers serve every row


def policy_of(params: Floats) -> Policy:
    """Return the policy of the trainer's parameters."""
    return Policy(tuple(NET.export(params)))


def parameters_of(policy: Policy) -> Floats:
    """Return a policy as the trainer's parameters, (13828,) float32; raise ExportError for another shape."""
    kinds = [kind for _, _, kind in policy.layers]
    if policy.sizes != NET.sizes or kinds != [layer.activation for layer in NET.layers]:
        shape = "-".join(map(str, NET.sizes))
        given = "-".join(map(str, policy.sizes))
        raise ExportError(
            f"the trainer knows policies of {shape} with fast_tanh, not {given} with {', '.join(kinds)}",
            remedy="train a policy with 'flocklet fly train'",
        )
    parts = [part.reshape(-1) for weights, bias, _ in policy.layers for part in (weights.T, bias)]
    return np.concatenate(parts).astype(np.float32)
