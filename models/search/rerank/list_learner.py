"""Train the reranker in a swarm: many copies at once, from lists of candidates of which one was clicked.

A row is one list: the features of `depth` candidates side by side, (depth * F,) float32, candidates that are missing
all zero; its label is the place of the clicked one. The loss is the cross-entropy of the softmax over the list (ListNet
with one right answer: Cao et al., ICML 2007). The tensors are those of `PdgdRanker`: `weights` (F,), and with
`hidden` > 0 an MLP of ReLU units on top that starts at zero output, so both start as BM25 and what a swarm has learnt
can be loaded into a device's ranker as it is. Errors: none of its own; shapes are the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.layout import Layout, Vector
from flocklet.models.search.rerank.features import BM25, FEATURES

__all__ = ["ListLearner"]

Floats = NDArray[np.float32]
_ABSENT = np.float32(-1e9)


class ListLearner:
    """Score `depth` candidates by `weights @ x + out @ relu(hidden.T @ x + bias)`; the second part if `hidden`."""

    def __init__(self, depth: int = 20, hidden: int = 0) -> None:
        self.depth, self.hidden = depth, hidden
        shapes: dict[str, tuple[int, ...]] = {"weights": (len(FEATURES),)}
        if hidden:
            shapes |= {"hidden": (len(FEATURES), hidden), "bias": (hidden,), "out": (hidden,)}
        self.layout = Layout(shapes)
        self.output: tuple[str, ...] = ("out",) if hidden else ("weights",)

    def init(self, rng: np.random.Generator) -> Vector:
        """Return a model that ranks as BM25 does, (P,)."""
        vector = np.zeros(self.layout.size, np.float32)
        tensors = self.layout.split(vector)
        tensors["weights"][BM25] = 1.0
        if self.hidden:
            scale = np.sqrt(len(FEATURES))
            tensors["hidden"][...] = rng.standard_normal((len(FEATURES), self.hidden)) / scale
        return vector

    def scores(self, params: Floats, features: Floats) -> Floats:
        """Return the scores (N, B, depth) of lists (N, B, depth * F) or (B, depth * F) under N models."""
        return self._forward(params, features)[0]

    def gradient(
        self, params: Floats, features: Floats, labels: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Return the gradient (N, P) of the mean cross-entropy and its value (N,)."""
        scores, inner, rows = self._forward(params, features)
        peers, batch = labels.shape
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        at = np.ogrid[:peers, :batch]
        loss = -np.log(np.maximum(shares[at[0], at[1], labels], 1e-12)).mean(axis=1)
        shares[at[0], at[1], labels] -= 1.0
        shares /= np.float32(batch)
        slope = shares.reshape(peers, 1, batch * self.depth)
        gradient = np.empty_like(params)
        places = self.layout.slices
        gradient[:, places["weights"]] = (slope @ rows)[:, 0]
        if inner is not None:
            out = params[:, places["out"]]
            gradient[:, places["out"]] = (slope @ inner)[:, 0]
            back = slope.transpose(0, 2, 1) * (inner > 0.0) * out[:, None, :]
            gradient[:, places["bias"]] = back.sum(axis=1)
            gradient[:, places["hidden"]] = (rows.transpose(0, 2, 1) @ back).reshape(peers, -1)
        return gradient, loss

    def loss(self, tensors: Mapping[str, Any], features: Any, labels: Any) -> Any:
        """Return the cross-entropy of every list, (N, B), in tinygrad tensors: N models, lists (N, B, depth * F)."""
        peers, batch = labels.shape
        rows = features.reshape(peers, batch * self.depth, len(FEATURES))
        scores = rows @ tensors["weights"].unsqueeze(-1)
        if self.hidden:
            inner = (rows @ tensors["hidden"] + tensors["bias"].unsqueeze(1)).relu().contiguous()
            scores = scores + inner @ tensors["out"].unsqueeze(-1)
        is_there = (rows != 0.0).any(axis=-1, keepdim=True).contiguous()
        lists = is_there.where(scores, float(_ABSENT)).reshape(peers, batch, self.depth).contiguous()
        return lists.sparse_categorical_crossentropy(labels, reduction="none")

    def predict(self, params: Floats, features: Floats) -> NDArray[np.intp]:
        """Return the place of the best candidate, (N, T), of lists (T, depth * F) under each of N models."""
        found: NDArray[np.intp] = self.scores(params, features).argmax(axis=-1)
        return found

    def accuracy(self, params: Floats, features: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the mean reciprocal rank of the clicked candidates under each of N models, (N,)."""
        found = []
        for at in range(len(params)):
            scores = self.scores(params[at : at + 1], features)[0]
            right = scores[np.arange(len(labels)), labels][:, None]
            found.append(float((1 / (1 + (scores > right).sum(axis=1))).mean()))
        return np.array(found)

    def _forward(self, params: Floats, features: Floats) -> tuple[Floats, Floats | None, Floats]:
        peers = len(params)
        if features.ndim == 2:
            features = np.broadcast_to(features, (peers, *features.shape))
        batch = features.shape[1]
        rows = features.reshape(peers, batch * self.depth, len(FEATURES))
        places = self.layout.slices
        scores = rows @ params[:, places["weights"]][:, :, None]
        inner: Floats | None = None
        if self.hidden:
            hidden = params[:, places["hidden"]].reshape(peers, len(FEATURES), self.hidden)
            inner = rows @ hidden
            inner += params[:, None, places["bias"]]
            np.maximum(inner, 0.0, out=inner)
            scores = scores + inner @ params[:, places["out"]][:, :, None]
        scores[~rows.any(axis=-1)] = _ABSENT
        return scores.reshape(peers, batch, self.depth), inner, rows
