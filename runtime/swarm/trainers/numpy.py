"""Trainers: SGD with momentum, SAM, output layer only, one large-batch gradient.

A trainer works on N peers at once, (N, P) parameters and N plans of (K, B) rows, and gives each peer the same bits as alone.
Momentum starts at zero in every round. SAM: g = grad(x), then the step uses grad(x + rho g/|g|) on the same rows
(Foret et al. 2021; in swarms DFedSAM, arXiv 2302.04083).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Layout
from flocklet.swarm.task import Task

__all__ = ["Gradient", "Sam", "Sgd"]

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Tensors: TypeAlias = Mapping[str, Any]
Slopes: TypeAlias = Callable[[Tensors, Sequence[str]], Tensors]


@dataclass(frozen=True)
class Sgd:
    """Take `steps` steps on `batch` rows each (or `epochs` passes): v <- m v + g; x <- x - lr decay^round v.

    `frozen` names tensors that stay as they are, joined by "+" ("w0+b0"); `output_only` freezes all but the last layer.
    """

    lr: float = 0.1
    momentum: float = 0.0
    steps: int = 5
    batch: int = 20
    epochs: float = 0.0
    decay: float = 1.0
    output_only: bool = False
    frozen: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.lr <= 0 or self.epochs < 0:
            raise UsageError("a trainer needs lr > 0, steps >= 1 and batch >= 1", remedy="check the strategy")

    def plan(self, n: int, rng: np.random.Generator, round: int) -> Rows:
        """Return positions (K, B) into a share of `n` rows: shuffled passes, one after the other."""
        batch = min(self.batch, n)
        steps = max(1, -(-int(self.epochs * n) // batch)) if self.epochs else self.steps
        need = steps * batch
        passes = [rng.permutation(n) for _ in range(-(-need // n))]
        return np.concatenate(passes)[:need].reshape(steps, batch)

    def train(self, task: Task, start: Floats, rows: Sequence[Rows], round: int) -> Floats:
        """Return the trained models (N, P); peers with more steps come first."""
        trained = start.copy()
        momenta = np.zeros_like(trained) if self.momentum else None
        lr = np.float32(self.lr * self.decay**round)
        lengths = np.array([len(plan) for plan in rows])
        for step in range(int(lengths.max(initial=0))):
            active = int(np.count_nonzero(lengths > step))
            params, velocity = trained[:active], None if momenta is None else momenta[:active]
            picked = np.stack([plan[step] for plan in rows[:active]])
            gradient = self._gradient(task, params, task.features[picked], task.labels[picked])
            if self.output_only or self.frozen:
                self._freeze(task, gradient)
            if velocity is None:
                gradient *= lr
                params -= gradient
            else:
                velocity *= np.float32(self.momentum)
                velocity += gradient
                params -= lr * velocity
        return trained

    def _gradient(self, task: Task, params: Floats, features: Floats, labels: Rows) -> Floats:
        return task.model.gradient(params, features, labels)[0]

    def slopes(self, gradient: Slopes, tensors: Tensors, names: Sequence[str]) -> Tensors:
        """Return what a step follows, in tinygrad tensors; `gradient(tensors, names)` differentiates the loss."""
        return gradient(tensors, names)

    def trained(self, layout: Layout, output: Sequence[str]) -> tuple[str, ...]:
        """Return the tensors that learn; raise UsageError for a frozen one that is not there."""
        frozen = self.frozen.split("+") if self.frozen else []
        if odd := [name for name in frozen if name not in layout.slices]:
            raise UsageError(f"no tensor {odd[0]!r} to freeze", remedy=f"one of {', '.join(layout.slices)}")
        return tuple(
            name
            for name in layout.slices
            if name not in frozen and not (self.output_only and name not in output)
        )

    def _freeze(self, task: Task, gradient: Floats) -> None:
        trained = self.trained(task.model.layout, task.model.output)
        for name, where in task.model.layout.slices.items():
            if name not in trained:
                gradient[:, where] = 0.0


@dataclass(frozen=True)
class Sam(Sgd):
    """Sharpness-aware minimisation: step with the gradient found `rho` uphill."""

    rho: float = 0.05

    def _gradient(self, task: Task, params: Floats, features: Floats, labels: Rows) -> Floats:
        uphill = task.model.gradient(params, features, labels)[0]
        norm = np.sqrt(np.einsum("np,np->n", uphill, uphill))[:, None]
        uphill *= np.float32(self.rho) / np.maximum(norm, np.float32(1e-12))
        uphill += params
        return task.model.gradient(uphill, features, labels)[0]

    def slopes(self, gradient: Slopes, tensors: Tensors, names: Sequence[str]) -> Tensors:
        """Return the gradient found uphill; the climb moves frozen tensors too, as in NumPy."""
        uphill = gradient(tensors, list(tensors))
        squares: Any = 0.0
        for slope in uphill.values():
            squares = squares + slope.flatten(1).square().sum(axis=1).contiguous()
        scale = (self.rho / squares.sqrt().maximum(1e-12)).contiguous()
        moved: dict[str, Any] = {}
        for name, slope in uphill.items():
            stretch = scale.reshape(-1, *[1] * (slope.ndim - 1))
            moved[name] = (tensors[name] + slope * stretch).contiguous()
        return gradient(moved, names)


@dataclass(frozen=True)
class Gradient(Sgd):
    """Take one step on one large batch, so that start - trained = lr * gradient."""

    steps: int = 1
    batch: int = 256
