"""Turn the words of items into tags: what many items share and not most of them do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["tags_of"]


def tags_of(
    words: Sequence[Sequence[str]], *, least: float = 0.01, most: float = 0.5, count: int = 64
) -> NDArray[np.float32]:
    """Return (tags, items) float32 of zeros and ones for the words of each item.

    A tag is a word of at least `least` and at most `most` of the items, and of two items; the `count` most frequent
    are taken, ties in the order of the alphabet.
    """
    held = [set(row) for row in words]
    frequency = Counter(word for row in held for word in row)
    chosen = [
        word
        for word, number in sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
        if max(2.0, least * len(held)) <= number <= most * len(held)
    ][:count]
    place = {word: number for number, word in enumerate(chosen)}
    tags = np.zeros((len(chosen), len(held)), np.float32)
    for item, row in enumerate(held):
        for word in row:
            if word in place:
                tags[place[word], item] = 1.0
    return tags
