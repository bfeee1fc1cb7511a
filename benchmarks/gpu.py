"""Simulator steps and training updates on a GPU: flocklet's bodies through tinygrad, with PyTorch beside them.

    python benchmarks/gpu.py --json gpu.json          (needs numpy, tinygrad 0.14.0; torch with CUDA for the peers)

Runs from a checkout without installation. Each simulator figure is checked against float64 NumPy.
"""

from __future__ import annotations

import argparse
import glob
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tree

tree.use()

from flocklet.kernels.body.expr import Graph, trace  # noqa: E402
from flocklet.kernels.maps import Window, block_kernel  # noqa: E402
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, step  # noqa: E402

from gpu_flight import environment_rows  # noqa: E402  isort: skip

CANDIDATES = ("CUDA", "CUDA:PTX", "CUDA:NVCC", "NV", "METAL", "CL")


def set_library_path() -> None:
    """Let tinygrad see the driver and NVRTC wherever a container or a wheel put them."""
    places = [
        "/usr/local/nvidia/lib64",
        "/usr/local/nvidia/lib",
        "/usr/local/cuda/lib64",
        "/usr/local/cuda/compat",
    ]
    for base in [p for p in sys.path if "site-packages" in p or "dist-packages" in p]:
        places += glob.glob(f"{base}/nvidia/*/lib")
    known = os.environ.get("LD_LIBRARY_PATH", "")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*[p for p in places if os.path.isdir(p)], known]).strip(":")


def choose_device() -> tuple[str | None, list[str]]:
    """Return the first DEV that computes in a child process, and what the others said."""
    said = []
    code = "from tinygrad import Tensor; assert (Tensor([1.,2.])*2).tolist()==[2.,4.]"
    for name in [os.environ["FLOCKLET_GPU"]] if os.environ.get("FLOCKLET_GPU") else CANDIDATES:
        env = dict(os.environ, DEV=name, PARALLEL="0")
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120
        )
        if done.returncode == 0:
            return name, said
        said.append(f"{name}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:160]}")
    return None, said


def initial(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    s = np.zeros((STATES, n), np.float32)
    s[0:3] = rng.uniform(-0.2, 0.2, (3, n))
    q = rng.standard_normal((4, n)) + np.array([[2.0], [0], [0], [0]])
    s[3:7] = q / np.linalg.norm(q, axis=0)
    s[7:13] = rng.uniform(-1, 1, (6, n))
    s[13:] = 10851
    return s, rng.uniform(-1, 1, (ACTIONS, n)).astype(np.float32)


def body(repeat: int) -> Graph:
    def many(s: list[Any], a: list[Any]) -> list[Any]:
        for _ in range(repeat):
            s = step(s, a)
        return s

    return trace(many, STATES, ACTIONS)


def oracle(s: np.ndarray, a: np.ndarray, steps: int) -> np.ndarray:
    x, act = list(s.astype(np.float64)), list(a.astype(np.float64))
    for _ in range(steps):
        x = step(x, act)
    return np.array(x)


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float((np.abs(got - want).max(axis=1) / np.abs(want).max(axis=1)).max())


def timed(call: Callable[[], object], wait: Callable[[], object], rounds: int = 7) -> float:
    """Return the median seconds per call; enough calls per round for 20 ms."""
    for _ in range(4):
        call()
    wait()
    start = time.perf_counter()
    call()
    wait()
    calls = max(1, min(2000, int(0.02 / max(1e-6, time.perf_counter() - start))))
    samples = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples)


def simulate_flocklet(device: str, sizes: list[int], rows: list[dict[str, Any]]) -> None:
    from flocklet.kernels.compile.gpu import DeviceKernel

    for unroll, loops in ((1, 1), (4, 1), (1, 16), (1, 64)):
        graph, k = body(unroll), unroll * loops
        for n in sizes:
            state, held = Window(planes=STATES, plane_stride=n), Window(planes=ACTIONS, plane_stride=n)
            kernel = block_kernel(
                graph, [state, held, Window("out", planes=STATES, plane_stride=n)], n, loops
            )
            s, a = initial(n, 1)
            start = time.perf_counter()
            try:
                run = DeviceKernel(kernel, device)
                run.write(0, s)
                run.write(1, a)
                for _ in range(3):
                    run()
                got = run.read(2).reshape(STATES, n)[:, :512]
            except Exception as problem:
                rows.append(row("flocklet", n, k, note=f"failed: {type(problem).__name__}: {problem}"[:160]))
                continue
            ready_s = time.perf_counter() - start
            seconds = timed(run, run.wait)
            note = f"{'unrolled' if unroll > 1 else 'loop in the kernel'}, ready in {ready_s:.1f} s"
            rows.append(
                row(
                    "flocklet",
                    n,
                    k,
                    n * k / seconds / 1e6,
                    error(got, oracle(s[:, :512], a[:, :512], k)),
                    note,
                )
            )


