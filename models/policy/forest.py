"""Boosted oblivious trees as actor and critic in one: A logits and one value share every split.

Gradient boosting as a policy (Fuhrer et al. 2024, GBRL): a tree is fitted to the negative gradient of the loss of each
minibatch and the outputs of the rollout's rows move with it, so the next tree sees what the last one did. Many steps on
large minibatches are what counts (4 epochs of 256 rows); goals are divided by their deviation for the choice of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.trees import ObliviousTrees
from flocklet.models.base import Parameters
from flocklet.models.policy.distribution import Categorical, Distribution
from flocklet.models.policy.environment import Bools, Floats, Spec
from flocklet.onnx_io.oblivious import encode_oblivious

__all__ = ["ForestPolicy"]


class ForestPolicy:
    """A forest that grows: rows (B, D) -> (B, A + 1), logits and a value."""

    def __init__(self, spec: Spec, *, depth: int = 4) -> None:
        if spec.actions is None:
            raise ValueError(f"{spec.name}: trees choose among actions; this task has continuous controls")
        self.spec, self.depth, self.width = spec, depth, spec.actions + 1
        self._set(0)

    def _set(self, count: int) -> None:
        """Make room for `count` trees, none grown."""
        room = max(count, 64)
        self.feature = np.zeros((room, self.depth), np.int64)
        self.threshold = np.zeros((room, self.depth), np.float32)
        self.equal = np.zeros((room, self.depth), bool)
        self.gain = np.zeros((room, self.depth))
        self.leaf = np.zeros((room, 1 << self.depth, self.width), np.float32)
        self.base = np.zeros(self.width, np.float32)
        self.count = 0
        self._last: tuple[Floats, Floats] | None = None

    def clear(self) -> None:
        """Forget every tree."""
        self._set(0)

    def add(self, feature: Any, threshold: Any, equal: Any, leaf: Floats, gain: Any = 0.0) -> None:
        """Add one tree."""
        if self.count == len(self.feature):
            for name in ("feature", "threshold", "equal", "gain", "leaf"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        at = self.count
        self.feature[at], self.threshold[at], self.equal[at] = feature, threshold, equal
        self.gain[at], self.leaf[at] = gain, leaf
        self.count, self._last = at + 1, None

    def outputs(self, seen: Floats) -> Floats:
        """Return logits and value (B, A + 1); the sum over trees is NumPy's, not the exported order."""
        n = self.count
        if not n:
            return np.tile(self.base, (len(seen), 1))
        if self._last is not None and np.array_equal(
            self._last[0], seen
        ):  # actor and critic ask for the same rows
            return self._last[1].copy()
        index = np.zeros((len(seen), n), np.int64)
        for d in range(self.depth):
            picked = seen[:, self.feature[:n, d]]
            passed = picked > self.threshold[:n, d]
            if self.spec.categorical:
                passed = np.where(self.equal[:n, d], picked == self.threshold[:n, d], passed)
            index |= passed.view(np.uint8).astype(np.int64) << d
        index += np.arange(n) << self.depth
        flat = self.leaf[:n].reshape(-1, self.width).T
        out = np.stack(
            [np.ascontiguousarray(flat[k]).take(index).sum(axis=1) for k in range(self.width)], axis=1
        )
        self._last = (seen.copy(), out + self.base)
        return self._last[1].copy()

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution for rows (B, D)."""
        return Categorical(self.outputs(seen)[:, :-1], allowed)

    def trees(self) -> ObliviousTrees:
        """Return the tables of the logits, for the exporter; raise ExportError for a forest without trees."""
        n = self.count
        if not n:
            raise ExportError("a forest without trees cannot be exported", remedy="train it first")
        return ObliviousTrees(
            self.feature[:n].astype(np.uint8),
            self.threshold[:n].copy(),
            self.leaf[:n, :, :-1].copy(),
            self.base[:-1].copy(),
            self.spec.seen,
            self.equal[:n].copy() if self.spec.categorical else None,
        )

    def tensors(self) -> Parameters:
        """Return a copy of the tables by name."""
        n = self.count
        return {
            "feature": self.feature[:n].astype(np.float32),
            "threshold": self.threshold[:n].copy(),
            "equal": self.equal[:n].astype(np.float32),
            "gain": self.gain[:n].astype(np.float32),
            "leaf": self.leaf[:n].copy(),
            "base": self.base.copy(),
        }

    def load(self, tensors: Mapping[str, Floats]) -> None:
        """Replace the tables; raise ValueError for those of another task or depth."""
        leaf = np.asarray(tensors["leaf"], np.float32)
        feature = np.rint(np.asarray(tensors["feature"])).astype(np.int64)
        n = len(leaf)
        if leaf.shape[1:] != (1 << self.depth, self.width) or feature.shape != (n, self.depth):
            raise ValueError(f"these trees do not fit {self.spec.name}")
        if n and not (feature.min() >= 0 and feature.max() < self.spec.seen):
            raise ValueError(f"these trees ask for numbers that {self.spec.name} does not show")
        self._set(n)
        self.feature[:n], self.leaf[:n], self.count = feature, leaf, n
        self.threshold[:n], self.gain[:n] = tensors["threshold"], tensors["gain"]
        self.equal[:n] = np.asarray(tensors["equal"]) > 0.5
        self.base[...] = tensors["base"]

    def to_onnx(self) -> bytes:
        """Return the logits as an ONNX file."""
        made = self.trees()
        return encode_oblivious(
            made.feature, made.threshold, made.leaf, made.base, made.n_in, made.equal, name="policy"
        )
