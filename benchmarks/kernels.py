"""flocklet's kernels beside NumPy, PyTorch, onnxruntime and C written by hand; one thread unless said.

    python benchmarks/kernels.py --json kernels.json        (torch 2.13 on the path adds its rows)

Medians of rounds in which all ways take turns. `--only TEXT` picks workloads, `--start` measures cold and warm start.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import tree  # noqa: E402

tree.use()

from flocklet.cli.bench_kernels import (  # noqa: E402
    ACTOR,
    CONTROLLER,
    SIMULATED,
    Way,
    Workload,
    compare,
    flight_states,
    workloads,
)
from flocklet.kernels.compile.compilers import find_compilers  # noqa: E402

# The same simulator in C as one would write it for speed: straight-line code for one vehicle, vehicles innermost so
# that the compiler vectorises, 256 at a time so that the 16 steps stay in the cache, rows padded against conflicts.
HAND_C = r"""
#include <math.h>
#define F static inline __attribute__((always_inline)) void
F deriv(const float *s, const float *cmd, float *d) {
  float w = s[3], x = s[4], y = s[5], z = s[6], wx = s[10], wy = s[11], wz = s[12];
  float t0 = 3.16e-10f * s[13] * s[13], t1 = 3.16e-10f * s[14] * s[14];
  float t2 = 3.16e-10f * s[15] * s[15], t3 = 3.16e-10f * s[16] * s[16];
  float a = (t0 + t1 + t2 + t3) * (1 / 0.027f);
  d[0] = s[7]; d[1] = s[8]; d[2] = s[9];
  d[3] = -0.5f * (x * wx + y * wy + z * wz); d[4] = 0.5f * (w * wx + y * wz - z * wy);
  d[5] = 0.5f * (w * wy + z * wx - x * wz); d[6] = 0.5f * (w * wz + x * wy - y * wx);
  d[7] = 2 * (x * z + w * y) * a; d[8] = 2 * (y * z - w * x) * a; d[9] = (1 - 2 * (x * x + y * y)) * a - 9.81f;
  float mx = 0.028f * (t2 + t3 - t0 - t1), my = -0.028f * (t0 + t3 - t1 - t2);
  float mz = 0.005964552f * (t1 + t3 - t0 - t2), jx = 3.85e-6f, jy = 3.85e-6f, jz = 5.9675e-6f;
  d[10] = (mx - (jz - jy) * wy * wz) * (1 / jx); d[11] = (my - (jx - jz) * wz * wx) * (1 / jy);
  d[12] = (mz - (jy - jx) * wx * wy) * (1 / jz);
  d[13] = (cmd[0] - s[13]) * (1 / 0.15f); d[14] = (cmd[1] - s[14]) * (1 / 0.15f);
  d[15] = (cmd[2] - s[15]) * (1 / 0.15f); d[16] = (cmd[3] - s[16]) * (1 / 0.15f);
}
#define ALL(e) _Pragma("GCC unroll 17") for (int j = 0; j < 17; j++) e
void simulate(float *restrict out, const float *restrict act, int rows, int n, int steps) {
  for (int first = 0; first < n; first += 256)
    for (int q = 0; q < steps; q++) {
      _Pragma("GCC ivdep")
      for (int v = first; v < first + 256; v++) {
        float s[17], k1[17], k2[17], k3[17], k4[17], m[17], c[4];
        ALL(s[j] = out[j * rows + v];)
        _Pragma("GCC unroll 4") for (int j = 0; j < 4; j++) {
          float a = act[j * rows + v]; a = a < -1 ? -1 : a; a = a > 1 ? 1 : a; c[j] = (a + 1) * 10851.0f;
        }
        deriv(s, c, k1); ALL(m[j] = s[j] + 0.005f * k1[j];)
        deriv(m, c, k2); ALL(m[j] = s[j] + 0.005f * k2[j];)
        deriv(m, c, k3); ALL(m[j] = s[j] + 0.01f * k3[j];)
        deriv(m, c, k4); ALL(s[j] += 0.01f / 6 * (k1[j] + 2 * k2[j] + 2 * k3[j] + k4[j]);)
        float r = 1 / sqrtf(s[3] * s[3] + s[4] * s[4] + s[5] * s[5] + s[6] * s[6]);
        s[3] *= r; s[4] *= r; s[5] *= r; s[6] *= r;
        _Pragma("GCC unroll 4") for (int j = 13; j < 17; j++) {
          s[j] = s[j] < 0 ? 0 : s[j]; s[j] = s[j] > 21702.0f ? 21702.0f : s[j];
        }
        ALL(out[j * rows + v] = s[j];)
      }
    }
}
"""


# No batch of one can be faster than reading its weights once: eight vector sums, which is all that the caches give.
READ_C = r"""
float read(const float *w, long n, long turns) {
  float total = 0;
  for (long t = 0; t < turns; t++) {
    float p[128] = {0};
    for (long i = 0; i + 128 <= n; i += 128)
      for (int j = 0; j < 128; j++) p[j] += w[i + j];
    for (int j = 0; j < 128; j++) total += p[j];
    __asm__ volatile("" ::: "memory");
  }
  return total;
}
"""


def reading(folder: Path, count: int) -> list[Way]:
    """Return the way that only reads `count` weights, called from C."""
    found = [c for c in find_compilers() if c.family != "zig"]
    if not found:
        return []
    weights = np.ones(count, np.float32)
    (folder / "read.c").write_text(READ_C)
    subprocess.run(found[0].link([folder / "read.c"], folder / "read.so"), check=True)
    run = ctypes.CDLL(str(folder / "read.so")).read
    run.restype = ctypes.c_float
    run.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_long]
    name = f"lower bound: C that only reads the {count * 4 // 1000} KB of weights"
    return [Way(name, lambda: run(weights.ctypes.data, count, 1000), 1000)]


def hand_c(folder: Path) -> list[Way]:
    ways = []
    rows = SIMULATED + 16
    states, actions = np.zeros((17, rows), np.float32), np.zeros((4, rows), np.float32)
    states[:, :SIMULATED] = flight_states(SIMULATED)
    actions[:, :SIMULATED] = np.random.default_rng(0).uniform(-1, 1, (4, SIMULATED))
    (folder / "hand.c").write_text(HAND_C)
    for compiler in find_compilers():
        if compiler.family == "zig":
            continue
        library = folder / f"hand_{compiler.family}.so"
        flags = [
            "-O3",
            "-ffast-math",
            "-march=native",
            "-shared",
            "-fPIC",
            str(folder / "hand.c"),
            "-o",
            str(library),
            "-lm",
        ]
        subprocess.run([*compiler.argv, *flags], check=True)
        run = ctypes.CDLL(str(library)).simulate

        def call(run: Any = run, arrays: Any = (states, actions)) -> None:
            run(*[ctypes.c_void_p(a.ctypes.data) for a in arrays], rows, SIMULATED, 16)

        ways.append(Way(f"C by hand, {compiler.family} -O3 -ffast-math", call, SIMULATED * 16))
    return ways


def numpy_actor(x: np.ndarray, params: np.ndarray) -> Way:
    layers = [(w.T.copy(), b) for w, b, _ in ACTOR.export(params)]

    def call() -> np.ndarray:
        h = np.maximum(x @ layers[0][0] + layers[0][1], 0)
        h = np.maximum(h @ layers[1][0] + layers[1][1], 0)
        return np.tanh(h @ layers[2][0] + layers[2][1])

    return Way("NumPy by hand", call)


def torch_ways(torch: Any, what: str) -> list[Way]:
    nn = torch.nn
    torch.set_num_threads(1)

    def net(sizes: tuple[int, ...], tanh: bool) -> Any:
        parts: list[Any] = []
        for a, b in itertools.pairwise(sizes[:-1]):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(*sizes[-2:]), *([nn.Tanh()] if tanh else []))

    if what == "actor":
        actor, x = net((18, 64, 64, 4), True), torch.randn(1, 18)
        compiled = torch.compile(actor)

        def run(model: Any) -> Any:
            with torch.inference_mode():
                return model(x)

        return [Way("torch eager", lambda: run(actor)), Way("torch.compile", lambda: run(compiled))]

    import copy

    def make(is_compiled: bool) -> Way:
        actor, critics = net((18, 64, 64, 4), True), [net((22, 64, 64, 1), False) for _ in range(2)]
        actor_t, critics_t = copy.deepcopy(actor), copy.deepcopy(critics)
        weights = [p for c in critics for p in c.parameters()]
        adams = [torch.optim.Adam(actor.parameters(), fused=True), torch.optim.Adam(weights, fused=True)]
        obs, after, act = torch.randn(256, 18), torch.randn(256, 18), torch.rand(256, 4) * 2 - 1
        reward, alive = torch.randn(256, 1), torch.ones(256, 1)
        noise = (torch.randn(256, 4) * 0.2).clamp(-0.5, 0.5)

        def goal() -> Any:
            with torch.no_grad():
                pair = torch.cat([after, (actor_t(after) + noise).clamp(-1, 1)], 1)
                return reward + alive * 0.99 * torch.minimum(critics_t[0](pair), critics_t[1](pair))

        def critic_loss(y: Any) -> Any:
            pair = torch.cat([obs, act], 1)
            return sum(((c(pair) - y) ** 2).mean() for c in critics)

        def actor_loss() -> Any:
            return -critics[0](torch.cat([obs, actor(obs)], 1)).mean()

        steps: list[Any] = [torch.compile(f) if is_compiled else f for f in (goal, critic_loss, actor_loss)]
        pairs = [(actor, actor_t), *zip(critics, critics_t, strict=True)]
        old = [p for _, t in pairs for p in t.parameters()]
        new = [p for n, _ in pairs for p in n.parameters()]

        def update() -> None:
            adams[1].zero_grad()
            steps[1](steps[0]()).backward()
            adams[1].step()
            adams[0].zero_grad()
            steps[2]().backward()
            adams[0].step()
            with torch.no_grad():
                torch._foreach_lerp_(old, new, 0.005)

        return Way("torch.compile" if is_compiled else "torch eager, fused Adam", update)

    return [make(False), make(True)]


START = """
import time; begin = time.perf_counter()
from flocklet.kernels.actor_critic import td3_program
from flocklet.kernels.compile.compilers import find_compilers
found = [c for c in find_compilers() if c.family == {family!r}]
run = td3_program().compile(compilers=found)
run()
assert run.backend == "native", run.reason
print(time.perf_counter() - begin)
"""
STEP = """
import time; begin = time.perf_counter()
from flocklet.kernels.compile.compilers import find_compilers
from flocklet.kernels.nets import Mlp
from flocklet.models.flight.train.rollout import backward_program, forward_program
net = Mlp((17, 64, 64, 4), "tanh", "tanh")
found = [c for c in find_compilers() if c.family == {family!r}]
loaded = time.perf_counter()
for make in (forward_program, backward_program):
    run = make(net, 256).compile(compilers=found)
    run()
    assert run.backend == "native", run.reason
