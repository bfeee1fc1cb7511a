"""A room of 9 x 9 cells: fetch the key from one corner, bring it to the door in another. Reward only at the door.

Every cell has a caption, which an annotator may judge; `info["caption"]` is its number in `captions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Bools, Floats, Spec, Step, discrete_action, replace_rows

__all__ = ["KeyRoom", "KeyRoomState"]

_SIZE = 9
_KEY, _DOOR = (0, 8), (8, 8)
_MOVES = np.array([(0, -1), (0, 1), (-1, 0), (1, 0)])
_ROWS = (
    "north wall",
    "north shelf",
    "upper bench",
    "upper rug",
    "middle",
    "lower rug",
    "lower bench",
    "south shelf",
    "south wall",
)
_COLUMNS = (
    "far left",
    "left",
    "left lamp",
    "left chair",
    "centre",
    "right chair",
    "right lamp",
    "right",
    "far right",
)


@dataclass(frozen=True)
class KeyRoomState:
    """M worlds: `place` (M, 2) column and row, `has_key` (M,), `time` (M,)."""

    place: NDArray[np.int32]
    has_key: NDArray[np.bool_]
    time: NDArray[np.int32]


class KeyRoom:
    """Move up, down, left or right; 150 steps. Sees column, row and whether the key is carried."""

    spec = Spec("keyroom", seen=3, actions=4, steps=150, categorical=(0, 1, 2))

    def __init__(self) -> None:
        plain = [f"you stand at the {row}, {column}" for row in _ROWS for column in _COLUMNS]
        carried = [f"hands full at the {row}, {column}" for row in _ROWS for column in _COLUMNS]
        self.captions = [*plain, *carried]
        self.captions[_DOOR[1] * _SIZE + _DOOR[0]] = "the door is locked"
        self.captions[_SIZE**2 + _DOOR[1] * _SIZE + _DOOR[0]] = "the key opens the door"
        self.captions.append("you take the key")

    def reset(self, rng: np.random.Generator, worlds: int, levels: Floats | None = None) -> KeyRoomState:
        """Start in the centre without the key; there are no levels."""
        if levels is not None:
            raise ValueError("keyroom has no levels")
        place = np.full((worlds, 2), _SIZE // 2, np.int32)
        return KeyRoomState(place, np.zeros(worlds, bool), np.zeros(worlds, np.int32))

    def observe(self, state: KeyRoomState, rng: np.random.Generator) -> Floats:
        """Return column, row and 1 with the key."""
        return np.concatenate([state.place, state.has_key[:, None]], axis=1)[:, None].astype(np.float32)

    def observe_privileged(self, state: KeyRoomState) -> Floats:
        """Return the same."""
        return self.observe(state, np.random.default_rng(0))[:, 0]

    def allowed(self, state: KeyRoomState) -> Bools | None:
        """Allow every move; a wall stops it."""
        return None

    def step(self, state: KeyRoomState, action: NDArray[Any], rng: np.random.Generator) -> Step:
        """Move once."""
        move = discrete_action(self.spec, action, len(state.time))[:, 0]
        place = np.clip(state.place + _MOVES[move], 0, _SIZE - 1).astype(np.int32)
        has_key = state.has_key | (place == _KEY).all(axis=1)
        is_open = has_key & (place == _DOOR).all(axis=1)
        time = state.time + np.int32(1)
        caption = place[:, 1] * _SIZE + place[:, 0] + _SIZE**2 * has_key
        caption = np.where(has_key & ~state.has_key, len(self.captions) - 1, caption)
        after = KeyRoomState(place, has_key, time)
        late = (time >= self.spec.steps) & ~is_open
        return Step(after, is_open[:, None].astype(np.float32), is_open, late, {"caption": caption})

    def replace(self, state: KeyRoomState, mask: Bools, fresh: KeyRoomState) -> KeyRoomState:
        """Swap finished rows."""
        return replace_rows(state, mask, fresh)

    def picture(self, state: KeyRoomState) -> Floats:
        """Return the first world as shapes: walls, door, key and who walks."""
        at = (state.place[0] / (_SIZE - 1) * 2 - 1) * [0.9, -0.9]
        walls = [
            [0, -1, -1, 1, -1],
            [0, 1, -1, 1, 1],
            [0, 1, 1, -1, 1],
            [0, -1, 1, -1, -1],
            [0, 0.8, -1, 1, -0.8],
        ]
        key = at if state.has_key[0] else np.array([-0.9, -0.9])
        return np.array([*walls, [1, *key, 0.03, 0], [1, *at, 0.07, 0]])
