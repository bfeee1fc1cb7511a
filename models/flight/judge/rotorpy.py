"""Fly in RotorPy, a simulator by other people with another integrator, vehicle and drag: a test of transfer.

Folk, Paulos & Kumar, "RotorPy: a Python-based multirotor simulator with aerodynamics" (arXiv 2306.04485, 2023), version
3 (package `rotorpy`, extra `sim`). Its Crazyflie: 0.03 kg, motor lag 0.072 s, rotor drag. It counts motors front-left,
front-right, back-right, back-left, commands them in rad/s and writes quaternions x, y, z, w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import MissingExtra
from flocklet.models.flight.judge.evaluate import LOST_M, PERIODS_S, Hover, Track
from flocklet.models.flight.judge.verdict import Verdict
from flocklet.models.flight.sim.control_loop import CLIP, Actor, Flight
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES
from flocklet.models.flight.sim.environment import DT_S, HISTORY, State, observe
from flocklet.models.flight.sim.figure_eight import WARM_UP_S, FigureEight

__all__ = ["MOTORS", "QUATERNION", "Rotorcraft", "eights_in_rotorpy", "hover_in_rotorpy", "judge_in_rotorpy"]

Floats = NDArray[Any]

MOTORS = (3, 0, 1, 2)
"""Our action for each of their motors."""
QUATERNION = (3, 0, 1, 2)
"""Their place of w, x, y, z."""
_LAST = 100


class Vehicles(Protocol):
    """Bodies (n, 17) that move on by 10 ms under actions (n, 4): what the flights below need."""

    def start(self, bodies: Floats) -> None:
        """Put every vehicle at its state; rotors at half of their range."""
        ...

    def step(self, actions: Floats, alive: NDArray[np.bool_]) -> Floats:
        """Move the living rows; return all bodies (n, 17)."""
        ...


class Rotorcraft:
    """n Crazyflies of RotorPy. `motors` and `quaternion` exist so that a test can get them wrong."""

    def __init__(
        self, *, motors: Sequence[int] = MOTORS, quaternion: Sequence[int] = QUATERNION, aero: bool = True
    ) -> None:
        try:
            from rotorpy.vehicles.crazyflie_params import quad_params
            from rotorpy.vehicles.multirotor import Multirotor
        except ImportError as error:
            raise MissingExtra("rotorpy", "sim", "flying in RotorPy") from error
        self._vehicle: Any = Multirotor(
            quad_params, aero=aero, integrator_kwargs={"method": "RK45", "rtol": 1e-3, "atol": 1e-6}
        )
        self.fastest = float(quad_params["rotor_speed_max"])
        self._motors, self._order = list(motors), list(quaternion)
        self._back = list(np.argsort(self._order))
        self._states: list[dict[str, Any]] = []
        self._bodies = np.zeros((0, STATES))

    def start(self, bodies: Floats) -> None:
        """Put every vehicle at the position, attitude and velocities of `bodies` (n, 17)."""
        self._bodies = np.asarray(bodies, np.float64).copy()
        self._states = [
            {
                "x": body[0:3].copy(),
                "v": body[7:10].copy(),
                "q": body[3:7][self._back],
                "w": body[10:13].copy(),
                "wind": np.zeros(3),
                "rotor_speeds": np.full(4, self.fastest / 2),
            }
            for body in self._bodies
        ]

    def step(self, actions: Floats, alive: NDArray[np.bool_]) -> Floats:
        """Move the living rows by 10 ms; return all bodies (n, 17), rotor speeds as theirs, in our order."""
        commands = (np.clip(actions, -1, 1) + 1) / 2 * self.fastest
        for row in np.nonzero(alive)[0]:
            command = {"cmd_motor_speeds": commands[row][self._motors]}
            state = self._states[row] = self._vehicle.step(self._states[row], command, DT_S)
            parts = [state["x"], state["q"][self._order], state["v"], state["w"], state["rotor_speeds"]]
            self._bodies[row] = np.concatenate(parts)
        return self._bodies.copy()


def _seen(bodies: Floats, history: Floats, target: tuple[Floats, Floats]) -> Floats:
    n = len(bodies)
    zero, tick = np.zeros((n, 3)), np.zeros(n, np.int32)
    state = State(bodies.astype(np.float32), zero, zero, history, tick, tick)
    return observe(state, target=target, clip=CLIP)


def _fly(
    policy: Actor, vehicles: Vehicles, bodies: Floats, steps: int, path: FigureEight | None
) -> tuple[NDArray[np.bool_], Floats, Flight]:
    """Return what was lost (n,), the errors (steps, n, 3), NaN where lost, and the flights."""
    n = len(bodies)
    history = np.zeros((n, HISTORY, ACTIONS), np.float32)
    lost, errors = np.zeros(n, bool), np.full((steps, n, 3), np.nan)
    flight = Flight(
        np.full((steps, n, STATES), np.nan), np.full((steps, n, ACTIONS), np.nan), errors * 0, DT_S
    )
    vehicles.start(bodies)
    if hasattr(policy, "reset"):
        policy.reset()
    home = (np.zeros(3), np.zeros(3))
    for step in range(steps):
        at = home if path is None else path.at(step * DT_S)
        action = np.clip(np.asarray(policy(_seen(bodies, history, at)), np.float32), -1.0, 1.0)
        after = vehicles.step(action, ~lost)
        target = home[0] if path is None else path.at((step + 1) * DT_S)[0]
        error = after[:, 0:3] - target
        lost |= ~(np.abs(error) <= LOST_M).all(axis=1)
        bodies = np.where(lost[:, None], bodies, after)
        history = np.concatenate([history[:, 1:], action[:, None]], axis=1)
        errors[step, ~lost] = error[~lost]
        flight.bodies[step, ~lost], flight.actions[step, ~lost] = after[~lost], action[~lost]
        flight.targets[step] = target
        if lost.all():
            break
    return lost, errors, flight


def _starts(rng: np.random.Generator, n: int) -> Floats:
    """Draw the starts: tilt up to 1 rad about any axis, +-0.2 m, +-0.5 m/s, +-1 rad/s."""
    bodies = np.zeros((n, STATES))
    axis = rng.standard_normal((n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    tilt = rng.uniform(0, 1, (n, 1))
    bodies[:, 3:4], bodies[:, 4:7] = np.cos(tilt / 2), np.sin(tilt / 2) * axis
    for where, most in ((slice(0, 3), 0.2), (slice(7, 10), 0.5), (slice(10, 13), 1.0)):
        bodies[:, where] = rng.uniform(-most, most, (n, 3))
    return bodies


def hover_in_rotorpy(
    policy: Actor, vehicles: Vehicles, *, seed: int = 0, episodes: int = 10, steps: int = 500
) -> Hover:
    """Hover from random states, without noise and extra disturbances; lost beyond 1.5 m."""
    lost, errors, flight = _fly(policy, vehicles, _starts(np.random.default_rng(seed), episodes), steps, None)
    far = np.linalg.norm(errors, axis=2)
    moves = np.abs(np.diff(flight.actions[-_LAST - 1 :], axis=0)).mean(axis=(0, 2))
    flown = np.isfinite(far).sum(axis=0) + lost
    nothing = np.full(episodes, np.nan)
    return Hover(
        np.full(episodes, seed), lost, flown.astype(float), far[-_LAST:].mean(axis=0), far[-1], nothing, moves, flight
    )  # fmt: skip


def eights_in_rotorpy(
    policy: Actor, vehicles: Vehicles, periods_s: Sequence[float] = PERIODS_S
) -> dict[float, Track]:
    """Follow one figure-eight per period, from rest at its start."""
    found = {}
    for period in periods_s:
        path = FigureEight(period)
        rest = np.zeros((1, STATES))
        rest[:, 3] = 1.0
        steps, warm = round(path.duration_s / DT_S), round(WARM_UP_S / DT_S)
        lost, errors, flight = _fly(policy, vehicles, rest, steps, path)
        found[period] = Track(np.zeros(1, np.int64), lost, errors[warm:], flight)
    return found


def judge_in_rotorpy(policy: Actor, *, name: str = "policy", record: int = 0) -> Verdict:
    """Return the verdict of ten hovers and a figure-eight per period (about half a minute)."""
    vehicles = Rotorcraft()
    still = hover_in_rotorpy(policy, vehicles)
    return Verdict(name, "rotorpy", (0,), still, eights_in_rotorpy(policy, vehicles))
