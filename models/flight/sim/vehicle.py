"""Vehicles: one by its numbers, many as arrays, and the checks that keep unphysical ones out.

A vehicle is a `Vehicle` of `models.flight.sim.dynamics`. Its fields are numbers, or arrays (n,) or (1,) with a vehicle per
row: `stack` makes them, `rows` picks some. Everything that takes `vehicles` takes all three.

Sources: CRAZYFLIE (in `dynamics`) is the Crazyflie 2.1 of Learning to Fly in Seconds (Eschmann, Albani & Loianno, RA-L
2024, public code); L2F_2025 the later Crazyflie model of the same authors (PyPI `l2f`), whose commands and rotor speeds
are a throttle in [0, 1]. Disturbances of both are those of the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from flocklet.errors import ConfigError
from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle

__all__ = [
    "CRAZYFLIE",
    "L2F_2025",
    "NAMED",
    "count",
    "hover_action",
    "leaves",
    "parse",
    "rows",
    "stack",
    "thrust_to_weight",
]

L2F_2025 = Vehicle(
    mass=0.0306,
    inertia=(9.416556729130406e-6, 9.644051701582312e-6, 1.745951732253285e-5),
    thrust=(0.00352526, 0.01437313, 0.09223048),
    torque_per_thrust=4.665e-3,
    lag_up=0.05545454545454546,
    lag_down=0.24939393939393945,
    rpm_min=0.0,
    rpm_max=1.0,
)

NAMED: Mapping[str, Vehicle] = {"crazyflie": CRAZYFLIE, "l2f-2025": L2F_2025}


def leaves(vehicles: Vehicle) -> dict[str, Any]:
    """Return every number of a vehicle by its name, tuples taken apart: `mass`, `inertia.0`, ... in a fixed order."""
    found: dict[str, Any] = {}
    for field in fields(vehicles):
        value = getattr(vehicles, field.name)
        if isinstance(value, tuple):
            found.update({f"{field.name}.{i}": part for i, part in enumerate(value)})
        else:
            found[field.name] = value
    return found


def _join(numbers: Mapping[str, Any]) -> Vehicle:
    values: dict[str, Any] = {}
    for name, value in numbers.items():
        key, _, place = name.partition(".")
        if place:
            values.setdefault(key, []).append(value)
        else:
            values[key] = value
    return Vehicle(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})


def stack(vehicles: Sequence[Vehicle], dtype: DTypeLike = np.float32) -> Vehicle:
    """Return one `Vehicle` whose fields are arrays (n,), a row per given vehicle of plain numbers."""
    each = [leaves(vehicle) for vehicle in vehicles]
    return _join({name: np.array([one[name] for one in each], dtype) for name in each[0]})


def rows(vehicles: Vehicle, index: Any) -> Vehicle:
    """Return the chosen rows (`index` as for an array); numbers and arrays (1,), which serve every row, stay."""

    def pick(value: Any) -> Any:
        return value[index] if isinstance(value, np.ndarray) and value.shape[0] > 1 else value

    return _join({name: pick(value) for name, value in leaves(vehicles).items()})


def count(vehicles: Vehicle) -> int:
    """Return the number of rows: 1 for plain numbers."""
    return max(np.size(value) for value in leaves(vehicles).values())


def hover_action(vehicles: Vehicle) -> Any:
    """Return the action in [-1, 1] that carries the weight at rest, of the shape of the fields; NaN if none does."""
    c0, c1, c2 = (np.asarray(c, np.float64) for c in vehicles.thrust)
    short = np.asarray(vehicles.mass, np.float64) * vehicles.gravity / 4 - c0
    with np.errstate(invalid="ignore", divide="ignore"):
        speed = np.where(
            c2 == 0,
            short / c1,
            2 * short / (c1 + np.sqrt(c1 * c1 + 4 * np.where(c2 == 0, 1, c2) * short)),
        )
        action = 2 * (speed - vehicles.rpm_min) / (np.asarray(vehicles.rpm_max) - vehicles.rpm_min) - 1
    found = np.where(np.abs(action) <= 1, action, np.nan)
    return found if found.ndim else float(found)


def thrust_to_weight(vehicles: Vehicle) -> Any:
    """Return the thrust of all rotors at full command over the weight."""
    c0, c1, c2 = vehicles.thrust
    most = vehicles.rpm_max
    return 4 * (c0 + c1 * most + c2 * most * most) / (vehicles.mass * vehicles.gravity)


# key of a file: (field of Vehicle, length of its list or 0 for a single number)
_KEYS = {
    "mass_kg": ("mass", 0),
    "inertia_kg_m2": ("inertia", 3),
    "rotor_x_m": ("rotor_x", 4),
    "rotor_y_m": ("rotor_y", 4),
    "yaw_sign": ("yaw_sign", 4),
    "thrust_n": ("thrust", 3),
    "torque_per_thrust_m": ("torque_per_thrust", 0),
    "lag_up_s": ("lag_up", 0),
    "lag_down_s": ("lag_down", 0),
    "command_min": ("rpm_min", 0),
    "command_max": ("rpm_max", 0),
    "start_fraction": ("start_fraction", 0),
    "disturbance_force_n": ("force_scale", 0),
    "disturbance_torque_nm": ("torque_scale", 0),
}
_OPTIONAL = ("start_fraction", "disturbance_force_n", "disturbance_torque_nm")
_REMEDY = "docs/flight.md lists the keys of a vehicle file, their units and limits"


def _refuse(message: str) -> ConfigError:
    return ConfigError(f"this vehicle cannot be used: {message}", remedy=_REMEDY)


def parse(given: Mapping[str, Any]) -> Vehicle:
    """Return the vehicle of a mapping with the keys of a vehicle file (docs/flight.md); `name` is left to the caller.

    `base` names the vehicle of which keys that are not given are taken; without it every key but the disturbances and
    `start_fraction` is needed. Raise ConfigError, one line, for wrong keys, types and lengths and for anything
    unphysical: a vehicle that is not finite, weighs nothing, cannot lift itself or cannot turn.
    """
    known = {*_KEYS, "base", "name"}
    if odd := sorted(set(given) - known):
        raise _refuse(f"it has the unknown key '{odd[0]}'")
    base = given.get("base")
    if base is not None and base not in NAMED:
        raise _refuse(f"base is {base!r}, not one of {', '.join(NAMED)}")
    if base is None and (missing := [key for key in _KEYS if key not in given and key not in _OPTIONAL]):
        raise _refuse(f"it lacks the key '{missing[0]}' (and has no base)")
    origin = NAMED[base] if base is not None else CRAZYFLIE
    values: dict[str, Any] = {field.name: getattr(origin, field.name) for field in fields(Vehicle)}
    for key, (name, length) in _KEYS.items():
        if key in given:
            values[name] = _numbers(key, given[key], length)
    vehicle = Vehicle(**values)
    _check(vehicle)
    return vehicle


def _numbers(key: str, value: Any, length: int) -> Any:
    if length and (not isinstance(value, list | tuple) or len(value) != length):
        what = f"a list of {len(value)}" if isinstance(value, list | tuple) else repr(value)
        raise _refuse(f"{key} must be a list of {length} numbers, not {what}")
    parts = value if length else [value]
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, int | float):
            raise _refuse(f"{key} holds {part!r}, which is no number")
        if not math.isfinite(part) or abs(part) > 1e9:
            raise _refuse(f"{key} holds {part!r}, which is no finite number below 1e9")
    return tuple(float(part) for part in parts) if length else float(value)


def _check(vehicle: Vehicle) -> None:
    """Raise ConfigError for the first thing that no vehicle can be."""
    if vehicle.mass <= 0:
        raise _refuse(f"mass_kg is {vehicle.mass:g}; a mass is above 0")
    if min(vehicle.inertia) <= 0:
        raise _refuse(f"inertia_kg_m2 holds {min(vehicle.inertia):g}; a moment of inertia is above 0")
    most = max(vehicle.inertia)
    if most > 1.05 * (sum(vehicle.inertia) - most):  # published figures are rounded: 5 % of grace
        raise _refuse("inertia_kg_m2 has one entry above the sum of the others, which no body has")
    if not vehicle.rpm_min < vehicle.rpm_max:
        raise _refuse("command_min must be below command_max")
    for key, lag in (("lag_up_s", vehicle.lag_up), ("lag_down_s", vehicle.lag_down)):
        if not 0.005 <= lag <= 10:
            raise _refuse(f"{key} is {lag:g} s; steps of 10 ms can follow motors of 0.005 s to 10 s")
    if not 0 <= vehicle.start_fraction <= 1:
        raise _refuse("start_fraction must lie between 0 and 1")
    if vehicle.force_scale < 0 or vehicle.torque_scale < 0:
        raise _refuse("a disturbance is a standard deviation, at least 0")
    if any(abs(sign) != 1 for sign in vehicle.yaw_sign):
        raise _refuse("yaw_sign holds something else than 1 and -1")
    c0, c1, c2 = vehicle.thrust
    low, high = vehicle.rpm_min, vehicle.rpm_max
    if c0 + c1 * low + c2 * low * low < -1e-12 or min(c1 + 2 * c2 * low, c1 + 2 * c2 * high) < 0:
        raise _refuse("thrust_n makes a rotor pull down, or pull less when it turns faster")
    ratio = thrust_to_weight(vehicle)
    if ratio <= 1:
        raise _refuse(f"its full thrust is {ratio:.2f} times its weight, so it cannot fly")
    if math.isnan(hover_action(vehicle)):
        raise _refuse("it lifts off with its motors at the least command, so it cannot hover")
    if np.linalg.matrix_rank(_mixer(vehicle), tol=1e-6) < 4:
        raise _refuse("its rotors cannot turn it about every axis: check rotor_x_m, rotor_y_m and yaw_sign")


def _mixer(vehicle: Vehicle) -> NDArray[np.float64]:
    """Return how the four thrusts make lift, roll, pitch and yaw, scaled to numbers near 1."""
    x, y = np.array(vehicle.rotor_x), np.array(vehicle.rotor_y)
    arm = max(float(np.abs([x, y]).max()), 1e-9)
    yaw = np.array(vehicle.yaw_sign) * (1.0 if vehicle.torque_per_thrust > 1e-6 else 0.0)
    return np.stack([np.ones(4), y / arm, -x / arm, yaw])
