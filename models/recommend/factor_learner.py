"""Train the recommender's item vectors in a swarm: a person's own vector never leaves the device.

A row is one person: a multi-hot profile (n_items,) float32. The person's vector u solves the normal equations of the
loss of `Factors` (Rendle et al., RecSys 2022) for the item vectors V at hand; what is learnt together is V, by the
gradient of that loss at u, in which u counts as a constant because it is the minimiser (Ammad-ud-din et al. 2019,
"Federated Collaborative Filtering", section 3). `Factors.use` takes the result. A label is an item that the person
liked and that is not in the profile: it is looked at when a model is judged, never when it learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.layout import Layout, Vector

__all__ = ["FactorLearner"]

Floats = NDArray[np.float32]


class FactorLearner:
    """Item vectors (n_items, rank); accuracy is the share of labels among the best `top` unseen items."""

    def __init__(
        self, n_items: int, rank: int = 8, *, unobserved: float = 0.1, ridge: float = 0.3, top: int = 10
    ) -> None:
        self.n_items, self.rank, self.top = n_items, rank, top
        self.unobserved, self.ridge = np.float32(unobserved), np.float32(ridge)
        self.layout = Layout({"items": (n_items, rank)})
        self.output = ("items",)

    def init(self, rng: np.random.Generator) -> Vector:
        """Return small random item vectors, (P,)."""
        return rng.normal(0.0, 0.3 / np.sqrt(self.rank), self.layout.size).astype(np.float32)

    def people(self, params: Floats, features: Floats) -> Floats:
        """Return the vectors (N, B, rank) of persons with profiles (N, B, n_items) under N models."""
        items = self._items(params)
        outer = (items[..., :, None] * items[..., None, :]).reshape(len(params), self.n_items, -1)
        systems = (features @ outer).reshape(*features.shape[:2], self.rank, self.rank)
        systems += self.unobserved * (items.transpose(0, 2, 1) @ items)[:, None]
        systems[..., np.arange(self.rank), np.arange(self.rank)] += self.ridge
        found: Floats = np.linalg.solve(systems, (features @ items)[..., None])[..., 0]
        return found.astype(np.float32, copy=False)

    def gradient(
        self, params: Floats, features: Floats, labels: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Return the gradient (N, P) of the loss of B profiles, per person, and its value (N,)."""
        items, people = self._items(params), self.people(params, features)
        scores = people @ items.transpose(0, 2, 1)
        missing = features * (1 - scores)
        everywhere = self.unobserved * scores
        loss = ((missing * missing).sum(axis=2) + (everywhere * scores).sum(axis=2)).mean(axis=1)
        slope = (everywhere - missing) * np.float32(2.0 / features.shape[1])
        gradient = np.asarray(slope.transpose(0, 2, 1) @ people, np.float32)
        gradient += (2 * self.ridge / self.n_items) * items
        return gradient.reshape(len(params), -1), loss

    def loss(self, tensors: Mapping[str, Any], features: Any, labels: Any) -> Any:
        """Return the loss of every person, (N, B), in tinygrad tensors: N models, profiles (N, B, n_items).

        The persons' vectors come by Gauss-Jordan elimination without pivots (their systems are positive definite) and
        count as constants. The ridge of the items is in every row, so that a mean of rows has it once.
        """
        items, rank = tensors["items"], self.rank
        held = items.detach()
        outer = (held.unsqueeze(-1) * held.unsqueeze(-2)).reshape(*held.shape[:2], rank * rank).contiguous()
        systems = (features @ outer).reshape(*features.shape[:2], rank, rank).contiguous()
        same = float(self.unobserved) * (held.transpose(1, 2) @ held) + float(self.ridge) * held.eye(rank)
        wide = (systems + same.contiguous().unsqueeze(1)).cat(
            (features @ held).contiguous().unsqueeze(-1), dim=-1
        )
        for pivot in range(rank):
            wide = wide.contiguous()
            row = wide[:, :, pivot : pivot + 1] / wide[:, :, pivot : pivot + 1, pivot : pivot + 1]
            others = wide - wide[:, :, :, pivot : pivot + 1] * row
            is_row = (held.arange(rank) == pivot).reshape(1, 1, rank, 1)
            wide = is_row.where(row, others)
        people = wide[:, :, :, rank].contiguous().detach()
        scores = (people @ items.transpose(1, 2)).contiguous()
        missing = features * (1 - scores)
        loss = (missing * missing + float(self.unobserved) * scores * scores).sum(axis=2)
        ridge = float(self.ridge) / self.n_items * (items * items).sum(axis=(1, 2))
        return loss + ridge.unsqueeze(1)

    def predict(self, params: Floats, features: Floats) -> NDArray[np.intp]:
        """Return the best unseen item, (N, T), for profiles (T, n_items) under each of N models."""
        found: NDArray[np.intp] = np.stack(
            [self._unseen(params[at : at + 1], features).argmax(axis=-1) for at in range(len(params))]
        )
        return found

    def accuracy(self, params: Floats, features: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the share of persons whose hidden item is among the best `top`, (N,)."""
        found = []
        for at in range(len(params)):
            scores = self._unseen(params[at : at + 1], features)
            right = scores[np.arange(len(labels)), labels][:, None]
            found.append(float(((scores > right).sum(axis=1) < self.top).mean()))
        return np.array(found)

    def _unseen(self, params: Floats, features: Floats) -> Floats:
        scores = (self.people(params, features[None]) @ self._items(params).transpose(0, 2, 1))[0]
        return np.where(features > 0, np.float32(-np.inf), scores)

    def _items(self, params: Floats) -> Floats:
        return params.reshape(len(params), self.n_items, self.rank)
