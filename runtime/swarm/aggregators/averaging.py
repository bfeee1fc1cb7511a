"""Averages: plain, by sample count, Metropolis mixing; and vanishing-variance correction around any of them.

Variance correction (arXiv 2404.04616; eps = 1e-4, c = 0.5 there): per tensor with more than one value, after mixing,
w <- (w - mean w) sqrt((v + eps)/(Var w + eps)) + mean w, with v the variance of the models that went in. Averaging
unrelated models shrinks their variance; the correction gives it back. Unbiased variance (n - 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flocklet.errors import UsageError
from flocklet.models.layout import Layout, Vector
from flocklet.swarm.protocols import Aggregator, Context, Stateful, Update

__all__ = ["Mean", "Metropolis", "VarianceCorrected", "stacked"]

NOTHING: frozenset[str] = frozenset()


def stacked(own: Vector | None, updates: Sequence[Update], me: bytes) -> np.ndarray:
    """Return all models as rows (p, P), our own at its place in the order of senders."""
    rows = [(update.sender, update.vector) for update in updates]
    if own is not None:
        rows.append((me, own))
    if not rows:
        raise UsageError("nothing to merge", remedy="an aggregator needs at least one model")
    return np.stack([vector for _, vector in sorted(rows, key=lambda row: row[0])])


@dataclass(frozen=True)
class Mean:
    """Average all models; `by_samples` weighs by row counts, each cut at `cap` times their median.

    A peer can lie about its count: the cap bounds what a lie is worth.
    """

    by_samples: bool = False
    cap: float = 3.0
    name = "mean"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the average."""
        stack = stacked(own, updates, context.me)
        if not self.by_samples:
            total: Vector = np.add.reduce(stack, axis=0)
            total /= np.float32(len(stack))
            return total
        counted = [(update.sender, update.n) for update in updates]
        if own is not None:
            counted.append((context.me, context.n))
        counts = np.array([n for _, n in sorted(counted)], np.float64)
        middle = float(np.median(counts))
        if middle <= 0.0:  # most say that they learnt from nothing: no count can be believed
            return np.asarray(stack.mean(axis=0), np.float32)
        counts = np.minimum(counts, self.cap * middle)
        return np.asarray((counts / counts.sum()).astype(np.float32) @ stack)


@dataclass(frozen=True)
class Metropolis:
    """Mix with W_ij = 1/(1 + max(d_i, d_j)); what a missing neighbour would have weighed stays with us."""

    name = "metropolis"
    needs = NOTHING

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return x_i + sum_j W_ij (x_j - x_i)."""
        if own is None:
            raise UsageError("Metropolis mixing needs an own model", remedy="use it with gossip")
        if not updates:
            return own
        weights = np.array([1.0 / (1 + max(context.degree, update.degree)) for update in updates], np.float32)
        stack = np.stack([update.vector for update in updates])
        mixed: Vector = own * np.float32(1.0 - weights.sum()) + weights @ stack
        return mixed


@dataclass(frozen=True)
class VarianceCorrected:
    """Correct what `inner` returns; `mode` says whose variance is the target: others, own or conservative.

    `keep` is the share of our own model in the mixture, as in the source (c = 0.5); None leaves mixing to `inner`.
    """

    inner: Aggregator = field(default_factory=Mean)
    mode: str = "others"
    eps: float = 1e-4
    keep: float | None = None
    name = "corrected"

    def __post_init__(self) -> None:
        if self.mode not in ("others", "own", "conservative"):
            raise UsageError(f"no variance mode {self.mode!r}", remedy="others, own or conservative")

    @property
    def needs(self) -> frozenset[str]:
        """What the inner rule needs."""
        return self.inner.needs

    def begin(self) -> object:
        """Return the inner rule's state."""
        return self.inner.begin() if isinstance(self.inner, Stateful) else None

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the merged model with its variance restored, tensor by tensor."""
        if not updates:
            return self.inner.merge(own, updates, context)
        if self.keep is not None and own is not None:
            others = self.inner.merge(None, updates, context)
            mixed = np.float32(self.keep) * own + np.float32(1 - self.keep) * others
        else:
            mixed = self.inner.merge(own, updates, context)
        of_others = np.mean([_variances(update.vector, context.layout) for update in updates], axis=0)
        target = of_others
        if own is not None and self.mode != "others":
            mine = _variances(own, context.layout)
            target = mine if self.mode == "own" else 0.5 * mine + 0.5 * of_others
        return self._corrected(mixed, target, context.layout)

    def _corrected(self, mixed: Vector, target: np.ndarray, layout: Layout) -> Vector:
        found = mixed.copy()
        have = _variances(mixed, layout)
        for where, wanted, is_ in zip(layout.slices.values(), target, have, strict=True):
            if where.stop - where.start > 1:
                middle = found[where].mean()
                gain = np.float32(np.sqrt((wanted + self.eps) / (is_ + self.eps)))
                found[where] = (found[where] - middle) * gain + middle
        return found


def _variances(vector: Vector, layout: Layout) -> np.ndarray:
    """Return the unbiased variance of each tensor, in layout order; 0 for single values."""
    return np.array(
        [
            vector[where].var(ddof=1, dtype=np.float64) if where.stop - where.start > 1 else 0.0
            for where in layout.slices.values()
        ]
    )
