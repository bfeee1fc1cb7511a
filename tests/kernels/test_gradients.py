"""Gradients over many shapes, odd ones included: the float64 twins against finite differences, native against the twins.

The twins are cheap, so most examples go through them; native code is compiled for several shapes at a time.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flocklet.cli.bench_kernels import stacked_program
from flocklet.kernels import losses, rows
from flocklet.kernels.body import dsl
from flocklet.kernels.body.adjoint import adjoint
from flocklet.kernels.body.expr import NumpyArithmetic, trace
from flocklet.kernels.compile.library_cache import LibraryCache
from flocklet.kernels.dense import bias_grad, dense, input_grad, weight_grad, weight_step
from flocklet.kernels.kernel import Tile
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.program import Program
from flocklet.kernels.render.tinygrad_adapter import load_tinygrad
from kit.kernel_runs import native, parity, program_of, twin64

F64 = NumpyArithmetic(np.float64)
LIMIT = 1e-5
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture)
HIDDEN = ("none", "relu", "tanh", "fast_tanh", "sigmoid")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    load_tinygrad()  # it raises the recursion limit, which hypothesis wants to see before it starts
    return LibraryCache(tmp_path_factory.mktemp("kernels"))


def classifier(net: Mlp, n: int) -> Program:
    """Net, layer norm, softmax and cross-entropy, forward and backward: `loss` and the gradients of all parameters."""
    program, c = Program("classifier"), net.sizes[-1]
    params, x = program.buffer("params", net.count), program.buffer("x", n * net.sizes[0])
    grads, dx = program.buffer("grads", net.count), program.buffer("dx", n * net.sizes[0])
    v = {k: program.buffer(k, c) for k in ("gain", "shift", "dgain", "dshift")}
    m = {k: program.buffer(k, n * c) for k in ("normal", "z", "p", "goal", "dz", "dy")}
    loss = program.buffer("loss", 1)
    y = mlp_forward(program, "net", net, n, params, x)
    rows.layer_norm(program, "norm", n, c, y, v["gain"], v["shift"], m["normal"], m["z"])
    rows.softmax(program, "soft", n, c, m["z"], m["p"])
    program.call(losses.cross_entropy_loss(n, c), m["p"], m["goal"], loss)
    program.call(losses.cross_entropy_grad(n, c), m["p"], m["goal"], m["dz"])
    norm = {"gain": v["gain"], "normal": m["normal"], "dy": m["dz"], "dx": m["dy"]}
    rows.layer_norm_grad(program, "norm", n, c, **norm, dgain=v["dgain"], dshift=v["dshift"])
    mlp_backward(program, "net", net, n, params, x, m["dy"], grads=grads, dx=dx)
    return program


def fill(program: Program, net: Mlp, n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    goal = rng.random((n, net.sizes[-1])) + 0.1
    return {
        "params": net.init(rng) + rng.standard_normal(net.count) * 0.05,
        "x": rng.standard_normal(n * net.sizes[0]),
        "gain": rng.uniform(0.5, 1.5, net.sizes[-1]),
        "shift": rng.standard_normal(net.sizes[-1]) * 0.1,
        "goal": goal / goal.sum(axis=1, keepdims=True),
    }


NETS = st.builds(
    Mlp,
    st.tuples(st.integers(1, 19), st.integers(1, 37), st.integers(1, 17), st.integers(3, 11)),
    st.sampled_from(HIDDEN),
    st.sampled_from(HIDDEN),
)


@given(net=NETS, n=st.integers(1, 13), seed=st.integers(0, 999))
@settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=QUIET, phases=[Phase.generate]
)
def test_a_composition_of_any_shape_has_the_gradient_of_its_loss(net, n, seed):
    program = classifier(net, n)
    oracle = program.interpret()
    for name, size in program.sizes.items():
        oracle.buffers[name] = np.zeros(size)
    values = fill(program, net, n, seed)
    for name, value in values.items():
        oracle.buffers[name][:] = value.reshape(-1)
    oracle()
    pairs = (("params", "grads"), ("x", "dx"), ("gain", "dgain"), ("shift", "dshift"))
    found = {source: oracle.buffers[gradient].copy() for source, gradient in pairs}
    rng = np.random.default_rng(seed + 1)
    for source, gradient in found.items():
        way = rng.standard_normal(gradient.size)
        kept = oracle.buffers[source].copy()
        slopes = []
        for h in (1e-5, 1e-6):  # a kink between the two points shows as two different slopes
            ends = []
            for sign in (1, -1):
                oracle.buffers[source][:] = kept + sign * h * way
                oracle()
                ends.append(oracle.buffers["loss"][0])
            slopes.append((ends[0] - ends[1]) / (2 * h))
        oracle.buffers[source][:] = kept
        size = np.abs(gradient * way).sum() + 1e-6
        if abs(slopes[0] - slopes[1]) <= 1e-5 * size:
            assert abs(gradient @ way - slopes[0]) <= 1e-5 * size, source


def test_the_check_above_would_see_a_wrong_gradient():
    net, n = Mlp((5, 7, 4, 3), "tanh", "tanh"), 4
    oracle = twin64(classifier(net, n))
    for name, value in fill(classifier(net, n), net, n, 0).items():
        oracle.buffers[name][:] = value.reshape(-1)
    oracle()
    gradient = oracle.buffers["grads"].copy()
    way = np.sign(gradient)
    kept, ends = oracle.buffers["params"].copy(), []
    for h in (1e-5, -1e-5):
        oracle.buffers["params"][:] = kept + h * way
        oracle()
        ends.append(oracle.buffers["loss"][0])
    slope = (ends[0] - ends[1]) / 2e-5
    assert gradient @ way == pytest.approx(slope, rel=1e-5)
    assert (gradient * 1.001) @ way != pytest.approx(slope, rel=1e-4)


SHAPES = st.tuples(st.integers(1, 13), st.integers(1, 37), st.integers(1, 37))


@given(
    shapes=st.lists(SHAPES, min_size=5, max_size=5, unique=True),
    seed=st.integers(0, 99),
    tile=st.sampled_from([Tile(4, 4, 16), Tile(4, 1, 16), Tile(2, 2, 8)]),
)
@settings(
    max_examples=3, deadline=None, derandomize=True, suppress_health_check=QUIET, phases=[Phase.generate]
)
@pytest.mark.timeout(180)
def test_native_kernels_of_many_shapes_match_float64(cache, shapes, seed, tile):
    kernels = []
    for i, (n, a, b) in enumerate(shapes):
        act = HIDDEN[i % len(HIDDEN)]
        below = ("none", "relu", "tanh", "slope", "sigmoid")[i % 5]
        kernels += [
            dense(n, a, b, act, keep_slope=act == "fast_tanh"),
            weight_grad(n, a, b),
            weight_step(n, a, b, 0.1),
            input_grad(n, a, b, below),
            input_grad(n, a, b, first=a // 2),
            bias_grad(n, b),
        ]
    program = program_of(*kernels)
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(size) for name, size in program.sizes.items()}
    assert parity(native(program, cache, tile), twin64(program), values) <= LIMIT


@given(net=NETS, n=st.integers(1, 13), seed=st.integers(0, 99))
@settings(
    max_examples=3, deadline=None, derandomize=True, suppress_health_check=QUIET, phases=[Phase.generate]
)
@pytest.mark.timeout(180)
def test_native_compositions_match_float64(cache, net, n, seed):
    program = classifier(net, n)
    assert parity(native(program, cache), twin64(program), fill(program, net, n, seed)) <= LIMIT


def test_a_step_without_a_gradient_in_memory_is_the_step_with_one(cache):
    """Odd widths: every weight must move exactly once, although tiles overlap elsewhere."""
    net, n, peers, rate = Mlp((7, 21, 5), "relu"), 5, 3, 0.1
    program = stacked_program(peers, net, n, rate)
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(size) for name, size in program.sizes.items()}
    run, oracle = native(program, cache), twin64(program)
    before = values["params"].astype(np.float32)
    assert parity(run, oracle, values) <= LIMIT
    one = Program("gradient")
    params, x = one.buffer("params", net.count), one.buffer("x", n * 7)
    p, dy, goal = (one.buffer(name, n * 5) for name in ("p", "dy", "goal"))
    grads = one.buffer("grads", net.count)
    rows.softmax(one, "soft", n, 5, mlp_forward(one, "net", net, n, params, x), p)
    one.call(losses.cross_entropy_grad(n, 5), p, goal, dy)
    mlp_backward(one, "net", net, n, params, x, dy, grads=grads)
    other = twin64(one)
    other.buffers["params"][:] = before[: net.count]
    other.buffers["x"][:] = values["x"].astype(np.float32)[: n * 7]
    other.buffers["goal"][:] = values["labels"].astype(np.float32)[: n * 5]
    other()
    moved = before[: net.count] - rate * other.buffers["grads"]
    assert np.abs(run.buffers["params"][: net.count] - moved).max() <= LIMIT * np.abs(moved).max()


UNARY = {
    "tanh": dsl.tanh,
    "sigmoid": dsl.sigmoid,
    "sin": dsl.sin,
    "exp": lambda x: dsl.exp(dsl.tanh(x)),
    "sqrt": lambda x: dsl.sqrt(x * x + 0.5),
    "recip": lambda x: 1.0 / (x * x + 1.0),
    "log": lambda x: dsl.log(x * x + 0.5),
    "half": lambda x: x * 0.5 - 0.25,
}
BINARY = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: dsl.tanh(x) * y,
    "div": lambda x, y: x / (y * y + 1.0),
    "max": dsl.maximum,
    "min": dsl.minimum,
    "where": lambda x, y: dsl.where(x < y, x * 2.0, y * y),
}
STEP = st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 99), st.integers(0, 99))


@given(steps=st.lists(STEP, min_size=1, max_size=25), seed=st.integers(0, 999))
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=QUIET)
def test_the_adjoint_of_any_body_is_its_gradient(steps, seed):
    def body(x):
        values = list(x)
        for op, i, j in steps:
            a, b = values[i % len(values)], values[j % len(values)]
            values.append(UNARY[op](a) if op in UNARY else BINARY[op](a, b))
        return values[-3:]

    graph = trace(body, 3)
    rng = np.random.default_rng(seed)
    x, way = rng.uniform(-1.5, 1.5, 3), rng.standard_normal(3)
    flow = rng.standard_normal(len(graph.outputs))
    got = np.array(adjoint(graph).evaluate([*x, *flow], F64), np.float64)
    slopes = []
    for h in (1e-5, 1e-6):
        ends = [np.array(graph.evaluate(list(x + s * h * way), F64), np.float64) for s in (1, -1)]
        slopes.append(flow @ (ends[0] - ends[1]) / (2 * h))
    size = np.abs(got * way).sum() + 1.0
    if abs(slopes[0] - slopes[1]) <= 1e-6 * size:
        assert abs(got @ way - slopes[0]) <= 1e-6 * size
