"""Measure the ranking on one judged collection and report it as plain values."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from flocklet.datasets.beir import Collection
from flocklet.errors import UsageError
from flocklet.models.search.evaluation.click_models import click_model
from flocklet.models.search.evaluation.evaluate import (
    Curve,
    Figures,
    figures,
    judged_queries,
    learn_from_clicks,
    rerank_cv,
)
from flocklet.models.search.evaluation.metrics import paired_randomisation_test
from flocklet.models.search.index.index import Index

__all__ = ["bench_collection"]

_PEOPLE = ("nav", "info", "pbm")
_TIMED = 200

Report = Callable[..., None]


def bench_collection(
    collection: Collection,
    *,
    seed: int = 0,
    impressions: int = 5_000,
    report: Report | None = None,
    has_curves: bool = False,
) -> tuple[dict[str, Any], dict[str, Curve]]:
    """Return the figures of every method, and nDCG over impressions per kind of people if `has_curves`.

    Raises UsageError when no query has a relevant document.
    """
    index = Index()
    index.add_many(collection.documents)
    queries = judged_queries(collection, index)
    if not queries:
        raise UsageError(
            f"collection {collection.name!r} has no query with a relevant document",
            remedy="check queries.jsonl and qrels/test.tsv",
        )
    total = len(queries) + len(_PEOPLE) * impressions

    def step(done: int, note: str) -> None:
        if report:
            report(done, total, note)

    found: dict[str, Figures] = {"bm25": figures(queries, [one.ids for one in queries])}
    rankings, pulls = rerank_cv(
        queries, index, np.random.default_rng(seed), report=lambda done, _: step(done, "rerank_cv")
    )
    found["rerank_cv"] = figures(queries, rankings)
    curves: dict[str, Curve] = {}
    marks = (
        sorted({int(n) for n in np.geomspace(10, impressions, 25)}) if has_curves and impressions > 10 else []
    )
    for number, name in enumerate(_PEOPLE):
        before = len(queries) + number * impressions
        learnt, curves[f"clicks_{name}"] = learn_from_clicks(
            queries,
            click_model(name),
            np.random.default_rng([seed, number]),
            impressions=impressions,
            marks=marks,
            report=lambda done, _, start=before, note=name: step(start + done, f"clicks_{note}"),  # type: ignore[misc]
        )
        found[f"clicks_{name}"] = figures(queries, learnt)
    base = found["bm25"].values["ndcg@10"]
    traffic = 1.0 / np.arange(1, len(queries) + 1)
    traffic /= traffic.sum()
    methods = {
        name: {metric: figure.mean(metric) for metric in figure.values}
        | {
            "p_vs_bm25": paired_randomisation_test(
                figure.values["ndcg@10"], base, np.random.default_rng(seed)
            )
        }
        for name, figure in found.items()
    }
    return {
        "collection": collection.name,
        "documents": len(index),
        "queries": len(queries),
        "methods": methods,
        "latency_us": _latency_us(index, [one.text for one in queries]),
        "index_bytes": index.size_bytes,
        "impressions": impressions,
        "seed": seed,
        "rerank_folds": ["bm25" if pull is None else f"pull {pull:g}" for pull in pulls],
        "traffic_ndcg@10": {
            name: float(traffic @ figure.values["ndcg@10"]) for name, figure in found.items()
        },
    }, curves


def _latency_us(index: Index, texts: list[str]) -> float:
    """Return the median time of a BM25 search for 100 candidates, in microseconds, weights warm."""
    times: list[float] = []
    for _ in range(2):
        times = []
        for text in texts[:_TIMED]:
            start = time.perf_counter()
            index.candidates(text, 100)
            times.append((time.perf_counter() - start) * 1e6)
    return float(np.median(times))
