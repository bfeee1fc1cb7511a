"""Pick the k best of many scores without sorting them, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "best", "lower_bound"]

GROUP = 64  # scores per group; buffers are padded with zeros to whole groups
_TINY = np.float32(np.finfo(np.float32).tiny)


def lower_bound(scores: NDArray[np.float32], k: int) -> np.float32:
    """Return a positive number that is at most the k-th largest of `scores` (the smallest one if unknown).

    The k-th largest of the maxima of disjoint groups belongs to k different scores that are at least as large.
    `scores` has a multiple of `GROUP` elements.
    """
    groups = len(scores) // GROUP
    if k > groups:
        return _TINY
    maxima = scores.reshape(GROUP, groups).max(axis=0)
    kth: np.float32 = np.partition(maxima, groups - k)[groups - k]
    return max(kth, _TINY)


def best(
    scores: NDArray[np.float32], ids: NDArray[np.uint64], k: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Return the ids and scores of the `k` best positive `scores`, best first, equal scores by ascending id.

    `scores` has a multiple of `GROUP` elements, those beyond `ids` zero.
    """
    found = np.flatnonzero(scores >= lower_bound(scores, k))
    kept = scores[found]
    if len(found) > 4 * k:
        enough = kept >= np.partition(kept, len(kept) - k)[len(kept) - k]
        found, kept = found[enough], kept[enough]
    found_ids = ids[found]
    order = np.lexsort((found_ids, -kept))[:k]
    return found_ids[order], kept[order]
