"""Remember transitions in a ring of arrays, each with the source it came from.

Sources: `own` experience, a `peer`'s shard, a `log` file, a `demo`. What did not come from ourselves enters learning
only through the race of `flocklet.models.policy.race`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flocklet.models.base import State
from flocklet.models.policy.environment import Floats

__all__ = ["SOURCES", "Batch", "Replay"]

SOURCES = ("own", "peer", "log", "demo")


class Batch(NamedTuple):
    """Transitions: `seen` and `after` (n, D), `action` (n,) or (n, K), `reward` (n,), `terminated` (n,)."""

    seen: Floats
    action: NDArray[Any]
    reward: Floats
    after: Floats
    terminated: NDArray[np.bool_]


class Replay:
    """A ring of `size` transitions; the oldest makes way. `controls` is None for discrete actions."""

    def __init__(self, size: int, seen: int, controls: int | None) -> None:
        self.size, self.count, self.at = size, 0, 0
        self.rows = Batch(
            np.zeros((size, seen), np.float32),
            np.zeros(size, np.int32) if controls is None else np.zeros((size, controls), np.float32),
            np.zeros(size, np.float32),
            np.zeros((size, seen), np.float32),
            np.zeros(size, bool),
        )
        self.source = np.zeros(size, np.int8)

    def push(self, batch: Batch, source: str = "own") -> None:
        """Add transitions; raise ValueError for an unknown source, other shapes or numbers that are not finite."""
        if source not in SOURCES:
            raise ValueError(f"no source {source!r}: {', '.join(SOURCES)}")
        n = len(batch.reward)
        for into, value in zip(self.rows, batch, strict=True):
            given = np.asarray(value)
            if given.shape != (n, *into.shape[1:]) or not np.isfinite(given).all():
                raise ValueError(f"transitions have shape {given.shape}, or hold a value that is not finite")
        if n > self.size:
            batch = Batch(*(np.asarray(value)[n - self.size :] for value in batch))
            n = self.size
        where = (self.at + np.arange(n)) % self.size
        for into, value in zip(self.rows, batch, strict=True):
            into[where] = value
        self.source[where] = SOURCES.index(source)
        self.at = (self.at + n) % self.size
        self.count = min(self.count + n, self.size)

    def sample(self, n: int, rng: np.random.Generator, sources: Sequence[str] | None = None) -> Batch:
        """Draw `n` transitions with replacement, from the given sources only; raise ValueError where there are none."""
        if sources is None:
            rows = rng.integers(self.count, size=n) if self.count else np.zeros(0, np.int64)
        else:
            wanted = [SOURCES.index(name) for name in sources]
            held = np.flatnonzero(np.isin(self.source[: self.count], wanted))
            rows = held[rng.integers(len(held), size=n)] if len(held) else held
        if not len(rows):
            raise ValueError(f"the replay holds no transition from {', '.join(sources or SOURCES)}")
        return Batch(*(value[rows] for value in self.rows))

    def state(self) -> State:
        """Return a copy of everything held, as plain arrays."""
        out: State = {name: value[: self.count].copy() for name, value in self.rows._asdict().items()}
        out["source"] = self.source[: self.count].copy()
        out["at"] = np.array([self.at], np.int64)
        return out

    def load_state(self, state: State) -> None:
        """Replace what is held; raise ValueError for arrays that do not fit."""
        n, at = len(state["source"]), int(state["at"][0])
        if (
            n > self.size
            or not 0 <= at < self.size
            or not np.isin(state["source"], range(len(SOURCES))).all()
        ):
            raise ValueError("this state belongs to another replay")
        held = Batch(*(np.asarray(state[name]) for name in Batch._fields))
        self.count = self.at = 0
        self.push(held)
        self.source[:n] = state["source"]
        self.at = at
