"""Quadrotor dynamics over "any number": NumPy arrays, floats, symbols, tinygrad UOps.

State (17): position p (m, world, z up), quaternion q (w, x, y, z; body to world), velocity v (m/s, world), angular
velocity w (rad/s, body, forward-left-up), rotor speeds (rpm). Equations and constants: Learning to Fly in Seconds
(Eschmann, Albani & Loianno, RA-L 2024), environment of its public code; Crazyflie 2.1. No drag, no ground, no gyroscopic
propeller term. `step` is one RK4 step with the command held, then q normalised and rpm clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flocklet.kernels.body.dsl import maximum, minimum, sqrt, where

__all__ = ["ACTIONS", "CRAZYFLIE", "STATES", "Vehicle", "command_rpm", "derivative", "rk4", "step"]

STATES = 17
ACTIONS = 4
Number = Any


@dataclass(frozen=True)
class Vehicle:
    """Constants of a vehicle; every field is any number, so that a batch can hold a different vehicle per row.

    Units: kg, kg m², m, N, N m per N, s, rpm (or any other unit of rotor speed, as long as `thrust` and the range of
    commands use it too). `lag_up` and `lag_down` are the motors' first-order time constants. `start_fraction` of the
    range is the rotors' speed at the start of an episode; `force_scale` (N) and `torque_scale` (N m) are the standard
    deviations of the disturbances per axis: 5 % of the weight, and weight / 10000 times 1 m. They and the observation
    are the simulator's, not the vehicle's, so `models.flight.sim.environment` alone uses them.
    """

    mass: Number = 0.027
    inertia: tuple[Number, Number, Number] = (3.85e-6, 3.85e-6, 5.9675e-6)
    rotor_x: tuple[Number, ...] = (0.028, -0.028, -0.028, 0.028)
    rotor_y: tuple[Number, ...] = (-0.028, -0.028, 0.028, 0.028)
    yaw_sign: tuple[Number, ...] = (-1.0, 1.0, -1.0, 1.0)
    thrust: tuple[Number, Number, Number] = (0.0, 0.0, 3.16e-10)
    torque_per_thrust: Number = 0.005964552
    lag_up: Number = 0.15
    lag_down: Number = 0.15
    rpm_min: Number = 0.0
    rpm_max: Number = 21702.0
    gravity: Number = 9.81
    start_fraction: Number = 0.5
    force_scale: Number = 0.027 * 9.81 / 20
    torque_scale: Number = 0.027 * 9.81 / 10000


CRAZYFLIE = Vehicle()


def command_rpm(action: Sequence[Number], vehicle: Vehicle = CRAZYFLIE) -> list[Number]:
    """Return the commanded rotor speeds for four actions, held inside [-1, 1]."""
    span = (vehicle.rpm_max - vehicle.rpm_min) * 0.5
    return [(minimum(maximum(a, -1.0), 1.0) + 1.0) * span + vehicle.rpm_min for a in action]


def derivative(
    state: Sequence[Number],
    command: Sequence[Number],
    vehicle: Vehicle = CRAZYFLIE,
    force: Sequence[Number] | None = None,
    torque: Sequence[Number] | None = None,
) -> list[Number]:
    """Return the time derivative of the 17 states for commanded rotor speeds (rpm).

    `force` (N, world) and `torque` (N m, body) are disturbances; None means none.
    """
    w, x, y, z = state[3:7]
    velocity, (wx, wy, wz), rpm = state[7:10], state[10:13], state[13:17]
    c0, c1, c2 = vehicle.thrust
    thrusts = [(c1 + c2 * r) * r + c0 for r in rpm]
    lift = (thrusts[0] + thrusts[1]) + (thrusts[2] + thrusts[3])
    moment = [
        _dot(vehicle.rotor_y, thrusts),
        -_dot(vehicle.rotor_x, thrusts),
        _dot(vehicle.yaw_sign, thrusts) * vehicle.torque_per_thrust,
    ]
    if torque is not None:
        moment = [a + b for a, b in zip(moment, torque, strict=True)]
    pull = lift / vehicle.mass
    acceleration = [
        (x * z + w * y) * 2.0 * pull,
        (y * z - w * x) * 2.0 * pull,
        (1.0 - 2.0 * (x * x + y * y)) * pull,
    ]
    if force is not None:
        acceleration = [a + f / vehicle.mass for a, f in zip(acceleration, force, strict=True)]
    acceleration[2] = acceleration[2] - vehicle.gravity
    jx, jy, jz = vehicle.inertia
    return [
        *velocity,
        (x * wx + y * wy + z * wz) * -0.5,
        (w * wx + y * wz - z * wy) * 0.5,
        (w * wy + z * wx - x * wz) * 0.5,
        (w * wz + x * wy - y * wx) * 0.5,
        *acceleration,
        (moment[0] - (jz - jy) * wy * wz) / jx,
        (moment[1] - (jx - jz) * wz * wx) / jy,
        (moment[2] - (jy - jx) * wx * wy) / jz,
        *[_motor(r, c, vehicle) for r, c in zip(rpm, command, strict=True)],
    ]


def _dot(a: Sequence[Number], b: Sequence[Number]) -> Number:
    return (a[0] * b[0] + a[1] * b[1]) + (a[2] * b[2] + a[3] * b[3])


def _motor(rpm: Number, command: Number, vehicle: Vehicle) -> Number:
    gap = command - rpm
    if isinstance(vehicle.lag_up, float) and vehicle.lag_up == vehicle.lag_down:
        return gap * (1.0 / vehicle.lag_up)
    return gap / where(gap < 0.0, vehicle.lag_down, vehicle.lag_up)


def rk4(
    state: Sequence[Number],
    command: Sequence[Number],
    dt_s: float = 0.01,
    vehicle: Vehicle = CRAZYFLIE,
    force: Sequence[Number] | None = None,
    torque: Sequence[Number] | None = None,
) -> list[Number]:
    """Return the state after one classical Runge-Kutta step of order 4, not yet normalised."""

    def slope(at: Sequence[Number]) -> list[Number]:
        return derivative(at, command, vehicle, force, torque)

    def ahead(k: Sequence[Number], h: float) -> list[Number]:
        return [s + d * h for s, d in zip(state, k, strict=True)]

    k1 = slope(state)
    k2 = slope(ahead(k1, dt_s / 2))
    k3 = slope(ahead(k2, dt_s / 2))
    k4 = slope(ahead(k3, dt_s))
    return [
        s + ((a + d) + (b + c) * 2.0) * (dt_s / 6)
        for s, a, b, c, d in zip(state, k1, k2, k3, k4, strict=True)
    ]


def step(
    state: Sequence[Number],
    action: Sequence[Number],
    dt_s: float = 0.01,
    vehicle: Vehicle = CRAZYFLIE,
    force: Sequence[Number] | None = None,
    torque: Sequence[Number] | None = None,
) -> list[Number]:
    """Return the state after `dt_s` seconds under four actions in [-1, 1]: RK4, unit quaternion, rpm inside its range."""
    after = rk4(state, command_rpm(action, vehicle), dt_s, vehicle, force, torque)
    q = after[3:7]
    scale = 1.0 / sqrt((q[0] * q[0] + q[1] * q[1]) + (q[2] * q[2] + q[3] * q[3]))
    rpm = [minimum(maximum(r, vehicle.rpm_min), vehicle.rpm_max) for r in after[13:17]]
    return [*after[0:3], *[a * scale for a in q], *after[7:13], *rpm]
