"""Measure what the peers of a simulated G-Rank network have counted and what they show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from studies.thesis import Measure, Simulation

__all__ = ["measure", "positions", "shown_scores"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def positions(scores: Floats | Ints) -> Ints:
    """Return the position of each item in the descending order of its score, ties to the lowest; (..., n)
    int64."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable")


def shown_scores(run: Simulation) -> Floats:
    """Return the scores that every honest peer ranks by, (peers, tuples) float64; -1 for unknown items."""
    peers = run.config.peers
    scores = np.empty((peers, len(run.catalogue.query)))
    spans = [run.catalogue.tuples(query) for query in range(run.config.tags)]
    for viewer in range(peers):
        votes = run.clicks[viewer]
        weights = run.weights(viewer)
        if run.config.aligns_by_row:
            for span in spans:
                scores[viewer, span] = run.scores(viewer, span)
        else:
            votes = np.minimum(votes, 1) if run.config.one_vote else votes
            scores[viewer] = np.round(weights @ votes, 9)
    scores[~run.has_item[:peers][:, run.catalogue.item]] = -1.0
    return scores


def measure(run: Simulation, tick: int, sent: float) -> Measure:
    """Return the metrics of this moment (see `studies.thesis`)."""
    peers, tags = run.config.peers, run.config.tags
    shown = shown_scores(run)
    counted = run.popularity[:peers]
    totals = np.zeros((4,))
    for query in range(tags):
        span = run.catalogue.tuples(query)
        truth = positions(run.global_clicks[span])
        for row, ranking in enumerate((positions(counted[:, span]), positions(shown[:, span]))):
            totals[2 * row] += np.abs(ranking - truth).sum(axis=1).mean()
            totals[2 * row + 1] += (ranking.argmin(axis=1) == truth.argmin()).mean()
    distance, top_held, shown_distance, shown_top1 = totals / tags
    heads = [_head(shown, run, query) == pair for query, pair in run.targets]
    captured = float(np.mean(heads)) if heads else 0.0
    return Measure(
        tick, float(distance), float(top_held), float(shown_distance), float(shown_top1), captured, sent
    )


def _head(shown: Floats, run: Simulation, query: int) -> Ints:
    span = run.catalogue.tuples(query)
    return np.asarray(span.start + shown[:, span].argmax(axis=1))
