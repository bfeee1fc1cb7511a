"""The flight environment is the paper's: golden transitions, initial states, endings, rewards, observations."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from flocklet.models.flight.sim import dynamics
from flocklet.models.flight.sim import environment as env
from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.vehicle import L2F_2025, rows, stack

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PARTS = {"np": (0, 3), "nq": (3, 7), "nv": (7, 10), "nw": (10, 13), "nrpm": (13, 17)}


def resting(n: int = 1, dtype: type = np.float32, vehicle: Vehicle = CRAZYFLIE) -> env.State:
    calm = env.Options(guided=1.0, velocity_m_s=0.0, rate_rad_s=0.0, disturbance=0.0)
    return env.reset(np.random.default_rng(0), n, vehicle, calm, dtype=dtype)


def moved(state: env.State, **columns: float | list[float]) -> env.State:
    """Return the state with columns of the body set by name: p0, q3, v, r, ..."""
    first = {"p": 0, "q": 3, "v": 7, "w": 10, "r": 13}
    size = {"p": 3, "q": 4, "v": 3, "w": 3, "r": 4}
    body = state.body.copy()
    for name, value in columns.items():
        start = first[name[0]]
        where = start + int(name[1]) if name[1:] else slice(start, start + size[name[0]])
        body[:, where] = value
    return dataclasses.replace(state, body=body)


HOVER = np.full((1, 4), 0.334053)


@BOTH
@pytest.mark.parametrize("form", ["numbers", "one row", "a row each"])
def test_golden_transitions(golden_flights, dtype, form):
    def take(*keys: str) -> np.ndarray:
        return np.concatenate(
            [np.array([line[key] for line in golden_flights], dtype) for key in keys], axis=1
        )

    n = len(golden_flights)
    state = env.State(
        take("p", "q", "v", "w", "rpm"),
        take("force"),
        take("torque"),
        take("hist").reshape(n, 32, 4),
        np.zeros(n, np.int32),
        np.zeros(n, np.int32),
    )
    vehicles = {
        "numbers": CRAZYFLIE,
        "one row": stack([CRAZYFLIE], dtype),
        "a row each": stack([CRAZYFLIE] * n, dtype),
    }[form]
    step = env.step(state, take("action"), vehicles, env.START_WEIGHTS)
    assert step.state.body.dtype == step.reward.dtype == dtype
    for key, (start, stop) in PARTS.items():
        wanted, found = take(key), step.state.body[:, start:stop]
        apart = np.abs(found - wanted).max(axis=1) / (np.abs(wanted).max(axis=1) + 1e-3)
        assert apart.max() <= 1e-5, key
    np.testing.assert_allclose(env.observe(step.state), take("obs"), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        env.observe_privileged(step.state, vehicles), take("obs_priv"), rtol=0, atol=1e-5
    )
    wanted = np.array([[line["reward"], line["reward_target"]] for line in golden_flights])
    harder = env.step(state, take("action"), vehicles, env.TARGET_WEIGHTS)
    np.testing.assert_allclose(np.stack([step.reward, harder.reward], 1), wanted, rtol=0, atol=1e-5)
    assert not step.terminated.any()
    assert not any(line["terminated"] for line in golden_flights)


def test_other_dynamics_miss_the_golden_transitions(golden_flights):
    """The control: another mass, and motors in another order."""
    line = golden_flights[1]
    body = np.array([[*line["p"], *line["q"], *line["v"], *line["w"], *line["rpm"]]])
    action = np.array([line["action"]])
    parts = np.array([line["force"]]), np.array([line["torque"]])
    right = env.advance(body, action, CRAZYFLIE, *parts)
    heavy = env.advance(body, action, dataclasses.replace(CRAZYFLIE, mass=0.028), *parts)
    swapped = env.advance(body, action[:, [1, 0, 2, 3]], CRAZYFLIE, *parts)
    for wrong, name in ((heavy, "nv"), (swapped, "nw")):
        start, stop = PARTS[name]
        wanted = np.array(line[name])
        assert np.abs(right[0, start:stop] - wanted).max() / np.abs(wanted).max() < 1e-5
        assert np.abs(wrong[0, start:stop] - wanted).max() / np.abs(wanted).max() > 1e-4


@BOTH
def test_the_wide_step_is_the_step_of_the_kernels(dtype):
    """`blocks.advance` and `dynamics.step` are one model; asymmetric motor lag, linear thrust, negative q_w, per row."""
    rng = np.random.default_rng(3)
    vehicles = stack([CRAZYFLIE, L2F_2025] * 8, dtype)
    state = env.reset(rng, 16, vehicles, dtype=dtype)
    state = dataclasses.replace(state, body=state.body * np.where(np.arange(17) == 3, -1, 1).astype(dtype))
    action = rng.uniform(-1, 1, (16, 4)).astype(dtype)
    before = state.body.copy()
    wide = env.advance(state.body, action, vehicles, state.force, state.torque)
    columns = [list(part.T) for part in (state.body, action, state.force, state.torque)]
    plain = dynamics.step(columns[0], columns[1], 0.01, vehicles, *columns[2:])
    np.testing.assert_allclose(
        wide, np.stack(plain, 1), rtol=3e-5 if dtype == np.float32 else 1e-12, atol=1e-6
    )
    np.testing.assert_array_equal(state.body, before)
    assert (wide[:, 3] < 0).all()  # no change of sign of the quaternion


@pytest.mark.parametrize("n", [1, 2])
def test_a_step_changes_nothing_that_it_was_given(n):
    state = env.reset(np.random.default_rng(0), n, CRAZYFLIE)
    kept = {name: getattr(state, name).copy() for name in state.__dataclass_fields__}
    env.step(state, np.full((n, 4), 2.0), CRAZYFLIE)
    for name, value in kept.items():
        np.testing.assert_array_equal(getattr(state, name), value)


def test_motors_rise_and_fall_with_their_own_lag():
    """By hand: from 50 %, one step towards 1 and 0 with lags of 0.055 s and 0.249 s."""
    state = resting(vehicle=L2F_2025, dtype=np.float64)
    up = env.step(state, np.ones((1, 4)), L2F_2025).state.body[0, 13]
    down = env.step(state, -np.ones((1, 4)), L2F_2025).state.body[0, 13]
    assert up == pytest.approx(1 - 0.5 * np.exp(-0.01 / L2F_2025.lag_up), abs=1e-6)
    assert down == pytest.approx(0.5 * np.exp(-0.01 / L2F_2025.lag_down), abs=1e-6)


def test_initial_states_are_the_papers():
    n = 40_000
    state = env.reset(np.random.default_rng(1), n, CRAZYFLIE)
    body = state.body.astype(np.float64)
    guided = (body[:, 0:3] == 0).all(axis=1) & (body[:, 3] == 1)
    assert guided.mean() == pytest.approx(0.1, abs=0.006)
    free = body[~guided]
    assert np.abs(free[:, 0:3]).max() <= 0.2
    assert free[:, 0:3].std(axis=0) == pytest.approx(0.2 / np.sqrt(3), rel=0.02)
    assert free[:, 3].min() >= np.cos(0.785) - 1e-6
    angle = 2 * np.arccos(free[:, 3])
    most = 90 / 180 * 3.14
    grid = np.linspace(0.1, most, 12)  # the law of Shoemake's draw, rejected beyond the limit
    wanted = (grid - np.sin(grid)) / (most - np.sin(most))
    np.testing.assert_allclose([(angle <= a).mean() for a in grid], wanted, atol=0.01)
    assert np.abs(free[:, 4:7].mean(axis=0)).max() < 0.01
    for columns in (slice(7, 10), slice(10, 13)):
        assert np.abs(body[:, columns]).max() <= 1.0
        assert body[:, columns].std(axis=0) == pytest.approx(1 / np.sqrt(3), rel=0.02)
    assert (body[:, 13:] == 10851).all()
    assert (state.history == 0).all()
    assert state.force[guided].std(axis=0) == pytest.approx(0.01324, rel=0.05)
    assert state.force.std(axis=0) == pytest.approx(0.01324, rel=0.02)
    assert state.torque.std(axis=0) == pytest.approx(2.649e-5, rel=0.02)


def test_the_attitudes_are_those_of_shoemakes_draw_with_rejection():
    """The control for the law of the angle: draw and reject as the paper's code does."""
    u = np.random.default_rng(2).random((200_000, 3))
    w = np.sqrt(1 - u[:, 0]) * np.sin(2 * np.pi * u[:, 1])
    kept = 2 * np.arccos(w[2 * np.arccos(w) <= 90 / 180 * 3.14])
    drawn = env.reset(np.random.default_rng(3), 20_000, CRAZYFLIE, env.Options(guided=0.0)).body[:, 3]
    for share in (0.1, 0.5, 0.9):
        assert np.quantile(2 * np.arccos(drawn), share) == pytest.approx(np.quantile(kept, share), abs=0.02)


