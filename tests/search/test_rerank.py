"""The reranker: features, the fit that stays close to BM25, PDGD, and models from peers."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.item import Document
from flocklet.models.search.evaluation.click_models import click_model
from flocklet.models.search.index.forward import Forward
from flocklet.models.search.index.index import Index
from flocklet.models.search.rerank.features import BM25, FEATURES, Features, standardise
from flocklet.models.search.rerank.gate import GateSettings, ModelGate
from flocklet.models.search.rerank.linear import Reranker
from flocklet.models.search.rerank.listwise import (
    JudgedList,
    Lists,
    bm25_weights,
    fit_close,
    fit_linear,
    ndcg_of,
)
from flocklet.models.search.rerank.neighbours import Neighbours
from flocklet.models.search.rerank.pdgd import PdgdRanker, draw_list, preferences
from studies.quick import QuickScorer
from studies.swarm_study import ATTACKS, StudySettings, run_study

WORDS = [
    f"{a}{b}" for a in ("wing", "heat", "flow", "shock", "plate") for b in ("alpha", "beta", "gamma", "delta")
]


def corpus(count: int, seed: int = 0) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document.of(f"d{n}", "", " ".join(rng.choice(WORDS, rng.integers(5, 40)).tolist()))
        for n in range(count)
    ]


def made_lists(count: int, signal: float, seed: int) -> list[JudgedList]:
    """Lists in which feature 3 says what is relevant, as loud as `signal`; BM25 says it always."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(count):
        gains = (rng.random(30) < 0.2).astype(np.int64)
        matrix = rng.normal(size=(30, len(FEATURES))).astype(np.float32)
        matrix[:, BM25] += gains
        matrix[:, 3] += signal * gains
        best = np.sort(gains)[::-1][:10]
        ideal = float((best / np.log2(np.arange(2, len(best) + 2))).sum())
        lists.append(JudgedList(matrix, gains, ideal))
    return lists


def test_features_of_a_changing_index_equal_those_of_a_fresh_one() -> None:
    documents = corpus(400)
    grown, fresh = Index(), Index()
    grown.add_many(documents[:300])
    for document in documents[300:]:
        grown.add(document.item_id, document.title, document.text)
    for document in documents[:50]:
        grown.remove(document.item_id)
    fresh.add_many(documents[50:])
    latent = FEATURES.index("latent")  # sampled by order of arrival, so it may differ
    mine, other = Features(grown).of("wingalpha flowbeta"), Features(fresh).of("wingalpha flowbeta")
    assert mine.ids.tolist() == other.ids.tolist()
    kept = [at for at in range(len(FEATURES)) if at != latent]
    assert np.allclose(mine.matrix[:, kept], other.matrix[:, kept], atol=2e-3)
    counts = Forward(grown).terms_of(mine.ids[:1]).counts
    assert counts.sum() == len(next(d for d in documents if d.item_id == int(mine.ids[0])).text.split())


@pytest.mark.parametrize(
    "documents", [[], [("a", "")], [("a", "wing"), ("b", "")], [("a", "wing wing"), ("b", "wing")]]
)
def test_features_of_odd_collections_are_finite(documents: list[tuple[str, str]]) -> None:
    index = Index()
    index.add_many(Document.of(key, "", text) for key, text in documents)
    for query in ("wing", "nothing known", "", "wing wing wing"):
        found = Features(index).of(query)
        assert found.matrix.shape == (len(found.ids), len(FEATURES))
        assert np.isfinite(found.matrix).all()


def test_a_constant_feature_says_nothing() -> None:
    assert not standardise(np.full(7, 3.0)).any()
    assert np.abs(standardise(np.array([0.0] * 99 + [1e9]))).max() <= 4


def test_neighbours_carry_clicks_to_similar_queries_only() -> None:
    index = Index()
    index.add_many(corpus(100))
    known = Neighbours(index)
    ids = np.array([7, 8], np.uint64)
    known.put("wingalpha heatbeta", {7: 1.0})
    near, popular = known.evidence("wingalpha heatbeta flowgamma", ids)
    assert near[0] > 0.2 and near[1] == 0 and popular[0] > 0
    assert not known.evidence("platedelta", ids)[0].any()
    assert not known.evidence("wingalpha heatbeta", ids)[0].any()  # a query is not its own neighbour
    known.put("wingalpha heatbeta", {})
    assert not np.concatenate(known.evidence("wingalpha heatbeta flowgamma", ids)).any()


