"""What attackers do: change what they send, what they learn from, or how they behave. Scripts for tests and benchmarks.

An attack crafts the model that a peer sends instead of its own. It knows what its peer received in the step before
(`saw`); the laboratory hands it the honest updates of this very round (omniscient). The same objects run in the
simulator and in real peers. Sources: ALIE, Baruch et al. 2019; IPM, Xie et al. 2020; dissensus, He et al. 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.attacks.authority import AUTHORITY
from flocklet.swarm.attacks.link import HOSTILE
from flocklet.swarm.protocols import PeerId, Update
from flocklet.swarm.task import Task

__all__ = ["ATTACKS", "POISONS", "Attack", "add_sybils", "backdoor", "flip_labels", "forge", "poison"]

Floats = NDArray[np.float32]

ATTACKS = (
    "noise", "uniform", "signflip", "scale", "alie", "ipm", "freerider", "stale", "dissensus", "constant", "liar", "sybil",
    "invert", "drop", "eclipse", "labelflip", "reversed", "backdoor", "falsemerge",
)  # fmt: skip
POISONS = ("labelflip", "reversed", "backdoor")


def forge(
    kind: str, honest: Floats, own: Vector, rng: np.random.Generator, strength: float | None = None
) -> Vector:
    """Return a forged change (n,) given the honest changes (p, n) and our own honest one.

    noise: Gaussian of `strength` (1); uniform: U[0, 1) times strength (1); signflip: -strength (1) own; scale:
    strength (-10) own; alie: mean - strength (1) std; ipm: -strength (.5) mean; constant: strength (100) everywhere; drop:
    own with each value zeroed with probability strength (.8).
    """
    if kind == "noise":
        return rng.normal(0.0, 1.0 if strength is None else strength, own.shape).astype(np.float32)
    if kind == "uniform":
        return rng.random(own.shape, np.float32) * np.float32(1.0 if strength is None else strength)
    if kind == "signflip":
        return own * np.float32(-1.0 if strength is None else -strength)
    if kind == "scale":
        return own * np.float32(-10.0 if strength is None else strength)
    if kind == "alie":
        z = np.float32(1.0 if strength is None else strength)
        return np.asarray(honest.mean(axis=0) - z * honest.std(axis=0), np.float32)
    if kind == "ipm":
        return np.asarray(
            honest.mean(axis=0) * np.float32(-0.5 if strength is None else -strength), np.float32
        )
    if kind == "constant":
        return np.full_like(own, 100.0 if strength is None else strength)
    if kind == "drop":
        return own * (rng.random(own.shape, np.float32) >= (0.8 if strength is None else strength))
    raise UsageError(f"no attack {kind!r}", remedy=", ".join(ATTACKS))


@dataclass
class Attack:
    """One attacker.

    freerider echoes what it was sent; stale sends its first model for ever; liar claims many rows; invert sends
    -strength (3) times the mean of the models that it was sent; dissensus pushes each neighbour away from what the
    others say, each in its own direction; eclipse learns honestly and floods mDNS with names of peers that nobody
    is (`flocklet.swarm.attacks.mdns_flood`; virtual time has no mDNS); labelflip, reversed and backdoor learn from poisoned
    rows (`poison`); falsemerge trains honestly and, when it is the one to merge, pushes a model of zeros from round
    `strength` (0) on; the scripts of `flocklet.swarm.attacks.link` and `.authority` misuse the protocol; sybils of one
    `cabal` listen to nobody and all send the model that the first of them trained.
    """

    kind: str
    strength: float | None = None
    accomplices: frozenset[PeerId] = frozenset()
    cabal: dict[bytes, Vector] = field(default_factory=dict)
    seen: list[Vector] = field(default_factory=list)
    first: Vector | None = None
    sending: Vector | None = None

    def __post_init__(self) -> None:
        known = (*ATTACKS, *HOSTILE, *AUTHORITY)
        if self.kind not in known:
            raise UsageError(f"no attack {self.kind!r}", remedy=", ".join(known))

    @property
    def trains(self) -> bool:
        """Whether the attacker computes an honest update at all."""
        return self.kind not in ("freerider", "stale", "constant", "noise", "uniform", "invert")

    @property
    def merges(self) -> bool:
        """Whether the attacker learns from others."""
        return self.kind != "sybil"

    @property
    def is_two_faced(self) -> bool:
        """Whether it sends every neighbour something else."""
        return self.kind == "dissensus"

    def craft(self, trained: Vector, start: Vector, rng: np.random.Generator) -> Vector:
        """Return the model that goes out instead of `trained`."""
        if (
            self.kind in ("liar", "eclipse", "falsemerge", *POISONS, *HOSTILE, *AUTHORITY)
            or self.is_two_faced
        ):
            return trained
        if self.kind == "sybil":  # all of them held the same model before: who is first speaks for all
            return self.cabal.setdefault(vector_id(start), trained)
        if self.kind == "stale":
            self.first = start if self.first is None else self.first
            return self.first
        if self.kind == "invert":
            models = np.stack(self.seen or [start])
            return np.asarray(
                models.mean(axis=0) * np.float32(-(3.0 if self.strength is None else self.strength))
            )
        if self.kind == "freerider":
            return self.seen[-1] if self.seen else start
        honest = np.stack([*self.seen, trained]) - start
        return start + forge(self.kind, honest, trained - start, rng, self.strength)

    def face(self, x: Vector, receiver: PeerId) -> Vector:
        """Return what one receiver is told: its own last model pushed away from the mean of the others."""
        others = np.stack([*self.seen, x])
        theirs = next((v for sender, v in self._named if sender == receiver), x)
        push = np.float32(1.5 if self.strength is None else self.strength)
        return np.asarray(theirs + push * (theirs - others.mean(axis=0)), np.float32)

    def saw(self, updates: Sequence[Update]) -> None:
        """Remember what honest peers sent in this step; accomplices know each other."""
        self._named = [
            (update.sender, update.vector) for update in updates if update.sender not in self.accomplices
        ]
        self.seen = [vector for _, vector in self._named]

    def claim(self, n: int) -> int:
        """Return the number of rows that this attacker says it has."""
        return n * 1000 if self.kind == "liar" else n

    _named: list[tuple[PeerId, Vector]] = field(default_factory=list)


def flip_labels(task: Task, attackers: Sequence[int], first: int = 0, second: int = 1) -> Task:
    """Return the task with the attackers' rows of two classes swapped; `second` < 0 reverses all classes."""
    labels = task.labels.copy()
    for i in attackers:
        rows = task.shares[i]
        if second < 0:
            labels[rows] = labels.max() - task.labels[rows]
        else:
            labels[rows] = np.where(task.labels[rows] == first, second, labels[rows])
            labels[rows] = np.where(task.labels[rows] == second, first, labels[rows])
    return task.with_labels(labels)


