"""Judge the rankings of one collection: BM25, the reranker cross-validated over the queries, and learning from clicks.

Everything is seeded and pure; `flocklet bench search` and `benchmarks/ranking.py` print what comes out. A method's
figures are per query, so they can be tested in pairs. Documents that are judged but not in the corpus count in the
ideal and can never be found, as in trec_eval. What each method may see:

- `rerank_cv`: the features and neighbours of a test fold come from the judgements of the other folds only;
- `clicks_*`: only simulated clicks on what was shown, never a judgement; every figure is of the ranking by posterior,
  without exploration, after the last impression (`Curve` also has the figure of what was really shown).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flocklet.datasets.beir import Collection
from flocklet.events.click import normalise_query
from flocklet.events.item import item_id_of
from flocklet.models.search.evaluation.click_models import ClickModel, graded
from flocklet.models.search.evaluation.metrics import average_precision, k_fold, mrr, ndcg_at, recall_at
from flocklet.models.search.index.index import Index
from flocklet.models.search.ranking.posterior import Posterior, PosteriorSettings, text_prior
from flocklet.models.search.rerank.features import Features, put_evidence
from flocklet.models.search.rerank.listwise import JudgedList, Lists, fit_close
from flocklet.models.search.rerank.neighbours import Neighbours

__all__ = [
    "Curve",
    "Figures",
    "JudgedQuery",
    "figures",
    "ideal_dcg",
    "judged_queries",
    "learn_from_clicks",
    "rerank_cv",
]

Report = Callable[[int, int], None]
Ranking = NDArray[np.uint64]

DEPTH = 100  # candidates that are ranked anew
_JUDGED_DEPTH = 1_000  # MAP looks so deep, as trec_eval does
_SHOWN = 10
_TRAINED_MOST = 400
_REFITS = (100, 200, 500, 1_000, 2_000, 4_000, 8_000, 16_000)


@dataclass(frozen=True, slots=True, eq=False)
class JudgedQuery:
    """Hold a query with its BM25 candidates and their gains, the `rest` of the ranking, and everything judged by id."""

    text: str
    ids: NDArray[np.uint64]
    scores: NDArray[np.float32]
    rest: NDArray[np.uint64]
    judged: dict[int, int]
    gains: NDArray[np.int64]
    ideal: float


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Hold one method's figures per query, each `(queries,) float64`, under the names of the metrics."""

    values: dict[str, NDArray[np.float64]]

    def mean(self, name: str) -> float:
        """Return the mean over the queries."""
        return float(self.values[name].mean())


@dataclass(slots=True)
class Curve:
    """Say how nDCG@10 grew: after `impressions`, weighted by how often a query is asked: by posterior, and as shown."""

    impressions: list[int] = field(default_factory=list)
    learnt: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)


def ideal_dcg(judged: dict[int, int], k: int = _SHOWN) -> float:
    """Return the DCG@k of the best possible ranking of what is judged."""
    best = np.sort(np.array([max(gain, 0) for gain in judged.values()], np.float64))[::-1][:k]
    return float(((np.exp2(best) - 1) / np.log2(np.arange(2, len(best) + 2))).sum())


def judged_queries(collection: Collection, index: Index) -> list[JudgedQuery]:
    """Return the queries with at least one relevant judgement, in the order of the collection."""
    result = []
    for query_id, text in collection.queries.items():
        judged = {item_id_of(key): gain for key, gain in collection.qrels.get(query_id, {}).items()}
        if not any(gain > 0 for gain in judged.values()):
            continue
        found, weights = index.candidates(text, _JUDGED_DEPTH)
        ids, scores, rest = found[:DEPTH], weights[:DEPTH], found[DEPTH:]
        gains = np.array([judged.get(item, 0) for item in ids.tolist()], np.int64)
        result.append(JudgedQuery(text, ids, scores, rest, judged, gains, ideal_dcg(judged)))
    return result


def figures(queries: Sequence[JudgedQuery], rankings: Sequence[Ranking]) -> Figures:
    """Return the figures of one ranking of the candidates per query, the rest of BM25's ranking below it."""
    pairs = [
        (one, np.concatenate([ranking, one.rest])) for one, ranking in zip(queries, rankings, strict=True)
    ]
    return Figures(
        {
            "ndcg@10": np.array([ndcg_at(ranking, one.judged) for one, ranking in pairs]),
            "mrr": np.array([mrr(ranking, one.judged) for one, ranking in pairs]),
            "map": np.array([average_precision(ranking, one.judged) for one, ranking in pairs]),
            "recall@100": np.array([recall_at(ranking, one.judged) for one, ranking in pairs]),
        }
    )


