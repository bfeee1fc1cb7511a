"""Programs: native float32 against float64 twins, over shapes; horizons, peers and threads in one function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flocklet.kernels import losses, maps, optim, rows
from flocklet.kernels.actor_critic import Td3Shape, td3_program
from flocklet.kernels.body.adjoint import adjoint
from flocklet.kernels.body.expr import SymbolArithmetic, trace
from flocklet.kernels.compile.library_cache import LibraryCache
from flocklet.kernels.dense import bias_grad, dense, input_grad, output_grad, transpose, weight_grad
from flocklet.kernels.kernel import Tile
from flocklet.kernels.maps import Window, block_kernel, map_kernel, reduce_kernel
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.program import Program, View
from flocklet.kernels.render.tinygrad_adapter import load_tinygrad
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, step
from flocklet.models.flight.train.rollout import backward_program, forward_program, observe, quadratic_cost
from kit.kernel_runs import native, parity, program_of, twin64, worst

LIMIT = 1e-5

ANY_HEALTH = (
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.function_scoped_fixture,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    load_tinygrad()  # it raises the recursion limit, which hypothesis wants to see before it starts
    return LibraryCache(tmp_path_factory.mktemp("kernels"))


def numbers(program: Program, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(size) for name, size in program.sizes.items()}


SHAPE = st.tuples(st.integers(1, 13), st.integers(1, 37), st.integers(1, 37))


@given(
    shape=SHAPE,
    seed=st.integers(0, 99),
    wide=st.sampled_from([Tile(4, 4, 16), Tile(4, 1, 16), Tile(2, 2, 8)]),
)
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=ANY_HEALTH,
    phases=[Phase.generate],
)
@pytest.mark.timeout(120)
def test_layers_of_any_shape(cache, shape, seed, wide):
    n, a, b = shape
    program = program_of(
        dense(n, a, b, "tanh"),
        dense(n, a, b, "fast_tanh", keep_slope=True),
        weight_grad(n, a, b),
        input_grad(n, a, b, "relu"),
        input_grad(n, a, b, first=a // 2),
        output_grad(n, b, "sigmoid"),
        bias_grad(n, b),
        transpose(a, b),
    )
    assert parity(native(program, cache, wide), twin64(program), numbers(program, seed)) <= LIMIT


def test_a_large_layer_and_a_single_row(cache):
    program = program_of(
        dense(256, 64, 64, "relu"), dense(1, 146, 64, "relu"), dense(3, 200, 100), dense(5, 64, 1)
    )
    assert parity(native(program, cache), twin64(program), numbers(program, 1)) <= LIMIT


def test_every_optimiser_loss_and_reduction(cache):
    n = 133
    total = trace(lambda x, y: [x[0] * y[0], x[0] + y[0]], 1, 1)
    program = program_of(
        optim.sgd(n, 0.1),
        optim.momentum(n, 0.1),
        optim.polyak(n, 0.01),
        optim.squared_norm(n),
        losses.mse_grad(n),
        losses.mse_loss(n),
        losses.huber_grad(n),
        losses.huber_loss(n),
        reduce_kernel(total, [maps.matrix(19), maps.matrix(19)], 7, 19),
        reduce_kernel(total, [maps.matrix(19), maps.matrix(19)], 7, 19, over="rows"),
        reduce_kernel(total, [maps.matrix(5), maps.matrix(5)], 9, 5, how="max"),
    )
    assert parity(native(program, cache), twin64(program), numbers(program, 2)) <= LIMIT


def test_adam_follows_the_paper_for_many_steps(cache):
    n, rate = 37, 1e-2
    program = Program("adam")
    for name in ("p", "m", "v", "g"):
        program.buffer(name, n)
    program.buffer("c", 2)
    program.call(optim.adam_tick(), "c")
    program.call(optim.adam(n, rate=rate), "p", "m", "v", "g", "c")
    run = native(program, cache)
    rng = np.random.default_rng(0)
    p = rng.standard_normal(n)
    run.buffers["p"][:] = p
    m, v = np.zeros(n), np.zeros(n)
    for t in range(1, 201):
        g = rng.standard_normal(n).astype(np.float32)
        run.buffers["g"][:] = g
        run()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(np.float64) ** 2
        p -= rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        if t in (1, 10, 200):
            assert np.abs(run.buffers["p"] - p).max() <= 2e-5 * np.abs(p).max()


def test_clipping_keeps_short_vectors_and_shortens_long_ones(cache):
    program = Program("clip")
    program.buffer("g", 50), program.buffer("s", 1)
    program.call(optim.squared_norm(50), "g", "s")
    program.call(optim.clip_scale(50, 1.0), "g", "s")
    run = native(program, cache)
    for length, want in ((0.5, 0.5), (7.0, 1.0)):
        run.buffers["g"][:] = length / np.sqrt(50)
        run()
        assert np.linalg.norm(run.buffers["g"]) == pytest.approx(want, rel=1e-5)


def mlp_program(net: Mlp, n: int) -> Program:
    program = Program("mlp")
    params, x = program.buffer("params", net.count), program.buffer("x", n * net.sizes[0])
    dy, grads = program.buffer("dy", n * net.sizes[-1]), program.buffer("grads", net.count)
    dx, y = program.buffer("dx", n * net.sizes[0]), program.buffer("y", n * net.sizes[-1])
    mlp_forward(program, "net", net, n, params, x, y=y)
    mlp_backward(program, "net", net, n, params, x, dy, grads=grads, dx=dx, y=y)
    return program


@pytest.mark.parametrize(
    "net",
    [
        Mlp((18, 33, 20, 4), "tanh", "tanh"),
        Mlp((5, 16, 3), "fast_tanh", "fast_tanh"),
        Mlp((7, 64, 1), "relu", "sigmoid"),
    ],
    ids=["tanh", "fast_tanh", "relu"],
)
def test_back_propagation_is_the_gradient(cache, net):
    n = 9
    program, rng = mlp_program(net, n), np.random.default_rng(3)
    oracle, run = twin64(program), native(program, cache)
    values = {
        "params": net.init(rng),
        "x": rng.standard_normal(program.sizes["x"]),
        "dy": rng.standard_normal(program.sizes["dy"]),
    }
    assert parity(run, oracle, values) <= LIMIT
    grads, dx = oracle.buffers["grads"].copy(), oracle.buffers["dx"].copy()

    def objective() -> float:
        oracle()
        return float(oracle.buffers["y"] @ oracle.buffers["dy"])

    for name, analytic in (("params", grads), ("x", dx)):
        for i in rng.choice(analytic.size, 12, replace=False):
            kept = oracle.buffers[name][i]
            sides = []
            for h in (1e-5, -1e-5):
                oracle.buffers[name][i] = kept + h
                sides.append(objective())
            oracle.buffers[name][i] = kept
            assert analytic[i] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-7)


def test_softmax_and_layer_norm_with_their_gradients(cache):
    n, c = 6, 11
    program = Program("rows")
    views = {k: program.buffer(k, n * c) for k in ("x", "p", "dp", "dx", "normal", "y", "dy", "dn")}
    vectors = {k: program.buffer(k, c) for k in ("gain", "shift", "dgain", "dshift")}
    rows.softmax(program, "s", n, c, views["x"], views["p"])
    rows.softmax_grad(program, "s", n, c, views["p"], views["dp"], views["dx"])
    rows.layer_norm(
        program, "l", n, c, views["x"], vectors["gain"], vectors["shift"], views["normal"], views["y"]
    )
    names = {"gain": vectors["gain"], "normal": views["normal"], "dy": views["dy"], "dx": views["dn"]}
    rows.layer_norm_grad(program, "l", n, c, **names, dgain=vectors["dgain"], dshift=vectors["dshift"])
    program.call(losses.cross_entropy_loss(n, c), views["p"], views["p"], program.buffer("loss", 1))
    rng = np.random.default_rng(0)
    values = {k: rng.standard_normal(program.sizes[k]) for k in ("x", "dp", "dy", "gain", "shift")}
    oracle = twin64(program)
    assert parity(native(program, cache), oracle, values) <= LIMIT
    got = oracle.buffers["p"].reshape(n, c)
    assert np.allclose(got.sum(axis=1), 1)
    pairs = (
        ("p", "dp", "dx", "x"),
        ("y", "dy", "dn", "x"),
        ("y", "dy", "dgain", "gain"),
        ("y", "dy", "dshift", "shift"),
    )
    for out, flow, grad, source in pairs:
        analytic = oracle.buffers[grad].copy()
        for i in range(0, analytic.size, 3):
            kept, sides = oracle.buffers[source][i], []
            for h in (1e-6, -1e-6):
                oracle.buffers[source][i] = kept + h
                oracle()
                sides.append(oracle.buffers[out] @ oracle.buffers[flow])
            oracle.buffers[source][i] = kept
            assert analytic[i] == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-6)


def td3_values(program: Program, shape: Td3Shape, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    nets = [shape.actor.init(rng), shape.critic.init(rng), shape.critic.init(rng)]
    values = {k: rng.standard_normal(program.sizes[k]) for k in ("obs", "next_obs", "reward")}
    values |= {"act": rng.uniform(-1, 1, program.sizes["act"]), "alive": rng.random(shape.batch) > 0.1}
    values |= {"noise": np.clip(rng.standard_normal(program.sizes["noise"]) * 0.2, -0.5, 0.5)}
    return values | {"params": np.concatenate(nets), "targets": np.concatenate(nets)}


def test_td3_updates_match_float64(cache):
    shape = Td3Shape(batch=32)
    program = td3_program(shape)
    run, oracle = native(program, cache), twin64(program)
    assert parity(run, oracle, td3_values(program, shape, 0)) <= LIMIT
    before = oracle.buffers["params"].copy()
    for _ in range(4):
        run()
        oracle()
    assert np.abs(oracle.buffers["params"] - before).max() > 1e-3
    assert np.abs(run.buffers["params"] - oracle.buffers["params"]).max() <= 1e-5


def test_blocks_of_a_simulation_match_float64(cache):
    n, k = 37, 5
    graph = trace(lambda s, a: step(s, a), STATES, ACTIONS)
    windows = [Window(planes=STATES, plane_stride=n), Window(planes=ACTIONS, plane_stride=n)]
    program = program_of(block_kernel(graph, [*windows, Window("out", planes=STATES, plane_stride=n)], n, k))
    oracle = twin64(program)
    values = {"k0_0": flight_states(n, 0), "k0_1": np.random.default_rng(1).uniform(-1, 1, ACTIONS * n)}
    run = native(program, cache)
    parity(run, oracle, values)
    got, want = run.buffers["k0_2"].reshape(STATES, n), oracle.buffers["k0_2"].reshape(STATES, n)
    assert (np.abs(got - want).max(axis=1) <= LIMIT * np.abs(want).max(axis=1)).all()


def flight_states(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((4, n)) + np.array([[2.0], [0], [0], [0]])
    parts = [rng.uniform(-1, 1, (3, n)), q / np.linalg.norm(q, axis=0), rng.uniform(-1, 1, (6, n))]
    return np.concatenate([*parts, rng.uniform(9000, 15000, (4, n))]).reshape(-1)


def test_one_compiled_step_serves_every_horizon_forwards_and_back(cache):
    """x' = x + 0.1 sin(x) a: states are check-points along the axis, the adjoint runs over them backwards."""
    n, most = 20, 9
    graph = trace(lambda s, a: [s[0] + a[0] * 0.1 * (s[0] * 1.7 + 0.3).sin()], 1, 1)
    back = adjoint(graph, wanted=[0])
    ahead = Program("ahead")
    ahead.buffer("x", 2 * n), ahead.buffer("a", n)
    windows = [maps.vector(), maps.vector(), maps.vector("out")]
    ahead.call(map_kernel(graph, windows, 1, n), View("x", 0, n), "a", View("x", n, n))
    behind = Program("behind")
    behind.buffer("x", n), behind.buffer("a", n), behind.buffer("g", n)
    windows = [maps.vector(), maps.vector(), maps.vector("inout")]
    turned = trace(lambda s, a, g: back.evaluate([s[0], a[0], g[0]], SymbolArithmetic(s[0])), 1, 1, 1)
    behind.call(map_kernel(turned, windows, 1, n), View("x", 0, -n), "a", "g")
    forward, reverse = native(ahead, cache), native(behind, cache)
    rng = np.random.default_rng(0)
    x0, a = rng.standard_normal(n), rng.standard_normal(n).astype(np.float32)

    def final(x: np.ndarray, horizon: int) -> np.ndarray:
        for _ in range(horizon):
            x = x + a * 0.1 * np.sin(x * 1.7 + 0.3)
        return x

    for horizon in (1, 4, most):
        states = np.zeros((horizon + 1) * n, np.float32)
        states[:n] = x0
        forward.bind("x", states)
        forward.buffers["a"][:] = a
        forward.run(0, horizon)
        assert np.allclose(states[-n:], final(x0, horizon), atol=1e-5)
        reverse.bind("x", states)
        reverse.buffers["a"][:] = a
        reverse.buffers["g"][:] = 1
        reverse.run(1 - horizon, 1)
        want = (final(x0 + 1e-6, horizon) - final(x0 - 1e-6, horizon)) / 2e-6
        assert np.allclose(reverse.buffers["g"], want, rtol=2e-5)


