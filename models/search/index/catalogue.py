"""Number the documents of an index: item ids, lengths, and who is still alive."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

__all__ = ["Catalogue"]


class Catalogue:
    """Give every document a number 0, 1, 2, ... in order of arrival; a removed document is dead, its number
    stays.
    """

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}  # item id -> number, live documents only
        self.total_length = 0  # terms in live documents
        self._ids = array("Q")
        self._lengths = array("i")
        self._languages = array("B")
        self._alive = bytearray()
        self.spoken: dict[int, int] = {}  # language code -> live documents

    @classmethod
    def of(
        cls, ids: NDArray[np.uint64], lengths: NDArray[np.int32], languages: NDArray[np.uint8]
    ) -> Catalogue:
        """Return a catalogue of live documents; raises ValueError when an id appears twice."""
        self = cls()
        self._ids.frombytes(ids.tobytes())
        self._lengths.frombytes(lengths.tobytes())
        self._languages.frombytes(languages.tobytes())
        codes, counts = np.unique(languages, return_counts=True)
        self.spoken = dict(zip(codes.tolist(), counts.tolist(), strict=True))
        self._alive = bytearray(b"\1" * len(ids))
        self.numbers = dict(zip(self._ids, range(len(ids)), strict=True))
        self.total_length = int(lengths.sum(dtype=np.int64))
        if len(self.numbers) != len(ids):
            raise ValueError("an id appears twice")
        return self

    def __len__(self) -> int:
        """Return how many numbers are given, dead documents included."""
        return len(self._alive)

    @property
    def dead(self) -> int:
        """Return how many documents are dead."""
        return len(self._alive) - len(self.numbers)

    @property
    def mean_length(self) -> float:
        """Return the mean length of live documents in terms, 1.0 where all are empty."""
        return self.total_length / max(len(self.numbers), 1) or 1.0

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Return the ids by number `(len,) uint64`: a view, to be let go before the next change."""
        return np.frombuffer(self._ids, np.uint64)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Return the lengths by number `(len,) int32`: a view, to be let go before the next change."""
        return np.frombuffer(self._lengths, np.int32)

    @property
    def languages(self) -> NDArray[np.uint8]:
        """Return the language codes by number `(len,) uint8`: a view, to be let go before the next change."""
        return np.frombuffer(self._languages, np.uint8)

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Return who is alive, by number `(len,) bool`: a view, to be let go before the next change."""
        return np.frombuffer(self._alive, np.bool_)

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the arrays."""
        return len(self._alive) * (8 + 4 + 1 + 1)

    def append(self, item_id: int, length: int, language: int = 0) -> int:
        """Add a live document and return its number; one of the same id dies. Raises OverflowError if not a
        u64.
        """
        self._ids.append(item_id)
        self.kill(item_id)
        number = len(self._alive)
        self._lengths.append(length)
        self._languages.append(language)
        self.spoken[language] = self.spoken.get(language, 0) + 1
        self._alive.append(1)
        self.numbers[item_id] = number
        self.total_length += length
        return number

    def kill(self, item_id: int) -> int | None:
        """Let the document `item_id` die and return its number, None when there is none."""
        number = self.numbers.pop(item_id, None)
        if number is not None:
            self._alive[number] = 0
            self.total_length -= self._lengths[number]
            self.spoken[self._languages[number]] -= 1
        return number

    def survivors(self) -> tuple[Catalogue, NDArray[np.int32]]:
        """Return a catalogue of the living, and the new number of each old one `(len,) int32`, -1 for the
        dead.
        """
        alive = self.alive
        new_numbers = np.cumsum(alive, dtype=np.int32) - np.int32(1)
        new_numbers[~alive] = -1
        return Catalogue.of(self.ids[alive], self.lengths[alive], self.languages[alive]), new_numbers
