"""Try one backend and print one line of JSON: `python -m flocklet.accel_child NAME`.

Runs only as a child of `flocklet.accel`, which survives whatever happens here. The answer is
`{"works": bool, "detail": str, "timings": [[workload, rows, median_us], ...]}`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["main"]

_SIZES = (1, 32, 256)


def _median_us(call: Callable[[], object], budget_s: float = 0.05) -> float:
    call()
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while time.perf_counter() < end or len(samples) < 3:
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e6)
    return statistics.median(samples)


def _numpy() -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = ((18, 64), (64, 64), (64, 4))
    layers = [(rng.standard_normal(s, np.float32), np.zeros(s[1], np.float32)) for s in shapes]

    def forward(x: np.ndarray[Any, np.dtype[np.float32]]) -> object:
        for w, b in layers[:-1]:
            x = np.maximum(x @ w + b, 0)
        return x @ layers[-1][0] + layers[-1][1]

    timings = []
    for size in _SIZES:
        x = rng.standard_normal((size, 18), np.float32)
        timings.append(["actor", size, _median_us(lambda x=x: forward(x))])  # type: ignore[misc]
    return {"works": True, "detail": f"numpy {np.__version__}", "timings": timings}


def _native() -> dict[str, Any]:
    from flocklet.errors import ConfigError
    from flocklet.kernels.compilers import find_compilers
    from flocklet.kernels.toolchain import LibraryCache, load_library

    found = find_compilers()
    if not found:
        return {"works": False, "detail": "no C compiler (install clang or pip install 'flocklet[compiler]')"}
    source = (
        "void flocklet_run(float **b, long lo, long hi) { for (long i = lo; i < hi; i++) b[0][i] += 1.0f; }\n"
    )
    cache, reasons = LibraryCache(), []
    for compiler in found:
        try:
            load_library(cache.build("probe", source, compiler, symbol="flocklet_run", sizes=[1]))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        detail = f"C compiler {compiler.name} ({compiler.family})"
        return {"works": True, "detail": detail, "timings": _native_timings()}
    return {"works": False, "detail": "; ".join(reasons)[:300]}


def _native_timings() -> list[list[Any]]:
    from flocklet.kernels.actor_critic import actor_program
    from flocklet.kernels.nets import Mlp

    timings = []
    for size in _SIZES:
        run = actor_program(Mlp((18, 64, 64, 4), "relu", "none"), size).compile()
        if run.backend == "native":
            timings.append(["actor", size, _median_us(run)])
    return timings


def _gpu() -> dict[str, Any]:
    from flocklet.errors import ConfigError
    from flocklet.kernels.gpu import open_device

    try:
        return {"works": True, "detail": f"tinygrad on {open_device()}", "timings": []}
    except ConfigError as error:
        return {"works": False, "detail": str(error)}


def _onnxruntime() -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    from flocklet.kernels.nets import Mlp
    from flocklet.onnx_io import OnnxSession, encode_mlp

    net = Mlp((18, 64, 64, 4), "relu", "none")
    session = OnnxSession(encode_mlp(net.export(net.init(np.random.default_rng(0)))))
    timings = []
    for size in _SIZES:
        x, y = np.zeros((size, 18), np.float32), np.zeros((size, 4), np.float32)
        timings.append(["actor", size, _median_us(session.bind({"x": x}, {"y": y}))])
    return {"works": True, "detail": f"onnxruntime {onnxruntime.__version__}", "timings": timings}


def main(argv: list[str]) -> int:
    """Try the backend named in `argv[0]`; print the answer; return 0."""
    tries: dict[str, Callable[[], dict[str, Any]]] = {
        "numpy": _numpy,
        "native": _native,
        "gpu": _gpu,
        "onnxruntime": _onnxruntime,
    }
    try:
        answer = tries[argv[0]]()
    except Exception as error:
        answer = {"works": False, "detail": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
