"""Bodies over any number: tracing, evaluation, adjoints against float64 finite differences."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.kernels.body import dsl
from flocklet.kernels.body.adjoint import adjoint, adjoint_of
from flocklet.kernels.body.expr import NumpyArithmetic, trace
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle, step

F64 = NumpyArithmetic(np.float64)


def flight_body(s, a):
    return step(s, a)


def flight_point(rng: np.random.Generator) -> np.ndarray:
    q = rng.standard_normal(4) + np.array([2.0, 0, 0, 0])
    rpm = rng.uniform(9000, 15000, 4)
    return np.concatenate(
        [rng.uniform(-1, 1, 3), q / np.linalg.norm(q), rng.uniform(-1, 1, 6), rpm, rng.uniform(-0.9, 0.9, 4)]
    )


def finite_difference(f, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the Jacobian (outputs, inputs) by central differences of order 4."""
    columns = []
    for i in range(len(x)):
        h = 1e-3 * scale[i]
        parts = []
        for k in (1, -1, 2, -2):
            y = x.copy()
            y[i] += k * h
            parts.append(np.array(f(y), np.float64))
        columns.append((8 * (parts[0] - parts[1]) - (parts[2] - parts[3])) / (12 * h))
    return np.stack(columns, axis=1)


def test_a_traced_simulator_step_is_the_step():
    graph = trace(flight_body, STATES, ACTIONS)
    x = flight_point(np.random.default_rng(0))
    direct = step(list(x[:STATES]), list(x[STATES:]))
    assert np.allclose(graph.evaluate(list(x), F64), direct, rtol=1e-13)
    assert 500 < graph.cost() < 800


def test_the_adjoint_of_the_simulator_matches_finite_differences():
    graph = trace(flight_body, STATES, ACTIONS)
    back = adjoint(graph)
    scale = np.array([1.0] * 13 + [1e4] * 4 + [1.0] * 4)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = flight_point(rng)
        jacobian = finite_difference(lambda y: graph.evaluate(list(y), F64), x, scale)
        seed_vector = rng.standard_normal(STATES) / scale[:STATES]
        got = np.array(back.evaluate([*x, *seed_vector], F64)) * scale
        want = (seed_vector @ jacobian) * scale
        assert np.abs(got - want).max() <= 1e-7 * np.abs(want).max()


def test_an_adjoint_with_a_wrong_sign_would_be_caught():
    back = adjoint_of(lambda x: [x[0] * x[0]], 1)
    wrong = adjoint_of(lambda x: [-(x[0] * x[0])], 1)
    jacobian = finite_difference(lambda y: [y[0] * y[0]], np.array([1.3]), np.ones(1))
    assert np.isclose(back.evaluate([1.3, 1.0], F64)[0], jacobian[0, 0], rtol=1e-9)
    assert not np.isclose(wrong.evaluate([1.3, 1.0], F64)[0], jacobian[0, 0], rtol=1e-9)


SMOOTH = {
    "tanh": dsl.tanh,
    "sigmoid": dsl.sigmoid,
    "fast_tanh": dsl.fast_tanh,
    "exp": dsl.exp,
    "cos": dsl.cos,
    "log": lambda x: dsl.log(x * x + 0.5),
    "sqrt": lambda x: dsl.sqrt(x * x + 0.5),
    "ratio": lambda x: (x + 1.0) / (x * x + 2.0) - 3.0 / (x * x + 1.0),
}


@given(name=st.sampled_from(sorted(SMOOTH)), x=st.floats(-2.9, 2.9))
@settings(max_examples=120, deadline=None)
def test_derivatives_of_every_function(name, x):
    body = SMOOTH[name]
    graph = adjoint_of(lambda v: [body(v[0])], 1)
    want = finite_difference(lambda y: [body(np.float64(y[0]))], np.array([x]), np.array([1.0]))[0, 0]
    assert graph.evaluate([np.float64(x), 1.0], F64)[0] == pytest.approx(want, rel=1e-7, abs=1e-8)


def test_kinks_take_the_branch_that_was_taken():
    graph = adjoint_of(lambda v: [dsl.relu(v[0]) + dsl.where(v[0] < 1.0, v[0] * 2.0, v[0] * 5.0)], 1)
    assert [graph.evaluate([x, 1.0], F64)[0] for x in (-1.0, 0.5, 3.0)] == [2.0, 3.0, 6.0]


def test_functions_match_numpy_where_they_saturate():
    x = np.array([-1e4, -90.0, -3.0, 0.0, 3.0, 90.0, 1e4])
    assert np.allclose(dsl.tanh(x), np.tanh(x), atol=1e-15)
    assert np.allclose(dsl.sigmoid(np.array([-80.0, 0, 80.0])), [0, 0.5, 1], atol=1e-15)
    assert list(dsl.fast_tanh(np.array([-50.0, 50.0]))) == [-1.0, 1.0]


def test_motor_lag_may_differ_up_and_down():
    vehicle = Vehicle(lag_up=0.1, lag_down=0.3)
    state = [0.0] * 3 + [1.0, 0, 0, 0] + [0.0] * 6 + [10000.0] * 4
    up = step(state, [1.0] * 4, vehicle=vehicle)[13] - 10000.0
    down = 10000.0 - step(state, [-1.0] * 4, vehicle=vehicle)[13]
    assert up == pytest.approx(11702 * (1 - np.exp(-0.1)), rel=1e-4)
    assert down == pytest.approx(10000 * (1 - np.exp(-0.01 / 0.3)), rel=1e-4)


def test_a_digest_names_the_computation_and_is_the_same_in_another_process():
    code = (
        "from flocklet.kernels.body.expr import trace\n"
        "from flocklet.models.flight.sim.dynamics import step\n"
        "print(trace(lambda s, a: step(s, a), 17, 4).digest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == trace(flight_body, STATES, ACTIONS).digest()
    assert trace(lambda x: [x[0] + 1.0], 1).digest() != trace(lambda x: [x[0] + 1.5], 1).digest()


def test_tracing_and_differentiating_load_no_tinygrad():
    code = (
        "import sys\n"
        "from flocklet.kernels.actor_critic import td3_program\n"
        "td3_program().interpret()()\n"
        "assert not any(m.startswith('tinygrad') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
