"""Attack x aggregator without a network: p peers send one change each per round, a rule merges them.

The cheapest true comparison of rules: same start, same batches for every rule; attackers are omniscient (they know the
honest changes of this round). Used for the published matrix and by `examples/attack_and_defend.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.swarm import robust
from flocklet.swarm.attacks import ATTACKS, backdoor, flip_labels, forge
from flocklet.swarm.interface import generator
from flocklet.swarm.similarity import flag, fltrust, foolsgold_weights
from flocklet.swarm.task import Task

__all__ = ["LAB_ATTACKS", "LAB_RULES", "duel"]

Floats = NDArray[np.float32]

LAB_RULES = (
    "mean", "median", "trimmed", "krum", "multikrum", "bulyan", "rfa", "cclip", "normbound", "nnm+trimmed",
    "bucketing+median", "foolsgold", "fltrust", "flag", "flag4",
)  # fmt: skip
LAB_ATTACKS: Mapping[str, tuple[str, float | None]] = {
    "none": ("none", None),
    "noise": ("noise", 1.0),
    "uniform": ("uniform", 1.0),
    "sign flip": ("signflip", 1.0),
    "x(-10)": ("scale", -10.0),
    "ALIE 1": ("alie", 1.0),
    "IPM 0.5": ("ipm", 0.5),
    "label flip": ("labels", None),
    "backdoor": ("backdoor", None),
    "free rider": ("freerider", None),
    "constant 100": ("constant", 100.0),
}


class _Rule:
    """A rule with its memory; `root` is a trusted change for rules that ask for one."""

    def __init__(self, name: str, f: int, rng: np.random.Generator) -> None:
        if name not in LAB_RULES:
            raise UsageError(f"no rule {name!r}", remedy=", ".join(LAB_RULES))
        self._name, self._f, self._rng = name, f, rng
        self._memory: Floats | None = None

    def __call__(self, stack: Floats, root: Floats) -> Floats:
        f = self._f
        match self._name:
            case "mean":
                return np.asarray(stack.mean(axis=0), np.float32)
            case "median":
                return robust.median(stack)
            case "trimmed":
                return robust.trimmed_mean(stack, f)
            case "krum":
                return robust.krum(stack, f)
            case "multikrum":
                return robust.multi_krum(stack, f)
            case "bulyan":
                return robust.bulyan(stack, f)
            case "rfa":
                return robust.geometric_median(stack)
            case "cclip":
                self._memory = robust.centred_clipping(stack, start=self._memory)
                return self._memory
            case "normbound":
                return robust.norm_bound(stack, bound=float(np.linalg.norm(root)))
            case "nnm+trimmed":
                return robust.trimmed_mean(robust.nearest_mixing(stack, f), f)
            case "bucketing+median":
                return robust.median(robust.bucketing(stack, 2, self._rng))
            case "foolsgold":
                weights = foolsgold_weights(stack)
                return np.asarray((weights / max(weights.sum(), 1e-12)).astype(np.float32) @ stack)
            case "fltrust":
                return fltrust(stack, root)
            case "flag4":
                return flag(stack, dimensions=4)
            case _:
                return flag(stack, dimensions=(len(stack) + 1) // 2)


def duel(
    task: Task, rule: str, attack: str, *, f: int, rounds: int, seed: int, lr: float = 0.2, batch: int = 32
) -> tuple[float, float]:
    """Return (final accuracy, attack success) of a rule under an attack by the last `f` peers of the task.

    Attack success is the share of right answers turned into the attacker's (label flip 0 <-> 1, backdoor to 1), else 0.
    """
    peers = len(task.shares)
    kind, strength = LAB_ATTACKS.get(attack, (attack, None))
    if kind not in (*ATTACKS, "none", "labels", "backdoor"):
        raise UsageError(f"no attack {attack!r}", remedy=", ".join(LAB_ATTACKS))
    liars = 0 if kind == "none" else f
    honest = peers - liars
    attackers = range(honest, peers)
    learnt = flip_labels(task, attackers) if kind == "labels" else task
    width = round(task.features.shape[1] ** 0.5)
    rng = generator(seed, b"", "lab")
    merge = _Rule(rule, f, generator(seed, b"", "rule"))
    x = task.model.init(generator(seed, b"", "start"))
    before = np.zeros_like(x)
    for _ in range(rounds):
        if not np.isfinite(x).all():  # the attack won: the model left the numbers
            return float(task.accuracy(np.zeros_like(x)[None])[0]), 0.0
        rows = np.stack([rng.choice(share, batch) for share in task.shares])
        features, labels = learnt.features[rows], learnt.labels[rows]
        if kind == "backdoor":
            features[honest:] = backdoor(features[honest:].reshape(-1, width * width), width).reshape(
                liars, batch, -1
            )
            labels[honest:] = 1
        with np.errstate(over="ignore", invalid="ignore"):
            changes = task.model.gradient(np.broadcast_to(x, (peers, x.size)).copy(), features, labels)[0]
            for i in attackers:
                if kind == "freerider":
                    changes[i] = before
                elif kind not in ("labels", "backdoor"):
                    changes[i] = forge(kind, changes[:honest], changes[i], rng, strength)
            before = merge(changes, changes[0])
            x = x - np.float32(lr) * before
    return float(task.accuracy(x[None])[0]), _success(task, x, kind, width)


def _success(task: Task, x: Floats, kind: str, width: int) -> float:
    labels = task.test_labels
    if kind == "labels":
        guess = task.model.predict(x[None], task.test_features)[0]
        return float(np.mean(np.concatenate([guess[labels == 0] == 1, guess[labels == 1] == 0])))
    if kind == "backdoor":
        others = labels != 1
        guess = task.model.predict(x[None], backdoor(task.test_features[others], width))[0]
        return float(np.mean(guess == 1))
    return 0.0
