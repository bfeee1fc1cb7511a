"""Find the words of the index that a mistyped word may have meant.

The optimal string alignment distance (insert, delete, replace, swap neighbours) from one word to all others at once:
the bit-parallel recurrences of Hyyrö (2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit
distances"), one NumPy lane a word, 32 bits a lane.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["LONGEST", "SHORTEST", "Speller", "distances"]

SHORTEST = 4
LONGEST = 24
_TWO_EDITS_FROM = 8
_OTHER_FIRST_LETTER = 0.5

U32 = NDArray[np.uint32]


def distances(
    word: str, codes: Mapping[str, int], table: NDArray[np.uint8], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the distance of `word` (at most 32 letters) to every column of `table` `(24, n) uint8`, `(n,) int64`.

    Columns are in ascending order of `lengths` and padded with 0, the code of no letter.
    """
    size = len(word)
    letters = np.zeros(256, np.uint32)
    for at, letter in enumerate(word):
        code = codes.get(letter, 0)
        if code:
            letters[code] |= np.uint32(1 << at)
    count = table.shape[1]
    one, last = np.uint32(1), np.uint32(size - 1)
    plus = np.full(count, (1 << size) - 1, np.uint32)
    minus = np.zeros(count, np.uint32)
    diagonal = np.zeros(count, np.uint32)
    before = np.zeros(count, np.uint32)
    result = np.full(count, size, np.int64)
    for row in range(int(lengths.max(initial=0))):
        start = int(np.searchsorted(lengths, row, side="right"))  # shorter words are done
        vp, vn, d0, pm_old = plus[start:], minus[start:], diagonal[start:], before[start:]
        pm = letters[table[row, start:]]
        swapped = ((~d0 & pm) << one) & pm_old
        d0 = (((pm & vp) + vp) ^ vp) | pm | vn | swapped
        hp = vn | ~(d0 | vp)
        hn = d0 & vp
        result[start:] += ((hp >> last) & one).astype(np.int64) - ((hn >> last) & one).astype(np.int64)
        hp = (hp << one) | one
        hn = hn << one
        plus[start:] = hn | ~(d0 | hp)
        minus[start:] = hp & d0
        diagonal[start:], before[start:] = d0, pm
    return result


class Speller:
    """Hold the words of an index, 24 bytes each; made anew when the index changes much."""

    def __init__(self, words: Mapping[str, int]) -> None:
        """Take word -> row; words of 4 to 24 letters are used."""
        self.size = len(words)
        kept = sorted((word for word in words if SHORTEST - 1 <= len(word) <= LONGEST), key=len)
        self._words = kept
        self._rows = np.array([words[word] for word in kept], np.int64)
        self._lengths = np.array([len(word) for word in kept], np.int64)
        letters = sorted(set("".join(kept)))[:255]
        self._codes = {letter: at for at, letter in enumerate(letters, 1)}
        self._table = np.zeros((LONGEST, len(kept)), np.uint8)
        for at, word in enumerate(kept):
            self._table[: len(word), at] = [self._codes.get(letter, 0) for letter in word]

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the table."""
        return self._table.nbytes + self._rows.nbytes + self._lengths.nbytes

    def near(self, word: str, dfs: NDArray[np.int32], most: int = 3) -> list[tuple[str, int, int]]:
        """Return the likeliest (word, row, edits) for `word`, at most `most`; `dfs` are the documents of each row."""
        if not SHORTEST <= len(word) <= LONGEST or not word.isalpha():
            return []
        edits = 1 if len(word) < _TWO_EDITS_FROM else 2
        first = int(np.searchsorted(self._lengths, len(word) - edits))
        last = int(np.searchsorted(self._lengths, len(word) + edits, side="right"))
        if first == last:
            return []
        far = distances(word, self._codes, self._table[:, first:last], self._lengths[first:last])
        found = []
        for at in np.flatnonzero((far <= edits) & (far > 0)).tolist():
            other, row = self._words[first + at], int(self._rows[first + at])
            df = int(dfs[row]) if row < len(dfs) else 0
            if df:
                cost = float(far[at]) + (_OTHER_FIRST_LETTER if other[0] != word[0] else 0.0)
                found.append((cost, -df, other, row, int(far[at])))
        return [(other, row, far_by) for _, _, other, row, far_by in sorted(found)[:most]]
