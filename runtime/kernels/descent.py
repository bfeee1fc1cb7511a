"""K local steps of many small models in one C function: what a swarm's trainer needs, for any model and rule.

A `Rule` is one step in tinygrad's words: from the tensors of one model, its velocities, a batch and a rate to new
tensors and velocities. `Descent` lowers it once per batch size (`flocklet.kernels.render.tensor_adapter`), puts a loop over
models and steps around it, and compiles that with the compilers, the trial in a child and the cache of every other
kernel. A model's steps run one after the other in cache, so its bits do not depend on how many others are trained in
the same call. Rows of the batch that a model does not have repeat its first row at weight 0: a few batch sizes serve
all.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ConfigError
from flocklet.kernels.compile.compilers import Compiler, find_compilers
from flocklet.kernels.compile.library_cache import LibraryCache, load_library
from flocklet.kernels.kernel import Tile, native_tile
from flocklet.kernels.program import ENTRY, TINYGRAD, generator_digest

__all__ = ["Descent", "Rule", "Steps", "padded_batch"]

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]
_log = logging.getLogger("flocklet.kernels")


def padded_batch(rows: int, most: int) -> int:
    """Return the batch size that serves `rows` rows: the next power of two, or `most` if that is less."""
    return min(1 << max(0, rows - 1).bit_length(), max(rows, most))


@dataclass(frozen=True)
class Rule:
    """One step of one model, or of N stacked ones.

    `step(tensors, velocities, batch) -> (tensors, velocities)`: dictionaries of tinygrad tensors (N, *shape); the results
    hold what changes only. `batch` has `features` (N, B, F), `labels` (N, B) int32, `weights` (N, B) that sum to 1 over
    the rows that are there, and `rate` (N, 1), zero for a model that rests. `velocities` is empty without momentum.
    `key` describes the rule completely, code included; empty if nothing can: then nothing is looked up before lowering.
    """

    step: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
    shapes: Mapping[str, tuple[int, ...]]  # in the order of the flat vector
    trained: tuple[str, ...]
    features: int
    has_momentum: bool
    key: str


class Descent:
    """A rule, compiled for batches of `batch` rows."""

    def __init__(self, rule: Rule, batch: int) -> None:
        self.rule, self.batch = rule, batch
        self.size = sum(map(math.prod, rule.shapes.values()))

    def compile(
        self, *, cache: LibraryCache | None = None, compilers: Sequence[Compiler] | None = None
    ) -> Steps:
        """Return the runnable steps; raise ConfigError with the reason where no compiler works."""
        shelf = LibraryCache() if cache is None else cache
        found = find_compilers() if compilers is None else list(compilers)
        why = "no C compiler found; install clang or gcc, or pip install '.[compiler]'"
        for compiler in found:
            try:
                return Steps(self, self._library(shelf, compiler), compiler.name)
            except ConfigError as error:
                why = str(error)
                _log.info("%s: %s", compiler.name, why)
        raise ConfigError(why, remedy="train with NumPy")

    def _library(self, shelf: LibraryCache, compiler: Compiler) -> Path:
        rule, tile = self.rule, native_tile(compiler.target)
        about = [
            generator_digest(),
            TINYGRAD,
            compiler.identity,
            tile.key,
            repr(list(rule.shapes.items())),
            rule.key,
        ]
        about += [repr((rule.trained, rule.features, self.batch, rule.has_momentum))]
        source = "" if rule.key else self.source(tile)
        key = hashlib.sha256("\n".join([*about, source]).encode()).hexdigest()[:40]
        known = shelf.held(key, compiler)
        if known is not None:
            return known
        sizes = [self.size, rule.features, 2, 2 * self.batch, 2, 2, 2, 1]
        return shelf.build(key, source or self.source(tile), compiler, symbol=ENTRY, sizes=sizes)

    def source(self, tile: Tile) -> str:
        """Return the C text."""
        from flocklet.kernels.render.portable_c import PREAMBLE
        from flocklet.kernels.render.scheduled_c import FUNCTIONS
        from flocklet.kernels.render.tensor_adapter import Argument, lower

        rule, rows, width = self.rule, self.batch, self.rule.features
        moving = rule.trained if rule.has_momentum else ()
        arguments = [Argument(f"x/{name}", (1, *shape)) for name, shape in rule.shapes.items()]
        arguments += [Argument(f"v/{name}", (1, *rule.shapes[name])) for name in moving]
        arguments += [Argument("features", (1, rows, width)), Argument("labels", (1, rows), is_whole=True)]
        arguments += [Argument("weights", (1, rows)), Argument("rate", (1, 1))]

        def function(given: Mapping[str, Any]) -> dict[str, Any]:
            return apply(rule, given)

        lowered = lower(function, arguments, tile)
        starts: dict[str, int] = {}
        for name in rule.shapes:
            starts[name] = sum(math.prod(rule.shapes[other]) for other in starts)
        lines = []
        for name, operands in lowered.calls:
            words = []
            for operand in operands:
                kind, _, tensor = operand.name.partition("/")
                if not operand.name:
                    words.append(f"(void *)(scratch+{operand.offset})")
                elif tensor:
                    words.append(f"{kind}{'n' if operand.is_result else 'o'}+{starts[tensor]}")
                else:
                    words.append(kind)
            lines.append(f"      {name}({', '.join(words)});")
        texts = "\n".join(lowered.texts)
        return (
            PREAMBLE
            + FUNCTIONS
            + texts
            + _driver(self.size, rows, width, bool(moving), lowered.scratch_bytes, lines)
        )


def apply(rule: Rule, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results of one step by name, "x/tensor" and "v/tensor", of arguments named in the same way."""
    tensors = {name: given[f"x/{name}"] for name in rule.shapes}
    velocities = {name: given[f"v/{name}"] for name in (rule.trained if rule.has_momentum else ())}
    batch = {name: given[name] for name in ("features", "labels", "weights", "rate")}
    moved, speeds = rule.step(tensors, velocities, batch)
    return {f"x/{name}": moved[name] for name in moved} | {f"v/{name}": speeds[name] for name in speeds}


