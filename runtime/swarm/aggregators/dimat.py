"""DIMAT (arXiv 2404.08079): permute a neighbour's hidden units so that they do what ours do, then average.

Two networks that learnt apart may compute the same with their units in another order; the plain average of such models
is rubbish. Layer by layer, the units of the other model are matched with ours by the correlation of their activations
on probe rows (one linear-sum assignment per layer), and its next layer's inputs follow. The probe is the task's public
set where there is one: with disjoint classes, our own rows say nothing about units for classes that we never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Layout, Vector
from flocklet.swarm.protocols import Context, Floats, Update

__all__ = ["Matching", "assign", "matched"]


class Layered(Protocol):
    """A model of layers `w0 b0 w1 b1 ...` that shows its activations; `flocklet.models.mlp.Mlp` is one."""

    depth: int
    layout: Layout

    def forward(self, params: Floats, features: Floats) -> list[Floats]:
        """Return the input and every layer's output."""
        ...


@dataclass(frozen=True)
class Matching:
    """Average our model with the neighbours' after matching; `rows` probe rows, `local` = 1 takes our own rows."""

    rows: int = 256
    local: int = 0
    name = "matching"
    needs = frozenset(("probe",))

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return the uniform average of our model and the matched ones."""
        if own is None or context.task is None or not hasattr(context.task.model, "forward"):
            raise UsageError("matching needs an own model with hidden layers", remedy="use it with a graph")
        model = cast(Layered, context.task.model)
        total = own.astype(np.float32, copy=True)
        probe = self._probe(context)
        for update in updates:
            total += matched(model, own, update.vector, probe)
        total /= np.float32(1 + len(updates))
        return total

    def _probe(self, context: Context) -> Floats:
        task = context.task
        if task is None:
            raise UsageError("matching needs a task", remedy="use it in a swarm")
        rows = context.share if self.local else task.probe
        if rows is None:
            rows = np.arange(len(task.labels))
        if len(rows) > self.rows:
            rows = rows[np.linspace(0, len(rows) - 1, self.rows).astype(int)]
        return task.features[rows]


def matched(model: Layered, own: Vector, other: Vector, probe: Floats) -> Vector:
    """Return `other` with its hidden units in the order that matches ours best on the `probe` rows (B, F)."""
    mine = [layer[0] for layer in model.forward(own[None], probe[None])]
    found = other.astype(np.float32, copy=True)
    for layer in range(model.depth - 1):
        theirs = model.forward(found[None], probe[None])[layer + 1][0]
        order = assign(-_correlation(mine[layer + 1], theirs))
        tensors = model.layout.split(found)
        tensors[f"w{layer}"][...] = tensors[f"w{layer}"][:, order]
        tensors[f"b{layer}"][...] = tensors[f"b{layer}"][order]
        tensors[f"w{layer + 1}"][...] = tensors[f"w{layer + 1}"][order]
    return found


def _correlation(ours: Floats, theirs: Floats) -> NDArray[np.float64]:
    a, b = (
        (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
        for x in (ours.astype(np.float64), theirs.astype(np.float64))
    )
    return np.asarray(a.T @ b / len(ours))


def assign(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each row of a square cost matrix (n, n) its column, of the assignment of least total cost.

    Shortest augmenting paths with dual potentials (Jonker & Volgenant 1987), O(n^3).
    """
    n = len(cost)
    row_of = np.full(n + 1, -1)  # by column; the last column is where a path begins
    u, v = np.zeros(n), np.zeros(n + 1)
    for row in range(n):
        row_of[n], column = row, n
        least = np.full(n, np.inf)
        before = np.full(n, n)
        is_done = np.zeros(n + 1, bool)
        while row_of[column] >= 0:
            is_done[column] = True
            at = row_of[column]
            reduced = cost[at] - u[at] - v[:n]
            better = ~is_done[:n] & (reduced < least)
            least[better], before[better] = reduced[better], column
            open_ = np.where(is_done[:n], np.inf, least)
            nearest = int(open_.argmin())
            delta = open_[nearest]
            u[row_of[is_done]] += delta
            v[is_done] -= delta
            least[~is_done[:n]] -= delta
            column = nearest
        while column != n:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    found = np.empty(n, np.int64)
    found[row_of[:n]] = np.arange(n)
    return found
