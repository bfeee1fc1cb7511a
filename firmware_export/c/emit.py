"""Assemble the generated C99: `NAME.h`, `NAME.c` and `NAME_test_vectors.h`.

The code uses freestanding headers only, keeps nothing in static RAM, allocates nothing and calls no
library. All weights are `static const`, as exact hex floats.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from flocklet.firmware_export.c.float import ASM_CONDITION, hex_float
from flocklet.firmware_export.c.info import info_text, literal
from flocklet.firmware_export.c.network import CodeParts, float_parts, history_functions
from flocklet.firmware_export.c.step import STATUS, has_time, step_arguments, step_text
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.c.vectors import Golden
from flocklet.firmware_export.plan.field import Field
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import hidden_size

__all__ = [
    "BLOB_HEADER_BYTES",
    "BLOB_MAGIC",
    "code_parts",
    "emit_header",
    "emit_source",
    "emit_vectors",
    "items",
]

BLOB_MAGIC = 0x31574C46  # "FLW1"
BLOB_HEADER_BYTES = 16


def code_parts(plan: Plan, *, use_asm: bool = True, unroll: bool = True) -> CodeParts:
    """Return the code of the data type of a plan."""
    if plan.integer is None:
        return float_parts(plan, use_asm=use_asm, unroll=unroll)
    from flocklet.firmware_export.c.integer import integer_parts

    return integer_parts(plan, use_asm=use_asm)


def decimal_float(value: float) -> str:
    """Return a float32 as a decimal literal that reads back exactly, for C++ too."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if set(text) & {".", "e"} else f"{text}.0f"


def _status_defines(name: str) -> str:
    return "\n".join(f"#define {name}_{key} {value}u /* {text} */" for key, (value, text) in STATUS.items())


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def emit_header(plan: Plan, parts: CodeParts, *, loadable: bool) -> str:
    """Return NAME.h."""
    name, obs, net = plan.name, plan.obs, plan.network
    members = f"const struct {name}_weights *weights;\n" if loadable else ""
    members += parts.hooks.state + f"float last[{net.n_out}]; /* the action returned last */\n"
    members += f"float fed[{net.n_out}]; /* what enters the history next */\n" if obs.history else ""
    members += (
        "uint32_t bad; /* bad inputs in a row */\nuint32_t sub; /* calls in this period of the history */\n"
    )
    members += "uint32_t native; /* 1 where this call ended a period */\n"
    if has_time(plan):
        members += "uint64_t last_us;\nuint32_t seen;\n"
        if plan.action.interval_us:
            members += "uint32_t span_us;\nuint32_t spans;\nuint32_t biased;\n"
        if obs.native_interval_us:
            members += "uint64_t native_us;\nuint32_t started;\n"
    n_hidden = hidden_size(net)
    hidden = f", float hidden[{n_hidden}]" if n_hidden and plan.integer is None else ""
    text = fill(
        "policy.h.in",
        LICENCE=fill("licence.h.in"),
        UPPER=name.upper(),
        STATE=str(obs.state),
        INPUTS=str(net.n_in),
        ACTIONS=str(net.n_out),
        PERIOD=str(obs.period),
        INIT=decimal_float(obs.init),
        STATUS=_status_defines(name),
        SCRATCH=parts.scratch,
        MEMBERS=_indent(members),
        ARGUMENTS=step_arguments(plan),
        HIDDEN=hidden,
        LOAD=fill("load.h.in") if loadable else "",
    )
    return named(text, name)


def items(field: Field) -> str:
    """Return the numbers of a field as the lines of a C initialiser."""
    values = field.values
    if values.dtype.kind == "f":
        texts = [hex_float(float(v)) if v else "0.0f" for v in values.tolist()]
    else:
        texts = [str(v) if v != -(2**31) else "(-2147483647 - 1)" for v in values.tolist()]
    lines, line = [], "   "
    for text in texts:
        if len(line) + len(text) > 110:
            lines.append(line)
            line = "   "
        line += f" {text},"
    return "\n".join([*lines, line.rstrip(",")])


