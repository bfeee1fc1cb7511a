"""Fly the firmware: put the emulated image in the control loop of a simulator.

A simulator that calls a policy as `step(observation) -> action` needs only `Firmware`: the observation
goes into the memory of an emulated Cortex-M, `NAME_step` runs there, and the action comes out. The flight
must then equal the one of the NumPy `Controller` bit for bit. The flight simulator plugs in through
`Plant`; `ToyPlant` stands in for it in tests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.c.closed_loop import Controller
from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.export import Artifact
from flocklet.firmware_export.verify.elf import read_elf
from flocklet.firmware_export.verify.expected import step_records
from flocklet.firmware_export.verify.harness import build_image, layout_of
from flocklet.firmware_export.verify.toolchain import CORES
from flocklet.firmware_export.verify.unicorn_engine import Emulator

__all__ = ["Firmware", "Plant", "ToyPlant", "fly", "reference_policy"]

F32: TypeAlias = npt.NDArray[np.float32]
StepPolicy: TypeAlias = Callable[[F32], F32]


class Plant(Protocol):
    """Name what a simulator must offer: float32 observations and actions, randomness from the seed."""

    def reset(self, seed: int) -> F32:
        """Start an episode; return the first observation (state,)."""

    def step(self, action: F32) -> F32:
        """Apply an action for one control period; return the next observation (state,)."""


class ToyPlant:
    """Hold a damped chain of integrators of any number of states and actions; not a quadrotor."""

    def __init__(self, n_state: int, n_action: int) -> None:
        self.mix = np.random.default_rng(7).normal(0, 0.3, (n_state, n_action))
        self.state = np.zeros(n_state)

    def reset(self, seed: int) -> F32:
        """Start at a random state."""
        self.state = np.random.default_rng(seed).uniform(-0.4, 0.4, len(self.state))
        return self.state.astype(np.float32)

    def step(self, action: F32) -> F32:
        """Advance by one period."""
        self.state = (
            0.98 * self.state
            + 0.05 * np.tanh(self.mix @ action.astype(np.float64))
            + 0.01 * np.roll(self.state, 1)
        )
        return self.state.astype(np.float32)


class Firmware:
    """Hold an export running on an emulated core; calling it takes one control step."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        core: str = "cortex-m4",
        compiler: str = "zig",
        flags: str = "-std=c99 -O2",
    ) -> None:
        plan = artifact.plan
        with tempfile.TemporaryDirectory(prefix="flocklet-fly-") as made:
            image = build_image(
                plan, artifact.directory, compiler, CORES[core], Path(made), flags=flags.split()
            )
            self.emulator = Emulator(read_elf(image), CORES[core])
        self.plan = plan
        self.reset()

    def reset(self) -> None:
        """Start the controller anew."""
        self.emulator.call("drive_reset")
        self.ticks = 0
        self.status = 0
        self.last = np.zeros(self.plan.network.n_out, np.float32)

    def __call__(self, obs: F32) -> F32:
        """Return the action for an observation (state,); `status` holds the status bits."""
        self.ticks += 1
        plan, layout = self.plan, layout_of(self.plan)
        previous = self.last[None] if layout.step_in > plan.obs.state + 2 else None
        record = step_records(plan, obs[None], previous, [self.ticks * _interval(self)])
        source, target = self.emulator.buffer(0), self.emulator.buffer(1)
        self.emulator.write(source, record[0])
        self.emulator.call("drive_step", source, target)
        words = self.emulator.read(target, "<u4", layout.step_out)
        self.status = int(words[-1])
        self.last = words[:-1].view(np.float32).copy()
        return self.last


def _interval(firmware: Firmware) -> int:
    return firmware.plan.action.interval_us or firmware.plan.obs.native_interval_us or 1000


def reference_policy(artifact: Artifact) -> StepPolicy:
    """Return the NumPy controller as a policy with a fresh state."""
    plan = artifact.plan
    controller = Controller(plan)
    state = {"ticks": 0}
    interval = plan.action.interval_us or plan.obs.native_interval_us or 1000

    def step(obs: F32) -> F32:
        state["ticks"] += 1
        now = state["ticks"] * interval if has_time(plan) else 0
        previous = np.zeros(plan.network.n_out, np.float32) if state["ticks"] == 1 else controller.last
        return controller.step(obs, previous=previous, now_us=now)[0]

    return step


def fly(policy: StepPolicy, plant: Plant, *, seed: int, ticks: int) -> npt.NDArray[np.float32]:
    """Fly an episode; return observations and actions (ticks, state + actions) float32."""
    obs = plant.reset(seed)
    rows = []
    for _ in range(ticks):
        action = policy(obs)
        rows.append(np.concatenate([obs, action]))
        obs = plant.step(action)
    return np.array(rows, np.float32)
