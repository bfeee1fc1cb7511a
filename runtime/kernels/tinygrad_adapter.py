"""Everything that touches tinygrad's internals: loops and stores as UOps, rendered to portable C99.

tinygrad promises nothing about these interfaces, therefore the version is pinned exactly and
`tests/test_kernels_contract.py` checks each of them. tinygrad is imported here only, lazily, with the
environment it needs: the interpreter device (no clang is started), no worker processes, no disk cache.

Rules learnt by measurement: `opts_to_apply=()` always (the C compiler vectorises; tinygrad's UPCAST is
slower, and silently wrong with register arrays); loops that must disappear are marked and unrolled in the
text, which costs the rewriter nothing; `exp2` is our own polynomial so that compilers without a vector
library vectorise it too.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["PREAMBLE", "Loops", "UopArithmetic", "load_tinygrad", "render_c"]

_UNROLLED = 500  # axis numbers from here on are unrolled in the rendered text

# exp2: nearest integer plus a Taylor polynomial of degree 7 on [-1/2, 1/2] (error 5e-9), saturating at 2**-126 and
# 2**127. Rounding goes through an integer: -fassociative-math may remove "add and subtract 1.5 * 2**23".
PREAMBLE = """\
#include <math.h>
#include <stdint.h>
#include <string.h>
static inline float fl_exp2f(float x) {
  x = x < -126.0f ? -126.0f : x; x = x > 127.0f ? 127.0f : x;
  int32_t i = (int32_t)(x + 126.5f) - 126;
  float f = x - (float)i;
  float p = 1.5252734e-5f;
  p = p * f + 1.5403530e-4f; p = p * f + 1.3333558e-3f; p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f; p = p * f + 2.4022651e-1f; p = p * f + 6.9314718e-1f; p = p * f + 1.0f;
  int32_t bits = (i + 127) * 8388608;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}
"""


@functools.cache
def load_tinygrad() -> Any:
    """Import tinygrad in the environment that we need and put the environment back; return the names we use.

    A `DEV` that the caller has set (a GPU) is respected: tinygrad reads its environment once, at import.
    """
    wanted = {"DEV": os.environ.get("DEV", "PYTHON"), "PARALLEL": "0", "CACHELEVEL": "0"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        return _names()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _names() -> Any:
    names = {
        "tinygrad": ("UOp", "dtypes", "Tensor", "TinyJit", "Device"),
        "tinygrad.device": ("Compiler",),
        "tinygrad.dtype": ("AddrSpace",),
        "tinygrad.helpers": ("Target",),
        "tinygrad.codegen": ("to_program",),
        "tinygrad.codegen.opt": ("Opt", "OptOps"),
        "tinygrad.renderer.cstyle": ("CStyleLanguage", "base_rewrite"),
        "tinygrad.uop.ops": ("AxisType", "KernelInfo", "Ops", "PatternMatcher", "UPat"),
    }
    found: dict[str, Any] = {}
    for module, attributes in names.items():
        loaded = importlib.import_module(module)
        found |= {name: getattr(loaded, name) for name in attributes}
    return type("Tinygrad", (), found)


class Loops:
    """Build one kernel: loops, register arrays and ordered groups of stores over flat float32 buffers.

    A buffer or register array is indexed with one flat expression; reading `b[i]` gives a number,
    `b[i].store(x)` a statement. `end` closes loops around statements, `after` orders reads behind finished
    statements.
    """

    def __init__(self, sizes: Sequence[int], buffers: Sequence[Any] | None = None) -> None:
        self._tg = load_tinygrad()
        self._axis = 0
        self._unrolled = _UNROLLED
        self._arrays = 0
        made = [self._tg.UOp.placeholder((n,), self._tg.dtypes.float, i) for i, n in enumerate(sizes)]
        self.buffers = made if buffers is None else list(buffers)

    def loop(self, count: int, *, is_reduction: bool = False) -> Any:
        """Return the index of a loop of `count` turns; a reduction carries values in registers from turn to
        turn.
        """
        if count == 1:
            return 0
        self._axis += 1
        kind = self._tg.AxisType.REDUCE if is_reduction else self._tg.AxisType.WEAK
        return self._tg.UOp.range(count, self._axis, kind)

    def unrolled(self, count: int) -> Any:
        """Return the index of a loop that is written out in the C text, innermost index last."""
        if count == 1:
            return 0
        self._unrolled += 1
        return self._tg.UOp.range(count, self._unrolled, self._tg.AxisType.WEAK)

    def registers(self, count: int) -> Any:
        """Return a new array of `count` floats private to the kernel."""
        self._arrays += 1
        space = self._tg.AddrSpace.REG
        return self._tg.UOp.placeholder((count,), self._tg.dtypes.float, self._arrays - 1, addrspace=space)

    def end(self, statements: Sequence[Any], *loops: Any) -> Any:
        """Return the statement that runs `statements` inside `loops`, innermost loop first."""
        out = self._tg.UOp.group(*statements)
        for index in loops:
            if not isinstance(index, int):
                out = out.end(index)
        return out

    def after(self, array: Any, *before: Any) -> Any:
        """Return `array` as it stands after the statements (or at the start of each turn of the loops) in
        `before`.
        """
        real = [x for x in before if not isinstance(x, int)]
        return array.after(*real) if real else array

    def const(self, value: float) -> Any:
        """Return a float32 constant."""
        return self._tg.UOp.const(float(value), self._tg.dtypes.float)

    def finish(self, statements: Sequence[Any], name: str, *, threads: int = 0) -> Any:
        """Return the finished kernel; with `threads` the first loop becomes a GPU grid of blocks of that
        size.
        """
        opts = (self._tg.Opt(self._tg.OptOps.LOCAL, 0, threads),) if threads else ()
        info = self._tg.KernelInfo(name=name, opts_to_apply=opts)
        return self._tg.UOp.sink(*statements, arg=info)


class UopArithmetic:
    """Numbers are UOps (see `flocklet.kernels.expr.Arithmetic`)."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops

    def const(self, value: float) -> Any:
        """Return a float32 constant."""
        return self._loops.const(value)

    def apply(self, op: str, args: Sequence[Any]) -> Any:
        """Return `op(*args)`."""
        a = args[0]
        match op:
            case "add":
                return a + args[1]
            case "mul":
                return a * args[1]
            case "max":
                return a.maximum(args[1])
            case "lt":
                return a < args[1]
            case "where":
                return a.where(args[1], args[2])
            case "neg":
                return -a
            case "recip":
                return a.reciprocal()
            case _:
                return getattr(a, op)()


