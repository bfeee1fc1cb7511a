"""Judge rankings of held-out queries: nDCG@10 per person, with the films of the past taken out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.demo.people import Film, Life
from flocklet.models.search.evaluation.metrics import ndcg_at
from flocklet.models.search.index.index import Index

__all__ = ["DEPTH", "Figures", "bm25_rankings", "figures", "popularity_rankings", "questions"]

DEPTH = 2000
"""How many items a ranking must hold, so that ten are left when the seen ones are taken out."""


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """nDCG@10 per person `(people,) float64`, in the order of the people judged."""

    per_person: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean over people."""
        return float(self.per_person.mean()) if len(self.per_person) else 0.0


def questions(lives: Sequence[Life]) -> list[tuple[str, str]]:
    """Return every held-out query as (person, query), in the order that `figures` expects."""
    return [(life.name, held.query) for life in lives for held in life.later]


def figures(lives: Sequence[Life], rankings: Sequence[Sequence[int]]) -> Figures:
    """Judge one ranking (item ids, best first) per question; people without held-out queries do not count."""
    answers = iter(rankings)
    people = []
    for life in lives:
        scores = [
            ndcg_at(
                [item for item in next(answers) if item not in life.seen], dict.fromkeys(held.right, 1), 10
            )
            for held in life.later
        ]
        if scores:
            people.append(float(np.mean(scores)))
    return Figures(np.array(people))


def _rankings(
    lives: Sequence[Life], films: Sequence[Film], order: Callable[[list[int]], list[int]]
) -> list[list[int]]:
    index = Index()
    index.add_many([film.document for film in films])
    answers: dict[str, list[int]] = {}
    for _, query in questions(lives):
        if query not in answers:
            answers[query] = order(index.candidates(query, DEPTH)[0].tolist())
    return [answers[query] for _, query in questions(lives)]


def bm25_rankings(lives: Sequence[Life], films: Sequence[Film]) -> list[list[int]]:
    """Rank by the text alone."""
    return _rankings(lives, films, lambda items: items)


def popularity_rankings(
    lives: Sequence[Life], films: Sequence[Film], clicks: Sequence[tuple[str, int, float]]
) -> list[list[int]]:
    """Rank the films that match the query by how many clicks they got from everybody, for any query."""
    votes = Counter(item for _, item, _ in clicks)
    return _rankings(lives, films, lambda items: sorted(items, key=lambda item: -votes[item]))
