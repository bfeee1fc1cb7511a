"""Run a policy step by step in Python exactly as the generated `NAME_step` does: guards, watchdog, history.

This is the reference for closed-loop bits: golden vectors, the verifier and the firmware-in-the-loop
flight compare with it. Every number is float32 and every operation rounds by itself.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.c.step import STATUS, has_time
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import forward, hidden_size

__all__ = ["Controller"]

F32: TypeAlias = npt.NDArray[np.float32]
_f = np.float32
_BIT = {key: value for key, (value, _) in STATUS.items()}
_TINY, _INF = 0x00800000, 0x7F800000


def guard(values: F32, limits: F32) -> tuple[F32, int]:
    """Return the values that the network may see, and status bits: the Python twin of `guard` in C."""
    bits = values.view(np.uint32)
    size = bits & np.uint32(0x7FFFFFFF)
    nonfinite = size >= _INF
    denormal = (size < _TINY) & (size > 0)
    large = ~nonfinite & (size > limits.view(np.uint32))
    out = np.where(nonfinite | denormal, np.uint32(0), bits)
    out = np.where(large, (bits & np.uint32(0x80000000)) | limits.view(np.uint32), out)
    status = (_BIT["NONFINITE"] if nonfinite.any() else 0) | (
        _BIT["OBS_CLIPPED"] if (denormal | large).any() else 0
    )
    return out.astype(np.uint32).view(_f), status


class Controller:
    """Hold the state of one controller; `step` returns (action (n_out,) float32, status bits)."""

    def __init__(self, plan: Plan, *, init: float | None = None) -> None:
        self.plan = plan
        self.limits = np.array(plan.obs.limits, _f)
        self.low, self.high, self.safe = plan.action.bounds(plan.network.n_out)
        self.reset(plan.obs.init if init is None else init)

    def reset(self, init: float) -> None:
        """Fill the history with a value and forget everything else."""
        entries = self.plan.obs.history
        value, status = guard(np.array([init], _f), np.array([1e3], _f))
        init = 0.0 if status else float(value[0])
        self.integer = (
            self.plan.integer.controller(init) if self.plan.integer is not None and entries else None
        )
        self.history = np.full(entries or (1, 1), init, _f)
        self.hidden = np.zeros((1, hidden_size(self.plan.network)), _f)
        self.last = self.safe.copy()
        self.bad = self.sub = self.native = 0
        self.last_us: int | None = None
        self.native_us: int | None = None
        self.spans: list[int] = []
        self.biased = 0

    def _timing(self, now_us: int) -> int:
        action, status = self.plan.action, 0
        if self.last_us is not None:
            gap = now_us - self.last_us
            if gap < 0:
                status |= _BIT["BAD_TIME"]
            else:
                if action.max_gap_us and gap > action.max_gap_us:
                    status |= _BIT["DEADLINE"]
                if action.interval_us:
                    early, late = action.interval_us * 4 // 5, action.interval_us * 6 // 5
                    status |= 0 if early <= gap <= late else _BIT["JITTER"]
                    self.spans.append(min(gap, 0xFFFFFF))
                    if len(self.spans) == 100:
                        self.biased = 0 if 100 * early <= sum(self.spans) <= 100 * late else _BIT["BIAS"]
                        self.spans = []
                    status |= self.biased
        self.last_us = now_us
        return status

    def _network(self, state: F32) -> F32:
        plan = self.plan
        if self.integer is not None:
            return np.asarray(self.integer.forward(state), _f)
        if plan.integer is not None:
            return np.asarray(plan.integer.forward(state[None])[0], _f)
        if plan.obs.history is None:
            return np.asarray(forward(plan.network, state[None], hidden=self.hidden)[0], _f)
        internal = np.concatenate([self.history.ravel(), state])
        x = np.empty_like(internal)
        x[plan.order] = internal
        return np.asarray(forward(plan.network, x[None], order=plan.order, hidden=self.hidden)[0], _f)

    def _feed(self, fed: F32, k: int) -> None:
        if self.integer is not None:
            self.integer.feed(fed, k)
        elif self.plan.obs.feed == "previous_action" and k == 0:
            self.history[-1] = fed
        else:
            self.history[-1] = (self.history[-1] * _f(k) + fed) / _f(k + 1)

    def _shift(self) -> None:
        if self.integer is not None:
            self.integer.shift()
        else:
            self.history[:-1] = self.history[1:].copy()

    def step(self, obs: F32, *, previous: F32 | None = None, now_us: int = 0) -> tuple[F32, int]:
        """Take one control step."""
        plan, rules = self.plan, self.plan.obs
        status = self._timing(now_us) if has_time(plan) else 0
        state, found = guard(np.ascontiguousarray(obs, _f), self.limits)
        status |= found
        before = rules.history is not None and rules.feed == "previous_action"
        if before:
            given = np.zeros_like(self.last) if previous is None else np.ascontiguousarray(previous, _f)
            fed, seen = guard(given, np.full_like(given, 1e9))
            if seen & _BIT["NONFINITE"]:
                status |= _BIT["NONFINITE"]
                fed = np.where(np.isfinite(given), fed, self.last)
            self._feed(fed, self.sub)
        limit = plan.action.bad_limit
        if status & (_BIT["NONFINITE"] | _BIT["BAD_TIME"] | _BIT["DEADLINE"]):
            self.bad = min(self.bad + 1, limit) if status & _BIT["NONFINITE"] else limit
            bad = True
        elif self.bad == limit and plan.action.recovery == "reset":
            bad = True
        else:
            self.bad, bad = 0, False
        if not bad:
            raw = self._network(state)
            action = np.where(raw >= self.low, raw, self.low)
            action = np.where(action > self.high, self.high, action)
            status |= 0 if np.array_equal(action, raw) else _BIT["ACTION_CLIPPED"]
            self.last = action
        else:
            if self.bad == limit:
                status |= _BIT["FAILSAFE"]
                self.last = self.safe.copy()
            raw = self.last
        self._advance(raw, before=before, now_us=now_us)
        return self.last.copy(), status

    def _advance(self, raw: F32, *, before: bool, now_us: int) -> None:
        rules = self.plan.obs
        self.native = 1
        if rules.history is None:
            return
        if before:
            self.sub = min(self.sub + 1, 65535)
            if rules.native_interval_us:
                due = self.native_us is None or now_us - self.native_us >= rules.native_interval_us
                self.native_us = now_us if due else self.native_us
            else:
                due = self.sub == rules.period
            self.native = int(due)
            if due:
                self._shift()
                self.sub = 0
            return
        self.native = int(self.sub == 0)
        if self.sub == 0:
            self._shift()
        self._feed(raw, self.sub)
        self.sub = (self.sub + 1) % rules.period
