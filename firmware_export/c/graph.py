"""Write a graph as C99: constant tables, one static kernel per kind of step, and NAME_eval over an arena of the caller."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.c.emit import items
from flocklet.firmware_export.c.float import float_kernels, hex_float
from flocklet.firmware_export.c.network import activation_call
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.plan.arena import Arena
from flocklet.firmware_export.plan.field import Field
from flocklet.firmware_export.plan.graph_reference import EXP, LOG2, LOG2E
from flocklet.firmware_export.read.graph import (
    Conv,
    Full,
    Graph,
    Join,
    Pool,
    Scale,
    Softmax,
    Step,
    Window,
    parameters,
)
from flocklet.firmware_export.read.network import Activation

__all__ = ["graph_header", "graph_source", "table_bytes"]

F32: TypeAlias = npt.NDArray[np.float32]


def graph_header(name: str, graph: Graph, arena: Arena) -> str:
    """Return NAME.h."""
    text = fill(
        "graph.h.in",
        LICENCE=fill("licence.h.in"),
        UPPER=name.upper(),
        INPUTS=str(graph.sizes[0]),
        OUTPUTS=str(graph.sizes[graph.output]),
        ARENA=str(max(arena.words + 1, 1)),
    )
    return named(text, name)


def _window(i: int, window: Window, inner: int, per_group: int) -> str:
    numbers = [
        *window.source,
        *window.target,
        *window.kernel,
        *window.strides,
        *window.dilations,
        *window.pads[:2],
    ]
    listed = ", ".join(f"{n}u" for n in [*numbers, inner, per_group])
    return f"static const window_t p{i} = {{{listed}}};\n"


def _is_point(conv: Conv) -> bool:
    """Return whether a convolution has one tap, moves by one, pads nothing and has an even number of outputs."""
    window = conv.window
    plain = window.kernel == (1, 1) and window.strides == (1, 1) and not any(window.pads)
    return plain and conv.groups == 1 and conv.weight.shape[0] % 2 == 0


def _tables(i: int, step: Step) -> str:
    text = ""
    for key, array in zip("wb", parameters(step.kind), strict=False):
        field = Field(f"{key}{i}", np.ascontiguousarray(array, np.float32).reshape(-1))
        text += f"static const float {field.name}[{field.values.size}] = {{\n{items(field)}\n}};\n"
    if isinstance(step.kind, Conv) and not _is_point(step.kind):
        out, inner = step.kind.weight.shape[:2]
        text += _window(i, step.kind.window, inner, out // step.kind.groups)
    elif isinstance(step.kind, Pool):
        text += _window(i, step.kind.window, 1, 1)
    return text


def _calls(i: int, step: Step, graph: Graph, where: dict[int, str]) -> list[str]:
    """Return the statements of a step."""
    kind, y, n = step.kind, where[step.output], graph.sizes[step.output]
    x = where[step.inputs[0]]
    if isinstance(kind, Conv) and _is_point(kind):
        out, inner = kind.weight.shape[:2]
        lines = [f"point({x}, {y}, w{i}, b{i}, {inner}u, {out}u, {n // out}u);"]
    elif isinstance(kind, Conv):
        lines = [f"conv(&p{i}, {x}, {y}, w{i}, b{i});"]
    elif isinstance(kind, Pool):
        lines = [f"pool(&p{i}, {x}, {y}, {int(kind.is_max)}u, {int(kind.counts_pads)}u);"]
    elif isinstance(kind, Full):
        out, inner = kind.weight.shape
        lines = [f"full({x}, {y}, w{i}, b{i}, {inner}u, {out}u);"]
    elif isinstance(kind, Scale):
        lines = [f"scale({x}, {y}, w{i}, b{i}, {kind.scale.size}u, {n // kind.scale.size}u);"]
    elif isinstance(kind, Softmax):
        lines = [f"softmax({x}, {y}, {n // kind.length}u, {kind.length}u);"]
    elif isinstance(kind, Activation):
        lines = [f"copy({x}, {y}, {n}u);", activation_call(kind, y, n)]
    elif kind.kind == "concat":
        lines, at = [], 0
        for value in step.inputs:
            lines.append(f"copy({where[value]}, {y} + {at}, {graph.sizes[value]}u);")
            at += graph.sizes[value]
    else:
        lines = [f"{kind.kind}({x}, {where[step.inputs[1]]}, {y}, {n}u);"]
    return [line for line in [*lines, activation_call(step.activation, y, n)] if line]


def _kernels(graph: Graph) -> str:
    """Return the kernels that the steps need, each once."""
    found = [step.kind for step in graph.steps]
    kinds = {step.activation.kind for step in graph.steps} | {
        k.kind for k in found if isinstance(k, Activation)
    }
    joins = {kind.kind for kind in found if isinstance(kind, Join)}
    parts = []
    points = [kind for kind in found if isinstance(kind, Conv) and _is_point(kind)]
    convs = [kind for kind in found if isinstance(kind, Conv) and not _is_point(kind)]
    if convs or any(isinstance(kind, Pool) for kind in found):
        parts.append(fill("graph_window.c.in"))
    parts += [fill("graph_conv.c.in")] if convs else []
    parts += [fill("graph_point.c.in")] if points else []
    for wanted, file in ((Pool, "pool"), (Full, "full"), (Scale, "scale")):
        parts += [fill(f"graph_{file}.c.in")] if any(isinstance(kind, wanted) for kind in found) else []
    parts += [fill(f"graph_{join}.c.in") for join in ("add", "mul") if join in joins]
    if "concat" in joins or any(isinstance(kind, Activation) for kind in found):
        parts.append(fill("graph_copy.c.in"))
    if any(isinstance(kind, Softmax) for kind in found):
        marks = {"LOG2E": hex_float(LOG2E), "HIGH": hex_float(LOG2[0]), "LOW": hex_float(LOG2[1])}
        steps = "\n".join(f"  p = p * r + {hex_float(c)};" for c in EXP[1:])
        parts.append(fill("graph_softmax.c.in", P0=hex_float(EXP[0]), STEPS=steps, **marks))
    flags = {"dense8": False, "dense4": False, "odd": False, "rest": False, "use_asm": False}
    return "\n".join([*parts, float_kernels(kinds - {"identity"}, **flags)])


def graph_source(name: str, graph: Graph, arena: Arena) -> str:
    """Return NAME.c."""
    where = {value: f"(arena + {offset})" for value, offset in arena.offsets.items()}
    where |= {0: "x", graph.output: "y"}
    tables = [_tables(i, step) for i, step in enumerate(graph.steps)]
    calls = [line for i, step in enumerate(graph.steps) for line in _calls(i, step, graph, where)]
    body = "\n".join(f"  {line}" for line in calls)
    head = fill("licence.h.in") + fill("float_guard.c.in") + '#include "@N@.h"\n\n' + fill("graph_types.c.in")
    function = (
        "void @N@_eval(float arena[@N@_ARENA], const float x[@N@_INPUTS], float y[@N@_ACTIONS])\n{\n"
        f"  (void)arena;\n{body}\n}}\n"
    )
    parts = [head, _kernels(graph), *(table for table in tables if table), function]
    return named("\n".join(parts), name)


def table_bytes(graph: Graph) -> int:
    """Return the bytes of weights and biases in flash."""
    return 4 * sum(math.prod(array.shape) for step in graph.steps for array in parameters(step.kind))
