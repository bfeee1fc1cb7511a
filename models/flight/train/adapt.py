"""Fine-tune a policy to one's own vehicle in a few updates, and share what was learnt as a delta.

A policy is `Parameters` (flocklet.models.base) of six tensors; what a peer sends is the `Delta` from the version that it
started from. `merge` adds the mean of several deltas to that version: federated averaging (McMahan et al., AISTATS 2017)
of peers whose vehicles differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch
from flocklet.models.base import Delta, Parameters, add, apply_delta, scale
from flocklet.models.flight.train.bptt import Settings
from flocklet.models.flight.train.bptt_programs import NET
from flocklet.models.flight.train.recipes import recipe

__all__ = ["adaptation", "merge", "tensors", "vector"]

Floats = NDArray[Any]


def adaptation(task: str = "track", updates: int = 200) -> Settings:
    """Return the settings for fine-tuning: the recipe of a task with a small learning rate from the start."""
    found = recipe(task, updates=updates)
    return replace(found, rate=min(found.rate, 2e-3), rows=16, steps=80, warm=10)


def tensors(params: Floats) -> Parameters:
    """Return the trainer's parameters as named tensors, weights (outputs, inputs): what peers exchange."""
    named: Parameters = {}
    for i, (weights, bias, _) in enumerate(NET.export(params), 1):
        named[f"layer{i}.weights"], named[f"layer{i}.bias"] = weights, bias
    return named


def vector(named: Parameters) -> Floats:
    """Return named tensors as the trainer's parameters; raise SchemaMismatch for other tensors."""
    parts = []
    wanted = tensors(np.zeros(NET.count, np.float32))
    if {name: x.shape for name, x in named.items()} != {name: x.shape for name, x in wanted.items()}:
        raise SchemaMismatch("these tensors are not a policy of " + "-".join(map(str, NET.sizes)))
    for i in range(1, len(NET.layers) + 1):
        parts += [named[f"layer{i}.weights"].T.reshape(-1), named[f"layer{i}.bias"]]
    return np.concatenate(parts).astype(np.float32)


def merge(base: Parameters, deltas: Sequence[Delta]) -> Parameters:
    """Return `base` plus the mean of `deltas`, which must all start from it; raise SchemaMismatch if one does not."""
    if not deltas:
        return {name: value.copy() for name, value in base.items()}
    total = deltas[0]
    for delta in deltas[1:]:
        total = add(total, delta)
    return apply_delta(base, scale(total, 1.0 / len(deltas)))