def stacked(peers: int) -> Program:
    """One SGD step of a small net for each of many peers: views move by one peer per turn."""
    net, n = Mlp((6, 8, 3), "relu"), 4
    program = Program("stacked")
    program.buffer("params", peers * net.count)
    program.buffer("x", peers * n * 6), program.buffer("t", peers * n * 3)
    params, x, t = View("params", 0, net.count), View("x", 0, n * 6), View("t", 0, n * 3)
    grads, dy = program.scratch("grads", net.count), program.scratch("dy", n * 3)
    y = mlp_forward(program, "net", net, n, params, x)
    program.call(losses.mse_grad(n * 3), y, t, dy)
    mlp_backward(program, "net", net, n, params, x, dy, grads=grads)
    program.call(optim.sgd(net.count, 0.1), params, grads)
    return program


def test_a_thousand_peers_in_one_function_and_threads_change_nothing(cache):
    peers = 101
    program = stacked(peers)
    values = numbers(program, 5)
    one, two, oracle = native(program, cache), native(program, cache), twin64(program)
    for executable in (one, two, oracle):
        for name in ("params", "x", "t"):
            executable.buffers[name][:] = values[name].astype(np.float32)
    one.run(0, peers)
    with two:
        two.run(0, peers, threads=3)
    oracle.run(0, peers)
    assert np.array_equal(one.buffers["params"], two.buffers["params"])
    assert worst_params(one, oracle) <= LIMIT
    assert np.abs(oracle.buffers["params"] - values["params"]).max() > 1e-3


