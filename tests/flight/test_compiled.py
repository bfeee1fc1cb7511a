"""The compiled environment is the NumPy environment: golden transitions, every turn, ends, resets, noise, seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flocklet.models.flight.sim import environment as env
from flocklet.models.flight.sim.compiled import FRESH_TURNS, Layout, rk4_program
from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.simulator import Simulator
from flocklet.models.flight.sim.task import Settings, vehicle_from, vehicle_numbers
from flocklet.models.flight.sim.vehicle import L2F_2025, stack
from kit.kernel_runs import compiler

N = 64
PARTS = ((0, 3), (3, 7), (7, 10), (10, 13), (13, 17))
BACKENDS = pytest.mark.parametrize("backend", ["native", "numpy"])


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCKLET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def simulator(seed: int = 0, backend: str = "native", n: int = N, **more) -> Simulator:
    made = Simulator(
        n, np.random.default_rng(seed), compilers=[compiler()] if backend == "native" else [], **more
    )
    assert made.backend == backend
    return made


def quiet() -> Settings:
    return Settings().quiet()


def put(sim: Simulator, state: env.State) -> None:
    sim.body[:], sim.force[:], sim.torque[:] = state.body, state.force, state.torque
    sim.age[:], sim.history[:] = state.time, state.history.reshape(len(state), -1)


def state_of(sim: Simulator, dtype: type = np.float64) -> env.State:
    return env.State(
        sim.body.astype(dtype),
        sim.force.astype(dtype),
        sim.torque.astype(dtype),
        sim.history.astype(dtype).reshape(sim.n, env.HISTORY, 4),
        sim.age.astype(np.int32),
        np.zeros(sim.n, np.int32),
    )


def far(got: np.ndarray, want: np.ndarray) -> float:
    """Return the worst part of a state as the golden file measures it."""
    worst = 0.0
    for a, b in PARTS:
        scale = np.abs(want[:, a:b]).max(axis=1) + 1e-3
        worst = max(worst, float((np.abs(got[:, a:b] - want[:, a:b]).max(axis=1) / scale).max()))
    return worst


@pytest.fixture(scope="module")
def golden(golden_flights: list[dict[str, list[float]]]) -> dict[str, np.ndarray]:
    return {key: np.array([line[key] for line in golden_flights], np.float32) for key in golden_flights[0]}


@BACKENDS
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3)])
def test_golden_transitions(golden, backend, order):
    sim = simulator(backend=backend, settings=quiet())
    sim.body[:] = np.hstack([golden[key] for key in ("p", "q", "v", "w", "rpm")])
    sim.force[:], sim.torque[:], sim.history[:] = golden["force"], golden["torque"], golden["hist"]
    sim.action[:] = golden["action"][:, order]
    sim.advance()
    want = np.hstack([golden[key] for key in ("np", "nq", "nv", "nw", "nrpm")])
    if order != (0, 1, 2, 3):
        assert far(sim.body, want) > 1e-3  # control: two motors swapped is not the same vehicle
        return
    assert far(sim.body, want) <= 1e-5
    assert np.abs(np.hstack([sim.after, sim.history]) - golden["obs"]).max() <= 1e-5
    assert np.abs(sim.privileged - golden["obs_priv"]).max() <= 1e-5
    assert np.abs(sim.reward - golden["reward"]).max() <= 1e-5
    np.testing.assert_array_equal(sim.terminated, golden["terminated"])
    sim.configure(Settings.of(env.TARGET_WEIGHTS).quiet())
    sim.body[:] = np.hstack([golden[key] for key in ("p", "q", "v", "w", "rpm")])
    sim.action[:] = golden["action"]
    sim.advance()
    assert np.abs(sim.reward - golden["reward_target"]).max() <= 1e-5


def odd_vehicle() -> Vehicle:
    return stack([CRAZYFLIE, L2F_2025] * (N // 2))


@pytest.mark.parametrize("kind", ["one vehicle", "a vehicle per row"])
def test_every_turn_is_the_environments(kind):
    vehicle = CRAZYFLIE if kind == "one vehicle" else odd_vehicle()
    sim = simulator(1, vehicle=vehicle, settings=Settings.of(env.TARGET_WEIGHTS).quiet(), capacity=16)
    rng = np.random.default_rng(2)
    exact = vehicle_from([np.asarray(x, np.float64) for x in vehicle_numbers(vehicle)])
    if kind == "one vehicle":
        exact = CRAZYFLIE
    ended = 0
    for turn in range(60):
        before = state_of(sim)
        if turn == 20:
            sim.body[:, 13:] = np.where(rng.random((N, 4)) < 0.5, 0.01, 0.999) * np.reshape(
                vehicle.rpm_max, (-1, 1)
            )
            before = state_of(sim)
        action = rng.uniform(-1.3, 1.3, (N, 4)).astype(np.float32)
        sim.action[:] = action
        sim.advance()
        want = env.step(before, action.astype(np.float64), exact, env.TARGET_WEIGHTS)
        assert far(sim.body, want.state.body) <= 1e-5
        np.testing.assert_array_equal(sim.history, want.state.history.reshape(N, -1).astype(np.float32))
        assert np.abs(sim.reward - want.reward).max() <= 1e-4 * max(1.0, np.abs(want.reward).max())
        seen = np.hstack([sim.after, sim.history])
        np.testing.assert_allclose(seen, env.observe(want.state), rtol=1e-5, atol=1e-5)
        privileged = env.observe_privileged(want.state, exact)
        np.testing.assert_allclose(sim.privileged, privileged, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(sim.terminated > 0, want.terminated)
        np.testing.assert_array_equal(sim.truncated > 0, want.truncated)
        ended += int(want.terminated.sum())
        kept = ~(want.terminated | want.truncated)
        after = sim.body.copy()
        sim.renew()
        np.testing.assert_array_equal(sim.body[kept], after[kept])
        np.testing.assert_array_equal(sim.history[~kept], 0.0)
        np.testing.assert_array_equal(sim.age[~kept], 0.0)
        assert (np.abs(sim.body[~kept, :3]) <= 0.2).all()
        np.testing.assert_array_equal(
            sim.history[kept], want.state.history.reshape(N, -1).astype(np.float32)[kept]
        )
        assert np.abs(sim.core - env.observe(state_of(sim))[:, :18]).max() <= 1e-5
    assert ended > N / 2  # the walk above met resets


@BACKENDS
def test_an_episode_ends_outside_the_box_or_after_500_steps(backend):
    sim = simulator(backend=backend, settings=quiet())
    sim.body[:, 0:13], sim.force[:], sim.torque[:] = 0.0, 0.0, 0.0
    sim.body[:, 3] = 1.0
    sim.body[0, 0], sim.body[1, 1], sim.body[2, 2] = 0.6, -0.6000001, 0.61
    sim.body[3, 7], sim.body[3, 0] = 1.0, 0.595  # leaves during the step
    sim.body[4, 0] = np.nan
    sim.age[:] = 498
    sim.age[5:7] = 499
    sim.body[6, 0] = 0.7
    sim.action[:] = 0.334
    sim.advance()
    lost = [1, 2, 3, 4, 6]
    np.testing.assert_array_equal(np.flatnonzero(sim.terminated), lost)
    np.testing.assert_array_equal(np.flatnonzero(sim.truncated), [5])
    np.testing.assert_array_equal(sim.reward[lost], 0.0)
    assert (np.delete(sim.reward, lost) > 0).all()
    sim.renew()
    assert np.isfinite(sim.body).all() and (sim.age[lost] == 0).all() and (sim.age[7:] == 499).all()


def test_fresh_states_have_the_papers_distribution():
    sim = simulator(3)
    bodies, pushes = [], []
    for _ in range(150):
        sim.reset()
        bodies.append(sim.body.copy())
        pushes.append(np.hstack([sim.force / CRAZYFLIE.force_scale, sim.torque / CRAZYFLIE.torque_scale]))
    body, push = np.concatenate(bodies).astype(np.float64), np.concatenate(pushes).astype(np.float64)
    count = len(body)
    guided = (body[:, 0:3] == 0).all(axis=1)
    assert abs(guided.mean() - 0.1) < 4 * np.sqrt(0.09 / count)
    np.testing.assert_allclose(body[guided, 3:7], [[1, 0, 0, 0]] * guided.sum(), atol=1e-6)
    free = body[~guided]
    assert np.abs(free[:, :3]).max() <= 0.2 and abs(free[:, :3].std() - 0.2 / 3**0.5) < 0.002
    np.testing.assert_allclose(np.linalg.norm(free[:, 3:7], axis=1), 1.0, atol=2e-6)
    assert free[:, 3].min() >= np.cos(0.785) - 1e-6
    angle = 2 * np.arccos(np.clip(free[:, 3], -1, 1))
    share = (angle - np.sin(angle)) / (1.57 - np.sin(1.57))  # uniform in [0, 1] if the density is 1 - cos
    ordered = np.sort(share)
    assert np.abs(ordered - np.arange(1, len(ordered) + 1) / len(ordered)).max() < 1.95 / len(ordered) ** 0.5
    axis = free[:, 4:7] / np.linalg.norm(free[:, 4:7], axis=1, keepdims=True)
    assert np.abs(axis.mean(axis=0)).max() < 4 / np.sqrt(3 * len(free))
    assert np.abs((axis**2).mean(axis=0) - 1 / 3).max() < 0.02
    assert np.abs(body[:, 7:13]).max() <= 1 and abs(body[:, 7:13].std() - 3**-0.5) < 0.01
    np.testing.assert_allclose(body[:, 13:], 10851.0)
    assert np.abs(push.std(axis=0) - 1).max() < 4 / np.sqrt(2 * count)
    assert np.abs(np.corrcoef(push.T) - np.eye(6)).max() < 5 / np.sqrt(count)


def test_noise_is_drawn_anew_at_every_read():
    sim = simulator(4)
    first, second = [], []
    for _ in range(100):
        sim.action[:] = 0.334
        sim.advance()
        clean = env.observe(state_of(sim))[:, :18]
        first.append(sim.after - clean)
        sim.terminated[:], sim.truncated[:] = 0.0, 0.0
        sim.renew()
        second.append(sim.core - clean)
    a, b = np.concatenate(first), np.concatenate(second)
    for noise in (a, b):
        assert np.abs(noise.std(axis=0) / np.array(env.NOISE) - 1).max() < 5 / np.sqrt(2 * len(noise))
        assert np.abs(noise.mean(axis=0) / np.array(env.NOISE)).max() < 5 / np.sqrt(len(noise))
    for i in range(18):
        assert abs(np.corrcoef(a[:, i], b[:, i])[0, 1]) < 5 / np.sqrt(len(a))
        assert abs(np.corrcoef(a[:-N, i], a[N:, i])[0, 1]) < 5 / np.sqrt(len(a))


def flown(sim: Simulator, turns: int, seed: int, *, at_once: int = 1) -> bytes:
    """Fly open loop; return the bytes of everything a learner sees."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (turns, N, 4)).astype(np.float32)
    out = []
    for t in range(0, turns, at_once):
        plan = actions[t : t + at_once, sim_rows(sim)]
        sim.plan(at_once)[:] = plan.transpose(0, 2, 1)
        sim.turn(at_once)
        out.append(np.hstack([sim.body, sim.core, sim.after, sim.privileged, sim.history]).copy())
    return np.concatenate(out[-1:]).tobytes()


