"""A program: an ordered list of kernels over named flat buffers, fused into one C function.

Calling the function costs well under a microsecond from Python and releases the GIL. A program may have an
*axis*: each view moves by its `step` from turn to turn, so that one compiled turn serves a thousand peers,
every block of a batch, or every time step of a horizon (backwards with a negative step), and turns can be
shared among threads.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flocklet.errors import ConfigError
from flocklet.kernels.compile.compilers import Compiler, find_compilers
from flocklet.kernels.compile.executable import Executable
from flocklet.kernels.compile.library_cache import LibraryCache
from flocklet.kernels.kernel import Kernel, Tile, native_tile

__all__ = ["ENTRY", "TINYGRAD", "Call", "Program", "View", "generator_digest"]

ENTRY = "flocklet_run"
TINYGRAD = "0.14.0"
_WORTH_A_FILE = 12_000  # characters of C
_log = logging.getLogger("flocklet.kernels")


@dataclass(frozen=True)
class View:
    """A part of a buffer: it starts at element `offset` and moves by `step` elements per turn of the axis."""

    buffer: str
    offset: int = 0
    step: int = 0


@dataclass(frozen=True)
class Call:
    """One kernel applied to views, in the order of its arguments."""

    kernel: Kernel
    views: tuple[View, ...]


class Program:
    """Collect buffers and calls, then `compile` them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sizes: dict[str, int] = {}
        self.calls: list[Call] = []
        self.scratches: set[str] = set()

    def buffer(self, name: str, size: int) -> View:
        """Declare a buffer of `size` float32 numbers; return the view of its beginning."""
        if self.sizes.setdefault(name, size) != size:
            raise ValueError(
                f"buffer {name!r} was declared with {self.sizes[name]} elements, now with {size}"
            )
        return View(name)

    def scratch(self, name: str, size: int) -> View:
        """Declare a buffer that holds nothing between turns: every thread gets its own."""
        self.scratches.add(name)
        return self.buffer(name, size)

    def call(self, kernel: Kernel, *views: View | str) -> None:
        """Append a kernel; raise ValueError if a view leaves its buffer or a written view overlaps another
        one.
        """
        chosen = tuple(View(v) if isinstance(v, str) else v for v in views)
        if len(chosen) != len(kernel.sizes):
            raise ValueError(f"{kernel.key}: takes {len(kernel.sizes)} buffers, got {len(chosen)}")
        for view, size in zip(chosen, kernel.sizes, strict=True):
            if view.buffer not in self.sizes:
                raise ValueError(f"{kernel.key}: no buffer {view.buffer!r}")
            if view.offset < 0 or view.offset + size > self.sizes[view.buffer]:
                raise ValueError(
                    f"{kernel.key}: {size} elements at {view.offset} leave buffer {view.buffer!r}"
                )
        for i, is_written in enumerate(kernel.writes):
            for j in range(len(chosen)):
                if is_written and i != j and _overlap(chosen[i], kernel.sizes[i], chosen[j], kernel.sizes[j]):
                    raise ValueError(
                        f"{kernel.key}: arguments {i} and {j} overlap in buffer {chosen[i].buffer!r}"
                    )
        self.calls.append(Call(kernel, chosen))

    def source(self, tile: Tile) -> str:
        """Return the C text of the program (imports tinygrad)."""
        return self.sources(tile, 1)[0]

    def sources(self, tile: Tile, most: int) -> list[str]:
        """Return the C text as up to `most` files of about equal work, to be compiled at the same time."""
        from flocklet.kernels.render.portable_c import PREAMBLE, write_c
        from flocklet.kernels.render.tinygrad_adapter import nodes_of

        texts: dict[str, str] = {}
        slots: dict[str, list[int]] = {}
        for call in self.calls:
            symbol = call.kernel.symbol
            if symbol not in slots:
                texts[symbol], slots[symbol] = write_c(nodes_of(call.kernel.emit(symbol, tile)), symbol)
        number = {name: i for i, name in enumerate(self.sizes)}
        lines = [f"void {ENTRY}(float *const *b, long lo, long hi) {{", "  for (long s = lo; s < hi; ++s) {"]
        for call in self.calls:
            views = [call.views[i] for i in slots[call.kernel.symbol]]
            arguments = [
                f"b[{number[v.buffer]}]+({v.offset}{f'+s*({v.step}L)' if v.step else ''})" for v in views
            ]
            lines.append(f"    {call.kernel.symbol}({', '.join(arguments)});")
        entry = "\n".join([*lines, "  }", "}", ""])
        count = max(1, min(most, sum(map(len, texts.values())) // _WORTH_A_FILE))
        if count == 1:
            return [PREAMBLE + "".join(f"static {text}" for text in texts.values()) + entry]
        files: list[list[str]] = [[] for _ in range(count)]
        for text in sorted(texts.values(), key=len, reverse=True):
            min(files, key=lambda file: sum(map(len, file))).append(text)
        heads = "".join(f"{text[: text.index(' {')]};\n" for text in texts.values())
        hidden = "#pragma GCC visibility push(hidden)\n%s#pragma GCC visibility pop\n"
        out = [PREAMBLE + hidden % "".join(file) for file in files]
        out[-1] += hidden % heads + entry
        return out

    def key(self, compiler: Compiler, tile: Tile) -> str:
        """Return the cache key: kernels, views, generator, compiler, flags and processor; needs no
        tinygrad.
        """
        parts = [generator_digest(), TINYGRAD, tile.key, compiler.identity, repr(list(self.sizes))]
        parts += [f"{c.kernel.key} {c.views}" for c in self.calls]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]

    def compile(
        self,
        *,
        cache: LibraryCache | None = None,
        compilers: Sequence[Compiler] | None = None,
        tile: Tile | None = None,
    ) -> Executable:
        """Return the runnable program: native where a compiler works, else the NumPy twins (one warning
        says so).
        """
        shelf = LibraryCache() if cache is None else cache
        found = find_compilers() if compilers is None else list(compilers)
        why = "no C compiler found; install clang or gcc, or pip install '.[compiler]'"
        for compiler in found:
            chosen = native_tile(compiler.target) if tile is None else tile
            try:
                path = self._library(shelf, compiler, chosen)
                return Executable(self, library=path, compiler=compiler.name)
            except ConfigError as error:
                why = str(error)
                _log.info("%s: %s", self.name, why)
        _log.warning("kernels run in NumPy: %s", why)
        return Executable(self, reason=why)

    def interpret(self) -> Executable:
        """Return the program as NumPy twins, without looking for a compiler."""
        return Executable(self, reason="asked for NumPy")

    def _library(self, shelf: LibraryCache, compiler: Compiler, tile: Tile) -> Path:
        key = self.key(compiler, tile)
        known = shelf.held(key, compiler)
        if known is not None:
            return known
        sources = self.sources(tile, min(4, os.cpu_count() or 1))
        return shelf.build(key, sources, compiler, symbol=ENTRY, sizes=list(self.sizes.values()))


def _overlap(a: View, a_size: int, b: View, b_size: int) -> bool:
    return a.buffer == b.buffer and a.offset < b.offset + b_size and b.offset < a.offset + a_size


@cache
def generator_digest() -> str:
    """Return a digest of the files that generate code: a change of the generator is a change of every key."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
