"""Draw vehicles of the 25-50 g class for training; every range has its source.

The ranges were fixed before any transfer test was run and are not fitted to the vehicles of those tests. They span what
is published for hardware of the class, widened a little where the sources themselves disagree. A policy is not told
what it flies: 32 steps of history and the state are all it has.

Sources (the names in `RANGES`):
- data sheets: Bitcraze, Crazyflie 2.0/2.1 (27 g, at most 42 g at take-off, 92 mm between motors, four motors of 15 g
  thrust) and Crazyflie 2.1 Brushless (32 g, four motors of up to 30 g thrust, 100 mm between motors).
- Förster: System Identification of the Crazyflie 2.0 Nano Quadrocopter, BSc thesis, ETH Zurich 2015; its constants are
  those of the public Crazyflie firmware (29.3 g, J 16.6e-6 / 29.3e-6 kg m², thrust 0.0915 u² + 0.0677 u N, torque per
  thrust 0.00596 m).
- Luis & Le Ny: Design of a Trajectory Tracking Controller for a Nanoquadcopter, arXiv 1608.05786 (J 1.395e-5, 1.436e-5,
  2.173e-5 kg m²; arm 39.7 mm; the parameters of gym-pybullet-drones, where torque per thrust is 0.0251 m).
- Landry: Planning and Control for Quadrotor Flight through Cluttered Environments, MEng thesis, MIT 2015 (J 2.395e-5 and
  3.235e-5 kg m²).
- LTF: Eschmann, Albani & Loianno, Learning to Fly in Seconds, RA-L 2024 (J 3.85e-6, motor lag 0.15 s).
- RAPTOR: Eschmann, Albani & Loianno, arXiv 2509.11481, the sampler of its teachers (motor lag 0.03-0.10 s up, 0.03-0.30 s
  down, torque per thrust 0.005-0.05 m).
- whoops: the 65 mm class of frames, take-off weight about 30 g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.vehicle import leaves, stack

__all__ = ["NOMINAL_PART", "RANGES", "Range", "draw", "same"]

NOMINAL_PART = 0.25
"""This part of the vehicles is the nominal one."""

Floats = NDArray[Any]


@dataclass(frozen=True)
class Range:
    """A range, how it is drawn ("uniform" or "log": uniform in the logarithm), its unit and its source."""

    low: float
    high: float
    how: str
    unit: str
    source: str


RANGES: dict[str, Range] = {
    "mass": Range(
        0.025,
        0.050,
        "log",
        "kg",
        "the class; data sheets: 27 g to 42 g at take-off, Brushless 32 g and payload",
    ),
    "inertia_x": Range(
        3.5e-6, 3.0e-5, "log", "kg m²", "LTF 3.85e-6, Luis & Le Ny 1.395e-5, Förster 1.66e-5, Landry 2.395e-5"
    ),
    "inertia_y_over_x": Range(
        0.9, 1.15, "uniform", "", "Luis & Le Ny 1.03, Förster 1.00, payload on one axis"
    ),
    "inertia_z_over_x": Range(
        1.3, 2.0, "uniform", "", "Landry 1.35, LTF 1.55, Luis & Le Ny 1.56, Förster 1.77, a flat plate 2"
    ),
    "thrust_to_weight": Range(
        1.4, 3.75, "log", "", "data sheets: 60 g of thrust at 42 g; 120 g at 32 g (Brushless)"
    ),
    "lag_up": Range(0.03, 0.15, "log", "s", "RAPTOR 0.03-0.10, LTF 0.15"),
    "lag_down": Range(0.03, 0.30, "log", "s", "RAPTOR 0.03-0.30"),
    "rotor_offset": Range(
        0.022,
        0.036,
        "uniform",
        "m",
        "whoops 0.023, Luis & Le Ny 0.028, data sheets 0.0325 and 0.0354 (Brushless)",
    ),
    "torque_per_thrust": Range(
        0.004,
        0.03,
        "log",
        "m",
        "RAPTOR 0.005 and more, Förster 0.00596, Luis & Le Ny 0.0251; a fifth of margin",
    ),
    "linear_share": Range(0.0, 0.5, "uniform", "", "LTF 0, Förster 0.0677 / (0.0677 + 0.0915) = 0.43"),
}


def _one(rng: np.random.Generator, name: str, n: int) -> Floats:
    found = RANGES[name]
    if found.how == "log":
        return np.exp(rng.uniform(np.log(found.low), np.log(found.high), n))
    return rng.uniform(found.low, found.high, n)


def draw(rng: np.random.Generator, n: int, *, nominal: float = NOMINAL_PART) -> Vehicle:
    """Return `n` vehicles, fields (n,) float32: each one nominal with probability `nominal`, else from the ranges.

    Rotor speeds and commands are a fraction u of full scale. The thrust of a rotor is T (s u + (1 - s) u²) with the
    linear share s and T = thrust/weight * m g / 4. Disturbances keep the nominal scales.
    """
    got = {name: _one(rng, name, n) for name in RANGES}
    mass, share, arm = got["mass"], got["linear_share"], got["rotor_offset"]
    most = got["thrust_to_weight"] * mass * CRAZYFLIE.gravity / 4
    values: dict[str, Any] = leaves(same(CRAZYFLIE, n))
    full = float(CRAZYFLIE.rpm_max)
    is_drawn = rng.random(n) >= nominal
    drawn = {
        "mass": mass,
        "inertia.0": got["inertia_x"],
        "inertia.1": got["inertia_x"] * got["inertia_y_over_x"],
        "inertia.2": got["inertia_x"] * got["inertia_z_over_x"],
        **{f"rotor_x.{i}": arm * np.sign(x) for i, x in enumerate(CRAZYFLIE.rotor_x)},
        **{f"rotor_y.{i}": arm * np.sign(y) for i, y in enumerate(CRAZYFLIE.rotor_y)},
        "thrust.0": 0.0,
        "thrust.1": most * share / full,
        "thrust.2": most * (1 - share) / full**2,
        "torque_per_thrust": got["torque_per_thrust"],
        "lag_up": got["lag_up"],
        "lag_down": got["lag_down"],
    }
    for name, value in drawn.items():
        values[name] = np.where(is_drawn, value, values[name]).astype(np.float32)
    return _joined(values)


def same(vehicle: Vehicle, n: int) -> Vehicle:
    """Return `n` times the same vehicle, fields (n,) float32."""
    one = leaves(stack([vehicle]))
    return _joined({name: np.repeat(value, n) for name, value in one.items()})


def _joined(values: dict[str, Any]) -> Vehicle:
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        key, _, place = name.partition(".")
        if place:
            grouped.setdefault(key, []).append(value)
        else:
            grouped[key] = value
    return Vehicle(**{k: tuple(v) if isinstance(v, list) else v for k, v in grouped.items()})