print(time.perf_counter() - loaded)
"""


def starts(rounds: int) -> list[dict[str, Any]]:
    """Return cold (empty cache) and warm times of a fresh process, for each compiler."""
    out = []
    for family in [c.family for c in find_compilers()]:
        for what, code in (("TD3: import to first call", START), ("policy + simulator step: compile", STEP)):
            cold, warm = [], []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as cache:
                    env = dict(os.environ, FLOCKLET_CACHE=cache)
                    if family == "zig":  # the compiler's own runtime, built once per machine
                        subprocess.run(
                            [sys.executable, "-c", START.format(family=family)],
                            env=env,
                            check=True,
                            capture_output=True,
                        )
                        for path in (Path(cache) / "kernels").glob("*.so"):
                            path.unlink()
                    for samples in (cold, warm, warm):
                        done = subprocess.run(
                            [sys.executable, "-c", code.format(family=family)],
                            env=env,
                            capture_output=True,
                            text=True,
                        )
                        samples.append(float(done.stdout) if done.returncode == 0 else float("nan"))
            row = {
                "what": what,
                "compiler": family,
                "cold_s": float(np.median(cold)),
                "warm_s": float(np.median(warm)),
            }
            print(
                f"{what:<34} {family:<6} cold {row['cold_s']:.2f} s  warm {row['warm_s']:.3f} s", flush=True
            )
            out.append(row)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", metavar="TEXT", help="workloads whose name holds TEXT")
    parser.add_argument("--start", action="store_true", help="measure start-up instead")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    if options.start:
        rows = starts(max(1, options.rounds // 5))
    else:
        try:
            import torch
        except ImportError:
            torch = None  # type: ignore[assignment]
            print("torch is not installed: its rows are left out")
        with tempfile.TemporaryDirectory() as folder:
            for workload in workloads(find_compilers(), only=options.only):
                add_peers(workload, torch, Path(folder))
                print(f"\n{workload.name} ({workload.unit})", flush=True)
                for r in compare(workload, rounds=options.rounds):
                    print(f"  {r.way:<44} median {r.median:10.2f}   best {r.best:10.2f}", flush=True)
                    results.append(asdict(r))
        rows = results
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, CPython {platform.python_version()}"
        Path(options.json).write_text(
            json.dumps({"machine": machine, "time": time.time(), "rows": rows}, indent=1)
        )
    return 0


def add_peers(workload: Workload, torch: Any, folder: Path) -> None:
    if "RK4" in workload.name:
        workload.ways += hand_c(folder)
    if workload.name.startswith("actor 146"):
        workload.ways += reading(folder, CONTROLLER.count)
    if workload.name.startswith("actor 18"):
        rng = np.random.default_rng(0)
        workload.ways.append(numpy_actor(rng.standard_normal((1, 18)).astype(np.float32), ACTOR.init(rng)))
    if torch is not None and ("TD3" in workload.name or workload.name.startswith("actor 18")):
        workload.ways += torch_ways(torch, "td3" if "TD3" in workload.name else "actor")


if __name__ == "__main__":
    sys.exit(main())
