"""The flight environment is the paper's: golden transitions, initial states, endings, rewards, observations."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from flocklet.models.flight import environment as env
from flocklet.models.flight.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.vehicle import stack

BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PARTS = {"np": (0, 3), "nq": (3, 7), "nv": (7, 10), "nw": (10, 13), "nrpm": (13, 17)}


@pytest.fixture(scope="module")
def golden() -> list[dict]:
    data = os.environ.get("FLOCKLET_DATA")
    file = Path(data or ".") / "flight" / "golden.jsonl"
    if not data or not file.is_file():
        pytest.skip("FLOCKLET_DATA does not name a folder with flight/golden.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


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
def test_golden_transitions(golden, dtype, form):
    def take(*keys: str) -> np.ndarray:
        return np.concatenate([np.array([line[key] for line in golden], dtype) for key in keys], axis=1)

    n = len(golden)
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
    wanted = np.array([[line["reward"], line["reward_target"]] for line in golden])
    harder = env.step(state, take("action"), vehicles, env.TARGET_WEIGHTS)
    np.testing.assert_allclose(np.stack([step.reward, harder.reward], 1), wanted, rtol=0, atol=1e-5)
    assert not step.terminated.any()
    assert not any(line["terminated"] for line in golden)


def test_other_dynamics_miss_the_golden_transitions(golden):
    """The control: another mass, and motors in another order."""
    line = golden[1]
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
