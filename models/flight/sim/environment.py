"""The quadrotor environment of Learning to Fly in Seconds, as pure functions over many episodes at once.

A row is an episode. `reset` draws states, `step` advances them by 10 ms, `replace` swaps finished rows for fresh ones;
nothing is kept between calls, every random number comes from a given Generator. float32 is the working type, float64
the oracle: the type of the state decides.

Source: Eschmann, Albani & Loianno, "Learning to Fly in Seconds", RA-L 2024, and its public code (initial states, noise,
reward, termination, curriculum). That task has no domain randomisation; here every row may be another vehicle.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as with_fields
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flocklet.kernels import attitude
from flocklet.models.flight.sim.blocks import advance
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle

__all__ = [
    "DT_S",
    "HISTORY",
    "NOISE",
    "OBSERVED",
    "PRIVILEGED",
    "START_WEIGHTS",
    "TARGET_WEIGHTS",
    "Normals",
    "Options",
    "State",
    "Step",
    "Weights",
    "advance",
    "harder",
    "is_lost",
    "observe",
    "observe_privileged",
    "replace",
    "reset",
    "reward",
    "rotation",
    "step",
]

Floats: TypeAlias = NDArray[Any]
"""float32 or float64."""


class Normals(Protocol):
    """What `observe` asks of a source of noise: a `numpy.random.Generator` is one."""

    def standard_normal(self, size: tuple[int, ...], dtype: Any = ...) -> Any:
        """Return numbers of mean 0 and deviation 1."""


DT_S = 0.01
HISTORY = 32
OBSERVED = 18 + HISTORY * ACTIONS
PRIVILEGED = 28
NOISE = (0.001,) * 3 + (0.001,) * 9 + (0.002,) * 3 + (0.002,) * 3
"""Standard deviations of the observation noise: position, rotation matrix, velocity, angular velocity."""

_HOVER = 0.334
_P, _Q, _V, _W, _R = slice(0, 3), slice(3, 7), slice(7, 10), slice(10, 13), slice(13, 17)
_TABLE = 512


@dataclass(frozen=True)
class State:
    """n episodes: `body` (n, 17) as in `dynamics`, disturbances `force` (n, 3) N and `torque` (n, 3) N m.

    `history` (n, 32, 4) holds past actions, oldest first; `time` (n,) int32 counts steps since the reset; `level` (n,)
    int32 is the caller's number for the row's vehicle and options, kept until the row is replaced.
    """

    body: Floats
    force: Floats
    torque: Floats
    history: Floats
    time: NDArray[np.int32]
    level: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.body)


@dataclass(frozen=True)
class Options:
    """Where episodes start and end; the defaults are the paper's task.

    `guided` is the probability to start at p = 0, q = identity. Otherwise positions are uniform in +-`position_m` per
    axis and attitudes uniform among those within `angle_rad` of upright (90/180 * 3.14 in the paper's code). Velocities
    and rates are uniform in +- their ranges. `disturbance` multiplies the vehicle's disturbance scales.
    """

    guided: float = 0.1
    position_m: float = 0.2
    angle_rad: float = 90 / 180 * 3.14
    velocity_m_s: float = 1.0
    rate_rad_s: float = 1.0
    disturbance: float = 1.0
    limit_m: float = 0.6
    steps: int = 500


class Weights(NamedTuple):
    """Weights of the cost |p|², 1 - q_w², |v|², |a - hover|²."""

    position: float
    attitude: float
    velocity: float
    action: float


START_WEIGHTS = Weights(5.0, 5.0, 0.01, 0.01)
TARGET_WEIGHTS = Weights(40.0, 5.0, 1.0, 1.0)


class Step(NamedTuple):
    """What a step gives; `terminated` (left the box) and `truncated` (time is up) are never both true."""

    state: State
    reward: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


def harder(weights: Weights) -> Weights:
    """Return the weights after one curriculum step (every 100,000 steps): x1.2 or x1.4 towards the target."""
    most = TARGET_WEIGHTS
    return Weights(
        min(weights.position * 1.2, most.position),
        weights.attitude,
        min(weights.velocity * 1.4, most.velocity),
        min(weights.action * 1.4, most.action),
    )


def _attitudes(rng: np.random.Generator, n: int, angle: float) -> NDArray[np.float64]:
    """Draw quaternions (n, 4) with w > 0, uniform on SO(3) among turns of at most `angle` radians.

    The axis is uniform on the sphere, the angle has the density 1 - cos: the same as rejection, without rejecting.
    """
    axis = rng.standard_normal((n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    grid = np.linspace(0.0, angle, _TABLE)
    below = grid - np.sin(grid)
    share = rng.random(n)
    turn = angle * np.cbrt(share) if angle < 1e-3 else np.interp(share, below / below[-1], grid)
    return np.concatenate([np.cos(turn / 2)[:, None], np.sin(turn / 2)[:, None] * axis], axis=1)


def _column(value: Any) -> Any:
    """Return a field of a vehicle so that it meets arrays (n, k): (n, 1), or the number itself."""
    return value[:, None] if isinstance(value, np.ndarray) else value


def reset(
    rng: np.random.Generator,
    n: int,
    vehicles: Vehicle,
    options: Options | None = None,
    *,
    level: NDArray[np.int32] | int = 0,
    dtype: DTypeLike = np.float32,
) -> State:
    """Draw `n` initial states; the same generator state gives the same bytes (drawn as float64, then cast)."""
    at = options or Options()
    body = np.zeros((n, STATES))
    guided = rng.random(n) < at.guided
    body[:, _P] = rng.uniform(-at.position_m, at.position_m, (n, 3))
    body[:, _Q] = _attitudes(rng, n, at.angle_rad)
    body[guided, 0:7] = (0, 0, 0, 1, 0, 0, 0)
    body[:, _V] = rng.uniform(-at.velocity_m_s, at.velocity_m_s, (n, 3))
    body[:, _W] = rng.uniform(-at.rate_rad_s, at.rate_rad_s, (n, 3))
    span = np.asarray(vehicles.rpm_max, np.float64) - vehicles.rpm_min
    body[:, _R] = np.broadcast_to(
        np.atleast_1d(vehicles.rpm_min + span * vehicles.start_fraction)[:, None], (n, 4)
    )
    start = np.broadcast_to(np.atleast_1d(2.0 * np.asarray(vehicles.start_fraction) - 1.0), (n,))
    history = np.broadcast_to(start[:, None, None], (n, HISTORY, ACTIONS))
    force = rng.standard_normal((n, 3)) * (_column(vehicles.force_scale) * at.disturbance)
    torque = rng.standard_normal((n, 3)) * (_column(vehicles.torque_scale) * at.disturbance)
    return State(
        body.astype(dtype),
        force.astype(dtype),
        torque.astype(dtype),
        history.astype(dtype),
        np.zeros(n, np.int32),
        np.broadcast_to(np.asarray(level, np.int32), (n,)).copy(),
    )


def replace(state: State, mask: NDArray[np.bool_], fresh: State) -> State:
    """Return `state` with the rows of `mask` (n,) taken from `fresh` (n rows, or as many as the mask chooses)."""
    mask = np.asarray(mask, bool)
    source: Any = mask if len(fresh) == len(state) else slice(None)

    def swap(old: Any, new: Any) -> Any:
        out = old.copy()
        out[mask] = new[source]
        return out

    return with_fields(
        state,
        **{name: swap(getattr(state, name), getattr(fresh, name)) for name in State.__dataclass_fields__},
    )


def _sum_squares(values: Floats) -> Floats:
    total: Floats = values[:, 0] * values[:, 0]
    for i in range(1, values.shape[1]):
        total = total + values[:, i] * values[:, i]
    return total


def is_lost(body: Floats, limit_m: float = Options.limit_m) -> NDArray[np.bool_]:
    """Return which rows of `body` (n, 17) are outside the box, or nowhere (NaN)."""
    return np.asarray(~(np.abs(body[:, _P]) <= limit_m).all(axis=1))


def reward(
    before: Floats, action: Floats, after: Floats, weights: Weights, options: Options | None = None
) -> Floats:
    """Return the rewards (n,) of transitions: bodies (n, 17) before and after the step, actions (n, 4) in [-1, 1].

    2 - cost / 2 of the state before the step and the action; 0 where the step ended outside the box. A replay that
    stores these three can recompute every reward bit for bit when the weights change.
    """
    w = before[:, 3]
    cost = weights.position * _sum_squares(before[:, _P]) + weights.attitude * (1.0 - w * w)
    cost = cost + weights.velocity * _sum_squares(before[:, _V])
    cost = cost + weights.action * _sum_squares(action - _HOVER)
    out = is_lost(after, (options or Options()).limit_m)
    return np.where(out, np.zeros_like(cost), 2.0 - 0.5 * cost)


def step(
    state: State,
    action: Floats,
    vehicles: Vehicle,
    weights: Weights = TARGET_WEIGHTS,
    options: Options | None = None,
) -> Step:
    """Advance every row by 10 ms; `action` (n, 4) is clipped to [-1, 1]. Rows that ended go on: `replace` them."""
    at = options or Options()
    applied = np.clip(np.asarray(action, state.body.dtype), -1.0, 1.0)
    body = advance(state.body, applied, vehicles, state.force, state.torque)
    history = np.empty_like(state.history)
    history[:, :-1] = state.history[:, 1:]
    history[:, -1] = applied
    time = state.time + np.int32(1)
    after = State(body, state.force, state.torque, history, time, state.level)
    lost = is_lost(body, at.limit_m)
    return Step(after, reward(state.body, applied, body, weights, at), lost, (time >= at.steps) & ~lost)


def rotation(quaternion: Floats) -> Floats:
    """Return the rotation matrices (n, 9), row-major, of quaternions (n, 4) in the order w, x, y, z."""
    return np.stack(attitude.rotation(list(quaternion.T)), axis=1)


def observe(
    state: State,
    rng: Normals | None = None,
    *,
    target: tuple[Floats, Floats] | None = None,
    clip: tuple[float, float] | None = None,
) -> Floats:
    """Return what the policy sees, (n, 146): p, R row-major, v, w, then the history, oldest first.

    With a generator every call draws fresh noise on the first 18; None gives none. `target` is a position and a
    velocity ((3,) or (n, 3)) that are taken off, `clip` then limits position (m) and velocity (m/s) per axis.
    """
    body, n = state.body, len(state)
    seen = np.empty((n, OBSERVED), body.dtype)
    seen[:, 0:3] = body[:, _P]
    seen[:, 3:12] = rotation(body[:, _Q])
    seen[:, 12:15] = body[:, _V]
    seen[:, 15:18] = body[:, _W]
    seen[:, 18:] = state.history.reshape(n, -1)
    if target is not None:
        seen[:, 0:3] -= np.asarray(target[0], body.dtype)
        seen[:, 12:15] -= np.asarray(target[1], body.dtype)
    if clip is not None:
        np.clip(seen[:, 0:3], -clip[0], clip[0], out=seen[:, 0:3])
        np.clip(seen[:, 12:15], -clip[1], clip[1], out=seen[:, 12:15])
    if rng is not None:
        kind = np.float32 if body.dtype == np.float32 else np.float64
        seen[:, :18] += rng.standard_normal((n, 18), dtype=kind) * np.asarray(NOISE, body.dtype)
    return seen


def observe_privileged(state: State, vehicles: Vehicle) -> Floats:
    """Return what the critic sees, (n, 28), free of noise: p, R, v, w, force, torque, rotor speeds in [-1, 1]."""
    body = state.body
    low, span = _column(vehicles.rpm_min), _column(vehicles.rpm_max) - _column(vehicles.rpm_min)
    rotors = (body[:, _R] - low) / span * 2.0 - 1.0
    parts = [body[:, _P], rotation(body[:, _Q]), body[:, _V], body[:, _W], state.force, state.torque, rotors]
    return np.concatenate(parts, axis=1, dtype=body.dtype)
