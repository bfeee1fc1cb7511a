"""Back-propagation through the simulator: exact gradients, equal back-ends, sound updates, the same bytes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flocklet.errors import ExportError
from flocklet.models.flight.sim.environment import State, observe, rotation
from flocklet.models.flight.sim.moving_targets import Mix, Paths
from flocklet.models.flight.sim.randomise import RANGES, draw
from flocklet.models.flight.sim.vehicle import CRAZYFLIE, NAMED, leaves, thrust_to_weight
from flocklet.models.flight.train import bptt
from flocklet.models.flight.train.bptt import Settings, Trainer
from flocklet.models.flight.train.bptt_programs import NET, Shape
from flocklet.models.flight.train.cost import Cost, step_cost
from flocklet.models.flight.train.recipes import fleet_of, parameters_of, policy_of, recipe
from flocklet.models.flight.train.time_step import look
from flocklet.models.flight.train.window import Flight, Programs, turn_weights

STEPS = 40  # longer than the history of 32 actions
Floats = Any


def set_up(flight: Flight, params: Floats, seed: int = 1) -> None:
    """Fill a flight with different vehicles, disturbances, moving targets, noise and histories."""
    rng = np.random.default_rng(seed)
    n = flight.shape.rows
    values = list(leaves(draw(rng, n, nominal=0.0)).values())[:24]
    for row, value in zip(flight.vehicles, values, strict=True):
        row[:] = value
    flight.disturbances[:3] = rng.normal(0, 0.013, (3, n))
    flight.disturbances[3:] = rng.normal(0, 2.6e-5, (3, n))
    flight.targets[:] = rng.normal(0, 0.02, flight.targets.shape)
    flight.noise[:] = rng.normal(0, 0.001, flight.noise.shape)
    bodies = np.zeros((17, n))
    bodies[:3] = rng.uniform(-0.3, 0.3, (3, n))
    attitude = np.array([[1.0]] * 1 + [[0.0]] * 3) + rng.normal(0, 0.3, (4, n))
    bodies[3:7] = attitude / np.linalg.norm(attitude, axis=0)
    bodies[7:13] = rng.uniform(-1, 1, (6, n))
    bodies[13:] = 10851 * rng.uniform(0.8, 1.2, (4, n))
    flight.put(slice(None), bodies, rng.uniform(-0.3, 0.3, (n, 32, 4)))
    flight.cost[:] = Cost(wall=300.0, inside=0.2).numbers()
    flight.use(params, turn_weights(params))


def parameters(dtype: Any = np.float64) -> Floats:
    rng = np.random.default_rng(0)
    params = NET.init(rng).astype(dtype)
    params[NET.layers[-1].bias :] = 0.3
    return params


@pytest.mark.parametrize("steps", [10, STEPS])
def test_the_adjoint_is_the_derivative(steps: int) -> None:
    """The gradient of a whole window with its history agrees with central differences of the float64 twin."""
    flight = Flight(Programs(Shape(4, STEPS, 32), is_native=False), np.float64)
    params = parameters()

    def total(at: Floats) -> float:
        flight.use(at, turn_weights(at))
        flight.fly(steps)
        return float(flight.costs[:steps].sum())

    set_up(flight, params)
    total(params)
    gradient = flight.gradient(steps).copy()
    rng = np.random.default_rng(5)
    first = NET.layers[0]
    directions = [rng.normal(size=params.size) for _ in range(3)]
    history = np.zeros(params.size)  # the weights of the oldest action of the history alone
    history[first.weights + 18 * 64 : first.weights + 22 * 64] = rng.normal(size=4 * 64)
    for direction in [*directions, history]:
        direction = direction / np.linalg.norm(direction)
        h = 1e-5
        numeric = (total(params + h * direction) - total(params - h * direction)) / (2 * h)
        assert abs(numeric) > 1e-6
        assert gradient @ direction == pytest.approx(numeric, rel=1e-6)


def test_a_gradient_without_the_history_is_wrong() -> None:
    """The control: leaving out what flows through the history of actions does not agree with central differences."""
    flight = Flight(Programs(Shape(4, STEPS, 32), is_native=False), np.float64)
    params = parameters()
    set_up(flight, params)
    flight.fly(STEPS)
    whole = flight.gradient(STEPS).copy()
    blind = params.copy()
    first = NET.layers[0]
    turned = turn_weights(params)
    without = turned[0].reshape(64, -1)
    without[:, 18:] = 0.0  # the backward pass sees no history, the forward pass did
    flight.use(params, [without.reshape(-1), *turned[1:]])
    flight.fly(STEPS)
    part = flight.gradient(STEPS)
    assert blind[first.weights] == params[first.weights]
    assert np.linalg.norm(part - whole) > 0.01 * np.linalg.norm(whole)


@pytest.mark.parametrize("lags", [8, 32])
def test_compiled_and_numpy_agree(lags: int) -> None:
    native = Programs(Shape(8, STEPS, lags))
    if native.backend != "native":
        pytest.skip("no C compiler on this machine")
    results = []
    for programs, dtype in (
        (native, np.float32),
        (Programs(Shape(8, STEPS, lags), is_native=False), np.float64),
    ):
        flight = Flight(programs, dtype)
        params = parameters(dtype)
        bptt.blind(params, lags)
        set_up(flight, params)
        cost = flight.fly(STEPS)
        results.append((cost, flight.gradient(STEPS).copy(), flight.states[STEPS].copy()))
    (cost, gradient, states), (cost64, gradient64, states64) = results
    assert cost == pytest.approx(cost64, rel=1e-4)
    assert np.linalg.norm(gradient - gradient64) < 1e-3 * np.linalg.norm(gradient64)
    np.testing.assert_allclose(states[:13], states64[:13], atol=2e-3)


def test_what_the_policy_sees_is_the_environments_observation() -> None:
    rng = np.random.default_rng(3)
    body = rng.normal(0, 0.3, (6, 17))
    body[:, 3:7] /= np.linalg.norm(body[:, 3:7], axis=1, keepdims=True)
    body[0, 0], body[1, 8] = 5.0, -7.0  # both clips act
    state = State(
        body,
        np.zeros((6, 3)),
        np.zeros((6, 3)),
        np.zeros((6, 32, 4)),
        np.zeros(6, np.int32),
        np.zeros(6, np.int32),
    )
    target = rng.normal(0, 0.2, (6, 6))
    wanted = observe(state, target=(target[:, :3], target[:, 3:]), clip=(0.6, 2.0))[:, :18]
    np.testing.assert_allclose(np.stack(look(list(body.T), list(target.T)), axis=1), wanted, atol=1e-12)
    np.testing.assert_allclose(wanted[:, 3:12], rotation(body[:, 3:7]))


def test_the_cost_is_that_of_the_specification() -> None:
    state = [0.5, -0.1, 0.2, 0.9, 0.1, 0.2, 0.3, 1.0, 0.5, -0.5, 0.1, 0.2, 0.3, *[10000.0] * 4]
    action, before = [0.1, 0.2, 0.3, 0.4], [0.0, 0.2, 0.3, 0.5]
    wanted = (
        4 * math.sqrt(0.30 + 1e-4)
        + 10 * 0.30
        + 0.3 * math.sqrt(1.5 + 1e-3)
        + 0.5 * (1 - 0.81)
        + 0.02 * math.sqrt(0.14 + 1e-2)
        + 0.05 * 0.02
        + 0.02 * sum((a - 0.334) ** 2 for a in action)
        + 500 * 0.05**2
    )
    assert step_cost(state, action, before, [0.0] * 6, Cost()) == pytest.approx(wanted)
    assert step_cost([9.0, *state[1:]], action, before, [0.0] * 6, Cost()) == 60.0


def test_velocities_of_moving_targets_are_derivatives() -> None:
    paths = Paths(40, Mix(eights=0.4, wanders=0.4), np.random.default_rng(0))
    everyone = np.arange(40)
    paths.renew(everyone)
    position, _ = paths.start(everyone)
    np.testing.assert_allclose(position, 0.0, atol=1e-12)  # every path starts where it hovers
    out = np.zeros((401, 6, 40))
    paths.targets(400, out)
    slope = (out[2:, :3] - out[:-2, :3]) / 0.02
    np.testing.assert_allclose(slope, out[1:-1, 3:], atol=5e-3)
    moving = np.abs(out[:, 3:]).max(axis=(0, 1)) > 0.05
    assert 0.5 < moving.mean() < 1.0
    before = out[-1].copy()
    paths.targets(10, out)
    np.testing.assert_allclose(out[0], before)  # windows join


def small(**changes: Any) -> Settings:
    """Return settings that the NumPy twins can run."""
    return replace(Settings(rows=4, threads=2, steps=10, longest=10, updates=4), **changes)


def trained(settings: Settings, updates: int) -> tuple[Trainer, list[bptt.Report]]:
    trainer = Trainer(settings, fleet_of(CRAZYFLIE), np.random.default_rng(3), is_native=False)
    reports = [trainer.update() for _ in range(updates)]
    trainer.close()
    return trainer, reports


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (trained(small(), 2)[0].params.tobytes() for _ in range(2))
    assert first == second
    other = Trainer(small(), fleet_of(CRAZYFLIE), np.random.default_rng(4), is_native=False)
    assert other.params.tobytes() != first
    other.close()


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_told() -> None:
    trainer, _ = trained(small(), 1)
    trainer._each = lambda work: [work(shard) for shard in trainer._shards]  # type: ignore[method-assign]
    moments = trainer._adam.buffers["first"].copy(), trainer._adam.buffers["second"].copy()
    before = trainer.params.copy()
    assert np.abs(moments[0]).max() > 0
    trainer._shards[0].flight.states[0, 0, 0] = np.nan
    report = trainer.update()
    assert not report.is_applied
    assert "skipped" in report.note
    assert trainer.params.tobytes() == before.tobytes()
    for name, moment in zip(("first", "second"), moments, strict=True):
        assert trainer._adam.buffers[name].tobytes() == moment.tobytes()
    assert trainer.update().is_applied  # the vehicle that was nowhere has been replaced


def test_training_that_diverges_goes_back_to_the_last_finite_state() -> None:
    trainer, _ = trained(small(), 1)
    trainer._each = lambda work: [work(shard) for shard in trainer._shards]  # type: ignore[method-assign]
    finite = trainer._kept[0].copy()
    trainer.params[:] = np.nan
    notes = [trainer.update().note for _ in range(3)]
    assert "last finite state" in notes[-1]
    assert trainer.params.tobytes() == finite.tobytes()
    assert trainer.update().is_applied


def test_following_the_gradient_lowers_the_cost_and_against_it_raises_it() -> None:
    flight = Flight(Programs(Shape(8, STEPS, 32)))
    start = parameters(np.float32)
    costs = {}
    for sign in (-1.0, 1.0):
        params = start.copy()
        costs[sign] = []
        for _ in range(4):
            set_up(flight, params)
            costs[sign].append(flight.fly(STEPS))
            gradient = flight.gradient(STEPS)
            params += np.float32(sign * 0.02 / np.linalg.norm(gradient)) * gradient
    assert costs[-1.0] == sorted(costs[-1.0], reverse=True)
    assert costs[1.0] == sorted(costs[1.0])


def test_policies_go_in_and_out() -> None:
    params = bptt.fresh_params(np.random.default_rng(0))
    policy = policy_of(params)
    assert policy.sizes == (146, 64, 64, 4)
    np.testing.assert_array_equal(parameters_of(policy), params)
    with pytest.raises(ExportError, match="fast_tanh"):
        parameters_of(type(policy)(tuple((w, b, "tanh") for w, b, _ in policy.layers)))


def test_a_policy_of_few_lags_ignores_the_old_actions() -> None:
    params = bptt.fresh_params(np.random.default_rng(0))
    bptt.blind(params, 8)
    seen = np.random.default_rng(1).normal(size=(3, 146)).astype(np.float32)
    changed = seen.copy()
    changed[:, 18 : 18 + 24 * 4] = 9.0
    np.testing.assert_array_equal(policy_of(params)(seen), policy_of(params)(changed))
    changed[:, 18 + 24 * 4] += 1.0
    assert np.abs(policy_of(params)(seen) - policy_of(params)(changed)).max() > 0


def test_every_range_has_a_source_and_is_kept() -> None:
    for name, found in RANGES.items():
        assert found.source, name
        assert found.low < found.high
    fleet = draw(np.random.default_rng(0), 2000)
    nominal = np.isclose(np.asarray(fleet.mass), CRAZYFLIE.mass) & np.isclose(np.asarray(fleet.lag_up), 0.15)
    assert 0.2 < nominal.mean() < 0.3
    ratio = np.asarray(thrust_to_weight(fleet))[~nominal]
    limits = RANGES["thrust_to_weight"]
    assert limits.low * 0.999 <= ratio.min() < ratio.max() <= limits.high * 1.001
    for name, found in (
        ("mass", RANGES["mass"]),
        ("lag_up", RANGES["lag_up"]),
        ("lag_down", RANGES["lag_down"]),
    ):
        values = np.asarray(getattr(fleet, name))[~nominal]
        assert found.low * 0.999 <= values.min() < values.max() <= found.high * 1.001


@pytest.mark.parametrize("task", ["hover", "track", "recover"])
def test_every_task_has_a_recipe(task: str) -> None:
    settings = recipe(task)
    assert settings.steps % 10 == 0
    assert settings.steps <= settings.longest
    assert recipe(task, is_fleet=True).cost.effort == 0.0
    assert set(NAMED) >= {"crazyflie", "l2f-2025"}
