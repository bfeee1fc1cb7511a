"""Tasks made from the seed: a reranker and a recommender.

They are made, because no collection of queries or likes comes
with flocklet: a search in which every query's words come from one document, which is what is clicked, in a real index
with the real features; and people whose likes follow a few tastes. Figures on them say that a strategy learns, not how
good a ranker or a recommender is elsewhere (benchmarks/ranking.py and benchmarks/recommend.py do).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flocklet.swarm.task import Task

__all__ = ["recommender_task", "reranker_task"]

_QUERIES, _TEST_QUERIES, _DEPTH = 30, 200, 20
_TOPICS, _WORDS, _DOCUMENTS = 12, 240, 360
_ITEMS, _PEOPLE_EACH, _TEST_PEOPLE, _LIKES = 120, 12, 300, 12


def reranker_task(peers: int, seed: int, *, hidden: int = 0) -> Task:
    """Return lists of candidates with the clicked one as label: each peer is one person with 30 queries."""
    from flocklet.events.item import Document
    from flocklet.models.search.index.index import Index
    from flocklet.models.search.rerank.features import FEATURES, Features
    from flocklet.models.search.rerank.list_learner import ListLearner

    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(_WORDS, 0.05), _TOPICS)
    common = rng.dirichlet(np.full(_WORDS, 0.3))
    texts: list[NDArray[np.int64]] = []
    for number in range(_DOCUMENTS):
        mixture = 0.6 * topics[number % _TOPICS] + 0.4 * common
        texts.append(rng.choice(_WORDS, int(rng.integers(8, 120)), p=mixture))
    index = Index()
    documents = [
        Document.of(f"d{i}", "", " ".join(f"word{w}" for w in text.tolist())) for i, text in enumerate(texts)
    ]
    index.add_many(documents)
    features = Features(index)
    wanted = peers * _QUERIES + _TEST_QUERIES
    rows, labels = np.zeros((wanted, _DEPTH * len(FEATURES)), np.float32), np.zeros(wanted, np.int64)
    found = 0
    while found < wanted:
        number = int(rng.integers(_DOCUMENTS))
        query = " ".join(f"word{w}" for w in rng.choice(texts[number], 3).tolist())
        listed = features.of(query, _DEPTH)
        place = np.flatnonzero(listed.ids == np.uint64(documents[number].item_id))
        if len(place):
            rows[found, : listed.matrix.size] = listed.matrix.reshape(-1)
            labels[found] = place[0]
            found += 1
    cut = peers * _QUERIES
    shares = tuple(np.arange(i * _QUERIES, (i + 1) * _QUERIES) for i in range(peers))
    learner = ListLearner(_DEPTH, hidden)
    return Task(learner, rows[:cut], labels[:cut], rows[cut:], labels[cut:], shares)


def recommender_task(peers: int, seed: int) -> Task:
    """Return profiles with one hidden liked item as label: each peer is a household of 12 people."""
    from flocklet.models.recommend.factor_learner import FactorLearner

    rng = np.random.default_rng(seed)
    tastes = rng.dirichlet(np.full(_ITEMS, 0.15), 6)
    count = peers * _PEOPLE_EACH + _TEST_PEOPLE
    profiles, hidden = np.zeros((count, _ITEMS), np.float32), np.zeros(count, np.int64)
    for person in range(count):
        mixture = 0.8 * rng.dirichlet(np.full(len(tastes), 0.3)) @ tastes + 0.2 / _ITEMS
        liked = rng.choice(_ITEMS, _LIKES, replace=False, p=mixture / mixture.sum())
        profiles[person, liked[1:]] = 1.0
        hidden[person] = liked[0]
    cut = peers * _PEOPLE_EACH
    shares = tuple(np.arange(i * _PEOPLE_EACH, (i + 1) * _PEOPLE_EACH) for i in range(peers))
    return Task(FactorLearner(_ITEMS), profiles[:cut], hidden[:cut], profiles[cut:], hidden[cut:], shares)