def test_the_same_seed_gives_the_same_bytes():
    first, second = (env.reset(np.random.default_rng(5), 64, CRAZYFLIE) for _ in range(2))
    other = env.reset(np.random.default_rng(6), 64, CRAZYFLIE)
    assert first.body.tobytes() == second.body.tobytes() != other.body.tobytes()


@pytest.mark.parametrize(("place", "ends"), [(0.5999, False), (0.601, True), (-0.601, True), (np.nan, True)])
def test_leaving_the_box_terminates_without_reward(place, ends):
    step = env.step(moved(resting(), p1=place), HOVER, CRAZYFLIE)
    assert step.terminated[0] == ends
    assert not step.truncated[0]
    assert (step.reward[0] == 0) == ends


def test_the_box_is_closed_and_is_asked_after_the_step():
    body = np.zeros((2, 17), np.float32)
    body[:, 0] = 0.6, np.nextafter(np.float32(0.6), np.float32(1))
    assert env.is_lost(body, float(np.float32(0.6))).tolist() == [False, True]
    inside = moved(resting(), p0=0.599, v0=0.5)
    assert env.step(inside, HOVER, CRAZYFLIE).terminated[0]
    outside = moved(resting(), p0=0.601, v0=-0.5)
    assert not env.step(outside, HOVER, CRAZYFLIE).terminated[0]


