"""Whole tinygrad functions: written with Tensors, differentiated by tinygrad, then plain C or one graph on a GPU.

Beside `tinygrad_adapter` the only file that touches tinygrad's internals; `tests/kernels/test_contract.py` and
`tests/swarm/test_compiled.py` say what it relies on. `lower` runs tinygrad's scheduler (a compiler or a device is not
needed) and returns C99 texts (`flocklet.kernels.render.scheduled_c`) and the order of their calls. `DeviceFunction` runs the
same function on the device that tinygrad opens, captured by TinyJit.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.kernel import Tile
from flocklet.kernels.render.scheduled_c import Unwritable, write_scheduled
from flocklet.kernels.render.tinygrad_adapter import load_tinygrad

__all__ = ["Argument", "DeviceFunction", "Lowered", "Operand", "gradients", "lower"]

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


def lower(function: TensorFunction, arguments: Sequence[Argument], tile: Tile) -> Lowered:
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
        if call.src[0].op.name != "SINK":
            raise Unwritable(f"a {call.src[0].op.name} of tinygrad's schedule has no C form")
        text, order = write_scheduled(call.src[0], "PART", tile)
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
        tuple(text.replace("PART(", f"{name}(", 1) for text, name in texts.items()), tuple(calls), size
    )


def _module(name: str) -> Any:
    load_tinygrad()
    return importlib.import_module(name)


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
