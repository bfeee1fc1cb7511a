"""Measure rankings, and tell a difference from chance.

A ranking is a sequence of items, best first; judgements map item -> gain (0 or absent = not relevant).
Definitions: nDCG with gain 2^g - 1 and discount 1 / log2(rank + 1) (Burges et al. 2005), its ideal taken
from *all* judged items; MRR, average precision (Voorhees & Harman) and recall count every item with gain >
0 as relevant. `paired_randomisation_test` is Fisher's randomisation test as recommended by Smucker, Allan &
Carterette (CIKM 2007).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "average_precision",
    "bootstrap_interval",
    "k_fold",
    "mrr",
    "ndcg_at",
    "paired_randomisation_test",
    "recall_at",
]

Item = TypeVar("Item", bound=Hashable)
_BLOCK = 4_000_000  # random draws held at a time


def _plain(ranking: Sequence[Item] | NDArray[Any]) -> Sequence[Any]:
    """Return `ranking` with Python scalars, so that an item of a NumPy array finds its judgement."""
    plain: Sequence[Any] = ranking.tolist() if isinstance(ranking, np.ndarray) else ranking
    return plain


def _relevant(judged: Mapping[Item, int]) -> int:
    return sum(gain > 0 for gain in judged.values())


def _dcg(gains: Sequence[int]) -> float:
    values = np.exp2(np.asarray(gains, np.float64)) - 1
    return float((values / np.log2(np.arange(2, len(values) + 2))).sum())


def ndcg_at(ranking: Sequence[Item] | NDArray[Any], judged: Mapping[Item, int], k: int = 10) -> float:
    """Return the nDCG of the first `k` of `ranking` in [0, 1]; 0 where nothing relevant is judged."""
    ideal = _dcg(sorted((max(gain, 0) for gain in judged.values()), reverse=True)[:k])
    if ideal == 0:
        return 0.0
    return _dcg([max(judged.get(item, 0), 0) for item in _plain(ranking)[:k]]) / ideal


def mrr(ranking: Sequence[Item] | NDArray[Any], judged: Mapping[Item, int]) -> float:
    """Return 1 / rank of the first relevant item, 0 where there is none."""
    for rank, item in enumerate(_plain(ranking), 1):
        if judged.get(item, 0) > 0:
            return 1.0 / rank
    return 0.0


def average_precision(ranking: Sequence[Item] | NDArray[Any], judged: Mapping[Item, int]) -> float:
    """Return the mean over all relevant items of the precision at their rank (0 where not ranked)."""
    hits, total = 0, 0.0
    for rank, item in enumerate(_plain(ranking), 1):
        if judged.get(item, 0) > 0:
            hits += 1
            total += hits / rank
    return total / max(_relevant(judged), 1)


def recall_at(ranking: Sequence[Item] | NDArray[Any], judged: Mapping[Item, int], k: int = 100) -> float:
    """Return the share of the relevant items that is among the first `k`."""
    return sum(judged.get(item, 0) > 0 for item in _plain(ranking)[:k]) / max(_relevant(judged), 1)


def k_fold(
    count: int, folds: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (train, test) index arrays of `folds` random, disjoint, near-equal folds of `count` queries."""
    if not 2 <= folds <= count:
        raise ValueError(f"cannot make {folds} folds of {count} queries")
    parts = np.array_split(rng.permutation(count), folds)
    return [
        (np.sort(np.concatenate(parts[:at] + parts[at + 1 :])), np.sort(part))
        for at, part in enumerate(parts)
    ]


def paired_randomisation_test(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, *, rounds: int = 10_000
) -> float:
    """Return the two-sided p-value of mean(a) = mean(b) for per-query figures `a`, `b`, by `rounds` random
    sign flips.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if difference.ndim != 1 or not len(difference):
        raise ValueError("a paired test needs two equally long, flat sequences with at least one query")
    observed = abs(difference.sum())
    # Equal sums must count as "at least as extreme" whatever the order of the additions.
    threshold = observed - 1e-12 * max(float(np.abs(difference).sum()), 1.0)
    extreme = 0
    step = max(_BLOCK // len(difference), 1)
    for start in range(0, rounds, step):
        signs = rng.integers(0, 2, (min(step, rounds - start), len(difference)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= threshold).sum())
    return (extreme + 1) / (rounds + 1)


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, *, level: float = 0.95, rounds: int = 10_000
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of per-query `values` (Efron & Tibshirani 1993,
    ch. 13).
    """
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError("a bootstrap interval needs a flat sequence with at least one value")
    means = []
    step = max(_BLOCK // len(sample), 1)
    for start in range(0, rounds, step):
        means.append(
            sample[rng.integers(0, len(sample), (min(step, rounds - start), len(sample)))].mean(axis=1)
        )
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
