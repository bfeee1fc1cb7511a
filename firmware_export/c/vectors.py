"""Make golden vectors: what a controller must answer to given observations, from the Python reference."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.c.closed_loop import Controller
from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import observations

__all__ = ["Golden", "Trace", "drive", "golden"]

F32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """Hold observations (n, state), previous actions where the caller gives them, and the checksum of the
    answers.
    """

    obs: F32
    previous: F32 | None
    steps: int
    crc32: int


@dataclass(frozen=True)
class Trace:
    """Hold a run of a controller: actions (n, n_out) float32 and status bits (n,) uint32."""

    actions: F32
    status: npt.NDArray[np.uint32]

    @property
    def crc32(self) -> int:
        """Return the checksum that NAME_selftest makes of the same run."""
        crc = 0
        for action, status in zip(self.actions, self.status, strict=True):
            crc = zlib.crc32(np.uint32(status).tobytes(), zlib.crc32(action.astype("<f4").tobytes(), crc))
        return crc


def drive(plan: Plan, obs: F32, previous: F32 | None, times_us: list[int] | None = None) -> Trace:
    """Run a fresh reference controller over observations (n, state)."""
    controller = Controller(plan)
    interval = plan.action.interval_us or plan.obs.native_interval_us or 1000
    actions, status = [], []
    for i, row in enumerate(obs):
        now = times_us[i] if times_us is not None else (i + 1) * interval
        given = previous[i] if previous is not None else None
        action, bits = controller.step(row, previous=given, now_us=now if has_time(plan) else 0)
        actions.append(action)
        status.append(bits)
    return Trace(np.array(actions, np.float32), np.array(status, np.uint32))


def golden(plan: Plan, *, count: int = 4, seed: int = 0) -> Golden:
    """Return golden vectors: `count` observations that are repeated over 2 periods and 2 steps."""
    rng = np.random.default_rng(seed)
    obs = observations(rng, count, plan.network.n_in)[:, : plan.obs.state]
    steps = 2 * plan.obs.period + 2 if plan.obs.history else count
    steps = max(count, min(steps, 24))
    previous = None
    if plan.obs.history and plan.obs.feed == "previous_action":
        previous = rng.uniform(-1, 1, (count, plan.network.n_out)).astype(np.float32)
    index = np.arange(steps)
    given = previous[(index + 1) % count] if previous is not None else None
    trace = drive(plan, obs[index % count], given)
    return Golden(obs, previous, steps, trace.crc32)