def _driver(size: int, rows: int, width: int, moves: bool, scratch: int, calls: Sequence[str]) -> str:
    """Return the loop over models and their steps; everything between two steps stays on the stack of the call."""
    whole = -(-size // 16) * 16
    floats = [rows * width, rows, *[whole] * (4 if moves else 2)]
    at = [sum(-(-n // 16) * 16 for n in floats[:i]) for i in range(len(floats) + 1)]
    total = 4 * (at[-1] + -(-rows // 16) * 16) + scratch
    swap = "      { float *t = xo; xo = xn; xn = t; }\n" + (
        "      { float *t = vo; vo = vn; vn = t; }\n" if moves else ""
    )
    speeds = f"    float *vo = a+{at[4]}, *vn = a+{at[5]};\n    memset(vo, 0, 4*{size});\n" if moves else ""
    return f"""
#include <stdlib.h>
void {ENTRY}(void *const *b, long lo, long hi) {{
  float *const params = b[0]; const float *const table = b[1];
  const int64_t *const answers = b[2], *const plans = b[3], *const first = b[4], *const more = b[5];
  const int64_t *const there = b[6]; const float *const given = b[7];
  char *const block = calloc(1, {total + 64});
  if (!block) abort();
  float *const a = (float *)(block + (64 - (uintptr_t)block % 64));
  float *const features = a, *const weights = a+{at[1]};
  int32_t *const labels = (int32_t *)(a+{at[-1]});
  char *const scratch = (char *)(a+{at[-1] + -(-rows // 16) * 16}); (void)scratch;
  float rate[1] = {{given[0]}};
  for (long s = lo; s < hi; ++s) {{
    float *xo = a+{at[2]}, *xn = a+{at[3]};
    memcpy(xo, params+s*{size}L, 4*{size}); memcpy(xn, xo, 4*{size});
{speeds}    const int64_t *plan = plans+first[s];
    int64_t count = there[s] > {rows} ? {rows} : there[s] < 1 ? 1 : there[s];
    for (int64_t step = 0; step <= more[s]; ++step, plan += count) {{
      for (int64_t r = 0; r < {rows}; ++r) {{
        int64_t row = plan[r < count ? r : 0];
        memcpy(features+r*{width}, table+row*{width}, 4*{width});
        labels[r] = (int32_t)answers[row]; weights[r] = r < count ? 1.0f/(float)count : 0.0f;
      }}
{chr(10).join(calls)}
{swap}    }}
    memcpy(params+s*{size}L, xo, 4*{size});
  }}
  free(block);
}}
"""


class Steps:
    """A compiled descent. Calls release the GIL and may run at the same time."""

    def __init__(self, descent: Descent, library: Path, compiler: str) -> None:
        self.compiler, self.library, self._size = compiler, library, descent.size
        self._width, self._batch = descent.rule.features, descent.batch
        self._function: Any = load_library(library)[ENTRY]
        self._function.restype = None

    def run(
        self, params: Floats, features: Floats, labels: Whole, plans: Sequence[Whole], rate: float
    ) -> None:
        """Train the models `params` (N, P) in place, each by its plan (K, B) of rows of `features` and `labels`.

        Raise ValueError when something does not fit; the C code does not look.
        """
        if not len(params):
            return
        table = np.ascontiguousarray(features, np.float32)
        answers = np.ascontiguousarray(labels, np.int64)
        lengths = np.array([plan.size for plan in plans], np.int64)
        rows = np.concatenate([plan.reshape(-1) for plan in plans]).astype(np.int64, copy=False)
        widths = np.array([plan.shape[1] for plan in plans], np.int64)
        more = np.array([len(plan) - 1 for plan in plans], np.int64)
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        if (
            params.shape != (len(plans), self._size)
            or params.dtype != np.float32
            or not params.flags.c_contiguous
        ):
            raise ValueError(f"parameters must be a contiguous float32 array ({len(plans)}, {self._size})")
        if table.ndim != 2 or table.shape[1] != self._width or len(answers) != len(table):
            raise ValueError(f"features must be (n, {self._width}) with a label each")
        if more.min() < 0 or widths.min() < 1 or widths.max() > self._batch:
            raise ValueError(f"a plan must have steps of 1 to {self._batch} rows")
        if rows.min() < 0 or rows.max() >= len(table):
            raise ValueError("a plan names a row that is not there")
        given = np.array([rate], np.float32)
        arrays = (params, table, answers, rows, first, more, widths, given)
        pointers = (ctypes.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
        self._function(pointers, ctypes.c_long(0), ctypes.c_long(len(params)))
