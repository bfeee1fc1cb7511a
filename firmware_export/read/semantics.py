"""State how a policy is called.

What it observes, what its action means, and how past actions come back to it.

Nothing of this can be read off the weights, and a wrong guess flies into a wall. So every rule is an
explicit field that is stored in `manifest.json`, in `NAME_info()` and in the generated README.

Sources: Learning to Fly (Eschmann et al. 2023), controller adapter; rl_tools L2F executor (current). Both
were read and written down in prose; no code is taken over.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.read.network import Network

__all__ = ["PRESETS", "ActionSpec", "ObsSpec", "column_order", "preset", "spec_from_json", "spec_to_json"]


@dataclass(frozen=True)
class ObsSpec:
    """Describe the observation: `state` values from sensors, then optionally a history of past actions.

    clip: limit of |value|, one number or one per state value; an infinity, a NaN and a denormal are caught
    as well. history: (entries, actions per entry). period: calls per entry. order: which end the network
    reads first. init: value of the history after a reset. feed: what becomes an entry: the policy's own
    action after the call ("raw_output"), or what the caller says was really done, before the call
    ("previous_action"). The newest entry is the running mean of its period. native_interval_us: 0 counts
    calls; else an entry ends when this much time passed. range: largest |value| of each state value where
    integers are used (i16); None where they are not.
    """

    state: int
    clip: float | tuple[float, ...] = 1e6
    history: tuple[int, int] | None = None
    period: int = 1
    order: str = "oldest_first"
    init: float = 0.0
    feed: str = "raw_output"
    native_interval_us: int = 0
    range: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _whole(self, "state", "period", "native_interval_us")
        _numeric(self, "clip", "init", *(() if self.range is None else ("range",)))
        if self.history is not None and not (
            isinstance(self.history, tuple) and [type(part) for part in self.history] == [int, int]
        ):
            raise ExportError(f"history {self.history!r:.60} is no pair of (entries, actions per entry)")
        if self.state < 1:
            raise ExportError("an observation needs at least one state value")
        for limit in self.limits:
            if not 0 < limit <= 1e12:
                raise ExportError(f"clip {limit} is no limit between 0 and 1e12")
        if self.order not in ("oldest_first", "newest_first"):
            raise ExportError(
                f"history order {self.order!r:.60} is unknown; use oldest_first or newest_first"
            )
        if self.feed not in ("raw_output", "previous_action"):
            raise ExportError(f"history feed {self.feed!r:.60} is unknown; use raw_output or previous_action")
        if self.history is not None and (
            min(self.history) < 1 or self.history[0] < 2 or not 1 <= self.period <= 1000
        ):
            raise ExportError("a history needs 2 or more entries and a period of 1 to 1000 calls")
        if not math.isfinite(self.init) or abs(self.init) > 1e3:
            raise ExportError("the initial value of the history must be a finite number")
        if self.native_interval_us and self.feed != "previous_action":
            raise ExportError("a native interval in time needs feed='previous_action'")

    @property
    def limits(self) -> tuple[float, ...]:
        """Return the clip of each state value."""
        return _each(self.clip, self.state, "clip")

    @property
    def ranges(self) -> tuple[float, ...]:
        """Return the declared range of each state value; the clip where none is declared."""
        return self.limits if self.range is None else _each(self.range, self.state, "range")

    @property
    def history_width(self) -> int:
        """Return how many inputs the history takes."""
        return self.history[0] * self.history[1] if self.history else 0


@dataclass(frozen=True)
class ActionSpec:
    """Describe the action: its limits, what it means, and what is returned when the inputs cannot be trusted.

    failsafe is returned after `bad_limit` bad inputs in a row, after a gap of more than `max_gap_us`
    between calls and after time ran backwards; until then a bad input repeats the last action. recovery:
    "good_input" resumes at the next good call, "reset" waits for `NAME_reset`. interval_us is the expected
    time between calls (0: no check).
    """

    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    failsafe: float | tuple[float, ...] = 0.0
    meaning: str = "unspecified"
    bad_limit: int = 3
    max_gap_us: int = 0
    interval_us: int = 0
    recovery: str = "good_input"

    def __post_init__(self) -> None:
        _whole(self, "bad_limit", "max_gap_us", "interval_us")
        _numeric(self, "low", "high", "failsafe")
        if not isinstance(self.meaning, str) or len(self.meaning) > 400:
            raise ExportError("the meaning of an action is a text of at most 400 characters")
        if self.recovery not in ("good_input", "reset"):
            raise ExportError(f"recovery {self.recovery!r:.60} is unknown; use good_input or reset")
        if (
            not 1 <= self.bad_limit <= 1000
            or not 0 <= self.max_gap_us < 2**31
            or not 0 <= self.interval_us < 2**31
        ):
            raise ExportError("bad_limit must be 1 to 1000; max_gap_us and interval_us fit in 31 bits")

    def bounds(
        self, n: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return low, high and failsafe as float32 (n,); raise `ExportError` for a contradiction."""
        low, high, safe = (
            np.array(_each(v, n, key), np.float32)
            for key, v in (("low", self.low), ("high", self.high), ("failsafe", self.failsafe))
        )
        if not (np.isfinite([low, high, safe]).all() and (low <= high).all()):
            raise ExportError("action limits must be finite, and low must not exceed high")
        if (safe < low).any() or (safe > high).any():
            raise ExportError("the failsafe action lies outside the action limits")
        return low, high, safe


