"""Attack x aggregator without a network: p peers send one change each per round, a rule merges them.

The cheapest true comparison of rules: same start, same batches for every rule; attackers are omniscient (they know the
honest changes of this round). Used for the published matrix and by `examples/attack_and_defend.py`. Rules that need
neighbours (Metropolis, SybilWall, Bristle) and attacks that need them (dissensus, attack edges) have no place here:
the simulator measures those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.swarm.aggregators import rules as robust
from flocklet.swarm.aggregators.similarity import flag, fltrust, foolsgold_weights
from flocklet.swarm.attacks.model import ATTACKS, backdoor, flip_labels, forge
from flocklet.swarm.protocols import generator
from flocklet.swarm.task import Task

__all__ = ["LAB_ATTACKS", "LAB_RULES", "TARGETED", "attack_success", "contest", "duel"]

Floats = NDArray[np.float32]

LAB_RULES = (
    "mean", "median", "trimmed", "krum", "multikrum", "bulyan", "rfa", "cclip", "normbound", "nnm+trimmed",
    "bucketing+median", "foolsgold", "foolsgold+history", "centred foolsgold", "fltrust", "flag", "flag4",
)  # fmt: skip
LAB_ATTACKS: Mapping[str, tuple[str, float | None]] = {
    "none": ("none", None),
    "noise": ("noise", 1.0),
    "uniform": ("uniform", 1.0),
    "sign flip": ("signflip", 1.0),
    "x(-10)": ("scale", -10.0),
    "ALIE 0.21": ("alie", 0.21),
    "ALIE 1": ("alie", 1.0),
    "IPM 0.1": ("ipm", 0.1),
    "IPM 0.5": ("ipm", 0.5),
    "drop 80 %": ("drop", 0.8),
    "constant 100": ("constant", 100.0),
    "free rider": ("freerider", None),
    "stale": ("stale", None),
    "replay": ("replay", None),
    "label flip": ("labels", None),
    "labels reversed": ("reversed", None),
    "sybil clones": ("sybil", None),
    "backdoor": ("backdoor", None),
}
TARGETED = ("label flip", "labels reversed", "sybil clones", "backdoor")
"""The attacks that want certain wrong answers: only these have a success other than the loss of accuracy."""

_REPLAYED = 20  # a replayed change is at most so many rounds old
_LEARNT = ("none", "labels", "reversed", "backdoor")  # honest senders of what poisoned rows taught them


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
            case "fltrust":
                return fltrust(stack, root)
            case "flag4":
                return flag(stack, dimensions=4)
            case "flag":
                return flag(stack, dimensions=(len(stack) + 1) // 2)
        return self._foolsgold(stack)

    def _foolsgold(self, stack: Floats) -> Floats:
        """Weigh this round's changes; with history (Fung et al.), by the likeness of all changes so far."""
        compared = stack
        if self._name == "foolsgold+history":
            self._memory = stack.copy() if self._memory is None else self._memory + stack
            compared = self._memory
        elif self._name == "centred foolsgold":
            compared = stack - stack.mean(axis=0)
        weights = foolsgold_weights(compared)
        return np.asarray((weights / max(weights.sum(), 1e-12)).astype(np.float32) @ stack)


class _Contestant:
    """One rule and the model that it has learnt."""

    def __init__(self, rule: str, f: int, seed: int, x: Floats) -> None:
        self.merge = _Rule(rule, f, generator(seed, b"", "rule"))
        self.x, self.step = x, np.zeros_like(x)
        self.first: Floats | None = None
        self.old: deque[Floats] = deque(maxlen=_REPLAYED)


def duel(
    task: Task, rule: str, attack: str, *, f: int, rounds: int, seed: int, lr: float = 0.2, batch: int = 32
) -> tuple[float, float]:
    """Return (final accuracy, attack success) of one rule: a `contest` of one."""
    return contest(task, (rule,), attack, f=f, rounds=rounds, seed=seed, lr=lr, batch=batch)[rule]