def rerank_cv(
    queries: Sequence[JudgedQuery],
    index: Index,
    rng: np.random.Generator,
    *,
    folds: int = 5,
    report: Report | None = None,
) -> tuple[list[Ranking], list[float | None]]:
    """Return the rankings of test folds by rerankers that never saw their judgements, and the pull of each fold.

    A pull of None says that the training queries did not justify more than BM25 (always so below 10 of them).
    """
    rankings = [one.ids for one in queries]
    folds = min(folds, len(queries))
    if folds < 2:
        return rankings, [None]
    features = Features(index)
    plain = []
    for place, one in enumerate(queries):
        plain.append(features.matrix(one.text, one.ids, one.scores))
        if report:
            report(place + 1, len(queries))
    strongest = max(max(one.judged.values()) for one in queries)
    pulls: list[float | None] = []
    for train, test in k_fold(len(queries), folds, rng):
        if len(train) > _TRAINED_MOST:
            train = np.sort(rng.choice(train, _TRAINED_MOST, replace=False))
        known = Neighbours(index)
        for place in train.tolist():
            one = queries[place]
            known.put(one.text, {item: gain / strongest for item, gain in one.judged.items()})
        both = np.concatenate([train, test])
        lists = Lists([_judged(queries[at], plain[at], known) for at in both.tolist()])
        fit = fit_close(lists.take(np.arange(len(train))), rng)
        pulls.append(fit.pull)
        if fit.pull is None:
            continue
        for row, place in enumerate(test.tolist(), start=len(train)):
            size = len(queries[place].ids)
            scores = lists.x[row, :size] @ fit.weights
            rankings[place] = queries[place].ids[np.argsort(-scores, kind="stable")]
    return rankings, pulls


def _judged(one: JudgedQuery, plain: NDArray[np.float32], known: Neighbours) -> JudgedList:
    matrix = plain.copy()
    put_evidence(matrix, *known.evidence(one.text, one.ids))
    return JudgedList(matrix, one.gains, one.ideal)


def learn_from_clicks(
    queries: Sequence[JudgedQuery],
    people: ClickModel,
    rng: np.random.Generator,
    *,
    impressions: int = 5_000,
    persons: int = 1_000,
    settings: PosteriorSettings | None = None,
    by_rank_only: bool = False,
    marks: Sequence[int] = (),
    report: Report | None = None,
) -> tuple[list[Ranking], Curve]:
    """Return the rankings by posterior after a Zipf stream of queries (p proportional to 1/place), and the curve.

    `by_rank_only`: the learner assumes that looking depends on the rank alone (PBM), whatever the people do.
    """
    model = Posterior(settings)
    strongest = max((max(one.judged.values()) for one in queries), default=1)
    names = [normalise_query(one.text) for one in queries]
    priors = [text_prior(one.scores) for one in queries]
    origins = [number.to_bytes(16, "big") for number in range(persons)]
    traffic = 1.0 / np.arange(1, len(queries) + 1)
    traffic /= traffic.sum()
    curve, shown = Curve(), []
    stream = rng.choice(len(queries), impressions, p=traffic)
    for step, place in enumerate(stream.tolist(), start=1):
        one = queries[place]
        found = model.evidence(names[place], one.ids)
        order = model.explore(model.scores(found, priors[place]), found, rng)[:_SHOWN]
        if len(order):
            clicks = people.sample(graded(one.gains[order], strongest)[None], rng)[0]
            person = origins[int(rng.integers(persons))]
            model.observe(person, names[place], one.ids[order].tolist(), clicks)
        shown.append(_ndcg(one, order))
        if step in _REFITS:
            model.fit_propensities(by_rank_only=by_rank_only)
        if step in marks or step == impressions:
            orders = [
                _order(model, one, name, prior)
                for one, name, prior in zip(queries, names, priors, strict=True)
            ]
            learnt = np.array([_ndcg(one, order) for one, order in zip(queries, orders, strict=True)])
            curve.impressions.append(step)
            curve.learnt.append(float(traffic @ learnt))
            curve.shown.append(float(np.mean(shown[-max(1, step // 5) :])))
        if report and step % 50 == 0:
            report(step, impressions)
    return [
        one.ids[_order(model, one, name, prior)]
        for one, name, prior in zip(queries, names, priors, strict=True)
    ], curve


def _order(model: Posterior, one: JudgedQuery, name: str, prior: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-model.scores(model.evidence(name, one.ids), prior), kind="stable")


def _ndcg(one: JudgedQuery, order: NDArray[np.int64]) -> float:
    gains = np.exp2(one.gains[order[:_SHOWN]].astype(np.float64)) - 1
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum()) / one.ideal
