"""Whole tinygrad functions: written with Tensors, differentiated by tinygrad, then plain C or one graph on a GPU.

Beside `tinygrad_adapter` the only file that touches tinygrad's internals; `tests/test_kernels_contract.py` and
`tests/test_swarm_compiled.py` say what it relies on. `lower` runs tinygrad's scheduler and its lowering (about 0.2 s a
kernel, no compiler and no device is needed) and returns C99 texts and the order of their calls. `DeviceFunction` runs
the same function on the device that tinygrad opens, captured by TinyJit.

Loops: of a kernel with a sum, the innermost axis of the result becomes up to 16 lanes and the one before it up to 4
rows, written out as scalars that a C compiler packs into vectors. Kernels without a sum stay loops.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.tinygrad_adapter import load_tinygrad

__all__ = ["Argument", "DeviceFunction", "Lowered", "Operand", "gradients", "lower"]

_LANES, _ROWS = 16, 4
TensorFunction = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Argument:
    """A named argument: float32, or int32 when `is_whole`."""

    name: str
    shape: tuple[int, ...]
    is_whole: bool = False


@dataclass(frozen=True)
class Operand:
    """What a call is given: the argument or the result `name`, or scratch memory at `offset` bytes when `name` is ""."""

    name: str
    is_result: bool = False
    offset: int = 0
    is_whole: bool = False


@dataclass(frozen=True)
class Lowered:
    """C texts of the kernels, one per line of `texts`; `calls` in order as (function, operands); bytes of scratch."""

    texts: tuple[str, ...]
    calls: tuple[tuple[str, tuple[Operand, ...]], ...]
    scratch_bytes: int


def gradients(value: Any, targets: Mapping[str, Any]) -> dict[str, Any]:
    """Return d sum(value) / d target for each of the tensors in `targets`, each computed by kernels of its own."""
    found = value.sum().gradient(*targets.values())
    return {name: slope.contiguous() for name, slope in zip(targets, found, strict=True)}


def lower(function: TensorFunction, arguments: Sequence[Argument]) -> Lowered:
    """Return `function` of tensors as C; its results must be new tensors. The shapes are fixed by `arguments`."""
    tg = load_tinygrad()
    kinds = {False: tg.dtypes.float, True: tg.dtypes.int32}
    given = {a.name: tg.Tensor.empty(*a.shape, dtype=kinds[a.is_whole], device="PYTHON") for a in arguments}
    results = {name: tensor.contiguous() for name, tensor in function(given).items()}
    line, _ = tg.Tensor.linear_with_vars(*results.values())
    known = {tensor.uop.base: Operand(name) for name, tensor in given.items()}
    known |= {tensor.uop.base: Operand(name, is_result=True) for name, tensor in results.items()}
    missing = [name for name, tensor in results.items() if known[tensor.uop.base].name != name]
    if missing or len(known) != len(given) + len(results):
        raise ValueError(f"the result {missing} is an argument or another result")
    texts: dict[str, str] = {}
    calls: list[tuple[str, tuple[Operand, ...]]] = []
    places: dict[int, int] = {}  # id of a scratch buffer -> its first byte
    size = 0
    for call in line.src:
        text, order = _kernel(call.src[0])
        name = texts.setdefault(text, f"part{len(texts)}")
        operands = []
        buffers = _module("tinygrad.engine.realize").get_call_arg_uops(call)
        for buffer in (buffers[position] for position in order):
            if buffer.base in known:
                operands.append(known[buffer.base])
                continue
            whole = buffer.buffer.base
            if id(whole) not in places:
                places[id(whole)] = size
                size += -(-whole.nbytes // 64) * 64
            is_whole = buffer.dtype not in (tg.dtypes.float, tg.dtypes.bool)
            operands.append(Operand("", offset=places[id(whole)] + buffer.buffer.offset, is_whole=is_whole))
        calls.append((name, tuple(operands)))
    return Lowered(
        tuple(text.replace("void kernel(", f"void {name}(") for text, name in texts.items()), tuple(calls), size
    )


def _kernel(sink: Any) -> tuple[str, list[int]]:
    """Return the C text of one scheduled kernel, named `kernel`, and which buffers of its call it takes."""
    tg, codegen = load_tinygrad(), _module("tinygrad.codegen")
    ops = _module("tinygrad.uop.ops").Ops
    if sink.op is not ops.SINK:
        raise ValueError(f"a {sink.op.name} of the schedule has no C form")
    renderer = _renderer()
    plain = sink.replace(arg=tg.KernelInfo(name="kernel", opts_to_apply=_tiles(sink, renderer)))
    program = codegen.to_program(plain, renderer)
    text = next(part.arg for part in program.src if part.op is ops.SOURCE)
    named = re.sub(rf"\bvoid {re.escape(program.arg.function_name)}\(", "void kernel(", text, count=1)
    return named, list(program.arg.globals)


def _tiles(sink: Any, renderer: Any) -> tuple[Any, ...]:
    tg = load_tinygrad()
    plan = _module("tinygrad.codegen.opt.postrange").Scheduler(sink, renderer)
    loops = plan.axes_of(tg.AxisType.WEAK)
    if plan.reduceop is None or not loops:
        return ()
    sizes = [int(size) for size in plan.full_shape]
    last = loops[-1]
    lanes = _divisor(sizes[last], _LANES)
    chosen = [tg.Opt(tg.OptOps.UPCAST, last, lanes)] if lanes > 1 else []
    if lanes == sizes[last]:
        loops = loops[:-1]  # the axis is gone
    for axis in reversed(loops):
        rows = _divisor(sizes[axis] // (lanes if axis == last else 1), _ROWS)
        if rows > 1:
            chosen.append(tg.Opt(tg.OptOps.UPCAST, axis, rows))
            break
    return tuple(chosen)


def _divisor(size: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if size % n == 0)


def _module(name: str) -> Any:
    load_tinygrad()
    return importlib.import_module(name)


@cache
def _renderer() -> Any:
    """Return a renderer of plain C99: scalars, no intrinsics; exp2 and log2 are those of `portable_c.PREAMBLE`."""
    tg = load_tinygrad()
    ops, style = _module("tinygrad.uop.ops").Ops, _module("tinygrad.renderer.cstyle").CStyleLanguage
    calls = {ops.SQRT: "sqrtf", ops.EXP2: "fl_exp2f", ops.LOG2: "fl_log2f", ops.SIN: "sinf", ops.TRUNC: "truncf"}

    class PlainC(style):  # type: ignore[misc, valid-type]
        supports_float4 = has_local = has_threads = has_shared = False
        global_max = local_max = None
        kernel_typedef = "static void"
        buffer_suffix = " restrict"
        type_map = {  # noqa: RUF012 - the shape that tinygrad asks for
            tg.dtypes.bool: "_Bool",
            tg.dtypes.int32: "int32_t",
            tg.dtypes.uint32: "uint32_t",
            tg.dtypes.int64: "int64_t",
        }
        code_for_op = {  # noqa: RUF012
            **style.code_for_op,
            **{op: (lambda x, kind, name=name: f"{name}({x})") for op, name in calls.items()},
            ops.RECIPROCAL: lambda x, kind: f"(1.0f/{x})",
        }
        compiler = _module("tinygrad.device").Compiler()

    return PlainC(_module("tinygrad.helpers").Target("CPU", arch="generic"))


class DeviceFunction:
    """The same function on tinygrad's device, for arguments of these shapes only; the graph is captured once."""

    def __init__(self, function: TensorFunction, arguments: Sequence[Argument], device: str) -> None:
        self._tg = load_tinygrad()
        self._arguments, self._device = list(arguments), device
        self._names: list[str] = []

        def run(*tensors: Any) -> tuple[Any, ...]:
            results = function({a.name: t for a, t in zip(self._arguments, tensors, strict=True)})
            self._names = list(results)
            return tuple(tensor.contiguous().realize() for tensor in results.values())

        self._run = self._tg.TinyJit(run)

    def tensor(self, values: NDArray[Any]) -> Any:
        """Return `values` on the device."""
        return self._tg.Tensor(np.ascontiguousarray(values), device=self._device).realize()

    def __call__(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the results as tensors that the next call overwrites; `given` are tensors of the device."""
        found = self._run(*[given[a.name] for a in self._arguments])
        return dict(zip(self._names, found, strict=True))

