"""Everything that touches tinygrad's internals: loops and stores as UOps, handed on as plain nodes or to a GPU.

tinygrad promises nothing about these interfaces, therefore the version is pinned exactly and
`tests/kernels/test_contract.py` checks each of them. tinygrad is imported here only, lazily, with the
environment it needs: the interpreter device (no clang is started), no worker processes, no disk cache.

Rules learnt by measurement: `opts_to_apply=()` always (tinygrad's UPCAST is slower than a C compiler's vectors, and
silently wrong with register arrays); loops that must disappear are only marked here and written out in the C text.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flocklet.kernels.body.expr import HASH_PARTS, HASH_ROUNDS, HASH_START

__all__ = ["Loops", "Node", "UopArithmetic", "load_tinygrad", "nodes_of"]

_UNROLLED = 500  # axis numbers from here on are unrolled in the rendered text


@dataclass(frozen=True)
class Node:
    """One node of a finished kernel, free of tinygrad: `sources` are positions in the list of nodes.

    `value` is a constant, `size` the turns of a RANGE or the floats of a PARAM or BUFFER (a register array), `slot` the
    number of a buffer or array, `is_unrolled` marks a loop that is to be written out. `kind` is "float", "int" or "uint"
    (32 bits each).
    """

    op: str
    sources: tuple[int, ...]
    value: float = 0.0
    size: int = 0
    slot: int = 0
    is_unrolled: bool = False
    kind: str = "float"


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
        "tinygrad.dtype": ("AddrSpace",),
        "tinygrad.codegen.opt": ("Opt", "OptOps"),
        "tinygrad.uop.ops": ("AxisType", "KernelInfo"),
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

    def whole(self, value: Any) -> Any:
        """Return a number that holds a whole number as an index."""
        return value.cast(self._tg.dtypes.int32)

    def hashed(self, lane: Any, part: int, keys: Sequence[Any]) -> Any:
        """Return the same bits as `flocklet.kernels.body.expr.hashed_uniform`."""
        tg = self._tg

        def const(value: int) -> Any:
            return tg.UOp.const(value, tg.dtypes.uint32)

        def word(x: Any) -> Any:
            return x.cast(tg.dtypes.int32).cast(tg.dtypes.uint32)

        first, second = (const(x) for x in HASH_START)
        m1, m2, m3 = (const(x) for x in HASH_ROUNDS)
        a = first
        for key in keys:
            a = (a + word(key)) * m1
            a = (a ^ (a >> const(15))) * m2
            a = a ^ (a >> const(16))
        h = word(lane) * m3 + a
        h = (h ^ (h >> const(16))) * m1
        h = ((h ^ (h >> const(15))) + a * second) * m2
        h = h ^ (h >> const(15))
        shift, mask, scale = HASH_PARTS[part]
        h = h >> const(shift) if shift else h & const(mask)
        return h.cast(tg.dtypes.int32).cast(tg.dtypes.float) * scale

    def finish(self, statements: Sequence[Any], name: str, *, threads: int = 0) -> Any:
        """Return the finished kernel; with `threads` the first loop becomes a GPU grid of blocks of that
        size.
        """
        opts = (self._tg.Opt(self._tg.OptOps.LOCAL, 0, threads),) if threads else ()
        info = self._tg.KernelInfo(name=name, opts_to_apply=opts)
        return self._tg.UOp.sink(*statements, arg=info)


class UopArithmetic:
    """Numbers are UOps (see `flocklet.kernels.body.expr.Arithmetic`)."""

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
            case "random":
                return self._loops.hashed(a, int(args[1].arg), args[2:])
            case _:
                return getattr(a, op)()


def _kind(uop: Any) -> str:
    name = str(uop.dtype)
    return "uint" if "uint" in name else "int" if "int" in name or "index" in name else "float"


def nodes_of(kernel: Any) -> list[Node]:
    """Return the nodes of a finished kernel, sources first, the kernel's SINK last."""
    place: dict[Any, int] = {}
    nodes: list[Node] = []
    for uop in kernel.toposort():
        op, sources, kind = uop.op.name, tuple(place[s] for s in uop.src), _kind(uop)
        if op == "CONST":
            node = Node(op, (), value=float(uop.arg), kind=kind)
        elif op == "RANGE":
            node = Node(op, (), size=int(uop.src[0].arg), is_unrolled=uop.arg[0] > _UNROLLED, kind=kind)
        elif op in ("PARAM", "BUFFER"):
            node = Node(op, (), size=int(uop.src[0].arg), slot=uop.arg.slot)
        else:
            node = Node(op, sources, kind=kind)
        place[uop] = len(nodes)
        nodes.append(node)
    return nodes
