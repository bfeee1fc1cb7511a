"""What a policy learns in: many worlds side by side, as pure functions over arrays.

M worlds run at once, each with N agents. Arrays are C-contiguous, world first: observation (M, N, D) float32, discrete
action (M, N) int32 or continuous action (M, N, K) float32 in [-1, 1], reward (M, N) or (M, N, H) with H reward heads,
`terminated` and `truncated` (M,) bool, never both true. `step` never resets and keeps nothing: the last observation is
not lost, and the caller swaps finished rows by `replace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from dataclasses import replace as with_fields
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Bools",
    "Environment",
    "Floats",
    "Spec",
    "Step",
    "continuous_action",
    "discrete_action",
    "draw_levels",
    "heads_of",
    "replace_rows",
    "state_arrays",
    "state_of",
    "take_rows",
]

Floats: TypeAlias = NDArray[Any]
"""float32, or float64 in an oracle."""

Bools: TypeAlias = NDArray[np.bool_]

S = TypeVar("S")


@dataclass(frozen=True)
class Spec:
    """What a policy must fit: `seen` numbers in, `actions` choices or `controls` numbers out (the other is None).

    `level` names the parameters of one world and their range; `categorical` are the columns of the observation that
    are codes; `privileged` is the width of what only the critic sees; `steps` is where an episode is truncated.
    """

    name: str
    seen: int
    actions: int | None = None
    controls: int | None = None
    agents: int = 1
    heads: tuple[str, ...] = ("reward",)
    steps: int = 500
    level: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categorical: tuple[int, ...] = ()
    privileged: int = 0

    def __post_init__(self) -> None:
        if (self.actions is None) == (self.controls is None):
            raise ValueError(f"{self.name}: either actions (discrete) or controls (continuous), not both")
        widths = (self.seen, self.agents, self.steps, self.actions or 1, self.controls or 1)
        if min(widths) < 1 or not self.heads:
            raise ValueError(f"{self.name}: seen, agents, steps, actions, controls and heads are at least 1")


class Step(NamedTuple):
    """What a step gives; `info` holds arrays only (success flags, captions as int codes)."""

    state: Any
    reward: Floats
    terminated: Bools
    truncated: Bools
    info: Mapping[str, NDArray[Any]] = {}


class Environment(Protocol):
    """Worlds to act in; `flocklet.models.policy.check.check_environment` is the contract in executable form.

    Randomness comes only from `rng`; a state is a frozen dataclass of arrays with leading axis M.
    """

    @property
    def spec(self) -> Spec:
        """Say what a policy must fit."""
        ...

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> Any:
        """Return a state of `worlds` fresh worlds; `levels` (worlds, L) sets the level's parameters."""
        ...

    def observe(self, state: Any, rng: np.random.Generator) -> Floats:
        """Return what the policy sees, (M, N, D) float32; observation noise is drawn here."""
        ...

    def observe_privileged(self, state: Any) -> Floats:
        """Return what only the critic sees, (M, P); asked for only where `spec.privileged` is above 0."""
        ...

    def allowed(self, state: Any) -> Bools | None:
        """Return the legal actions (M, N, A), or None where all are."""
        ...

    def step(self, state: Any, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Advance every world; raise ValueError for an action of a wrong shape or that is not a number."""
        ...

    def replace(self, state: Any, mask: Bools, fresh: Any) -> Any:
        """Return `state` with the rows of `mask` (M,) taken from `fresh` (M rows)."""
        ...


def discrete_action(spec: Spec, action: NDArray[Any], worlds: int) -> NDArray[np.int32]:
    """Return the actions (M, N) as int32; raise ValueError for another shape or an action that does not exist."""
    given = np.asarray(action)
    if given.shape != (worlds, spec.agents) or given.dtype.kind not in "iu":
        raise ValueError(
            f"{spec.name}: actions are integers of shape ({worlds}, {spec.agents}), "
            f"not {given.dtype} {given.shape}"
        )
    if given.size and not (given.min() >= 0 and given.max() < (spec.actions or 0)):
        raise ValueError(f"{spec.name}: an action is outside 0..{(spec.actions or 0) - 1}")
    return given.astype(np.int32, copy=False)


def continuous_action(spec: Spec, action: NDArray[Any], worlds: int) -> Floats:
    """Return the actions (M, N, K) clipped to [-1, 1]; raise ValueError for another shape or NaN."""
    given = np.asarray(action)
    if given.shape != (worlds, spec.agents, spec.controls) or given.dtype.kind not in "fiu":
        raise ValueError(
            f"{spec.name}: actions are numbers of shape ({worlds}, {spec.agents}, {spec.controls}), "
            f"not {given.dtype} {given.shape}"
        )
    if np.isnan(given).any():
        raise ValueError(f"{spec.name}: an action is not a number")
    kind = given.dtype if given.dtype == np.float64 else np.float32
    return np.asarray(np.clip(given, -1.0, 1.0), kind)


def draw_levels(spec: Spec, rng: np.random.Generator, worlds: int, levels: Floats | None) -> Floats:
    """Return levels (worlds, L) float32: those given, or uniform in their ranges; raise ValueError for bad ones."""
    names = list(spec.level)
    if levels is None:
        low, high = (np.array([spec.level[name][side] for name in names]) for side in (0, 1))
        return np.asarray(low + (high - low) * rng.random((worlds, len(names))), np.float32)
    given = np.asarray(levels, np.float32)
    if given.shape != (worlds, len(names)) or not np.isfinite(given).all():
        raise ValueError(
            f"{spec.name}: levels are finite numbers ({worlds}, {len(names)}): {', '.join(names)}"
        )
    return given.copy()


def heads_of(reward: Floats, spec: Spec) -> Floats:
    """Return rewards as (M, N, H); raise ValueError where they are not finite or of another shape."""
    given = np.asarray(reward)
    if given.ndim == 2:
        given = given[:, :, None]
    if given.shape[1:] != (spec.agents, len(spec.heads)):
        raise ValueError(
            f"{spec.name}: rewards have shape {given.shape}, not (M, {spec.agents}, {len(spec.heads)})"
        )
    if not np.isfinite(given).all():
        raise ValueError(f"{spec.name}: a reward is not a finite number")
    return given


def state_arrays(state: Any) -> dict[str, NDArray[Any]]:
    """Return the fields of a state, name -> array; raise TypeError for a field that is none."""
    arrays = {item.name: getattr(state, item.name) for item in fields(state)}
    for name, value in arrays.items():
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(f"field {name!r} of a state is no plain array")
    return arrays


def state_of(like: S, arrays: Mapping[str, NDArray[Any]]) -> S:
    """Return a state of the kind of `like` with these arrays."""
    changed: S = with_fields(like, **dict(arrays))  # type: ignore[type-var]
    return changed


def take_rows(state: S, rows: NDArray[Any]) -> S:
    """Return the state of some worlds."""
    return state_of(state, {name: value[rows] for name, value in state_arrays(state).items()})


def replace_rows(state: S, mask: Bools, fresh: S) -> S:
    """Return `state` with the rows of `mask` (M,) taken from the same rows of `fresh`."""
    out: dict[str, NDArray[Any]] = {}
    new = state_arrays(fresh)
    for name, value in state_arrays(state).items():
        copy = value.copy()
        copy[mask] = new[name][mask]
        out[name] = copy
    return state_of(state, out)