def row(
    who: str, n: int, k: int, rate: float | None = None, err: float | None = None, note: str = ""
) -> dict[str, Any]:
    entry = {
        "what": "simulator",
        "who": who,
        "n": n,
        "steps": k,
        "msteps_per_s": rate,
        "error": err,
        "note": note,
    }
    shown = "failed" if rate is None else f"{rate:12.1f} M steps/s  error {err:.1e}"
    print(f"simulator {who:<18} n={n:<8} steps={k:<3} {shown}  {note}", flush=True)
    return entry


class TorchArithmetic:
    """Numbers are torch tensors."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def const(self, value: float) -> Any:
        return value

    def apply(self, op: str, args: Any) -> Any:
        t = self.torch
        match op:
            case "add":
                return args[0] + args[1]
            case "mul":
                return args[0] * args[1]
            case "neg":
                return -args[0]
            case "recip":
                return 1.0 / args[0]
            case "lt":
                return args[0] < args[1]
            case "max":
                x, y = args
                return t.clamp_min(x, y) if isinstance(y, float) else t.maximum(x, y)
            case "where":
                return t.where(*args)
            case _:
                return getattr(t, op)(args[0])


def simulate_torch(torch: Any, sizes: list[int], rows: list[dict[str, Any]]) -> None:
    graph = body(1)
    numbers = TorchArithmetic(torch)

    def one(s: Any, a: Any) -> Any:
        return torch.stack(graph.evaluate([*s.unbind(0), *a.unbind(0)], numbers))

    compiled = torch.compile(one)
    for n in sizes:
        s, a = initial(n, 1)
        want = oracle(s[:, :512], a[:, :512], 1)
        ts, ta = torch.tensor(s, device="cuda"), torch.tensor(a, device="cuda")
        ways: list[tuple[str, Callable[[], Any]]] = [("torch eager", lambda ts=ts, ta=ta: one(ts, ta))]
        try:
            graphed, out = torch_graph(torch, lambda ts=ts, ta=ta: one(ts, ta))
            ways.append(("torch CUDA graph", lambda graphed=graphed, out=out: (graphed.replay(), out)[1]))
        except Exception as problem:
            rows.append(row("torch CUDA graph", n, 1, note=f"failed: {problem}"[:160]))
        ways.append(("torch.compile", lambda ts=ts, ta=ta: compiled(ts, ta)))
        for who, call in ways:
            try:
                got = call()[:, :512].double().cpu().numpy()
                seconds = timed(call, torch.cuda.synchronize)
                rows.append(row(who, n, 1, n / seconds / 1e6, error(got, want)))
            except Exception as problem:
                rows.append(row(who, n, 1, note=f"failed: {type(problem).__name__}: {problem}"[:160]))


def torch_graph(torch: Any, call: Callable[[], Any]) -> tuple[Any, Any]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out


SIZES_A, SIZES_C, BATCH = (18, 64, 64, 4), (22, 64, 64, 1), 256


def td3_batch(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "obs": rng.standard_normal((BATCH, 18)).astype(np.float32),
        "act": rng.uniform(-1, 1, (BATCH, 4)).astype(np.float32),
        "reward": rng.standard_normal((BATCH, 1)).astype(np.float32),
        "next_obs": rng.standard_normal((BATCH, 18)).astype(np.float32),
        "alive": (rng.random((BATCH, 1)) > 0.1).astype(np.float32),
        "noise": np.clip(rng.standard_normal((BATCH, 4)) * 0.2, -0.5, 0.5).astype(np.float32),
    }


def td3_params(seed: int) -> np.ndarray:
    from flocklet.kernels.nets import Mlp

    rng = np.random.default_rng(seed)
    critics = Mlp(SIZES_C)
    return np.concatenate([Mlp(SIZES_A, "relu", "tanh").init(rng), critics.init(rng), critics.init(rng)])


def net_slices(sizes: tuple[int, ...], start: int) -> tuple[list[tuple[int, int, int]], int]:
    out = []
    for a, b in itertools.pairwise(sizes):
        out.append((start, a, b))
        start += a * b + b
    return out, start


def forward(flat: Any, slices: list[tuple[int, int, int]], x: Any) -> Any:
    for i, (at, a, b) in enumerate(slices):
        x = x @ flat[at : at + a * b].reshape(a, b) + flat[at + a * b : at + a * b + b]
        if i < len(slices) - 1:
            x = x.relu()
    return x


def td3_tinygrad(device: str) -> tuple[Callable[[], object], Callable[[], object], Callable[[], np.ndarray]]:
    """Return (update, wait, read parameters): flat parameters, autograd, Adam, all in one TinyJit capture."""
    from flocklet.kernels.render.tinygrad_adapter import load_tinygrad

    tg = load_tinygrad()
    T = tg.Tensor
    actor, at = net_slices(SIZES_A, 0)
    one, end_one = net_slices(SIZES_C, at)
    two, total = net_slices(SIZES_C, end_one)
    p, t = (T(td3_params(0), device=device).contiguous().realize() for _ in range(2))
    m, v = (T.zeros(total, device=device).contiguous().realize() for _ in range(2))
    corrections = T.zeros(2, device=device).contiguous().realize()
    betas = T(np.array([0.9, 0.999], np.float32), device=device).realize()
    data = {k: T(x, device=device).realize() for k, x in td3_batch(0).items()}
    of_critics = T((np.arange(total) >= at).astype(np.float32), device=device).realize()

    def update(obs: Any, act: Any, reward: Any, next_obs: Any, alive: Any, noise: Any) -> Any:
        move = (forward(t, actor, next_obs).tanh() + noise).clip(-1, 1)
        pair = next_obs.cat(move, dim=1)
        goal = (reward + alive * 0.99 * forward(t, one, pair).minimum(forward(t, two, pair))).detach()
        now = obs.cat(act, dim=1)
        loss = (forward(p, one, now) - goal).square().mean() + (forward(p, two, now) - goal).square().mean()
        (g_critics,) = loss.gradient(p)
        c = corrections * betas + (1 - betas)

        def adam(p0: Any, g: Any, mask: Any) -> tuple[Any, Any, Any]:
            m1, v1 = m * 0.9 + g * 0.1, v * 0.999 + g * g * 0.001
            stepped = p0 - 1e-3 * (m1 / c[0]) / ((v1 / c[1]).sqrt() + 1e-8)
            return mask.where(stepped, p0), mask.where(m1, m), mask.where(v1, v)

        p1, m1, v1 = adam(p, g_critics, of_critics > 0.5)
        p.assign(p1.contiguous()), m.assign(m1.contiguous()), v.assign(v1.contiguous())
        T.realize(p, m, v)
        q = -forward(p, one, obs.cat(forward(p, actor, obs).tanh(), dim=1)).mean()
        (g_actor,) = q.gradient(p)
        p2, m2, v2 = adam(p, g_actor, of_critics < 0.5)
        p.assign(p2.contiguous()), m.assign(m2.contiguous()), v.assign(v2.contiguous())
        corrections.assign(c.contiguous())
        t.assign((t + (p - t) * 0.005).contiguous())
        T.realize(p, m, v, t, corrections)
        return loss.realize()

    jitted = tg.TinyJit(update)

    def call() -> object:
        return jitted(**data)

    return call, lambda: tg.Device[device].synchronize(), lambda: p.numpy()


def td3_torch(
    torch: Any, way: str
) -> tuple[Callable[[], object], Callable[[], object], Callable[[], np.ndarray]]:
    actor, at = net_slices(SIZES_A, 0)
    one, end_one = net_slices(SIZES_C, at)
    two, _ = net_slices(SIZES_C, end_one)
    start = torch.tensor(td3_params(0), device="cuda")
    a = start[:at].clone().requires_grad_()
    c = start[at:].clone().requires_grad_()
    shift = [[(i - at, x, y) for i, x, y in net] for net in (one, two)]
    ta, tc = a.detach().clone(), c.detach().clone()
    opts = [torch.optim.Adam([x], lr=1e-3, fused=True, capturable=True) for x in (a, c)]
    d = {k: torch.tensor(x, device="cuda") for k, x in td3_batch(0).items()}

    def losses() -> tuple[Any, Any]:
        with torch.no_grad():
            move = (forward(ta, actor, d["next_obs"]).tanh() + d["noise"]).clamp(-1, 1)
            pair = torch.cat([d["next_obs"], move], 1)
            q = torch.minimum(forward(tc, shift[0], pair), forward(tc, shift[1], pair))
            goal = d["reward"] + d["alive"] * 0.99 * q
        now = torch.cat([d["obs"], d["act"]], 1)
        return goal, now

    def critic_loss(goal: Any, now: Any) -> Any:
        return sum((forward(c, net, now) - goal).square().mean() for net in shift)

    def actor_loss() -> Any:
        return -forward(
            c.detach(), shift[0], torch.cat([d["obs"], forward(a, actor, d["obs"]).tanh()], 1)
        ).mean()

    parts = [torch.compile(f) if way == "compile" else f for f in (losses, critic_loss, actor_loss)]

    def call() -> None:
        goal, now = parts[0]()
        opts[1].zero_grad(set_to_none=False)
        parts[1](goal, now).backward()
        opts[1].step()
        opts[0].zero_grad(set_to_none=False)
        parts[2]().backward()
        opts[0].step()
        with torch.no_grad():
            ta.lerp_(a, 0.005)
            tc.lerp_(c, 0.005)

    def read() -> np.ndarray:
        return np.concatenate([a.detach().cpu().numpy(), c.detach().cpu().numpy()])

    if way == "graph":
        call()
        graph, _ = torch_graph(torch, call)
        return graph.replay, torch.cuda.synchronize, read
    return call, torch.cuda.synchronize, read


def td3_numpy(updates: int) -> np.ndarray:
    """Return the parameters after `updates` updates of the float64 twin on the same batch."""
    from flocklet.kernels.actor_critic import td3_program

    program = td3_program().interpret()
    for name in program.buffers:
        program.buffers[name] = program.buffers[name].astype(np.float64)
    for name, x in td3_batch(0).items():
        program.buffers[name][:] = x.reshape(-1)
    for name in ("params", "targets"):
        program.buffers[name][:] = td3_params(0)
    for _ in range(updates):
        program()
    return program.buffers["params"]


def train(who: str, make: Callable[[], Any], rows: list[dict[str, Any]], exact: np.ndarray | None) -> None:
    entry: dict[str, Any] = {"what": "td3 update", "who": who, "median_us": None, "error": None, "note": ""}
    try:
        start = time.perf_counter()
        call, wait, read = make()
        for _ in range(5):
            call()
        wait()
        if exact is not None:
            entry["error"] = float(np.abs(read() - exact).max())
        entry["note"] = f"ready in {time.perf_counter() - start:.1f} s"
        entry["median_us"] = timed(call, wait) * 1e6
        print(
            f"td3 update {who:<28} {entry['median_us']:10.1f} us  {entry['note']}  error {entry['error']}",
            flush=True,
        )
    except Exception as problem:
        entry["note"] = f"failed: {type(problem).__name__}: {problem}"[:200]
        print(f"td3 update {who:<28} {entry['note']}", flush=True)
    rows.append(entry)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument(
        "--log2", type=int, nargs="*", default=[14, 16, 18, 20, 22], help="batch sizes as powers of 2"
    )
    parser.add_argument("--steps", type=int, default=1000, help="steps per call of the flight rows")
    options = parser.parse_args()
    set_library_path()
    name, said = choose_device()
    for line in said:
        print(f"not used: {line}")
    rows: list[dict[str, Any]] = []
    sizes = [1 << k for k in options.log2]
    device = ""
    if name is None:
        print("no GPU works with tinygrad here")
    else:
        os.environ["DEV"] = name
        from flocklet.kernels.render.tinygrad_adapter import load_tinygrad

        device = str(load_tinygrad().Device.DEFAULT)
        print(f"flocklet on DEV={name} ({device})", flush=True)
        simulate_flocklet(device, sizes, rows)
        environment_rows(device, sizes, options.steps, [64, 128, 256], rows, timed)
        exact = td3_numpy(5)
        train("flocklet (Tensor graph, jit)", lambda: td3_tinygrad(device), rows, exact)
    try:
        import torch

        has_torch = bool(torch.cuda.is_available())
    except ImportError:
        has_torch = False
    if has_torch:
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}", flush=True)
        torch.set_float32_matmul_precision("highest")
        simulate_torch(torch, sizes, rows)
        for way in ("eager", "graph", "compile"):
            train(f"torch {way}", lambda way=way: td3_torch(torch, way), rows, None)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump({"device": name, "not_used": said, "rows": rows}, out, indent=1)
    return 0 if name is not None else 1


if __name__ == "__main__":
    sys.exit(main())