def contest(
    task: Task,
    rules: Sequence[str],
    attack: str,
    *,
    f: int,
    rounds: int,
    seed: int,
    lr: float = 0.2,
    batch: int = 32,
) -> dict[str, tuple[float, float]]:
    """Return rule -> (final accuracy, attack success) under an attack by the last `f` peers of the task.

    All rules see the same rows and the same random numbers; each has its own model, so that its result is the one it
    has alone. Attack success is the share of answers that are the attacker's (`attack_success`), else 0.
    """
    peers = len(task.shares)
    kind, strength = LAB_ATTACKS.get(attack, (attack, None))
    if kind not in (*ATTACKS, "replay", *_LEARNT):
        raise UsageError(f"no attack {attack!r}", remedy=", ".join(LAB_ATTACKS))
    honest = peers - (0 if kind == "none" else f)
    learnt = task
    if kind in ("labels", "sybil", "reversed"):
        learnt = flip_labels(task, range(honest, peers), second=-1 if kind == "reversed" else 1)
    width = round(task.features.shape[1] ** 0.5)
    rng = generator(seed, b"", "lab")
    start = task.model.init(generator(seed, b"", "start"))
    running = {rule: _Contestant(rule, f, seed, start) for rule in rules}
    found: dict[str, tuple[float, float]] = {}
    for round_ in range(rounds):
        for rule in [rule for rule, one in running.items() if not np.isfinite(one.x).all()]:
            del running[rule]  # the attack won: the model left the numbers
            found[rule] = float(task.accuracy(np.zeros_like(start)[None])[0]), 0.0
        if not running:
            break
        rows = np.stack([rng.choice(share, batch) for share in task.shares])
        features, labels = learnt.features[rows], learnt.labels[rows]
        if kind == "backdoor":
            patched = backdoor(features[honest:].reshape(-1, width * width), width)
            features[honest:], labels[honest:] = patched.reshape(peers - honest, batch, -1), 1
        drawn = [
            forge(kind, start[None], np.ones_like(start), rng, strength)
            for _ in range(honest, peers)
            if kind in ("noise", "uniform", "drop")
        ]
        back = int(rng.integers(min(round_ + 1, _REPLAYED))) if kind == "replay" else 0
        with np.errstate(over="ignore", invalid="ignore"):
            models = np.stack([one.x for one in running.values()])[:, None]
            all_changes = task.model.gradient(models, features, labels)[0]
            for one, changes in zip(running.values(), all_changes, strict=True):
                _lie(one, kind, strength, changes, honest, drawn, back)
                one.step = one.merge(changes, changes[0])
                one.x = one.x - np.float32(lr) * one.step
    for rule, one in running.items():
        found[rule] = float(task.accuracy(one.x[None])[0]), attack_success(task, one.x[None], attack)
    return found


def _lie(
    one: _Contestant,
    kind: str,
    strength: float | None,
    changes: Floats,
    honest: int,
    drawn: list[Floats],
    back: int,
) -> None:
    """Put in place of the last rows what the liars send."""
    theirs = changes[honest:]
    if kind in _LEARNT or not len(theirs):
        return
    if kind == "freerider":
        theirs[:] = one.step
    elif kind == "stale":
        one.first = theirs.copy() if one.first is None else one.first
        theirs[:] = one.first
    elif kind == "replay":
        one.old.append(theirs.copy())
        theirs[:] = one.old[back]
    elif kind == "sybil":
        theirs[:] = theirs.mean(axis=0)
    elif kind == "drop":
        theirs *= np.stack(drawn)
    elif drawn:
        theirs[:] = np.stack(drawn)
    elif kind in ("alie", "ipm"):
        theirs[:] = forge(kind, changes[:honest], theirs[0], np.random.default_rng(0), strength)
    else:
        for row in theirs:
            row[:] = forge(kind, changes[:honest], row, np.random.default_rng(0), strength)


def attack_success(task: Task, models: Floats, attack: str) -> float:
    """Return the share of test rows answered as the attacker wants, over models (N, P); 0 where it wants none.

    Label flip and sybils: 0 called 1 and 1 called 0; reversed: class c called C - 1 - c; backdoor: others called 1.
    """
    labels = task.test_labels
    if attack == "backdoor":
        width = round(task.features.shape[1] ** 0.5)
        others = labels != 1
        return float(np.mean(task.model.predict(models, backdoor(task.test_features[others], width)) == 1))
    if attack not in TARGETED:
        return 0.0
    guess = task.model.predict(models, task.test_features)
    if attack == "labels reversed":
        return float(np.mean(guess == labels.max() - labels))
    return float(np.mean(guess[:, labels < 2] == 1 - labels[labels < 2]))
