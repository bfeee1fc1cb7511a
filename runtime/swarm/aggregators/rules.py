"""Robust rules on stacked vectors (p, n): what to believe when up to f of p peers lie.

Each rule is a function of the stack and f that returns (n,). Sources: trimmed mean and median, Yin et al. 2018; Krum
and multi-Krum, Blanchard et al. 2017; Bulyan, El Mhamdi et al. 2018; geometric median by smoothed Weiszfeld (RFA),
Pillutla et al. 2019; centred clipping, Karimireddy et al. 2021; NNM, Allouah et al. 2023; bucketing, Karimireddy et
al. 2022. Columns are sorted by a network of minima and maxima over whole rows (Batcher 1968): same values, no loop
over columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError

__all__ = [
    "bucketing", "bulyan", "centred_clipping", "geometric_median", "krum", "median", "multi_krum", "nearest_mixing",
    "norm_bound", "sorted_columns", "squared_distances", "trimmed_mean",
]  # fmt: skip

Floats = NDArray[np.float32]

_NETWORK = 64  # above this many rows a network has more comparators than a sort has steps


def sorted_columns(stack: Floats) -> list[Floats]:
    """Return p arrays (n,): row k holds the k-th smallest value of each column; NaN sorts last, as in np.sort."""
    if len(stack) > _NETWORK or np.isnan(stack).any():
        return list(np.sort(stack, axis=0))
    rows, spare = list(stack.copy()), np.empty_like(stack[0])
    for low, high in _comparators(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


def _comparators(p: int) -> Iterator[tuple[int, int]]:
    """Yield the pairs of Batcher's odd-even merge sort of p values (Knuth, TAOCP 3, 5.2.2, algorithm M)."""
    block = 1
    while block < p:
        step = block
        while step:
            for first in range(step % block, p - step, 2 * step):
                for low in range(first, min(first + step, p - step)):
                    if low // (2 * block) == (low + step) // (2 * block):
                        yield low, low + step
            step //= 2
        block *= 2


def squared_distances(stack: Floats) -> NDArray[np.float64]:
    """Return (p, p) squared Euclidean distances; from the Gram matrix of centred rows."""
    rows = (stack - stack.mean(axis=0)).astype(np.float64)
    gram = rows @ rows.T
    norms = np.diag(gram)
    return np.asarray(np.maximum(norms[:, None] + norms[None] - 2 * gram, 0.0))


def median(stack: Floats, f: int = 0) -> Floats:
    """Return the coordinate-wise median."""
    if np.isnan(stack).any():
        return np.asarray(np.median(stack, axis=0), np.float32)
    return _middle(sorted_columns(stack))


def _middle(ordered: list[Floats]) -> Floats:
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return np.asarray((ordered[half - 1] + ordered[half]) / np.float32(2), np.float32)


def trimmed_mean(stack: Floats, f: int) -> Floats:
    """Return the coordinate-wise mean without the f smallest and f largest values; needs p > 2f."""
    _enough("trimmed mean", len(stack), 2 * f + 1)
    if f == 0:
        return np.asarray(stack.mean(axis=0), np.float32)
    kept = np.stack(sorted_columns(stack)[f : len(stack) - f])
    return np.asarray(kept.mean(axis=0), np.float32)


def krum_scores(distances: NDArray[np.float64], f: int) -> NDArray[np.float64]:
    """Return each row's sum of squared distances to its p - f - 2 nearest others (at least one)."""
    nearest = max(1, len(distances) - f - 2)
    ordered: NDArray[np.float64] = np.sort(distances, axis=1)[:, 1 : 1 + nearest].sum(axis=1)
    return ordered


def krum(stack: Floats, f: int) -> Floats:
    """Return the row with the least Krum score; the guarantee needs p >= 2f + 3."""
    _enough("Krum", len(stack), f + 3)
    return np.asarray(stack[int(krum_scores(squared_distances(stack), f).argmin())])


def multi_krum(stack: Floats, f: int) -> Floats:
    """Return the mean of the p - f - 2 best Krum scores."""
    _enough("multi-Krum", len(stack), f + 3)
    best = np.sort(np.argsort(krum_scores(squared_distances(stack), f), kind="stable")[: len(stack) - f - 2])
    return np.asarray(stack[best].mean(axis=0), np.float32)


