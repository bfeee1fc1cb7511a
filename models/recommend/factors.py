"""Recommend by latent factors: implicit alternating least squares with the unobserved weight of Rendle et al.

Hu, Koren & Volinsky (ICDM 2008) with the loss of Rendle et al. (RecSys 2022, "Revisiting iALS", eq. 3):
sum over likes (1 - u.v)^2 + a0 sum over all pairs (u.v)^2 + ridge of each row scaled by (likes + a0 others)^0.7.
A person's influence weighs the whole row. All normal equations of one side are solved as one batch: the sums of
outer products of a block of rows are one matrix product with the (items, rank^2) table of outer products.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.likes import Likes, Profile

__all__ = ["Factors"]

Matrix = NDArray[np.float32]
_SEED = 20230
_LEAST = np.float32(
    1e-6
)  # of the ridge: where nobody was heard the systems stay solvable and every score is 0


class Factors:
    """Score by the product of person and item vectors; a person's vector is solved anew from the profile."""

    name = "factors"

    def __init__(
        self,
        rank: int = 32,
        *,
        unobserved: float = 0.1,
        ridge: float = 0.05,
        exponent: float = 0.7,
        rounds: int = 6,
    ) -> None:
        self.rank, self.unobserved, self.ridge = rank, unobserved, ridge
        self.exponent, self.rounds = exponent, rounds
        self._items: Matrix = np.zeros((0, rank), np.float32)
        self._square: Matrix = np.zeros((rank, rank), np.float32)

    def fit(self, likes: Likes) -> None:
        """Learn item vectors; the start is drawn from a fixed seed, so the same likes give the same vectors."""
        likes = likes.heard()
        rng = np.random.default_rng(_SEED)
        scale = 0.1 / np.sqrt(self.rank)
        items = rng.normal(0.0, scale, (likes.n_items, self.rank)).astype(np.float32)
        people = np.zeros((likes.n_people, self.rank), np.float32)
        for _ in range(self.rounds):
            self._solve_people(likes, people, items)
            self._solve_items(likes, people, items)
        self.use(items)

    def use(self, items: Matrix) -> None:
        """Take item vectors (items, rank) that were learnt elsewhere, for example in a swarm."""
        self._items = items
        self._square = np.float32(self.unobserved) * (items.T @ items)

    def score(self, profile: Profile) -> Matrix:
        """Return v . u for every item, where u solves this person's normal equations."""
        mine = self._items[profile.columns]
        force = self._ridge(np.array([len(mine)]), len(self._items))[0]
        system = self._square + mine.T @ mine + force * np.eye(self.rank, dtype=np.float32)
        person = np.linalg.solve(system, mine.sum(axis=0))
        return (self._items @ person).astype(np.float32)

    @property
    def vectors(self) -> Matrix:
        """What each item is like, (items, rank)."""
        return self._items

    def _ridge(self, counts: NDArray[np.integer] | Matrix, others: float) -> Matrix:
        seen = counts.astype(np.float64) + self.unobserved * others
        return np.maximum(np.asarray(self.ridge * seen**self.exponent, np.float32), _LEAST)

    def _solve_people(self, likes: Likes, people: Matrix, items: Matrix) -> None:
        outer = _outer(items)
        base = np.float32(self.unobserved) * (items.T @ items)
        force = self._ridge(np.diff(likes.starts), likes.n_items)
        for rows, dense in likes.blocks():
            people[rows] = _solved(dense @ outer, dense @ items, base, force[rows])

    def _solve_items(self, likes: Likes, people: Matrix, items: Matrix) -> None:
        outer = _outer(people)
        left: Matrix = np.zeros((likes.n_items, self.rank * self.rank), np.float32)
        right: Matrix = np.zeros_like(items)
        for rows, dense in likes.blocks():
            weighed = dense.T * likes.influence[rows]
            left += weighed @ outer[rows]
            right += weighed @ people[rows]
        base = np.asarray(self.unobserved * ((people.T * likes.influence) @ people), np.float32)
        force = self._ridge(likes.popularity(), float(likes.influence.sum()))
        items[:] = _solved(left, right, base, force)


def _outer(vectors: Matrix) -> Matrix:
    return (vectors[:, :, None] * vectors[:, None, :]).reshape(len(vectors), vectors.shape[1] ** 2)


def _solved(left: Matrix, right: Matrix, base: Matrix, force: Matrix) -> Matrix:
    rank = right.shape[1]
    systems = left.reshape(len(right), rank, rank) + base
    systems[:, np.arange(rank), np.arange(rank)] += force[:, None]
    return np.linalg.solve(systems, right[:, :, None])[:, :, 0].astype(np.float32)
