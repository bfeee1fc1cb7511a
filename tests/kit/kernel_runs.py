"""Run a program natively in float32 and as twins in float64 on the same numbers, and compare."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flocklet.kernels.compile.compilers import Compiler, find_compilers
from flocklet.kernels.compile.executable import Executable
from flocklet.kernels.compile.library_cache import LibraryCache
from flocklet.kernels.kernel import Kernel, Tile
from flocklet.kernels.program import Program

__all__ = ["compiler", "native", "parity", "program_of", "twin64", "worst"]


def compiler() -> Compiler:
    """Return the quickest compiler here; skip the test without one."""
    found = sorted(find_compilers(), key=lambda c: ("gcc", "clang", "zig").index(c.family))
    if not found:
        pytest.skip("no C compiler on this machine")
    return found[0]


def program_of(*kernels: Kernel) -> Program:
    """Return a program where every argument of every kernel has a buffer of its own."""
    program = Program("test")
    for k, kernel in enumerate(kernels):
        views = [program.buffer(f"k{k}_{i}", size) for i, size in enumerate(kernel.sizes)]
        program.call(kernel, *views)
    return program


def native(program: Program, cache: LibraryCache, tile: Tile | None = None) -> Executable:
    """Compile; fail if that did not work."""
    executable = program.compile(cache=cache, compilers=[compiler()], tile=tile)
    assert executable.backend == "native", executable.reason
    return executable


def twin64(program: Program) -> Executable:
    """Return the twins on float64 buffers: the oracle."""
    oracle = program.interpret()
    for name in oracle.buffers:
        oracle.buffers[name] = oracle.buffers[name].astype(np.float64)  # type: ignore[assignment]
    return oracle


def parity(executable: Executable, oracle: Executable, values: Mapping[str, np.ndarray]) -> float:
    """Load the same numbers, run one turn of both, return the worst relative difference of any buffer."""
    for name, value in values.items():
        executable.buffers[name][:] = value.reshape(-1)
        oracle.buffers[name][:] = value.astype(np.float32).reshape(-1)
    executable()
    oracle()
    return worst(executable, oracle)


def worst(executable: Executable, oracle: Executable) -> float:
    """Return the largest difference in any buffer, relative to the largest number in it."""
    out = 0.0
    for name, want in oracle.buffers.items():
        got = executable.buffers[name][: want.size]
        assert np.isfinite(got).all(), name
        out = max(out, float(np.abs(got - want).max() / (np.abs(want).max() + 1e-30)))
    return out
