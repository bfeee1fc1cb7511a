"""Losses: each kernel gives the gradient of the mean loss with respect to the prediction, `*_loss` its
value.
"""

from __future__ import annotations

from typing import Any

from flocklet.kernels.body.dsl import clip, log, maximum, minimum
from flocklet.kernels.body.expr import Graph, trace
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.maps import map_kernel, reduce_kernel, vector

__all__ = ["cross_entropy_grad", "cross_entropy_loss", "huber_grad", "huber_loss", "mse_grad", "mse_loss"]


def _pair(graph: Graph, count: int) -> Kernel:
    return map_kernel(graph, [vector(), vector(), vector("out")], 1, count)


def _total(graph: Graph, count: int) -> Kernel:
    return reduce_kernel(graph, [vector(), vector()], 1, count)


def mse_grad(count: int) -> Kernel:
    """Return 2 (y - t) / count: buffers y, t, dy."""
    return _pair(trace(lambda y, t: [(y[0] - t[0]) * (2.0 / count)], 1, 1), count)


def mse_loss(count: int) -> Kernel:
    """Return the mean of (y - t)²: buffers y, t, loss (1)."""

    def body(y: list[Any], t: list[Any]) -> list[Any]:
        difference = y[0] - t[0]
        return [difference * difference * (1.0 / count)]

    return _total(trace(body, 1, 1), count)


def huber_grad(count: int, delta: float = 1.0) -> Kernel:
    """Return the gradient of the mean Huber loss (Huber 1964): buffers y, t, dy."""
    return _pair(trace(lambda y, t: [clip(y[0] - t[0], -delta, delta) * (1.0 / count)], 1, 1), count)


def huber_loss(count: int, delta: float = 1.0) -> Kernel:
    """Return the mean Huber loss: buffers y, t, loss (1)."""

    def body(y: list[Any], t: list[Any]) -> list[Any]:
        size = maximum(y[0] - t[0], t[0] - y[0])
        inner = minimum(size, delta)
        return [(inner * inner * 0.5 + (size - inner) * delta) * (1.0 / count)]

    return _total(trace(body, 1, 1), count)


def cross_entropy_grad(rows: int, classes: int) -> Kernel:
    """Return (p - t) / rows, the gradient of the logits: buffers p (softmax), t (distribution), dz."""
    return _pair(trace(lambda p, t: [(p[0] - t[0]) * (1.0 / rows)], 1, 1), rows * classes)


def cross_entropy_loss(rows: int, classes: int) -> Kernel:
    """Return the mean of -sum t log p over rows: buffers p (softmax), t (distribution), loss (1)."""

    def body(p: list[Any], t: list[Any]) -> list[Any]:
        return [t[0] * log(maximum(p[0], 1e-30)) * (-1.0 / rows)]

    return _total(trace(body, 1, 1), rows * classes)
