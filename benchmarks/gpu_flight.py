"""The flight environment on a GPU, by rules that make a comparison honest; rows of `benchmarks/gpu.py`.

Hover action (14,476 rpm), not free fall; dt 0.01 s; the state stays in registers for all steps of a call; batch and block
size are swept and every launch is a row; the final states are compared with a float64 rollout in NumPy, their sum is the
checksum. Rows: 13 states (what the kernel of Learning to Fly in Seconds steps), 17 states with disturbances (what
l2f-benchmark steps), and a step with reward, end and both observations, which is another kind of row. The rivals' CUDA
sources are public, not part of this project: build arplaboratory/learning-to-fly `src/cuda/benchmark.cu` and
rl-tools/l2f-benchmark with nvcc on the same machine, the second one as it is and repaired (it sets one action of four and
reads past its environments), and set their rates beside these. No fast-math flag is used here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flocklet.kernels.body.expr import Graph, trace
from flocklet.kernels.maps import Window, block_kernel, map_kernel
from flocklet.models.flight.sim.compiled import CLOCK, advance_graph, rigid_step
from flocklet.models.flight.sim.dynamics import ACTIONS, CRAZYFLIE, STATES, rk4
from flocklet.models.flight.sim.environment import reset
from flocklet.models.flight.sim.task import CORE, PRIVILEGED, SETTINGS, Settings

__all__ = ["environment_rows"]

HOVER_RPM, CHECKED, DT_S = 14476.0, 256, 0.01
Timer = Callable[[Callable[[], object], Callable[[], object]], float]


def _planes(count: int, n: int, mode: str = "in") -> Window:
    return Window(mode, planes=count, plane_stride=n)


def _rollout(graph: Graph, body: np.ndarray, held: np.ndarray, steps: int) -> np.ndarray:
    from flocklet.kernels.body.expr import NumpyArithmetic

    x: list[Any] = list(body.astype(np.float64))
    for _ in range(steps):
        x = graph.evaluate([*x, *held.astype(np.float64)], NumpyArithmetic(np.float64))
    return np.array(x)


def _start(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bodies (17, n) and disturbances (6, n) as the task starts them, repeated beyond 4,096."""
    state = reset(np.random.default_rng(1), min(n, 4096), CRAZYFLIE)
    repeat = -(-n // len(state))
    body = np.tile(state.body.T, repeat)[:, :n]
    return body, np.tile(np.hstack([state.force, state.torque]).T, repeat)[:, :n]


def environment_rows(
    device: str, sizes: list[int], steps: int, blocks: list[int], rows: list[dict[str, Any]], timed: Timer
) -> None:
    """Append a row per kind, batch and block size; `steps` steps per call for the rows that only integrate."""
    from flocklet.kernels.compile.gpu import DeviceKernel

    def whole(s: list[Any], h: list[Any]) -> list[Any]:
        return rk4(s, h[:4], DT_S, CRAZYFLIE, h[4:7], h[7:10])

    kinds = (
        ("13 states", trace(rigid_step(CRAZYFLIE, DT_S), 13, 4), 13, False),
        ("17 states, disturbances", trace(whole, STATES, 10), STATES, True),
    )
    for n in sizes:
        body, push = _start(n)
        rpm = np.full((ACTIONS, n), HOVER_RPM, np.float32)
        for what, graph, states, is_pushed in kinds:
            held = np.vstack([rpm, push]).astype(np.float32) if is_pushed else rpm
            windows = [_planes(states, n), _planes(len(held), n), _planes(states, n, "out")]
            kernel = block_kernel(graph, windows, n, steps)
            for block in blocks:
                try:
                    began = time.perf_counter()
                    run = DeviceKernel(kernel, device, threads=block)
                    run.write(0, body[:states])
                    run.write(1, held)
                    run()
                    got = run.read(2).reshape(states, n)
                    ready_s = time.perf_counter() - began
                    want = _rollout(graph, body[:states, :CHECKED], held[:, :CHECKED], steps)
                    error = np.abs(got[:, :CHECKED] - want).max(axis=1) / np.abs(want).max(axis=1)
                    rate = n * steps / timed(run, run.wait) / 1e6
                    _row(rows, what, n, steps, block, rate, float(error.max()), float(got.sum()), ready_s)
                except Exception as problem:
                    _failed(rows, what, n, block, problem)
        for block in blocks:
            try:
                _observed(device, n, block, body, push, rows, timed)
            except Exception as problem:
                _failed(rows, "step, reward, end, both observations", n, block, problem)


def _observed(
    device: str,
    n: int,
    block: int,
    body: np.ndarray,
    push: np.ndarray,
    rows: list[dict[str, Any]],
    timed: Timer,
) -> None:
    from flocklet.kernels.compile.gpu import DeviceKernel

    graph = advance_graph(CRAZYFLIE)
    shared = [Window(planes=k, plane_stride=1, column_stride=0) for k in (SETTINGS, CLOCK)]
    windows = [_planes(k, n) for k in (STATES, 1, ACTIONS, 6, 1)] + shared
    windows += [_planes(k, n, "out") for k in (STATES, 1, ACTIONS, 1, 2, CORE, PRIVILEGED)]
    kernel = map_kernel(graph, windows, 1, n)
    began = time.perf_counter()
    run = DeviceKernel(kernel, device, threads=block)
    given = [body, np.zeros((1, n)), np.full((ACTIONS, n), 0.334), push, np.arange(n)[None] % 2**24]
    given += [np.array(Settings().quiet().numbers()), np.array([1.0, 2.0, 3.0, 0.0])]
    for i, values in enumerate(given):
        run.write(i, np.asarray(values, np.float32))
    run()
    got = [run.read(i) for i in range(len(given), len(windows))]
    ready_s = time.perf_counter() - began
    twins = [np.asarray(v, np.float64).reshape(-1) for v in given] + [
        np.zeros(size) for size in kernel.sizes[len(given) :]
    ]
    kernel.twin(*twins)
    error = max(
        float(np.abs(a - b).max() / (np.abs(b).max() + 1e-30))
        for a, b in zip(got, twins[len(given) :], strict=True)
    )
    rate = n / timed(run, run.wait) / 1e6
    total = float(sum(a.sum(dtype=np.float64) for a in got))
    _row(rows, "step, reward, end, both observations", n, 1, block, rate, error, total, ready_s)


def _row(
    rows: list[dict[str, Any]],
    what: str,
    n: int,
    steps: int,
    block: int,
    rate: float,
    error: float,
    checksum: float,
    ready_s: float,
) -> None:
    entry = {"what": f"flight: {what}", "who": "flocklet", "n": n, "steps": steps, "block": block}
    entry |= {"msteps_per_s": rate, "error": error, "checksum": checksum, "ready_s": ready_s}
    rows.append(entry)
    print(f"{entry['what']:<46} n={n:<8} x{block:<4} {rate:12.1f} M steps/s  error {error:.1e}", flush=True)


def _failed(rows: list[dict[str, Any]], what: str, n: int, block: int, problem: Exception) -> None:
    note = f"failed: {type(problem).__name__}: {problem}"[:160]
    rows.append({"what": f"flight: {what}", "who": "flocklet", "n": n, "block": block, "note": note})
    print(f"flight: {what} n={n} x{block} {note}", flush=True)