@functools.cache
def _renderer() -> Any:
    tg = load_tinygrad()
    ops, dtypes = tg.Ops, tg.dtypes

    def suffix(dtype: Any) -> str:
        return "" if dtype == dtypes.float64 else "f"

    def call(function: str) -> Callable[[str, Any], str]:
        return lambda x, dtype: f"{function}{suffix(dtype)}({x})"

    def bitcast(ctx: Any, x: Any) -> str | None:
        if x.addrspace in (tg.AddrSpace.GLOBAL, tg.AddrSpace.LOCAL):
            return None
        before, after = ctx.render_dtype(x.src[0].dtype), ctx.render_dtype(x.dtype)
        return f"((union {{ {before} a; {after} b; }}){{ .a = {ctx[x.src[0]]} }}).b"

    def render_kernel(
        self: Any, function_name: str, kernel: list[str], bufs: list[Any], uops: Any, prefix: Any = None
    ) -> str:
        by_slot = sorted((u.arg.slot, name, is_written) for name, (u, is_written) in bufs)
        arguments = ", ".join(f"{'' if w else 'const '}float *restrict {name}" for _, name, w in by_slot)
        lines = _unroll("\n".join(kernel).split("\n"))
        return f"static void {function_name}({arguments}) {{\n" + "\n".join(lines) + "\n}\n"

    fixed = {
        dtypes.bool: "_Bool",
        dtypes.int8: "int8_t",
        dtypes.uint8: "uint8_t",
        dtypes.int16: "int16_t",
        dtypes.uint16: "uint16_t",
        dtypes.int32: "int32_t",
        dtypes.uint32: "uint32_t",
        dtypes.int64: "int64_t",
        dtypes.uint64: "uint64_t",
    }
    members = {
        "supports_float4": False,
        "has_local": False,
        "has_threads": False,
        "has_shared": False,
        "global_max": None,
        "local_max": None,
        "infinity": "INFINITY",
        "nan": "NAN",
        "type_map": fixed,
        "code_for_op": {
            **tg.CStyleLanguage.code_for_op,
            ops.SQRT: call("sqrt"),
            ops.EXP2: call("fl_exp2"),
            ops.LOG2: call("log2"),
            ops.SIN: call("sin"),
            ops.TRUNC: call("trunc"),
            ops.RECIPROCAL: lambda x, dtype: f"(1.0{suffix(dtype)}/{x})",
        },
        "string_rewrite": tg.PatternMatcher([(tg.UPat(ops.BITCAST, name="x"), bitcast)]) + tg.base_rewrite,
        "render_kernel": render_kernel,
        "compiler": tg.Compiler(),  # keeps the text as it is: no tool is started
    }
    return type("PortableC", (tg.CStyleLanguage,), members)(tg.Target("CPU", arch="generic"))


def render_c(kernel: Any) -> tuple[str, list[int]]:
    """Return the C text of a finished kernel (one static function) and the buffer numbers it takes, in
    order.
    """
    tg = load_tinygrad()
    was_enabled = gc.isenabled()
    gc.disable()  # a kernel makes and drops a hundred thousand small objects, none of them in cycles: 15 % of the time
    try:
        program = tg.to_program(kernel, _renderer())
    finally:
        if was_enabled:
            gc.enable()
    source = str(next(s.arg for s in program.src if s.op is tg.Ops.SOURCE))
    signature = source.split("{", 1)[0]
    return source, [int(n) for n in re.findall(r"\bdata(\d+)_", signature)]


def _unroll(lines: Sequence[str]) -> list[str]:
    """Write out the marked loops of a rendered function body: one block per turn, the index replaced by its
    value.
    """
    out: list[str] = []
    i = 0
    while i < len(lines):
        match = re.match(r"\s*for \(\w+ ([A-Za-z]+(\d+)) = 0; \1 < (\d+); \1\+\+\) \{$", lines[i])
        if match is None or int(match.group(2)) <= _UNROLLED:
            out.append(lines[i])
            i += 1
            continue
        depth, end = 1, i
        while depth:
            end += 1
            depth += lines[end].count("{") - lines[end].count("}")
        body = _unroll(lines[i + 1 : end])
        index = re.compile(rf"\b{match.group(1)}\b")
        for turn in range(int(match.group(3))):
            out += ["  {", *(index.sub(str(turn), line) for line in body), "  }"]
        i = end + 1
    return out