def test_a_useful_feature_is_learnt_and_noise_stays_bm25() -> None:
    useful = Lists(made_lists(80, 2.0, 1))
    fit = fit_close(useful, np.random.default_rng(0))
    assert fit.pull is not None
    fresh = Lists(made_lists(80, 2.0, 2))
    assert ndcg_of(fresh, fit.weights).mean() > ndcg_of(fresh, bm25_weights()).mean() + 0.05
    noise = Lists(made_lists(30, 0.0, 3))
    assert fit_close(noise, np.random.default_rng(0)).weights.tolist() == bm25_weights().tolist()
    free = fit_linear(noise, 1e-6)  # the control: without pull and gate, noise is believed
    held = Lists(made_lists(200, 0.0, 4))
    assert ndcg_of(held, free).mean() < ndcg_of(held, bm25_weights()).mean() - 0.01


def test_few_queries_never_move_the_ranking() -> None:
    lists = Lists(made_lists(9, 5.0, 1))
    assert fit_close(lists, np.random.default_rng(0)).pull is None


def test_lists_without_anything_relevant_are_harmless() -> None:
    empty = JudgedList(np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, np.int64), 1.0)
    barren = JudgedList(np.ones((3, len(FEATURES)), np.float32), np.zeros(3, np.int64), 1.0)
    fit = fit_close(Lists([empty, barren] * 10), np.random.default_rng(0))
    assert fit.pull is None and np.isfinite(fit.weights).all()


def test_a_reranker_is_taught_by_clicks_and_refuses_foreign_weights() -> None:
    index = Index()
    index.add_many(corpus(200))
    reranker = Reranker(index)
    rates = {f"{a} {b}": {} for a in WORDS[:6] for b in WORDS[6:9]}
    for query in rates:
        ids, _ = index.candidates(query, 10)
        rates[query] = {int(ids[4]): 1.0}
    fit = reranker.teach(rates, np.random.default_rng(0))
    assert reranker.is_active == (fit.pull is not None)
    with pytest.raises(SchemaMismatch):
        reranker.load({"weights": np.zeros(3, np.float32)})
    with pytest.raises(SchemaMismatch):
        reranker.load({"weights": np.full(len(FEATURES), np.nan, np.float32)})


def test_pdgd_prefers_what_was_clicked_and_ignores_silence() -> None:
    scores = np.linspace(2, 0, 8)
    shown = np.arange(5)
    clicks = np.array([False, True, False, False, False])
    slope = preferences(scores, shown, clicks)
    assert slope[1] > 0 and slope[0] < 0 and slope[2] < 0
    assert slope[4] == slope[6] == 0  # below the last look, or not shown
    assert slope.sum() == pytest.approx(0)
    assert not preferences(scores, shown, np.zeros(5, dtype=bool)).any()
    assert not preferences(scores, shown, np.ones(5, dtype=bool)).any()


@pytest.mark.parametrize("is_deep", [False, True])
def test_pdgd_learns_and_fits_into_64_kilobytes(is_deep: bool) -> None:
    rng = np.random.default_rng(0)
    ranker = PdgdRanker(rng, is_deep=is_deep, pull=0.0)
    assert sum(value.nbytes for value in ranker.parameters.values()) <= 64_000
    lists, held = made_lists(60, 2.0, 1), Lists(made_lists(60, 2.0, 2))
    matrices = [held.x[at][held.mask[at]] for at in range(len(held))]
    before = ndcg_of(held, bm25_weights()).mean()
    for _ in range(800):
        one = lists[int(rng.integers(len(lists)))]
        shown = draw_list(ranker.scores(one.matrix), rng)
        ranker.observe(one.matrix, shown, click_model("perfect").sample(4 * one.gains[shown][None], rng)[0])
    after = 0.0
    for at, matrix in enumerate(matrices):
        best = np.argsort(-ranker.scores(matrix))[:10]
        after += float(held.mass[at, best] @ (1 / np.log2(np.arange(2, len(best) + 2)))) / max(
            held.ideal[at], 1e-9
        )
    assert after / len(matrices) > before + 0.03


