"""Aggregators for swarms from the rules on stacks: which rows go in, and what stands for zero.

Rules that need deltas (norm bound, FLTrust, Flag, FoolsGold's published use of updates) get rows minus the model
before training where that is held, and their answer is added to it; rules of positions get the models as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.layout import Vector
from flocklet.swarm.aggregators import rules as robust
from flocklet.swarm.aggregators.averaging import NOTHING, stacked
from flocklet.swarm.aggregators.similarity import flag, fltrust, foolsgold_weights
from flocklet.swarm.protocols import Context, Update

__all__ = ["CentredClipping", "FlTrust", "Flag", "FoolsGold", "NormBound", "Ranked", "SybilWall"]

RULES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "trimmed": robust.trimmed_mean,
    "median": robust.median,
    "rfa": robust.geometric_median,
    "krum": robust.krum,
    "multikrum": robust.multi_krum,
    "bulyan": robust.bulyan,
}
_MOST = {"trimmed": (1, 2), "krum": (3, 1), "multikrum": (3, 1), "bulyan": (3, 4)}  # needs p >= a + b f


@dataclass(frozen=True)
class Ranked:
    """One of the rules trimmed, median, rfa, krum, multikrum, bulyan; `f` is a share below 1 or a count.

    With fewer models than the rule needs, f is lowered to what it allows (0 at least); nearest-neighbour mixing or
    buckets of `bucket` rows may come first.
    """

    rule: str
    f: float = 0.2
    nnm: bool = False
    bucket: int = 0
    needs = NOTHING

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UsageError(f"no rule {self.rule!r}", remedy=", ".join(RULES))
        if self.f < 0:
            raise UsageError("f is the share or the number of liars", remedy="f >= 0")

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the rule's answer on all models."""
        stack = stacked(own, updates, context.me)
        f = self._liars(len(stack))
        if self.nnm:
            stack = robust.nearest_mixing(stack, f)
        if self.bucket:
            stack = robust.bucketing(stack, self.bucket, context.rng)
            f = self._liars(len(stack))
        least = _MOST.get(self.rule, (1, 0))[0]
        if len(stack) < least:
            return np.asarray(stack.mean(axis=0), np.float32)
        return RULES[self.rule](stack, f)

    @property
    def least(self) -> int:
        """The least number of models among which the rule withstands one liar; 1 if it is told that there are none."""
        if self.f == 0:
            return 1
        if self.rule in ("median", "rfa"):
            return 3
        wanted = (p for p in range(1, 1 << 16) if self._liars(p))
        return next(wanted, 1 << 16)

    def _liars(self, p: int) -> int:
        f = int(self.f * p) if self.f < 1 else int(self.f)
        least, per_liar = _MOST.get(self.rule, (1, 0))
        most = (p - least) // per_liar if per_liar else p // 2
        return max(0, min(f, most))


@dataclass
class Momentum:
    """What centred clipping remembers: the step of the last merge, (P,)."""

    center: Vector | None = None


@dataclass(frozen=True)
class CentredClipping:
    """Centred clipping that starts from the last answer, else from the median."""

    steps: int = 3
    name = "cclip"
    needs = frozenset(("memory",))

    def begin(self) -> Momentum:
        """Return the memory of a peer that has merged nothing yet."""
        return Momentum()

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the clipped centre; the step from the start of this round is what is remembered."""
        stack = stacked(own, updates, context.me) - context.start
        momentum = context.state if isinstance(context.state, Momentum) else Momentum()
        center = robust.centred_clipping(stack, start=momentum.center, steps=self.steps)
        momentum.center = center
        return np.asarray(context.start + center, np.float32)


@dataclass(frozen=True)
class NormBound:
    """Average changes, each cut to `bound` times the norm of our own change (of the median one without)."""

    bound: float = 1.0
    name = "normbound"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the start plus the mean of the cut changes."""
        changes = stacked(own, updates, context.me) - context.start
        norms = np.linalg.norm(changes, axis=1)
        mine = float(np.linalg.norm(own - context.start)) if own is not None else float(np.median(norms))
        return np.asarray(context.start + robust.norm_bound(changes, bound=self.bound * mine), np.float32)


@dataclass(frozen=True)
class FlTrust:
    """Trust changes that point where our own points: our training is the root."""

    name = "fltrust"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the start plus the trusted change."""
        if own is None:
            raise UsageError("FLTrust needs an own model as its root", remedy="use it with gossip")
        changes = stacked(own, updates, context.me) - context.start
        return np.asarray(context.start + fltrust(changes, own - context.start), np.float32)


@dataclass(frozen=True)
class Flag:
    """The Flag aggregator on changes; `m` dimensions, (p + 1) // 2 by default."""

    m: int = 0
    name = "flag"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the start plus the aggregated change."""
        changes = stacked(own, updates, context.me) - context.start
        return np.asarray(context.start + flag(changes, dimensions=min(self.m, len(changes))), np.float32)


@dataclass(frozen=True)
class FoolsGold:
    """Weigh neighbours by how little they resemble another one; our own model has weight 1.

    `is_centred` subtracts the mean of all models before they are compared.
    """

    is_centred: bool = False
    name = "foolsgold"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the weighted average."""
        if own is None:
            raise UsageError("FoolsGold in a swarm needs an own model", remedy="use it with gossip")
        if not updates:
            return own
        compared = [update.vector for update in [*updates, *self._second_hand(updates, context)]]
        stack = np.stack(compared)
        if self.is_centred:
            stack = stack - np.vstack([stack, own]).mean(axis=0)
        weights = foolsgold_weights(stack)[: len(updates)]
        total = 1.0 + weights.sum()
        share = (weights / total).astype(np.float32)
        return np.asarray(own / np.float32(total) + share @ np.stack(compared[: len(updates)]), np.float32)

    def _second_hand(self, updates: Sequence[Update], context: Context) -> list[Update]:
        return []


@dataclass(frozen=True)
class SybilWall(FoolsGold):
    """FoolsGold's weights over neighbours and second-hand models (SybilWall); only neighbours are averaged."""

    name = "sybilwall"
    needs = frozenset(("gossip",))

    def _second_hand(self, updates: Sequence[Update], context: Context) -> list[Update]:
        direct = {update.sender for update in updates}
        return [told for told in context.gossip if told.sender not in direct and told.sender != context.me]