def worst_params(one, oracle) -> float:
    return float(
        np.abs(one.buffers["params"] - oracle.buffers["params"]).max()
        / np.abs(oracle.buffers["params"]).max()
    )


def test_mistakes_are_refused_before_anything_runs(cache):
    program = Program("wrong")
    program.buffer("a", 10), program.buffer("b", 10)
    kernel = optim.sgd(8, 0.1)
    with pytest.raises(ValueError, match="overlap"):
        program.call(kernel, View("a", 0), View("a", 2))
    with pytest.raises(ValueError, match="leave buffer"):
        program.call(kernel, View("a", 3), "b")
    with pytest.raises(ValueError, match="no buffer"):
        program.call(kernel, "a", "c")
    with pytest.raises(ValueError, match="takes 2 buffers"):
        program.call(kernel, "a")
    program.call(kernel, View("a", 0, 1), "b")
    run = program.interpret()
    run.run(0, 3)
    with pytest.raises(ValueError, match="leave buffer"):
        run.run(0, 4)
    with pytest.raises(ValueError, match="float32"):
        run.bind("a", np.zeros(10))
    with pytest.raises(ValueError, match="needs 10"):
        run.bind("a", np.zeros(9, np.float32))


def test_bound_arrays_are_used_in_place(cache):
    program = program_of(optim.sgd(8, 0.5))
    run = native(program, cache)
    mine = np.arange(8, dtype=np.float32)
    run.bind("k0_0", mine)
    run.buffers["k0_1"][:] = 2
    run()
    assert np.array_equal(mine, np.arange(8) - 1)


