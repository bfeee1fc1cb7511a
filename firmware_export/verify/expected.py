"""What a proof compares with: inputs from seeds, hostile ones among them, and the NumPy reference's answers as words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.c.vectors import Trace, drive
from flocklet.firmware_export.export import outputs
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import observations
from flocklet.firmware_export.verify.harness import layout_of

__all__ = ["Expected", "digest", "expected_of", "fuzz_records", "step_records"]

U32: TypeAlias = npt.NDArray[np.uint32]
F32: TypeAlias = npt.NDArray[np.float32]
_STEPS = 40


@dataclass(frozen=True)
class Expected:
    """Hold inputs and the reference's answers: network inputs and outputs, step records and their trace."""

    x: F32
    y: F32
    records: U32
    trace: Trace

    @property
    def sha256(self) -> str:
        """Return the digest over outputs, actions and status bits."""
        return digest(self.y.view(np.uint32), self.step_words)

    @property
    def step_words(self) -> U32:
        """Return actions and status as the drivers write them."""
        return np.column_stack([self.trace.actions.view(np.uint32), self.trace.status])


def digest(outputs_: npt.NDArray[Any], steps: npt.NDArray[Any]) -> str:
    """Return the SHA-256 over output words and step words."""
    made = hashlib.sha256(np.ascontiguousarray(outputs_, "<u4").tobytes())
    made.update(np.ascontiguousarray(steps, "<u4").tobytes())
    return made.hexdigest()


def step_records(plan: Plan, obs: F32, previous: F32 | None, times_us: Sequence[int]) -> U32:
    """Return records for drive_step: observation, previous action, time in two words."""
    parts = [np.ascontiguousarray(obs, np.float32).view(np.uint32)]
    if previous is not None:
        parts.append(np.ascontiguousarray(previous, np.float32).view(np.uint32))
    times = np.array(times_us, np.uint64)
    parts.append(np.column_stack([times & np.uint64(0xFFFFFFFF), times >> np.uint64(32)]).astype(np.uint32))
    return np.concatenate(parts, axis=1)


def expected_of(plan: Plan, *, vectors: int = 64, steps: int = _STEPS, seed: int = 0) -> Expected:
    """Return what the reference answers to seeded observations."""
    rng = np.random.default_rng(seed)
    x = observations(rng, max(vectors, steps), plan.network.n_in)
    obs = x[:steps, : plan.obs.state]
    previous = None
    if layout_of(plan).step_in > plan.obs.state + 2:
        previous = rng.uniform(-1, 1, (steps, plan.network.n_out)).astype(np.float32)
    interval = plan.action.interval_us or plan.obs.native_interval_us or 1000
    times = [(i + 1) * interval for i in range(steps)]
    trace = drive(plan, obs, previous, times)
    return Expected(x[:vectors], outputs(plan, x[:vectors]), step_records(plan, obs, previous, times), trace)


def fuzz_records(plan: Plan, rng: np.random.Generator, n: int) -> tuple[U32, npt.NDArray[np.bool_]]:
    """Return step records with hostile numbers, and which of them must set a status bit.

    A third of the values are NaN, infinite, huge or denormal; each record holds at least one such value
    half the time.
    """
    special = np.array(
        [0x7FC00000, 0xFF800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7FFFFF, 1, 0x807FFFFF], np.uint32
    )
    obs = observations(rng, n, plan.network.n_in)[:, : plan.obs.state].copy().view(np.uint32)
    limits = np.array(plan.obs.limits, np.float32)
    obs = np.clip(obs.view(np.float32), -limits, limits).view(np.uint32)
    hostile = (rng.random(obs.shape) < 1 / 3) & (rng.random(n) < 0.5)[:, None]
    obs = np.where(hostile, special[rng.integers(0, len(special), obs.shape)], obs)
    previous = None
    if layout_of(plan).step_in > plan.obs.state + 2:
        previous = special[rng.integers(0, len(special), (n, plan.network.n_out))].view(np.float32)
    interval = plan.action.interval_us or plan.obs.native_interval_us or 1000
    return step_records(
        plan, obs.view(np.float32), previous, [(i + 1) * interval for i in range(n)]
    ), np.asarray(hostile.any(axis=1))