def test_time_truncates_and_the_value_goes_on():
    """At 500 steps an episode is truncated, not terminated: its value target bootstraps."""
    state = dataclasses.replace(resting(2), time=np.array([498, 499], np.int32))
    step = env.step(state, np.repeat(HOVER, 2, 0), CRAZYFLIE)
    assert step.truncated.tolist() == [False, True]
    assert step.terminated.tolist() == [False, False]
    assert (step.reward > 0).all()
    late_and_lost = env.step(moved(state, p0=1.0), np.repeat(HOVER, 2, 0), CRAZYFLIE)
    assert late_and_lost.terminated.all()
    assert not late_and_lost.truncated.any()


def test_rotor_speeds_stay_in_range():
    state = moved(resting(2), r=np.array([[21702.0] * 4, [0.0] * 4])[0].tolist())
    assert env.step(state, np.full((2, 4), 5.0), CRAZYFLIE).state.body[:, 13:].max() <= 21702
    quick = dataclasses.replace(
        CRAZYFLIE, lag_up=0.0045, lag_down=0.0045
    )  # RK4 overshoots: only the clamp holds it
    falling = env.step(moved(resting(), r=21702.0), np.full((1, 4), -5.0), quick).state.body[:, 13:]
    assert (falling >= 0).all()


def test_noise_is_fresh_at_every_read_and_not_on_the_history():
    state = env.reset(np.random.default_rng(0), 20_000, CRAZYFLIE)
    state = dataclasses.replace(state, history=state.history + np.float32(0.25))
    rng = np.random.default_rng(1)
    clean, first, second = env.observe(state), env.observe(state, rng), env.observe(state, rng)
    assert (first[:, :18] != second[:, :18]).mean() > 0.99
    np.testing.assert_array_equal(first[:, 18:], clean[:, 18:])
    apart = (first - clean)[:, :18].astype(np.float64).std(axis=0)
    np.testing.assert_allclose(apart, [0.001] * 12 + [0.002] * 6, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef((first - clean)[:, 0], (second - clean)[:, 0])[0, 1], 0, atol=0.03)


def test_a_full_history_is_oldest_first():
    state = resting()
    for turn in range(40):
        state = env.step(state, np.full((1, 4), turn / 100), CRAZYFLIE).state
    seen = env.observe(state)[0, 18:].reshape(32, 4)
    np.testing.assert_allclose(seen[:, 0], np.arange(8, 40) / 100, rtol=1e-6)


def test_rewards_can_be_recomputed_bit_for_bit():
    """The replay keeps states, not rewards: after a curriculum step all are the function of what is stored."""
    rng, weights = np.random.default_rng(4), env.START_WEIGHTS
    state = env.reset(rng, 256, CRAZYFLIE, env.Options(position_m=0.7))
    action = rng.uniform(-1, 1, (256, 4)).astype(np.float32)
    for _ in range(4):
        weights = env.harder(weights)
        step = env.step(state, action, CRAZYFLIE, weights)
        again = env.reward(state.body, action, step.state.body, weights)
        assert again.tobytes() == step.reward.tobytes()
    assert step.terminated.any()
    assert weights.position == pytest.approx(5 * 1.2**4)


def test_the_curriculum_ends_where_the_paper_says():
    weights = env.harder(env.harder(env.START_WEIGHTS))  # 300,000 steps: two changes
    assert weights == pytest.approx((7.2, 5, 0.0196, 0.0196))
    for _ in range(60):
        weights = env.harder(weights)
    assert weights == env.TARGET_WEIGHTS


def test_a_reward_by_hand():
    state = moved(resting(dtype=np.float64), p=[0.1, 0, 0], v=[0, 1, 0], q=[0.8, 0.6, 0, 0])
    action = np.array([[0.334, 0.334, 0.334, 0.434]])
    cost = 40 * 0.01 + 5 * 0.36 + 1 * 1 + 1 * 0.01
    assert env.step(state, action, CRAZYFLIE).reward[0] == pytest.approx(2 - cost / 2)
    clipped = env.step(state, np.array([[3.0] * 4]), CRAZYFLIE).reward[0]
    assert clipped == pytest.approx(2 - (cost - 0.01 + 4 * 0.666**2) / 2)


def test_replacing_rows_keeps_the_others_and_the_level():
    vehicles = stack([CRAZYFLIE, L2F_2025, CRAZYFLIE])
    state = env.reset(np.random.default_rng(0), 3, vehicles, level=np.array([7, 8, 9], np.int32))
    assert state.body[1, 13] == 0.5
    mask = np.array([False, True, False])
    fresh = env.reset(np.random.default_rng(1), 1, rows(vehicles, mask), level=11)
    swapped = env.replace(env.step(state, np.zeros((3, 4)), vehicles).state, mask, fresh)
    assert swapped.level.tolist() == [7, 11, 9]
    assert swapped.time.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(swapped.body[1], fresh.body[0])
