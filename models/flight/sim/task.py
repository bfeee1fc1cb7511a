"""The task over "any number": observations, reward, end of an episode, initial states.

The task and all constants: Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L 2024) and its public code. The
state before and after is `flocklet.models.flight.sim.dynamics`'; these bodies become the CPU and GPU kernels of
`flocklet.models.flight.sim.compiled` and run on NumPy arrays as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

from flocklet.kernels.attitude import rotation
from flocklet.kernels.body.dsl import exp2, log2, maximum, sqrt, where
from flocklet.kernels.noise import Draws, cosine_sine
from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.environment import START_WEIGHTS, Options, Weights

__all__ = [
    "CORE",
    "HISTORY",
    "PRIVILEGED",
    "SETTINGS",
    "Settings",
    "fresh",
    "noisy",
    "outside",
    "privileged",
    "reward",
    "seen",
    "vehicle_from",
    "vehicle_numbers",
]

CORE, HISTORY, PRIVILEGED = 18, 32, 28
Number = Any


@dataclass(frozen=True)
class Settings:
    """The numbers of the task; kernels read them at run time, so that changing one compiles nothing.

    Reward weights are the curriculum's start. Ranges are half-widths in m, m/s and rad/s, noises standard deviations,
    `angle_rad` the largest initial tilt, `disturbance` multiplies the vehicle's scales.
    """

    position_weight: float = 5.0
    tilt_weight: float = 5.0
    velocity_weight: float = 0.01
    action_weight: float = 0.01
    hover_action: float = 0.334
    survival: float = 2.0
    scale: float = 0.5
    bound_m: float = 0.6
    limit_steps: float = 500.0
    noise_position: float = 0.001
    noise_rotation: float = 0.001
    noise_velocity: float = 0.002
    noise_rate: float = 0.002
    guidance: float = 0.1
    position_m: float = 0.2
    angle_rad: float = 90.0 / 180.0 * 3.14
    velocity_m_s: float = 1.0
    rate_rad_s: float = 1.0
    disturbance: float = 1.0

    @classmethod
    def of(cls, weights: Weights = START_WEIGHTS, options: Options | None = None) -> Settings:
        """Return the numbers of these reward weights and options."""
        at = options or Options()
        return cls(
            *weights,
            bound_m=at.limit_m,
            limit_steps=float(at.steps),
            guidance=at.guided,
            position_m=at.position_m,
            angle_rad=at.angle_rad,
            velocity_m_s=at.velocity_m_s,
            rate_rad_s=at.rate_rad_s,
            disturbance=at.disturbance,
        )

    def quiet(self) -> Settings:
        """Return the same without observation noise."""
        return replace(self, noise_position=0.0, noise_rotation=0.0, noise_velocity=0.0, noise_rate=0.0)

    def numbers(self) -> tuple[float, ...]:
        """Return the fields in order, as the kernels take them."""
        return astuple(self)


SETTINGS = len(fields(Settings))


def vehicle_numbers(vehicle: Vehicle) -> list[Number]:
    """Return all constants of a vehicle in one list, tuples flattened."""
    out: list[Number] = []
    for value in astuple(vehicle):
        out += list(value) if isinstance(value, tuple) else [value]
    return out


def vehicle_from(numbers: Sequence[Number], like: Vehicle = CRAZYFLIE) -> Vehicle:
    """Return the vehicle whose constants are `numbers`: the inverse of `vehicle_numbers`."""
    left, found = list(numbers), {}
    for field in fields(Vehicle):
        shape = getattr(like, field.name)
        if isinstance(shape, tuple):
            found[field.name], left = tuple(left[: len(shape)]), left[len(shape) :]
        else:
            found[field.name] = left.pop(0)
    return Vehicle(**found)


def seen(body: Sequence[Number]) -> list[Number]:
    """Return position, rotation matrix, velocity and angular velocity: the 18 numbers that the policy senses."""
    return [*body[0:3], *rotation(body[3:7]), *body[7:13]]


def noisy(body: Sequence[Number], draws: Draws, settings: Sequence[Number]) -> list[Number]:
    """Return the 18 sensed numbers with fresh Gaussian noise."""
    position, turned, velocity, rate = settings[9:13]
    scales = [position] * 3 + [turned] * 9 + [velocity] * 3 + [rate] * 3
    exact = seen(body)
    return [x + e * s for x, e, s in zip(exact, draws.normals(CORE), scales, strict=True)]


def privileged(
    body: Sequence[Number], force: Sequence[Number], torque: Sequence[Number], vehicle: Vehicle = CRAZYFLIE
) -> list[Number]:
    """Return what the critics see (28): the exact 18, force, torque, rotor speeds scaled to [-1, 1]."""
    span = 2.0 / (vehicle.rpm_max - vehicle.rpm_min)
    return [*seen(body), *force, *torque, *[(r - vehicle.rpm_min) * span - 1.0 for r in body[13:17]]]


def _square(values: Sequence[Number]) -> Number:
    total = values[0] * values[0]
    for v in values[1:]:
        total = total + v * v
    return total


def reward(
    body: Sequence[Number], action: Sequence[Number], settings: Sequence[Number], terminated: Number
) -> Number:
    """Return survival - scale * cost of the state before the step and the action; 0 on the step that terminates.

    cost = Wp |p|² + Wq (1 - w²) + Wv |v|² + Wa |a - hover|².
    """
    wp, wq, wv, wa, hover, survival, scale = settings[0:7]
    away = _square([a - hover for a in action])
    tilt = 1.0 - body[3] * body[3]
    cost = (_square(body[0:3]) * wp + tilt * wq) + (_square(body[7:10]) * wv + away * wa)
    return where(terminated > 0.5, 0.0, survival - scale * cost)


def outside(body: Sequence[Number], settings: Sequence[Number]) -> Number:
    """Return 1 where any component of the position is beyond the bound (or is no number), else 0."""
    reach = maximum(body[0], -body[0])
    for p in body[1:3]:
        reach = maximum(reach, maximum(p, -p))
    lost = where(reach > settings[7], 1.0, 0.0)
    return where(_square(body[0:3]) < 1e30, lost, 1.0)


def _tilt(fraction: Number, largest: Number) -> tuple[Number, Number]:
    """Return (cos, sin) of half an angle whose density is proportional to 1 - cos on [0, largest].

    The distribution function (a - sin a) / (A - sin A) is inverted by its series in the cube root; its error is below
    1e-5 rad up to 90 degrees and 0.006 rad at 180. That is the marginal of uniform rotations, cut at `largest`.
    """
    c, s = _half(largest)
    area = (largest - 2.0 * s * c) * fraction
    x = exp2(log2(maximum(area * 6.0, 1e-30)) * (1.0 / 3.0))
    squared = x * x
    factor: Number = 151439 / 12713500800000
    for k in (1213 / 7207200000, 43 / 17248000, 1 / 25200, 1 / 1400, 1 / 60, 1.0):
        factor = squared * factor + k
    return _half(x * factor)


def _half(angle: Number) -> tuple[Number, Number]:
    return cosine_sine(angle * (0.25 / math.pi))


def fresh(draws: Draws, settings: Sequence[Number], vehicle: Vehicle = CRAZYFLIE) -> list[Number]:
    """Return an initial state: body (17), force (3), torque (3)."""
    guidance, position, angle, velocity, rate, disturbance = settings[13:19]
    is_free = where(draws.uniform() < guidance, 0.0, 1.0)
    place = [draws.uniform(-1.0) * (position * is_free) for _ in range(3)]
    cosine, sine = _tilt(draws.uniform(), angle)
    up = draws.uniform(-1.0)
    flat = sqrt(maximum(1.0 - up * up, 0.0))
    east, north = cosine_sine(draws.uniform())
    lean = sine * is_free
    attitude = [where(is_free > 0.5, cosine, 1.0), lean * flat * east, lean * flat * north, lean * up]
    motion = [draws.uniform(-1.0) * velocity for _ in range(3)]
    motion += [draws.uniform(-1.0) * rate for _ in range(3)]
    pushes = draws.normals(6)
    rpm = (vehicle.rpm_max - vehicle.rpm_min) * vehicle.start_fraction + vehicle.rpm_min
    force, torque = disturbance * vehicle.force_scale, disturbance * vehicle.torque_scale
    return [
        *place,
        *attitude,
        *motion,
        *[rpm] * 4,
        *[x * force for x in pushes[:3]],
        *[x * torque for x in pushes[3:]],
    ]
