"""What a query asks for beside its plain words, in the numbers of one index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Asked"]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Groups of rows that score, what each counts (empty: 1), and who may be found `(documents,) bool` (None: all).

    `corrected` are (word as typed, words searched for too). Valid until the next change of the index.
    """

    groups: tuple[tuple[int, ...], ...]
    factors: tuple[float, ...] = ()
    allowed: NDArray[np.bool_] | None = None
    corrected: tuple[tuple[str, tuple[str, ...]], ...] = ()
