"""Measures of rankings against figures worked out by hand, and tests that tell chance from difference."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from flocklet.models.search.evaluation.metrics import (
    average_precision,
    bootstrap_interval,
    k_fold,
    mrr,
    ndcg_at,
    paired_randomisation_test,
    recall_at,
)

JUDGED = {"a": 4, "b": 1, "c": 0, "d": 2}


def test_ndcg_is_graded_and_its_ideal_counts_every_judged_item() -> None:
    dcg = 1 / math.log2(2) + 15 / math.log2(4)
    ideal = 15 / math.log2(2) + 3 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at(["b", "c", "a"], JUDGED) == pytest.approx(dcg / ideal)
    assert ndcg_at(["b"], {"b": 1, "x": 1}) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ndcg_at(["a", "d", "b"], JUDGED) == pytest.approx(1)
    assert ndcg_at(["d", "a", "b"], JUDGED) < 1


def test_ndcg_looks_at_k_items_of_ranking_and_ideal() -> None:
    assert ndcg_at(["c", "a"], JUDGED, k=1) == 0
    assert ndcg_at(["a", "c"], JUDGED, k=1) == 1
    assert ndcg_at(["a"], {"a": 0}) == 0
    assert ndcg_at([], JUDGED) == 0
    assert ndcg_at([*"qrstuvwxyz", "a"], JUDGED) == 0  # ten when nothing is said


def test_binary_measures_take_every_gain_above_zero() -> None:
    ranking = ["c", "b", "x", "a"]
    assert mrr(ranking, JUDGED) == 1 / 2
    assert average_precision(ranking, JUDGED) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert recall_at(ranking, JUDGED, k=2) == pytest.approx(1 / 3)
    assert recall_at(ranking, JUDGED) == pytest.approx(2 / 3)
    assert mrr(["x"], JUDGED) == average_precision([], JUDGED) == recall_at(["a"], {}) == 0


def test_ids_out_of_numpy_find_their_judgement() -> None:
    big = 2**64 - 3
    ranking = np.array([big, 5], np.uint64)
    assert ndcg_at(ranking, {big: 1}) == mrr(ranking, {big: 1}) == average_precision(ranking, {big: 1}) == 1


def test_folds_are_disjoint_complete_and_repeatable() -> None:
    folds = k_fold(23, 5, np.random.default_rng(3))
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(23))
    for train, test in folds:
        assert sorted([*train.tolist(), *test.tolist()]) == list(range(23))
        assert len(test) in (4, 5)
    again = k_fold(23, 5, np.random.default_rng(3))
    assert all((one[1] == other[1]).all() for one, other in zip(folds, again, strict=True))
    with pytest.raises(ValueError, match="folds"):
        k_fold(3, 5, np.random.default_rng(0))


def test_randomisation_p_value_is_near_the_exact_one() -> None:
    a = np.array([0.9, 0.4, 0.7, 0.8, 0.6, 0.5, 0.9, 0.3])
    b = np.array([0.5, 0.5, 0.4, 0.6, 0.6, 0.2, 0.7, 0.4])
    difference = a - b
    sums = [abs(np.dot(signs, difference)) for signs in product((-1, 1), repeat=len(a))]
    exact = np.mean(np.array(sums) >= abs(difference.sum()) - 1e-12)
    found = paired_randomisation_test(a, b, np.random.default_rng(1), rounds=20_000)
    assert found == pytest.approx(exact, abs=0.01)
    assert found == paired_randomisation_test(a, b, np.random.default_rng(1), rounds=20_000)


def test_randomisation_test_keeps_its_promise_under_chance_and_sees_a_difference() -> None:
    rng = np.random.default_rng(5)
    chance = [
        paired_randomisation_test(rng.random(40), rng.random(40), rng, rounds=400) < 0.05 for _ in range(300)
    ]
    assert np.mean(chance) < 0.09  # 3 standard errors above 5 %
    base = rng.random(40)
    assert paired_randomisation_test(base + 0.05, base, rng) < 0.001
    assert paired_randomisation_test(base, base, rng) == 1.0
    with pytest.raises(ValueError, match="paired"):
        paired_randomisation_test([], [], rng)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    covered = []
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(0.5, 0.2, 60), rng, rounds=500)
        assert low < high
        covered.append(low <= 0.5 <= high)
    assert 0.88 <= np.mean(covered) <= 0.99
    narrow = bootstrap_interval(np.full(10, 0.3), rng)
    assert narrow == pytest.approx((0.3, 0.3))
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap_interval([], rng)
