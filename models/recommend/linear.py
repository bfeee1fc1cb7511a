"""Recommend by an item-to-item matrix: popularity, item-kNN, EASE and exact SALSA behind one `Scorer` protocol.

Every scorer is fitted on a `Likes` and then scores all items for a `Profile`: the sum of the matrix rows of the
liked items. A person's influence weighs the row in whatever is learnt, so somebody of no influence changes nothing.

Sources: item-kNN with shrinkage (Sarwar et al., WWW 2001; Bell & Koren 2007); EASE (Steck, WWW 2019, eq. 8), with
item tags as additional rows (Jeunen et al., RecSys 2020, section 3.2); SALSA as in GraphJet (VLDB 2016), in closed
form: the walk user -> item -> user stops with probability `alpha` before every hop, so the expected visits are a
geometric series in the item -> user -> item matrix M, and its sum is c (I - c^2 M)^-1 with c = 1 - alpha.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.likes import Likes, Profile

__all__ = ["Ease", "ItemKNN", "Popularity", "Salsa", "Scorer", "walked_scores"]

Matrix = NDArray[np.float32]


class Scorer(Protocol):
    """Learn from a matrix of likes, then score every item for one person."""

    name: str

    def fit(self, likes: Likes) -> None:
        """Replace what was learnt."""
        ...

    def score(self, profile: Profile) -> Matrix:
        """Return one finite score per item, (items,) float32, higher is better."""
        ...


class Popularity:
    """Score every item by the influence of those who like it; the baseline that everything must beat."""

    name = "popularity"

    def __init__(self) -> None:
        self._mass: Matrix = np.zeros(0, np.float32)

    def fit(self, likes: Likes) -> None:
        """Count."""
        self._mass = likes.popularity()

    def score(self, profile: Profile) -> Matrix:
        """Return the same scores for everybody."""
        return self._mass.copy()


class _Kernel:
    """Score by the sum of matrix rows."""

    def __init__(self) -> None:
        self._kernel: Matrix = np.zeros((0, 0), np.float32)

    def score(self, profile: Profile) -> Matrix:
        """Return the sum of the rows of the liked items."""
        return np.asarray(self._kernel[profile.columns].sum(axis=0), np.float32)

    def rows(self, columns: NDArray[np.int64], target: int) -> Matrix:
        """Return what each of `columns` contributes to the score of `target`: the explanation of it."""
        return np.asarray(self._kernel[columns, target], np.float32)


class ItemKNN(_Kernel):
    """Score by cosine over the `k` nearest items, shrunk by `shrink` likes."""

    name = "item-knn"

    def __init__(self, k: int = 20, shrink: float = 10.0) -> None:
        super().__init__()
        self.k, self.shrink = k, shrink

    def fit(self, likes: Likes) -> None:
        """Learn the cosines."""
        together = likes.together()
        norm = np.sqrt(np.diag(together))
        cosine = together / (np.outer(norm, norm) + self.shrink)
        np.fill_diagonal(cosine, 0.0)
        if likes.n_items > self.k:
            least = -np.partition(-cosine, self.k - 1, axis=0)[self.k - 1]
            cosine[cosine < least] = 0.0
        self._kernel = np.asarray(cosine, np.float32)


class Ease(_Kernel):
    """Score by the ridge regression of every item on all others, diagonal zero.

    `ridge` is the regulariser for a mean influence of 1 (so it means the same for many faint voices and for few loud
    ones only if these are scaled alike); `tag_weight` is how many people one tag counts as.
    """

    name = "ease"

    def __init__(self, ridge: float = 200.0, tag_weight: float = 6.0) -> None:
        super().__init__()
        self.ridge, self.tag_weight = ridge, tag_weight

    def fit(self, likes: Likes) -> None:
        """Invert the regularised Gram matrix, (items, items); cubic in the items in view."""
        gram = likes.together()
        if len(likes.tags):
            gram += np.float32(self.tag_weight) * (likes.tags.T @ likes.tags)
        gram[np.diag_indices(len(gram))] += np.float32(self.ridge)
        inverse = np.linalg.inv(gram)
        kernel = np.asarray(-inverse / np.diag(inverse)[None, :], np.float32)
        np.fill_diagonal(kernel, 0.0)
        self._kernel = kernel


class Salsa(_Kernel):
    """Score by exact personalised SALSA, divided by popularity^`gamma`."""

    name = "salsa"

    def __init__(self, alpha: float = 0.5, gamma: float = 0.5) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}, it must be between 0 and 1")
        self.alpha, self.gamma = alpha, gamma

    def fit(self, likes: Likes) -> None:
        """Sum the series; the influence of a person is the chance to be stepped on."""
        lengths = np.maximum(np.diff(likes.starts), 1).astype(np.float32)
        mass = np.maximum(likes.popularity(), 1e-6)
        follow = np.float32(1.0 - self.alpha)
        hop = likes.together(likes.influence / lengths) / mass[:, None]
        inverse = np.linalg.inv(np.eye(likes.n_items, dtype=np.float32) - follow * follow * hop)
        fame = np.maximum(mass, 1.0)[None, :] ** np.float32(self.gamma)
        self._kernel = np.asarray(follow * inverse / fame, np.float32)

    def score(self, profile: Profile) -> Matrix:
        """Return the expected visits of a walk that starts at the person."""
        return super().score(profile) / np.float32(max(len(profile.columns), 1))


def walked_scores(
    likes: Likes, profile: Profile, *, alpha: float = 0.5, hops: int = 8
) -> NDArray[np.float64]:
    """Return SALSA's expected visits (items,) by `hops` pairs of sparse products; memory of the likes only.

    For catalogues too large for the (items, items) matrix of `Salsa`; the rest of the series is below
    (1 - alpha)^(2 hops).
    """
    rows, columns = likes.rows, likes.columns
    lengths = np.maximum(np.diff(likes.starts), 1)
    force = likes.influence[rows].astype(np.float64)
    mass = np.maximum(np.bincount(columns, force, likes.n_items), 1e-6)
    follow = 1.0 - alpha
    at: NDArray[np.float64] = np.zeros(likes.n_items)
    at[profile.columns] = follow / max(len(profile.columns), 1)
    total = at.copy()
    for _ in range(hops):
        people = follow * np.bincount(rows, (at / mass)[columns] * force, likes.n_people)
        at = np.asarray(follow * np.bincount(columns, (people / lengths)[rows], likes.n_items), np.float64)
        total += at
    return total
