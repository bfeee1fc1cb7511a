"""How fast the kernels are on this device: the workloads of `flocklet bench kernels` and of the benchmark.

A workload is a set of *ways* to compute the same thing; they are timed in turns, so that a busy moment hits all of
them, and the median is reported. Nothing here decides anything in a test.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from flocklet.kernels.actor_critic import Td3Shape, actor_program, td3_program
from flocklet.kernels.body.expr import trace
from flocklet.kernels.compile.compilers import Compiler
from flocklet.kernels.compile.executable import Executable
from flocklet.kernels.losses import cross_entropy_grad
from flocklet.kernels.maps import Window, block_kernel
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.program import Program, View
from flocklet.kernels.rows import softmax
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, step
from flocklet.models.flight.train.rollout import backward_program, forward_program

__all__ = [
    "ACTOR",
    "CONTROLLER",
    "PEERS",
    "SIMULATED",
    "Result",
    "Way",
    "Workload",
    "compare",
    "flight_states",
    "load_td3",
    "simulator_program",
    "stacked_program",
    "workloads",
]

ACTOR = Mlp((18, 64, 64, 4), "relu", "tanh")
CONTROLLER = Mlp((146, 64, 64, 4), "fast_tanh", "fast_tanh")
STACKED = Mlp((64, 64, 10), "relu")
PEERS, SIMULATED = 1000, 65536


@dataclass(frozen=True)
class Way:
    """One way to compute a workload: `call()` does `count` units of work."""

    name: str
    call: Callable[[], object]
    count: int = 1


@dataclass
class Workload:
    """Ways to compute the same thing; `unit` is "us" per unit or "M/s" units."""

    name: str
    unit: str
    ways: list[Way] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """The median of one way, in the unit of its workload, and the best round."""

    workload: str
    way: str
    unit: str
    median: float
    best: float


def compare(workload: Workload, *, rounds: int = 15, round_s: float = 0.008) -> list[Result]:
    """Time all ways in turns; return one result per way."""
    repeats = []
    for way in workload.ways:
        way.call()
        start = time.perf_counter()
        way.call()
        repeats.append(max(1, int(round_s / max(1e-7, time.perf_counter() - start))))
    samples: list[list[float]] = [[] for _ in workload.ways]
    for _ in range(rounds):
        for way, repeat, mine in zip(workload.ways, repeats, samples, strict=True):
            start = time.perf_counter()
            for _ in range(repeat):
                way.call()
            mine.append((time.perf_counter() - start) / repeat / way.count)
    out = []
    for way, mine in zip(workload.ways, samples, strict=True):
        middle, best = statistics.median(mine), min(mine)
        values = (middle * 1e6, best * 1e6) if workload.unit == "us" else (1e-6 / middle, 1e-6 / best)
        out.append(Result(workload.name, way.name, workload.unit, *values))
    return out


def load_td3(run: Executable, shape: Td3Shape, seed: int = 0) -> None:
    """Fill the buffers of a TD3 program with a random batch and fresh nets."""
    rng = np.random.default_rng(seed)
    nets = np.concatenate([shape.actor.init(rng), shape.critic.init(rng), shape.critic.init(rng)])
    for name in ("obs", "next_obs", "reward"):
        run.buffers[name][:] = rng.standard_normal(run.buffers[name].size)
    run.buffers["act"][:] = rng.uniform(-1, 1, run.buffers["act"].size)
    run.buffers["noise"][:] = np.clip(rng.standard_normal(run.buffers["noise"].size) * 0.2, -0.5, 0.5)
    run.buffers["alive"][:] = rng.random(shape.batch) > 0.1
    run.buffers["params"][:] = run.buffers["targets"][:] = nets


def flight_states(n: int, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return n random states (17, n): within 0.2 m, at most 90 degrees, hovering speeds."""
    rng = np.random.default_rng(seed)
    s = np.zeros((STATES, n), np.float32)
    s[0:3] = rng.uniform(-0.2, 0.2, (3, n))
    q = rng.standard_normal((4, n)) + np.array([[2.0], [0.0], [0.0], [0.0]])
    s[3:7] = q / np.linalg.norm(q, axis=0)
    s[7:13] = rng.uniform(-1, 1, (6, n))
    s[13:] = 10851.0
    return s