def test_numpy_and_native_agree_in_float32(cache):
    program = stacked(3)
    one, two = native(program, cache), program.interpret()
    for name, value in numbers(program, 6).items():
        one.buffers[name][:] = value
        two.buffers[name][:] = value.astype(np.float32)
    one.run(0, 3)
    two.run(0, 3)
    assert two.backend == "numpy" and one.backend == "native"
    assert worst(one, two) <= LIMIT


def test_back_propagation_through_policy_and_simulator(cache):
    """Five steps, checked against float64 differences of the whole rollout; the same step serves two horizons."""
    net, n = Mlp((STATES, 16, ACTIONS), "tanh", "tanh"), 6
    ahead, behind = forward_program(net, n), backward_program(net, n)
    params = net.init(np.random.default_rng(0)).astype(np.float64)
    start = flight_states(n, 4)

    def rollout(p: np.ndarray, horizon: int) -> tuple[float, np.ndarray]:
        run = twin64(ahead)
        run.buffers["params"][:] = p
        states = np.zeros((horizon + 1) * STATES * n)
        states[: start.size] = start
        run.buffers["states"] = states  # type: ignore[assignment]
        run.run(0, horizon)
        cost = 0.0
        for t in range(horizon):
            s = list(states[t * STATES * n : (t + 1) * STATES * n].reshape(STATES, n))
            h = np.stack(observe(s), axis=1)
            for w, b, _ in net.export(p):
                h = np.tanh(h @ w.T + b)
            cost += float(np.mean(quadratic_cost(s, list(h.T))))
        return cost, states

    for horizon in (1, 5):
        _, states = rollout(params, horizon)
        run = native(behind, cache)
        run.buffers["params"][:] = params
        run.bind("states", states.astype(np.float32))
        run.run(1 - horizon, 1)
        gradient = run.buffers["total"].astype(np.float64)
        direction = np.random.default_rng(1).standard_normal(net.count)
        for chosen in (direction, gradient):
            h = 1e-5 / np.linalg.norm(chosen)
            slope = (rollout(params + h * chosen, horizon)[0] - rollout(params - h * chosen, horizon)[0]) / (
                2 * h
            )
            assert gradient @ chosen == pytest.approx(slope, rel=2e-5, abs=1e-5 * np.linalg.norm(gradient))