def bulyan(stack: Floats, f: int) -> Floats:
    """Return Bulyan: p - 2f rows by repeated Krum, then per coordinate the p - 4f values nearest to the median.

    Needs p >= 4f + 3.
    """
    _enough("Bulyan", len(stack), 4 * f + 3)
    distances = squared_distances(stack)
    left = list(range(len(stack)))
    chosen: list[int] = []
    for _ in range(len(stack) - 2 * f):
        scores = krum_scores(distances[np.ix_(left, left)], f) if len(left) > 1 else np.zeros(1)
        chosen.append(left.pop(int(scores.argmin())))
    return _around_the_median(sorted_columns(stack[np.sort(chosen)]), len(stack) - 4 * f)


def _around_the_median(ordered: list[Floats], count: int) -> Floats:
    """Return per column the mean of the `count` values nearest to the median: neighbours in the sorted column."""
    middle = _middle(ordered)
    found, nearest = np.empty_like(middle), np.full_like(middle, np.inf)
    for first in range(len(ordered) - count + 1):
        window = ordered[first : first + count]
        reach = np.maximum(middle - window[0], window[-1] - middle)
        total = window[0].copy()
        for row in window[1:]:
            total += row
        is_nearer = reach < nearest
        np.copyto(found, total, where=is_nearer)
        np.copyto(nearest, reach, where=is_nearer)
    found /= np.float32(count)
    return found


def _norms(rows: Floats) -> Floats:
    return np.asarray(np.sqrt(np.einsum("pn,pn->p", rows, rows)))


def geometric_median(stack: Floats, f: int = 0, *, steps: int = 8, floor: float = 1e-6) -> Floats:
    """Return the smoothed geometric median (RFA): Weiszfeld steps from the mean, distances floored."""
    center = stack.mean(axis=0)
    for _ in range(steps):
        weights = 1.0 / np.maximum(_norms(stack - center), floor)
        center = (weights / weights.sum()).astype(np.float32) @ stack
    return np.asarray(center, np.float32)


def centred_clipping(
    stack: Floats, f: int = 0, *, start: Floats | None = None, steps: int = 3, tau: float | None = None
) -> Floats:
    """Return v after `steps` of v += mean(d min(1, tau/|d|)), d = row - v, from `start` or the median.

    Without `tau`, the median of the |d| is taken anew at each step.
    """
    center: Floats = median(stack) if start is None else start
    for _ in range(steps):
        away = stack - center
        norms = _norms(away)
        radius = float(np.median(norms)) if tau is None else tau
        shrink = np.minimum(1.0, radius / np.maximum(norms, 1e-12)).astype(np.float32)
        center = np.asarray(center + shrink @ away / np.float32(len(stack)), np.float32)
    return np.asarray(center, np.float32)


def norm_bound(stack: Floats, f: int = 0, *, bound: float = 1.0) -> Floats:
    """Return the mean of the rows, each cut to the norm `bound`; rows are deltas."""
    shrink = np.minimum(1.0, bound / np.maximum(_norms(stack), 1e-12)).astype(np.float32)
    return np.asarray(shrink @ stack / np.float32(len(stack)), np.float32)


def nearest_mixing(stack: Floats, f: int) -> Floats:
    """Return (p, n): each row replaced by the mean of its p - f nearest rows, itself included (NNM)."""
    nearest = np.argsort(squared_distances(stack), axis=1, kind="stable")[:, : len(stack) - f]
    share = np.zeros((len(stack), len(stack)), np.float32)
    np.put_along_axis(share, nearest, np.float32(1 / nearest.shape[1]), axis=1)
    return np.asarray(share @ stack)


def bucketing(stack: Floats, size: int, rng: np.random.Generator) -> Floats:
    """Return the means of random buckets of `size` rows (the last one may be smaller)."""
    order = rng.permutation(len(stack))
    return np.stack([stack[order[at : at + size]].mean(axis=0) for at in range(0, len(stack), size)])


def _enough(rule: str, have: int, need: int) -> None:
    if have < need:
        raise UsageError(f"{rule} needs {need} models, there are {have}", remedy="a smaller f or more peers")