def simulator_program(n: int, *, chunk: int = 1024, steps: int = 16, lanes: int = 16) -> Program:
    """Return the RK4 simulator of n vehicles: turn i advances vehicles i * chunk and on by `steps` steps."""
    program = Program("simulator")
    (
        program.buffer("states", STATES * n),
        program.buffer("actions", ACTIONS * n),
        program.buffer("after", STATES * n),
    )
    graph = trace(lambda s, a: step(s, a), STATES, ACTIONS)
    windows = [Window(planes=STATES, plane_stride=n), Window(planes=ACTIONS, plane_stride=n)]
    kernel = block_kernel(
        graph, [*windows, Window("out", planes=STATES, plane_stride=n)], chunk, steps, lanes=lanes
    )
    program.call(kernel, View("states", 0, chunk), View("actions", 0, chunk), View("after", 0, chunk))
    return program


def stacked_program(peers: int, net: Mlp = STACKED, batch: int = 16, rate: float = 0.01) -> Program:
    """Return one SGD step with softmax cross-entropy for each of many peers, one peer per turn."""
    program, inputs, classes = Program("stacked"), net.sizes[0], net.sizes[-1]
    program.buffer("params", peers * net.count)
    program.buffer("x", peers * batch * inputs), program.buffer("labels", peers * batch * classes)
    params, x = View("params", 0, net.count), View("x", 0, batch * inputs)
    p, dy = program.scratch("p", batch * classes), program.scratch("dy", batch * classes)
    logits = mlp_forward(program, "net", net, batch, params, x)
    softmax(program, "soft", batch, classes, logits, p)
    program.call(cross_entropy_grad(batch, classes), p, View("labels", 0, batch * classes), dy)
    mlp_backward(program, "net", net, batch, params, x, dy, step=rate)
    return program


def _ready(program: Program, compiler: Compiler | None) -> Executable:
    return program.interpret() if compiler is None else program.compile(compilers=[compiler])


Compilers = list[tuple[str, Compiler | None]]


def workloads(compilers: Sequence[Compiler], *, only: str = "") -> Iterator[Workload]:
    """Yield every workload whose name holds `only`, with one way per compiler and NumPy; each is built when asked for."""
    named: Compilers = [(f"flocklet {c.family}", c) for c in compilers]
    builders: list[tuple[str, str, Callable[[Compilers], list[Way]]]] = [
        ("TD3 update, batch 256", "us", _td3),
        ("actor 18-64-64-4, batch 1", "us", lambda n: _actor(n, ACTOR)),
        ("actor 146-64-64-4, batch 1", "us", lambda n: _actor(n, CONTROLLER)),
        ("quadrotor RK4, 65,536 x 16 steps", "M/s", _simulator),
        ("policy + simulator, forward + adjoint, batch 256", "us", _differentiated),
        ("1,000 peers, one SGD step each, MLP 64-64-10, batch 16", "us", _stacked),
    ]
    for name, unit, build in builders:
        if only in name:
            yield Workload(name, unit, build(named))


def _td3(named: Compilers) -> list[Way]:
    shape, ways = Td3Shape(), []
    for name, compiler in [*named, ("NumPy twin", None)]:
        run = _ready(td3_program(shape), compiler)
        load_td3(run, shape)
        ways.append(Way(name, run))
    return ways


def _actor(named: Compilers, net: Mlp) -> list[Way]:
    rng, ways = np.random.default_rng(0), []
    params, x = net.init(rng), rng.standard_normal(net.sizes[0]).astype(np.float32)
    for name, compiler in [*named, ("NumPy twin", None)]:
        run = _ready(actor_program(net), compiler)
        run.buffers["params"][:], run.buffers["x"][:] = params, x
        ways.append(Way(name, run))
        if compiler is not None:
            ways.append(Way(f"{name}, called from C", partial(run.run, 0, 1000), 1000))
    return [*ways, _onnx_way(net, params, x)]


