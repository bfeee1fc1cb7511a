"""Ask a peer for its models, and answer: which versions are held, and deltas that their author signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from flocklet.wire.schema import Many, Within

__all__ = ["MAX_DELTAS", "MAX_DELTA_SIZE", "DeltaAnswer", "DeltaQuestion"]

MAX_ASKED = 4
MAX_DELTAS = 8
MAX_DELTA_SIZE = 64 * 1024
_MOST_ROUND = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class DeltaQuestion:
    """Ask for models by `name`; `version` (16 bytes, or none) and `round` are the newest held of that peer."""

    kind: ClassVar[str] = "deltas?"
    name: Annotated[tuple[str, ...], Many(MAX_ASKED), Within(1, 32)]
    version: Annotated[tuple[bytes, ...], Many(MAX_ASKED), Within(0, 16, step=16)]
    round: Annotated[tuple[int, ...], Many(MAX_ASKED), Within(0, _MOST_ROUND)]


@dataclass(frozen=True, slots=True)
class DeltaAnswer:
    """Answer with `send` messages as their author signed them."""

    kind: ClassVar[str] = "deltas!"
    frames: Annotated[tuple[bytes, ...], Many(MAX_DELTAS), Within(0, MAX_DELTA_SIZE)]