def sim_rows(sim: Simulator) -> slice:
    return slice(sim.first_row, sim.first_row + sim.n)


def test_same_seed_same_bytes_however_the_turns_are_cut():
    want = flown(simulator(5), 48, 6)
    assert flown(simulator(5), 48, 6) == want
    assert flown(simulator(5, capacity=8), 48, 6, at_once=6) == want
    assert flown(simulator(7), 48, 6) != want  # control: another seed
    halves = [simulator(5, n=N // 2, first_row=first) for first in (0, N // 2)]
    assert b"".join(flown(half, 48, 6) for half in halves) == want


def test_a_turn_is_advance_then_renew():
    one, two = simulator(8), simulator(8)
    rng = np.random.default_rng(9)
    for _ in range(3 * FRESH_TURNS):
        action = rng.uniform(-1, 1, (N, 4))
        one.action[:], two.action[:] = action, action
        one.turn()
        two.advance()
        two.renew()
        np.testing.assert_array_equal(one.observe(), two.observe())
        np.testing.assert_array_equal(one.privileged, two.privileged)


def test_rigid_body_steps_at_held_rotor_speeds():
    n, steps = 32, 16
    at, run = Layout.of(n), rk4_program(n, steps).compile(compilers=[compiler()])
    state = env.reset(np.random.default_rng(0), n, CRAZYFLIE, dtype=np.float64)
    rpm = np.full((n, 4), 14476.0)
    body = run.buffers["body"].reshape(13, at.stride)
    body[:, :n] = state.body[:, :13].T
    run.buffers["held"].reshape(4, at.stride)[:, :n] = rpm.T
    run()
    full = np.hstack([state.body[:, :13], rpm])
    held = np.full((n, 4), 2 * 14476.0 / 21702 - 1)
    for _ in range(steps):
        full = env.advance(full, held, CRAZYFLIE)
    got = run.buffers["next"].reshape(13, at.stride)[:, :n].T
    for a, b in PARTS[:4]:
        assert np.abs(got[:, a:b] - full[:, a:b]).max() < 2e-4 * max(1.0, np.abs(full[:, a:b]).max())


def test_more_turns_than_the_time_line_holds_are_refused():
    with pytest.raises(ValueError, match="capacity"):
        simulator(capacity=8).plan(9)


def test_the_environment_runs_on_a_device_of_tinygrad():
    """The GPU half, on tinygrad's interpreter: the code path and its check against float64."""
    rows = _child(
        "import json, sys; sys.path.insert(0, 'benchmarks')\n"
        "from gpu_flight import environment_rows\n"
        "rows = []\n"
        "environment_rows('PYTHON', [32], 3, [16], rows, lambda call, wait: (call(), wait(), 1.0)[2])\n"
        "print(json.dumps(rows))"
    )
    assert [row["what"].split(":")[1].strip().split(",")[0] for row in rows] == [
        "13 states",
        "17 states",
        "step",
    ]
    for row in rows:
        assert row.get("error", 1.0) < 1e-5, row


def _child(code: str) -> list[dict]:
    env_ = dict(os.environ, DEV="PYTHON")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=env_, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