def test_malformed_models_are_refused_before_any_use() -> None:
    ranker = PdgdRanker(np.random.default_rng(0))
    gate = ModelGate(ranker, GateSettings(quorum=1))
    before = ranker.parameters["weights"].copy()
    size = len(FEATURES)
    for bad in (
        {"weights": np.full(size, np.nan, np.float32)},
        {"weights": np.full(size, np.inf, np.float32)},
        {"weights": np.zeros(size + 1, np.float32)},
        {"weights": np.zeros(size, np.float64)},
        {"other": np.zeros(size, np.float32)},
        {},
    ):
        assert gate.receive(b"x", bad) == "malformed"
    assert np.array_equal(ranker.parameters["weights"], before)
    with pytest.raises((SchemaMismatch, WireError)):
        ranker.load({"weights": np.full(size, np.nan, np.float32)})
    assert (
        ModelGate(ranker, GateSettings(trust_least=0.5)).receive(b"x", ranker.parameters, trust=0.1)
        == "stranger"
    )


def test_one_merge_moves_a_model_only_so_far() -> None:
    far = {"weights": np.full(len(FEATURES), 1e5, np.float32)}
    moved = {}
    for is_clipped in (True, False):
        ranker = PdgdRanker(np.random.default_rng(0))
        settings = GateSettings(quorum=1, is_gated=False, is_clipped=is_clipped)
        assert ModelGate(ranker, settings).receive(b"x", far) == "merged"
        moved[is_clipped] = float(np.linalg.norm(ranker.parameters["weights"] - bm25_weights()))
    assert moved[True] <= 0.25 + 1e-6
    assert moved[False] > 1e4  # the control


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_models_do_not_reach_the_honest(attack: str) -> None:
    lists = made_lists(60, 1.0, 5)
    train, test = np.arange(40), np.arange(40, 60)
    start = ndcg_of(Lists(lists).take(test), bm25_weights()).mean()
    settings = StudySettings(peers=10, impressions=60, byzantine=3, attack=attack)
    result = run_study(lists, train, test, click_model("perfect"), np.random.default_rng(0), settings)
    assert result.ndcg.min() > start - 0.05
    if attack in ("flip", "scale"):
        open_gate = GateSettings(is_clipped=False, is_gated=False, quorum=1)
        open_study = StudySettings(peers=10, impressions=60, byzantine=3, attack=attack, gate=open_gate)
        control = run_study(lists, train, test, click_model("perfect"), np.random.default_rng(0), open_study)
        assert control.ndcg.min() < start - 0.1
    if attack == "nan":
        assert set(result.hostile) == {"malformed"}


def test_the_compiled_scorer_agrees_with_the_model_it_compiles() -> None:
    rng = np.random.default_rng(0)
    ranker = PdgdRanker(rng, is_deep=True)
    for name, value in ranker.parameters.items():
        ranker.parameters[name] = (value + rng.normal(0, 0.3, value.shape)).astype(np.float32)
    quick = QuickScorer(ranker.parameters)
    for size in (1, 37, 100):
        matrix = rng.normal(size=(size, len(FEATURES))).astype(np.float32)
        assert np.allclose(quick.scores(matrix), ranker.scores(matrix), atol=1e-4)
    other = {name: value * np.float32(0.5) for name, value in ranker.parameters.items()}
    quick.use(other)
    assert not np.allclose(quick.scores(matrix), ranker.scores(matrix), atol=1e-2)
    with pytest.raises(ValueError, match="at most"):
        quick.scores(np.zeros((101, len(FEATURES)), np.float32))


def test_the_gate_lets_in_honest_models_that_explain_as_much() -> None:
    """Models a little beside ours, judged on clicks at random: no better and no worse, so most are let in."""
    rng = np.random.default_rng(5)
    ranker = PdgdRanker(np.random.default_rng(0))
    start = ranker.parameters
    ranker.parameters = {
        name: value + rng.normal(0, 0.3, value.shape).astype(np.float32) for name, value in start.items()
    }
    gate = ModelGate(ranker, GateSettings(quorum=1))
    for _ in range(60):
        matrix = rng.normal(0, 1, (10, len(FEATURES))).astype(np.float32)
        gate.remember(matrix, np.arange(10), np.arange(10) == rng.integers(10), np.ones(10))
    let_in = [
        gate.explains(
            {n: v + rng.normal(0, 0.05, v.shape).astype(np.float32) for n, v in ranker.parameters.items()}
        )
        for _ in range(40)
    ]
    assert np.mean(let_in) > 0.7
