"""Reverse mode: turn a traced body into the body of its adjoint.

The adjoint of y = f(x) takes x and the cotangents of y and gives the cotangents of x (Griewank & Walther,
Evaluating Derivatives, 2008, section 3.2). It is an ordinary Graph: it runs on NumPy for the oracle and
renders to a kernel like any other. Inside a step nothing is stored, intermediate values are recomputed in
registers; between steps the caller keeps the states (check-points), so one compiled step serves every
horizon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flocklet.kernels.body.expr import Expr, Graph, trace

__all__ = ["adjoint", "adjoint_of"]


def adjoint(graph: Graph, wanted: Sequence[int] | None = None) -> Graph:
    """Return the graph of (inputs, output cotangents) -> cotangents of the inputs listed in `wanted`
    (default: all).

    At a kink (max, where) the derivative of the branch taken is used; of two equal operands of max, the
    first.
    """
    tracer = graph.tracer
    seeds = tuple(tracer.input() for _ in graph.outputs)
    gradient: dict[int, Expr] = {}

    def add(expr: Expr, amount: Expr) -> None:
        if expr.op != "const":
            known = gradient.get(expr.index)
            gradient[expr.index] = amount if known is None else known + amount

    for output, seed in zip(graph.outputs, seeds, strict=True):
        add(output, seed)
    for expr in reversed(graph.order):
        flow = gradient.get(expr.index)
        if flow is None or not expr.args:
            continue
        for argument, amount in zip(expr.args, _partials(expr, flow), strict=True):
            if amount is not None:
                add(argument, amount)
    zero = tracer.const(0.0)
    chosen = range(len(graph.inputs)) if wanted is None else wanted
    outputs = tuple(gradient.get(graph.inputs[i].index, zero) for i in chosen)
    return Graph(tracer, (*graph.inputs, *seeds), outputs)


def adjoint_of(body: Callable[..., object], *arities: int, wanted: Sequence[int] | None = None) -> Graph:
    """Trace `body` (see `flocklet.kernels.body.expr.trace`) and return its adjoint."""
    return adjoint(trace(body, *arities), wanted)


def _partials(expr: Expr, flow: Expr) -> tuple[Expr | None, ...]:
    """Return what flows back to each argument of `expr`."""
    a = expr.args[0]
    match expr.op:
        case "add":
            return flow, flow
        case "mul":
            return flow * expr.args[1], flow * a
        case "neg":
            return (-flow,)
        case "recip":
            return (-(flow * expr * expr),)
        case "sqrt":
            return (flow * expr.reciprocal() * 0.5,)
        case "exp2":
            return (flow * expr * math.log(2.0),)
        case "log2":
            return (flow * a.reciprocal() * (1.0 / math.log(2.0)),)
        case "sin":
            return (flow * (a + math.pi / 2).sin(),)
        case "max":
            second = a < expr.args[1]
            return second.where(0.0, flow), second.where(flow, 0.0)
        case "where":
            return None, a.where(flow, 0.0), a.where(0.0, flow)
        case _:
            return tuple(None for _ in expr.args)
