"""A hand-written controller for tests of the evaluator: a policy that is known to fly, and ways to break it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle

Floats = NDArray[Any]


class Pilot:
    """Cascaded control from the observation (n, 146) alone; knows the vehicle and works out its rotor speeds.

    The speeds follow from the history of actions, as the motors are a first-order lag: so the lag can be sped up.
    """

    def __init__(self, vehicle: Vehicle = CRAZYFLIE, quick_s: float = 0.03) -> None:
        self.vehicle, self.quick_s = vehicle, quick_s
        x, y = np.array(vehicle.rotor_x), np.array(vehicle.rotor_y)
        turn = np.array(vehicle.yaw_sign) * vehicle.torque_per_thrust
        self.unmix = np.linalg.inv(np.stack([np.ones(4), y, -x, turn]))

    def __call__(self, observation: Floats) -> Floats:
        vehicle = self.vehicle
        o = observation.astype(np.float64)
        p, turned, v, w = o[:, 0:3], o[:, 3:12].reshape(-1, 3, 3), o[:, 12:15], o[:, 15:18]
        wanted = -6.0 * p - 4.0 * v + np.array([0, 0, vehicle.gravity])
        wanted[:, 2] = np.maximum(wanted[:, 2], 2.0)
        axis = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
        lift = vehicle.mass * (wanted * turned[:, :, 2]).sum(axis=1)
        lean = np.einsum("nij,ni->nj", turned, np.cross(turned[:, :, 2], axis))
        lean[:, 2] = 0.5 * (turned[:, 0, 1] - turned[:, 1, 0])
        spin = np.array([120.0, 120.0, 4.0]) * lean - np.array([18.0, 18.0, 3.0]) * w
        torque = spin * np.array(vehicle.inertia)
        thrust = np.concatenate([lift[:, None], torque], axis=1) @ self.unmix.T
        c0, c1, c2 = vehicle.thrust
        rest = np.maximum(thrust - c0, 1e-6)
        speed = 2 * rest / (c1 + np.sqrt(c1 * c1 + 4 * c2 * rest))
        span = vehicle.rpm_max - vehicle.rpm_min
        goal = 2 * (speed - vehicle.rpm_min) / span - 1
        past = o[:, 18:].reshape(len(o), -1, 4)  # zero before the first step, as the rotors' start is
        if vehicle.lag_up == vehicle.lag_down:
            keep = np.exp(-0.01 / vehicle.lag_up)
            now = np.einsum("h,nha->na", (1 - keep) * keep ** np.arange(past.shape[1])[::-1], past)
        else:
            now = np.zeros_like(goal)
            for action in np.moveaxis(past, 1, 0):
                lag = np.where(action >= now, vehicle.lag_up, vehicle.lag_down)
                now = now + (action - now) * (1 - np.exp(-0.01 / lag))
        lag = np.where(goal >= now, vehicle.lag_up, vehicle.lag_down)
        return np.clip(now + (goal - now) * lag / self.quick_s, -1, 1)


class Constant:
    """Always the same action: 0 falls, 0.334 carries the weight and drifts away."""

    def __init__(self, action: float) -> None:
        self.action = action

    def __call__(self, observation: Floats) -> Floats:
        return np.full((len(observation), 4), self.action)


class Swapped:
    """A policy whose motors are connected in another order."""

    def __init__(self, policy: Any, order: tuple[int, ...]) -> None:
        self.policy, self.order = policy, list(order)

    def __call__(self, observation: Floats) -> Floats:
        return self.policy(observation)[:, self.order]
