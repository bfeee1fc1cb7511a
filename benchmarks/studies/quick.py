"""Score a list by MLP-64 in one C call: linear part, 64 ReLU units and their sum, from `flocklet.kernels`.

`QuickScorer` compiles once for lists of up to `ROWS` candidates (a second the first time, milliseconds from the cache
after that) and runs the kernels' NumPy twins where nothing compiles. Same scores as `PdgdRanker` to about 1e-5. One
scorer must not run twice at the same time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.dense import dense
from flocklet.kernels.program import Program, View
from flocklet.models.base import Parameters
from flocklet.models.search.rerank.features import FEATURES

__all__ = ["ROWS", "QuickScorer"]

Floats = NDArray[np.float32]

ROWS = 100


class QuickScorer:
    """Hold the compiled program and the parameters `weights (F,)`, `hidden (F, H)`, `bias (H,)`, `out (H,)`."""

    def __init__(self, parameters: Parameters) -> None:
        inputs, units = parameters["hidden"].shape
        program = Program("rerank")
        for name, size in (
            ("x", ROWS * inputs),
            ("hidden", inputs * units),
            ("bias", units),
            ("out", units + 1),
            ("weights", inputs + 1),
            ("inner", ROWS),
            ("scores", ROWS),
        ):
            program.buffer(name, size)
        program.scratch("units", ROWS * units)
        program.call(dense(ROWS, inputs, units, "relu"), "x", "hidden", "bias", "units")
        program.call(dense(ROWS, units, 1), "units", "out", View("out", units, 0), "inner")
        program.call(dense(ROWS, inputs, 1), "x", "weights", View("weights", inputs, 0), "scores")
        self._run = program.compile()
        self._x = self._run.buffers["x"].reshape(ROWS, inputs)
        self._inner, self._scores = self._run.buffers["inner"], self._run.buffers["scores"]
        self.use(parameters)

    @property
    def backend(self) -> str:
        """Say what computes: `native` or `numpy`."""
        return self._run.backend

    def use(self, parameters: Parameters) -> None:
        """Take other parameters of the same shapes from now on."""
        for name in ("hidden", "bias", "out", "weights"):
            flat = parameters[name].reshape(-1)
            self._run.buffers[name][: len(flat)] = flat

    def scores(self, matrix: Floats) -> Floats:
        """Return the scores `(n,) float32` of features `(n, F)`, n <= ROWS; raises ValueError for a longer list."""
        size = len(matrix)
        if size > ROWS or matrix.shape[1] != len(FEATURES):
            raise ValueError(f"at most {ROWS} candidates with {len(FEATURES)} features")
        self._x[:size] = matrix
        self._run()
        result: Floats = self._inner[:size] + self._scores[:size]
        return result