def _whole(rules: Any, *names: str) -> None:
    """Refuse what is no integer: these numbers are written into the C as they are."""
    for name in names:
        if type(getattr(rules, name)) is not int:
            raise ExportError(f"{name} {getattr(rules, name)!r:.60} is no whole number")


def _numeric(rules: Any, *names: str) -> None:
    """Refuse what is neither a number nor a row of numbers."""
    for name in names:
        value = getattr(rules, name)
        parts = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts):
            raise ExportError(f"{name} {value!r:.60} is no number, nor numbers")


def _each(value: float | tuple[float, ...], n: int, what: str) -> tuple[float, ...]:
    if isinstance(value, (int, float)):
        return (float(value),) * n
    if len(value) != n:
        raise ExportError(f"{what} has {len(value)} values, not {n}")
    return tuple(float(v) for v in value)


_LTF_RANGE = (1.0,) * 3 + (1.0,) * 9 + (4.0,) * 3 + (35.0,) * 3
_LTF_CLIP = (0.5,) * 3 + (10.0,) * 9 + (2.0,) * 3 + (1e3,) * 3

PRESETS: dict[str, tuple[ObsSpec, ActionSpec]] = {
    "learning-to-fly": (
        ObsSpec(18, _LTF_CLIP, (32, 4), 5, "oldest_first", 0.0, "raw_output", 0, _LTF_RANGE),
        ActionSpec(-1.0, 1.0, -1.0, "rpm_fraction: rpm = (a + 1) / 2 * 21702.1", interval_us=2000),
    ),
    "rl-tools": (
        ObsSpec(18, 1e3, (32, 4), 5, "newest_first", 2 * 0.66 - 1, "previous_action", 0, _LTF_RANGE),
        ActionSpec(-1.0, 1.0, -1.0, "rpm_fraction: rpm = (a + 1) / 2 * rpm_max"),
    ),
}


def preset(name: str) -> tuple[ObsSpec, ActionSpec]:
    """Return the observation and action rules of a known trainer."""
    if name not in PRESETS:
        raise ExportError(f"the preset '{name}' is unknown", remedy=f"choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def column_order(network: Network, obs: ObsSpec) -> npt.NDArray[np.int64]:
    """Return which column of the first weight matrix each internal input belongs to.

    Internally the history comes first, oldest entry to newest, then the state: partial sums over the
    history can then be kept between calls, and the sum is still made in one fixed order.
    """
    if network.n_in != obs.state + obs.history_width:
        raise ExportError(
            f"the network takes {network.n_in} values "
            f"but the observation has {obs.state} + {obs.history_width}",
            remedy="set state and history of ObsSpec as the policy was trained",
        )
    if obs.history is None:
        return np.arange(network.n_in)
    entries = np.arange(obs.history_width).reshape(obs.history)
    if obs.order == "newest_first":
        entries = entries[::-1]
    return np.concatenate([obs.state + entries.ravel(), np.arange(obs.state)])


def spec_from_json(kind: type[Any], data: dict[str, Any]) -> Any:
    """Rebuild an `ObsSpec` or `ActionSpec` from its JSON fields (lists become tuples)."""
    known = {item.name for item in fields(kind)}
    if set(data) - known:
        raise ExportError(f"unknown {kind.__name__} field(s): {', '.join(sorted(set(data) - known))}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def spec_to_json(spec: ObsSpec | ActionSpec) -> dict[str, Any]:
    """Return the fields of a specification for JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()}
