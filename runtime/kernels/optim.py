"""Optimisers as kernels over flat parameter vectors: one call updates a whole model.

Adam: Kingma & Ba, ICLR 2015, algorithm 1; AdamW: Loshchilov & Hutter, ICLR 2019, algorithm 2 (the decay is
not scaled by the learning rate unless the caller multiplies it in). The bias corrections 1 - beta**t are
two numbers in a buffer that `adam_tick` advances by c <- beta c + (1 - beta): exact to rounding, where 1 -
beta**t in float32 loses four digits.
"""

from __future__ import annotations

from typing import Any

from flocklet.kernels.body.dsl import minimum, sqrt
from flocklet.kernels.body.expr import trace
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.maps import Window, map_kernel, reduce_kernel, scalar, vector

__all__ = ["adam", "adam_tick", "clip_scale", "momentum", "polyak", "sgd", "squared_norm"]


def adam_tick(beta1: float = 0.9, beta2: float = 0.999) -> Kernel:
    """Advance the corrections (c1, c2), a buffer of two zeros at the start; call it once before `adam`."""

    def body(c: list[Any]) -> list[Any]:
        return [c[0] * beta1 + (1.0 - beta1), c[1] * beta2 + (1.0 - beta2)]

    return map_kernel(trace(body, 2), [Window("inout", planes=2, plane_stride=1)], 1, 1)


def adam(
    count: int,
    *,
    rate: float = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    decay: float = 0.0,
) -> Kernel:
    """Update `count` parameters: buffers p, m, v (in place), gradient g, corrections (2).

    `decay` is subtracted as `decay * p` beside the step (AdamW: pass rate * lambda).
    """

    def body(p: list[Any], m: list[Any], v: list[Any], g: list[Any], c: list[Any]) -> list[Any]:
        first = m[0] * beta1 + g[0] * (1.0 - beta1)
        second = v[0] * beta2 + g[0] * g[0] * (1.0 - beta2)
        step = first * (rate / c[0]) / (sqrt(second * (1.0 / c[1])) + epsilon)
        return [p[0] * (1.0 - decay) - step, first, second]

    windows = [
        vector("inout"),
        vector("inout"),
        vector("inout"),
        vector(),
        Window(planes=2, plane_stride=1, column_stride=0),
    ]
    return map_kernel(trace(body, 1, 1, 1, 1, 2), windows, 1, count)


def sgd(count: int, rate: float) -> Kernel:
    """Update p <- p - rate g: buffers p (in place), g."""
    graph = trace(lambda p, g: [p[0] - g[0] * rate], 1, 1)
    return map_kernel(graph, [vector("inout"), vector()], 1, count)


def momentum(count: int, rate: float, mu: float = 0.9) -> Kernel:
    """Update u <- mu u + g, p <- p - rate u (heavy ball): buffers p, u (in place), g."""

    def body(p: list[Any], u: list[Any], g: list[Any]) -> list[Any]:
        speed = u[0] * mu + g[0]
        return [p[0] - speed * rate, speed]

    return map_kernel(trace(body, 1, 1, 1), [vector("inout"), vector("inout"), vector()], 1, count)


def polyak(count: int, tau: float) -> Kernel:
    """Move a target towards a model, t <- t + tau (p - t): buffers t (in place), p."""
    graph = trace(lambda t, p: [t[0] + (p[0] - t[0]) * tau], 1, 1)
    return map_kernel(graph, [vector("inout"), vector()], 1, count)


def squared_norm(count: int) -> Kernel:
    """Return the sum of squares: buffers g (count), s (1)."""
    return reduce_kernel(trace(lambda x: [x[0] * x[0]], 1), [vector()], 1, count)


def clip_scale(count: int, limit: float) -> Kernel:
    """Scale g so that its norm is at most `limit`: buffers g (in place), s (its sum of squares)."""

    def body(g: list[Any], s: list[Any]) -> list[Any]:
        return [g[0] * minimum(limit / sqrt(s[0] + 1e-30), 1.0)]

    return map_kernel(trace(body, 1, 1), [vector("inout"), scalar()], 1, count)
