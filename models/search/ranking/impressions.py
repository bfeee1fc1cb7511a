"""Count the impressions of one query: who was shown which item, in which position class, when, and who clicked.

Rows are (origin, item, class, epoch) -> shown, clicked; a *voter* is an (origin, item) pair. The clicks and looks of the
voters are kept up to date for one `gamma` and one epoch of reading, so that a query costs a few vector operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Impressions"]

Floats = NDArray[np.float64]


class Impressions:
    """Hold the counts of one query; `version` names the gamma and the fading that the sums were made with."""

    __slots__ = (
        "_clicks",
        "_counts",
        "_looks",
        "_places",
        "_rows",
        "_version",
        "_voter_rows",
        "_voters",
        "_who",
        "items",
        "places",
        "size",
    )

    def __init__(self) -> None:
        self.items: list[int] = []
        self.places: dict[int, int] = {}
        self.size = 0
        self._rows: dict[tuple[int, int, int], int] = {}
        self._counts: NDArray[np.int64] = np.zeros((8, 5), np.int64)  # voter, class, epoch, shown, clicked
        self._voters: dict[int, int] = {}
        self._who: NDArray[np.int64] = np.zeros(8, np.int64)
        self._places: NDArray[np.int64] = np.zeros(8, np.int64)
        self._clicks: Floats = np.zeros(8)
        self._looks: Floats = np.zeros(8)
        self._version: object = None

    def count(
        self,
        origin: int,
        item: int,
        kind: int,
        epoch: int,
        shown: int,
        clicked: int,
        weight: float,
        gamma: float,
    ) -> None:
        """Add to a count; `weight` (fading) and `gamma` bring the sums up to date."""
        place = self.places.get(item)
        if place is None:
            place = self.places[item] = len(self.items)
            self.items.append(item)
        voter = self._voter(origin, place)
        key = (voter, kind, epoch)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self.size
            if row == len(self._counts):
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._counts[row, :3] = key
            self.size += 1
        counts = self._counts[row]
        if counts[3] + shown < 0 or counts[4] + clicked < 0:
            raise ValueError("an impression that was not counted cannot be taken back")
        counts[3] += shown
        counts[4] += clicked
        self._clicks[voter] += clicked * weight
        self._looks[voter] += shown * weight * gamma

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return (origin of each row, place of each row, columns class, epoch, shown, clicked `(rows, 4)`)."""
        counts = self._counts[: self.size]
        return self._who[counts[:, 0]], self._places[counts[:, 0]], counts[:, 1:]

    def sums(
        self, version: object, gamma: Floats, fading: Floats | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
        """Return (origin, place, clicks, looks) of the voters; made anew when `version` is another than before.

        `fading` weighs the rows (None: all alike).
        """
        size = len(self._voters)
        if self._version != version:
            counts = self._counts[: self.size]
            weight = np.ones(self.size) if fading is None else fading
            self._clicks[:size] = np.bincount(counts[:, 0], counts[:, 4] * weight, size)
            self._looks[:size] = np.bincount(counts[:, 0], counts[:, 3] * weight * gamma[counts[:, 1]], size)
            self._version = version
        return self._who[:size], self._places[:size], self._clicks[:size], self._looks[:size]

    def epochs(self) -> NDArray[np.int64]:
        """Return the epoch of each row."""
        return self._counts[: self.size, 2]

    def _voter(self, origin: int, place: int) -> int:
        key = place << 32 | origin
        voter = self._voters.get(key)
        if voter is None:
            voter = self._voters[key] = len(self._voters)
            if voter == len(self._who):
                self._who = np.concatenate([self._who, np.zeros_like(self._who)])
                self._places = np.concatenate([self._places, np.zeros_like(self._places)])
                self._clicks = np.concatenate([self._clicks, np.zeros_like(self._clicks)])
                self._looks = np.concatenate([self._looks, np.zeros_like(self._looks)])
            self._who[voter], self._places[voter] = origin, place
        return voter
