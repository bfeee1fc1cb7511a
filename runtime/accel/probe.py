"""Try one backend and print one line of JSON: `python -m flocklet.accel.probe NAME`.

Runs only as a child of `flocklet.accel.choose`, which survives whatever happens here. The answer is
`{"works": bool, "detail": str, "timings": [[workload, size, median_us, compiler?], ...]}`.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["main"]

_ROWS = (1, 256)
_BATCH = 256
_SIMULATED = 4096
_WIDE = 262144
_ENOUGH_S = 10.0  # after that long no further compiler is tried


def _median_us(call: Callable[[], object], budget_s: float = 0.05) -> float:
    call()
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while time.perf_counter() < end or len(samples) < 3:
        start = time.perf_counter()
        call()
        samples.append((time.perf_counter() - start) * 1e6)
    return statistics.median(samples)


def _net() -> Any:
    from flocklet.kernels.nets import Mlp

    return Mlp((18, 64, 64, 4), "relu", "none")


def _training() -> Any:
    """Return the program of one step: forward, mean squared error, backward, Adam."""
    from flocklet.kernels import losses, optim
    from flocklet.kernels.nets import mlp_backward, mlp_forward
    from flocklet.kernels.program import Program

    program, net = Program("training"), _net()
    params, x = program.buffer("params", net.count), program.buffer("x", _BATCH * 18)
    goal, dy = program.buffer("goal", _BATCH * 4), program.scratch("dy", _BATCH * 4)
    grads, ticks = program.scratch("grads", net.count), program.buffer("ticks", 2)
    y = mlp_forward(program, "net", net, _BATCH, params, x)
    program.call(losses.mse_grad(_BATCH * 4), y, goal, dy)
    mlp_backward(program, "net", net, _BATCH, params, x, dy, grads=grads)
    program.call(optim.adam_tick(), ticks)
    moments = [program.buffer(name, net.count) for name in ("m", "v")]
    program.call(optim.adam(net.count), params, *moments, grads, ticks)
    return program


def _rotate(s: Sequence[Any], torque: Sequence[Any]) -> list[Any]:
    """Return attitude and spin of a rigid body after one Euler step: the arithmetic of a simulator in small."""
    from flocklet.kernels.body.dsl import sqrt

    w, x, y, z, p, q, r = s
    turned = [
        w - (x * p + y * q + z * r) * 0.005,
        x + (w * p + y * r - z * q) * 0.005,
        y + (w * q + z * p - x * r) * 0.005,
        z + (w * r + x * q - y * p) * 0.005,
    ]
    size = 1.0 / sqrt(
        turned[0] * turned[0] + turned[1] * turned[1] + turned[2] * turned[2] + turned[3] * turned[3]
    )
    spin = [
        p + (torque[0] - q * r * 0.3) * 0.01,
        q + (torque[1] + p * r * 0.3) * 0.01,
        r + (torque[2] - p * q * 0.1) * 0.01,
    ]
    return [*[t * size for t in turned], *spin]


def _simulation(columns: int) -> Any:
    """Return the kernel that advances that many bodies by 16 steps."""
    from flocklet.kernels.body.expr import trace
    from flocklet.kernels.maps import Window, block_kernel

    windows = [Window(mode, planes=n, plane_stride=columns) for mode, n in (("in", 7), ("in", 3), ("out", 7))]
    return block_kernel(trace(_rotate, 7, 3), windows, columns, 16)


def _simulated(columns: int) -> Any:
    from flocklet.kernels.program import Program

    program, kernel = Program("simulation"), _simulation(columns)
    program.call(kernel, *[program.buffer(f"b{i}", size) for i, size in enumerate(kernel.sizes)])
    return program


def _prepare(run: Any) -> Any:
    """Put harmless numbers into every buffer: zeros everywhere would be NaN in the simulation."""
    for array in run.buffers.values():
        array.fill(0.1)
    return run


def _work() -> list[tuple[str, int, Any]]:
    """Return (workload, size, program) of everything that a processor is timed with."""
    from flocklet.kernels.actor_critic import actor_program

    work = [("actor", size, actor_program(_net(), size)) for size in _ROWS]
    return [*work, ("training", _BATCH, _training()), ("simulation", _SIMULATED, _simulated(_SIMULATED))]


def _numpy() -> dict[str, Any]:
    import numpy as np

    timings = [[what, size, _median_us(_prepare(program.interpret()))] for what, size, program in _work()]
    return {"works": True, "detail": f"numpy {np.__version__}", "timings": timings}


def _native() -> dict[str, Any]:
    from flocklet.errors import ConfigError
    from flocklet.kernels.compile.compilers import Compiler, find_compilers
    from flocklet.kernels.compile.library_cache import LibraryCache, load_library

    found = find_compilers()
    if not found:
        return {"works": False, "detail": "no C compiler (install clang or pip install '.[compiler]')"}
    source = (
        "void flocklet_run(float **b, long lo, long hi) { for (long i = lo; i < hi; i++) b[0][i] += 1.0f; }\n"
    )
    cache, start = LibraryCache(), time.perf_counter()
    works: list[Compiler] = []
    reasons: list[str] = []
    timings: list[list[Any]] = []
    for compiler in found:
        if works and time.perf_counter() - start > _ENOUGH_S:
            break
        try:
            load_library(cache.build("probe", source, compiler, symbol="flocklet_run", sizes=[1]))
        except ConfigError as error:
            reasons.append(str(error))
            continue
        works.append(compiler)
        for what, size, program in _work():
            run = program.compile(cache=cache, compilers=[compiler])
            if run.backend == "native":
                timings.append([what, size, _median_us(_prepare(run)), compiler.name])
    if not works:
        return {"works": False, "detail": "; ".join(reasons)[:300]}
    detail = "C compiler " + ", ".join(f"{c.name} ({c.family})" for c in works)
    return {"works": True, "detail": detail, "timings": timings}


def _gpu() -> dict[str, Any]:
    import numpy as np

    from flocklet.errors import ConfigError
    from flocklet.kernels.compile.gpu import DeviceKernel, open_device

    try:
        device = open_device()
    except ConfigError as error:
        return {"works": False, "detail": str(error)}
    timings: list[list[Any]] = []
    for columns in (_SIMULATED, _WIDE):
        run = DeviceKernel(_simulation(columns), device)
        for index, size in enumerate((7 * columns, 3 * columns)):
            run.write(index, np.full(size, 0.1, np.float32))

        def call(run: DeviceKernel = run) -> None:
            run()
            run.wait()

        call()  # the second call is the one that is captured
        timings.append(["simulation", columns, _median_us(call)])
    return {"works": True, "detail": f"tinygrad on {device}", "timings": timings}


def _onnxruntime() -> dict[str, Any]:
    import numpy as np
    import onnxruntime

    from flocklet.onnx_io.model import OnnxSession, encode_mlp

    net = _net()
    session = OnnxSession(encode_mlp(net.export(net.init(np.random.default_rng(0)))))
    timings = []
    for size in _ROWS:
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