def _simulator(named: Compilers) -> list[Way]:
    ways = []
    for name, compiler in named:
        run = _ready(simulator_program(SIMULATED), compiler)
        run.buffers["states"][:] = flight_states(SIMULATED).reshape(-1)
        run.buffers["actions"][:] = np.random.default_rng(0).uniform(-1, 1, ACTIONS * SIMULATED)
        turns = SIMULATED // 1024
        ways.append(Way(f"{name}, 1 thread", partial(run.run, 0, turns), SIMULATED * 16))
        ways.append(Way(f"{name}, 2 threads", partial(run.run, 0, turns, threads=2), SIMULATED * 16))
    return ways


def _differentiated(named: Compilers) -> list[Way]:
    net, batch, ways = Mlp((STATES, 64, 64, ACTIONS), "tanh", "tanh"), 256, []
    for name, compiler in [*named, ("NumPy twin", None)]:
        ahead = _ready(forward_program(net, batch), compiler)
        behind = _ready(backward_program(net, batch), compiler)
        for run in (ahead, behind):
            run.buffers["params"][:] = net.init(np.random.default_rng(0))
            run.buffers["states"][: STATES * batch] = flight_states(batch).reshape(-1)

        def both(ahead: Executable = ahead, behind: Executable = behind) -> None:
            ahead()
            behind.buffers["flow"].fill(0)
            behind()

        ways.append(Way(name, both))
    return ways


def _stacked(named: Compilers) -> list[Way]:
    rng, ways = np.random.default_rng(0), []
    for name, compiler in named:
        run = _ready(stacked_program(PEERS), compiler)
        for buffer in ("params", "x"):
            run.buffers[buffer][:] = rng.standard_normal(run.buffers[buffer].size) * 0.1
        run.buffers["labels"].reshape(-1, 10)[np.arange(PEERS * 16), rng.integers(0, 10, PEERS * 16)] = 1
        ways.append(Way(name, partial(run.run, 0, PEERS), PEERS))
    return [*ways, Way("NumPy, stacked", _stacked_numpy(rng), PEERS)]


def _onnx_way(net: Mlp, params: np.ndarray, x: np.ndarray) -> Way:
    from flocklet.onnx_io.model import OnnxSession, encode_mlp

    session = OnnxSession(encode_mlp(net.export(params)))
    rows, y = x.reshape(1, -1).copy(), np.zeros((1, net.sizes[-1]), np.float32)
    return Way("onnxruntime, IO binding", session.bind({"x": rows}, {"y": y}))


def _stacked_numpy(rng: np.random.Generator) -> Callable[[], None]:
    f = np.float32
    w1, b1 = rng.standard_normal((PEERS, 64, 64), f) * f(0.1), np.zeros((PEERS, 1, 64), f)
    w2, b2 = rng.standard_normal((PEERS, 64, 10), f) * f(0.1), np.zeros((PEERS, 1, 10), f)
    x, labels = rng.standard_normal((PEERS, 16, 64), f), np.zeros((PEERS, 16, 10), f)
    labels.reshape(-1, 10)[np.arange(PEERS * 16), rng.integers(0, 10, PEERS * 16)] = 1

    def call() -> None:
        h = np.maximum(x @ w1 + b1, 0)
        z = h @ w2 + b2
        e = np.exp(z - z.max(axis=2, keepdims=True))
        dz = (e / e.sum(axis=2, keepdims=True) - labels) * f(1 / 16)
        dh = (dz @ w2.transpose(0, 2, 1)) * (h > 0)
        for parameter, gradient in (
            (w2, h.transpose(0, 2, 1) @ dz),
            (b2, dz.sum(axis=1, keepdims=True)),
            (w1, x.transpose(0, 2, 1) @ dh),
            (b1, dh.sum(axis=1, keepdims=True)),
        ):
            parameter -= f(0.01) * gradient

    return call
