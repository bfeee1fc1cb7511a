"""A program that can be run: a loaded C function, or the NumPy twins of its kernels, behind one interface."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.compile.library_cache import load_library

if TYPE_CHECKING:
    from flocklet.kernels.program import Program

__all__ = ["Executable", "aligned"]

_ONE_TURN = (0, 1)


def aligned(size: int) -> NDArray[np.float32]:
    """Return `size` zeros that begin on a cache line."""
    raw = np.zeros(size + 16, np.float32)
    start = -(raw.ctypes.data // 4) % 16
    return raw[start : start + size]


class Executable:
    """Run a compiled program. `buffers` are flat float32 arrays, used in place; `bind` exchanges one.

    `backend` is "native" or "numpy", `reason` says why it is NumPy. One executable must not run twice at
    the same time.
    """

    def __init__(
        self,
        program: Program,
        *,
        library: Path | None = None,
        compiler: str = "",
        reason: str = "",
    ) -> None:
        self.name = program.name
        self.backend = "numpy" if library is None else "native"
        self.compiler = compiler
        self.reason = reason
        self.library = library
        self._calls = list(program.calls)
        self._names = list(program.sizes)
        self._sizes = dict(program.sizes)
        self._scratches = sorted(program.scratches)
        self._table = (ctypes.c_void_p * max(1, len(self._names)))()
        self._copies: list[tuple[Any, list[NDArray[np.float32]]]] = []
        self.buffers: dict[str, NDArray[np.float32]] = {}
        self._checked = _ONE_TURN
        self._pool: ThreadPoolExecutor | None = None
        self._function: Any = None
        if library is not None:
            self._function = load_library(library)["flocklet_run"]
            self._function.restype = None
        for buffer, size in self._sizes.items():
            self.bind(buffer, aligned(size))
        self._zero, self._one = ctypes.c_long(0), ctypes.c_long(1)

    def bind(self, name: str, array: NDArray[np.float32]) -> None:
        """Use `array` (contiguous, writable float32, at least the declared size) as buffer `name`, without
        a copy.
        """
        flat = array.reshape(-1)
        if array.dtype != np.float32 or not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError(f"buffer {name!r} must be a contiguous, writable float32 array")
        if flat.size < self._sizes[name]:
            raise ValueError(f"buffer {name!r} needs {self._sizes[name]} elements, got {flat.size}")
        self.buffers[name] = flat
        self._table[self._names.index(name)] = flat.ctypes.data
        self._checked = _ONE_TURN

    def __call__(self) -> None:
        """Run one turn."""
        if self._function is not None:
            self._function(self._table, self._zero, self._one)
        else:
            self._interpret(0, 1)

    def run(self, lo: int, hi: int, *, threads: int = 1) -> None:
        """Run the turns `lo` to `hi - 1` of the axis, in order, or shared among `threads` when turns are
        independent.

        Raise ValueError when a view would leave its buffer.
        """
        if hi <= lo:
            return
        self.admit(lo, hi)
        if self._function is None:
            self._interpret(lo, hi)
        elif threads <= 1 or hi - lo < threads:
            self._function(self._table, ctypes.c_long(lo), ctypes.c_long(hi))
        else:
            self._run_shared(lo, hi, threads)

    def _run_shared(self, lo: int, hi: int, threads: int) -> None:
        """Give each thread its share of the turns and its own scratch buffers."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flocklet-kernels")
        while len(self._copies) < threads - 1:
            own = [aligned(self._sizes[name]) for name in self._scratches]
            self._copies.append(((ctypes.c_void_p * len(self._table))(), own))
        cuts = [lo + (hi - lo) * i // threads for i in range(threads + 1)]
        jobs = []
        for (table, own), first, last in zip(self._copies, cuts[1:], cuts[2:], strict=False):
            for i, address in enumerate(self._table):
                table[i] = address
            for name, array in zip(self._scratches, own, strict=True):
                table[self._names.index(name)] = array.ctypes.data
            jobs.append(self._pool.submit(self._function, table, ctypes.c_long(first), ctypes.c_long(last)))
        self._function(self._table, ctypes.c_long(cuts[0]), ctypes.c_long(cuts[1]))
        for job in jobs:
            job.result()

    def close(self) -> None:
        """End the threads, if any."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __enter__(self) -> Executable:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def admit(self, lo: int, hi: int) -> None:
        """Check that the turns `lo` to `hi - 1` stay inside their buffers; then any part of them runs unchecked."""
        if self._checked[0] <= lo and hi <= self._checked[1]:
            return
        for call in self._calls:
            for view, size in zip(call.views, call.kernel.sizes, strict=True):
                ends = [view.offset + turn * view.step for turn in (lo, hi - 1)]
                if min(ends) < 0 or max(ends) + size > self.buffers[view.buffer].size:
                    raise ValueError(
                        f"turns {lo}..{hi - 1} of {self.name} leave buffer {view.buffer!r} "
                        f"of {self.buffers[view.buffer].size} elements"
                    )
        self._checked = (lo, hi)

    def _interpret(self, lo: int, hi: int) -> None:
        for turn in range(lo, hi):
            for call in self._calls:
                arrays = []
                for view, size in zip(call.views, call.kernel.sizes, strict=True):
                    start = view.offset + turn * view.step
                    arrays.append(self.buffers[view.buffer][start : start + size])
                call.kernel.twin(*arrays)
