"""What a swarm learns: a model, rows to learn from, rows to be judged by, and which peer holds which rows.

Splits (all from a passed generator): IID, Dirichlet over classes, k classes per peer. No files are read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Layout, Vector

__all__ = ["Learner", "Task", "class_names", "split_by_class", "split_dirichlet", "split_iid", "stratified"]

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Learner(Protocol):
    """A model of which many copies can be trained at once; `flocklet.models.mlp.Mlp` is one."""

    layout: Layout

    @property
    def output(self) -> tuple[str, ...]:
        """The names of the last layer's tensors."""
        ...

    def init(self, rng: np.random.Generator) -> Vector:
        """Return fresh parameters, (P,)."""
        ...

    def gradient(
        self, params: Floats, features: Floats, labels: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Return gradients (N, P) and losses (N,) of N peers on features (N, B, F) and labels (N, B)."""
        ...

    def predict(self, params: Floats, features: Floats) -> NDArray[np.intp]:
        """Return classes (N, T) of features (T, F) under each of N parameter vectors."""
        ...

    def accuracy(self, params: Floats, features: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the share of right answers of each of N parameter vectors, (N,)."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """One learning problem shared out among peers: peer i holds the rows `shares[i]` of `features` (n, F)."""

    model: Learner
    features: Floats
    labels: Rows
    test_features: Floats
    test_labels: Rows
    shares: tuple[Rows, ...]
    probe: Rows | None = None  # rows that every peer may look at (a public set), for rules that need one

    def accuracy(self, params: Floats) -> NDArray[np.float64]:
        """Return the test accuracy of each of N parameter vectors, (N,)."""
        return self.model.accuracy(params, self.test_features, self.test_labels)

    def held_by(self, peer: int) -> Task:
        """Return what a device of its own holds: its rows, the probe and the test; the other shares are empty.

        Without a probe it is the whole task: rules that look at rows then look at all of them.
        """
        if self.probe is None:
            return self
        own, rows = self.shares[peer], np.concatenate([self.shares[peer], self.probe])
        places = np.arange(len(rows))
        shares = tuple(places[: len(own)] if i == peer else places[:0] for i in range(len(self.shares)))
        kept = replace(self, features=self.features[rows], labels=self.labels[rows], shares=shares)
        return replace(kept, probe=places[len(own) :])

    def with_labels(self, labels: Rows) -> Task:
        """Return the same task with other training labels (one array may flip only some peers' rows)."""
        return replace(self, labels=labels)


def class_names(labels: Rows) -> Rows:
    """Return the classes that occur, sorted; labels are small non-negative integers (np.unique loads masked arrays)."""
    return np.flatnonzero(np.bincount(labels))


def stratified(labels: Rows, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Return (train rows, test rows): of each class `share` of the rows is held out."""
    test: list[Rows] = []
    for label in class_names(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test.append(rows[: round(share * len(rows))])
    held_out = np.sort(np.concatenate(test))
    is_kept = np.ones(len(labels), bool)
    is_kept[held_out] = False
    return np.flatnonzero(is_kept), held_out


def split_iid(rows: Rows, peers: int, rng: np.random.Generator) -> tuple[Rows, ...]:
    """Return `peers` equal shares (within one row) of `rows`, shuffled."""
    if len(rows) < peers:
        raise UsageError(f"{len(rows)} rows cannot be shared by {peers} peers", remedy="fewer --peers")
    return tuple(np.sort(part) for part in np.array_split(rng.permutation(rows), peers))


def split_dirichlet(
    labels: Rows, peers: int, alpha: float, rng: np.random.Generator, *, minimum: int = 10, tries: int = 10000
) -> tuple[Rows, ...]:
    """Return shares whose class mix is drawn from Dirichlet(alpha), redrawn until each has `minimum` rows."""
    classes = [rng.permutation(np.flatnonzero(labels == label)) for label in class_names(labels)]
    for _ in range(tries):
        cuts = [
            (np.cumsum(rng.dirichlet(np.full(peers, alpha)))[:-1] * len(rows)).astype(int) for rows in classes
        ]
        sizes = sum(
            np.diff(cut, prepend=0, append=len(rows)) for cut, rows in zip(cuts, classes, strict=True)
        )
        if np.min(sizes) >= minimum:
            parts = [np.split(rows, cut) for cut, rows in zip(cuts, classes, strict=True)]
            return tuple(np.sort(np.concatenate([part[i] for part in parts])) for i in range(peers))
    raise UsageError(
        f"no split of {len(labels)} rows gives each of {peers} peers {minimum} rows at alpha {alpha:g}",
        remedy="fewer peers, a larger alpha or a smaller minimum",
    )


def split_by_class(
    labels: Rows, peers: int, per_peer: int, rng: np.random.Generator, *, rows_each: int | None = None
) -> tuple[Rows, ...]:
    """Return shares of `per_peer` classes each; classes are dealt in turn, so that all are held equally often."""
    names = class_names(labels)
    deck = np.concatenate([rng.permutation(names) for _ in range(-(-peers * per_peer // len(names)))])
    hands: list[Sequence[int]] = [deck[i * per_peer : (i + 1) * per_peer].tolist() for i in range(peers)]
    holders = {int(name): [i for i in range(peers) if name in hands[i]] for name in names}
    parts: list[list[Rows]] = [[] for _ in range(peers)]
    for name, who in holders.items():
        if who:
            rows = rng.permutation(np.flatnonzero(labels == name))
            for i, part in zip(who, np.array_split(rows, len(who)), strict=True):
                parts[i].append(part)
    whole = [np.concatenate(part) for part in parts]
    if rows_each is not None:
        whole = [rng.permutation(rows)[:rows_each] for rows in whole]
    return tuple(np.sort(rows) for rows in whole)