# The assembler kernels of f32 and w16 need so little stack that their callers may be merged.


def _crc_table() -> str:
    table = []
    for i in range(16):
        value = i
        for _ in range(4):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        table.append(f"0x{value:08x}u")
    return ", ".join(table)


def emit_source(plan: Plan, parts: CodeParts, info: dict[str, Any], *, loadable: bool) -> str:
    """Return NAME.c; `info` is what NAME_info() tells."""
    struct = "\n".join(f"  {f.c_type} {f.name}[{f.values.size}];" for f in plan.fields)
    values = ",\n".join("  {\n" + items(f) + "\n  }" for f in plan.fields)
    weights = fill(
        "weights.c.in",
        STRUCT=struct,
        CHECKS=fill("checks.c.in", BYTES=str(len(plan.payload))),
        VALUES=values,
        WHERE="((st)->weights)" if loadable else "(&@N@_weights)",
    )
    history = history_functions(plan) if plan.integer is None else ""
    step = step_text(plan, parts.hooks, loadable=loadable)
    previous = plan.obs.history is not None and plan.obs.feed == "previous_action"
    timed = has_time(plan)
    interval = plan.action.interval_us or plan.obs.native_interval_us or 1000
    selftest = fill(
        "selftest.c.in",
        PREVIOUS=", @N@_golden_previous[(i + 1u) % @N@_GOLDEN_OBS]" if previous else "",
        TIME=", now_us" if timed else "",
        NOW="  uint64_t now_us = 0u;\n" if timed else "",
        TICK=f"    now_us += {interval}u;\n" if timed else "",
    )
    load = ""
    if loadable:
        load = fill(
            "load.c.in",
            HEADER=str(BLOB_HEADER_BYTES),
            MAGIC=f"{BLOB_MAGIC:08x}",
            LAYOUT=f"{plan.layout_id:08x}",
            REBUILD="  @N@_rebuild(st);\n" if parts.hooks.rebuild else "",
        )
    body = [
        weights,
        parts.kernels,
        parts.functions,
        history,
        parts.eval_text,
        step,
        fill("crc32.c.in", TABLE=_crc_table()),
        load,
        selftest,
        fill("info.c.in", TEXT="@TEXT@"),
    ]
    has_asm = ASM_CONDITION in parts.kernels
    merged = plan.dtype in {"f32", "w16"} and has_asm
    preamble = fill(
        "preamble.c.in",
        ASM=fill("preamble_asm.c.in") if has_asm else "",
        PART=fill("part.c.in") if merged else "#define FLOCKLET_PART FLOCKLET_NOINLINE\n",
    )
    head = fill("licence.h.in") + fill("float_guard.c.in") + preamble
    return named(head + "\n".join(part for part in body if part), plan.name, TEXT=literal(info_text(info)))


def emit_vectors(plan: Plan, golden: Golden) -> str:
    """Return NAME_test_vectors.h: golden observations and the checksums of what must come out."""
    name = plan.name

    def table(label: str, array: np.ndarray) -> str:
        rows = ",\n".join("  {" + ", ".join(hex_float(float(v)) for v in row) + "}" for row in array)
        return f"static const float {name}_{label}[{array.shape[0]}][{array.shape[1]}] = {{\n{rows}\n}};\n"

    previous = table("golden_previous", golden.previous) if golden.previous is not None else ""
    return (
        f"{fill('licence.h.in')}#ifndef {name.upper()}_TEST_VECTORS_H\n#define {name.upper()}_TEST_VECTORS_H\n"
        f"#define {name}_GOLDEN_STEPS {golden.steps}u\n#define {name}_GOLDEN_OBS {len(golden.obs)}u\n"
        f"#define {name}_GOLDEN_WEIGHTS 0x{zlib.crc32(plan.payload):08x}u\n"
        f"#define {name}_GOLDEN_RESULT 0x{golden.crc32:08x}u\n{table('golden_obs', golden.obs)}{previous}#endif\n"
    )