def poison(task: Task, attacks: Mapping[int, str]) -> Task:
    """Return the task in which each attacker of a poisoning kind learns from its own poisoned copy of its rows.

    labelflip swaps classes 0 and 1, reversed turns class c into C - 1 - c, backdoor patches half of the images, which
    must be square, and calls them class 1.
    """
    features, labels, shares = [task.features], [task.labels], list(task.shares)
    end = len(task.labels)
    for i, kind in attacks.items():
        if kind not in POISONS:
            continue
        rows = task.shares[i]
        x, y = task.features[rows].copy(), task.labels[rows].copy()
        if kind == "labelflip":
            y = np.where(y == 0, 1, np.where(y == 1, 0, y))
        elif kind == "reversed":
            y = task.labels.max() - y
        else:
            width = round(x.shape[1] ** 0.5)
            if width * width != x.shape[1]:
                raise UsageError("a backdoor needs square images", remedy="another attack")
            x[::2], y[::2] = backdoor(x[::2], width), 1
        features.append(x)
        labels.append(y)
        shares[i] = np.arange(end, end + len(rows))
        end += len(rows)
    if len(labels) == 1:
        return task
    return replace(
        task, features=np.concatenate(features), labels=np.concatenate(labels), shares=tuple(shares)
    )


def backdoor(features: Floats, width: int, size: int = 3) -> Floats:
    """Return images (n, width * width) with the lower right corner of `size` x `size` set to 1."""
    patched = features.reshape(len(features), width, width).copy()
    patched[:, -size:, -size:] = 1.0
    return patched.reshape(features.shape)


def add_sybils(task: Task, sybils: int, features: Floats, labels: NDArray[np.int64]) -> Task:
    """Return the task with `sybils` more peers that all hold the same poisoned rows."""
    rows = np.arange(len(task.labels), len(task.labels) + len(labels))
    return replace(
        task,
        features=np.concatenate([task.features, features]),
        labels=np.concatenate([task.labels, labels]),
        shares=(*task.shares, *([rows] * sybils)),
    )
