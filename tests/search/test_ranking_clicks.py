"""Click models, propensities and the posterior: what is learnt from clicks, and what nobody can teach it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.click import NO_CLICK, ClickEntry
from flocklet.identity.key import Identity
from flocklet.models.check import check_model
from flocklet.models.search.evaluation.click_models import CLICK_MODELS, click_model, graded
from flocklet.models.search.ranking.grank import RankQuery
from flocklet.models.search.ranking.posterior import EPOCH_S, Posterior, PosteriorSettings, text_prior
from flocklet.models.search.ranking.propensity import CLASSES, Propensities, classes_of

IDS = np.arange(1, 21, dtype=np.uint64)
TEXT = np.linspace(5, 1, 20).astype(np.float32)


def entry(person: int, seq: int, query: str, shown: tuple[int, ...], clicked: int, ts: int = 0) -> ClickEntry:
    return ClickEntry(person.to_bytes(16, "big"), seq, query, shown, clicked, ts)


def order(model: Posterior, query: str = "q", **options: object) -> list[int]:
    scores = model.scores(model.evidence(query, IDS, **options), text_prior(TEXT))  # type: ignore[arg-type]
    return IDS[np.argsort(-scores, kind="stable")].tolist()


def tally(counts: dict[tuple[int, int], list[int]], shown: NDArray[Any], clicks: NDArray[Any]) -> None:
    """Add one list to (item, class) -> [shown, clicked]."""
    for pair, kind, click in zip(shown.tolist(), classes_of(clicks).tolist(), clicks.tolist(), strict=True):
        row = counts.setdefault((pair, kind), [0, 0])
        row[0] += 1
        row[1] += click


@pytest.mark.parametrize("name", sorted(CLICK_MODELS))
def test_better_results_are_clicked_more_and_seeds_repeat(name: str) -> None:
    gains = np.tile([0, 4], (4_000, 1))
    best_first = np.tile([4, 0], (4_000, 1))
    people = click_model(name)
    clicks = people.sample(best_first, np.random.default_rng(1))
    assert clicks[:, 0].mean() > people.sample(gains, np.random.default_rng(1))[:, 0].mean() + 0.2
    assert np.array_equal(clicks, people.sample(best_first, np.random.default_rng(1)))


def test_navigational_people_stop_and_perfect_people_do_not() -> None:
    gains = np.full((4_000, 10), 4)
    assert click_model("perfect").sample(gains, np.random.default_rng(0)).all()
    assert click_model("nav").sample(gains, np.random.default_rng(0)).sum(axis=1).mean() < 2


def test_binary_judgements_become_the_strongest_grade() -> None:
    assert graded(np.array([0, 1]), 1).tolist() == [0, 4]
    assert graded(np.array([0, 1, 2, 3, 4]), 4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_propensities_are_recovered_from_a_log(eta: float) -> None:
    rng = np.random.default_rng(3)
    attraction = rng.uniform(0.1, 0.9, 200)
    looked = np.arange(1, 11) ** -eta
    counts: dict[tuple[int, int], list[int]] = {}
    for _ in range(4_000):
        shown = rng.choice(200, 10, replace=False)
        clicks = (rng.random(10) < looked) & (rng.random(10) < attraction[shown])
        tally(counts, shown, clicks)
    keys = np.array(list(counts))
    values = np.array(list(counts.values()), np.float64)
    model = Propensities()
    model.fit(keys[:, 0], keys[:, 1], values[:, 0], values[:, 1], by_rank_only=True)
    assert np.abs(model.by_rank - looked).max() < 0.1
    model.fit(keys[:, 0], keys[:, 1], np.zeros(len(keys)), np.zeros(len(keys)))
    assert not model.is_fitted
    assert model.by_rank.tolist() == pytest.approx((1 / np.arange(1, 11)).tolist())


def test_a_cascade_is_recognised_without_being_told() -> None:
    rng = np.random.default_rng(4)
    people = click_model("nav")
    counts: dict[tuple[int, int], list[int]] = {}
    gains_of = rng.integers(0, 5, 200)
    for _ in range(3_000):
        shown = rng.choice(200, 10, replace=False)
        clicks = people.sample(gains_of[shown][None], rng)[0]
        tally(counts, shown, clicks)
    keys = np.array(list(counts))
    values = np.array(list(counts.values()), np.float64)
    model = Propensities()
    model.fit(keys[:, 0], keys[:, 1], values[:, 0], values[:, 1])
    assert model.by_rank[:5].min() > 0.7  # people look at everything until they click; 1/rank would say .2
    after_a_click = model.gamma[[2, 4, 7]]  # one below a click at ranks 1, 2, 3
    assert after_a_click.max() < 0.6


def test_the_posterior_keeps_the_contract_of_models() -> None:
    owner = Identity.from_seed(bytes(32))
    events = [
        ClickEntry.signed(owner, seq=n + 1, query=f"q{n % 3}", shown=(1, 2, 3), clicked=n % 3, ts=n * EPOCH_S)
        for n in range(9)
    ]
    queries = [RankQuery(f"q{n}", IDS, TEXT, None, owner.origin) for n in range(4)]
    check_model(Posterior, events, queries)


def test_an_unseen_query_is_ranked_by_the_text_alone() -> None:
    model = Posterior()
    model.learn(entry(1, 1, "other", (5, 6), 0))
    assert order(model) == IDS.tolist()


def test_a_skipped_result_falls_and_a_clicked_one_rises() -> None:
    model = Posterior()
    model.learn(entry(1, 1, "q", (1, 2, 3), 2))
    assert order(model)[0] == 3
    assert order(model).index(1) > 0
    model.unlearn(entry(1, 1, "q", (1, 2, 3), 2))
    assert order(model) == IDS.tolist()
    with pytest.raises(ValueError, match="not counted"):
        model.unlearn(entry(1, 1, "q", (1, 2, 3), 2))


def test_clicks_low_down_weigh_more_than_clicks_on_top() -> None:
    """Position bias: 30 clicks of 100 at rank 10 say more than 35 of 100 at rank 1."""
    model = Posterior(PosteriorSettings(own_vote=1e9))
    for person in range(100):
        low = np.eye(10, dtype=bool)[9] * (person < 30)
        model.observe(b"o" * 16, "q", list(range(1, 11)), low)
        shown = np.zeros(10, dtype=bool)
        shown[0] = person < 35
        model.observe(b"o" * 16, "q", [11, *range(2, 11)], shown)
    scores = model.scores(model.evidence("q", IDS, me=b"o" * 16), np.full(len(IDS), 0.2))
    assert scores[9] > scores[10]  # item 10 over item 11


def test_one_person_has_one_vote() -> None:
    free = Posterior(PosteriorSettings(vote=1e9, query_vote=1e9))
    capped = Posterior()
    for model in (free, capped):
        for person in range(5):
            model.learn(entry(person, 1, "q", (1, 2), 0))
        for seq in range(100):
            model.learn(entry(99, seq + 1, "q", (20,), 0))
    assert order(free)[0] == 20  # the control: without the cap one person decides
    assert order(capped)[0] == 1
    assert capped.evidence("q", IDS).clicks[-1] <= 1.0


def test_no_rate_exceeds_one_however_low_the_clicks_were() -> None:
    model = Posterior()
    for person in range(10):
        shown = tuple(range(11, 21))
        model.learn(entry(person, 1, "q", shown, 9))  # clicked at rank 10, where few look
    scores = model.scores(model.evidence("q", IDS), text_prior(TEXT))
    assert scores.max() <= 1.0


def test_trust_weighs_votes() -> None:
    model = Posterior()
    model.learn(entry(1, 1, "q", (1, 2), 1))
    for person in range(100, 150):
        model.learn(entry(person, 1, "q", (20,), 0))
    assert order(model, trust=lambda origin: 0.0 if origin[-1] >= 100 else 1.0)[0] == 2
    assert order(model)[0] == 20


def test_old_clicks_fade_and_clicks_from_the_future_are_only_new() -> None:
    model = Posterior(PosteriorSettings(half_life_s=EPOCH_S))
    now_s = 100.0 * EPOCH_S
    model.learn(entry(1, 1, "q", (5,), 0, ts=90 * EPOCH_S))
    model.learn(entry(2, 1, "q", (6,), 0, ts=100 * EPOCH_S))
    model.learn(entry(3, 1, "q", (7,), 0, ts=130 * EPOCH_S))
    clicks = model.evidence("q", IDS, now_s=now_s).clicks
    assert clicks[4] == pytest.approx(2.0**-10)
    assert clicks[5] == clicks[6] == 1.0
    later = model.evidence("q", IDS, now_s=now_s + EPOCH_S).clicks
    assert later[5] == pytest.approx(0.5)
    model.learn(entry(4, 1, "q", (5,), 0, ts=101 * EPOCH_S))
    assert model.evidence("q", IDS, now_s=now_s + EPOCH_S).clicks[4] == pytest.approx(1 + 2.0**-11)


def test_impressions_without_a_click_count_as_looks() -> None:
    model = Posterior()
    for person in range(10):
        model.learn(entry(person, 1, "q", (1, 2), NO_CLICK))
    assert order(model).index(1) > order(model).index(3)


def test_exploration_never_touches_the_first_place_and_reaches_the_tail() -> None:
    model = Posterior()
    model.learn(entry(1, 1, "q", (1, 2), 0))
    found = model.evidence("q", IDS)
    scores = model.scores(found, text_prior(TEXT))
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        shown = model.explore(scores, found, rng)
        assert shown[0] == int(np.argmax(scores))
        assert sorted(shown.tolist()) == list(range(20))
        seen |= set(shown[:10].tolist())
    assert len(seen) > 15
    still = Posterior(PosteriorSettings(exploration=0.0))
    assert still.explore(scores, found, rng).tolist() == np.argsort(-scores, kind="stable").tolist()


def test_a_foreign_state_is_refused_and_the_old_one_stays() -> None:
    model = Posterior()
    model.learn(entry(1, 1, "q", (1, 2), 1))
    before = order(model)
    state = model.state()
    with pytest.raises(SchemaMismatch):
        model.load_state({**state, "gamma": np.full(CLASSES, np.nan)})
    with pytest.raises(SchemaMismatch):
        model.load_state({**state, "rows": state["rows"][:, :3]})
    with pytest.raises(WireError):
        model.predict("q")
    assert order(model) == before


def test_equal_text_scores_are_no_opinion() -> None:
    assert len(set(text_prior(np.zeros(5)).tolist())) == 1
    assert text_prior(np.zeros(0)).shape == (0,)


def test_one_person_has_so_many_votes_over_all_items_of_a_query() -> None:
    """Who clicks on everything is worth `query_vote`, whoever asks; two such are worth twice that."""
    model = Posterior(PosteriorSettings(query_vote=5.0))
    for people in (1, 2):
        for seq, item in enumerate(IDS.tolist()):
            model.learn(entry(people, seq + 1, "q", (item,), 0))
        found = model.evidence("q", IDS, me=b"m" * 16)
        assert found.clicks.sum() == pytest.approx(5.0 * people)
        assert found.clicks.max() <= 1.0 * people


def test_strangers_are_one_voice_together() -> None:
    """Fifty whom trust hardly reaches count as one person on an item; the control: fifty trusted ones as fifty."""
    model = Posterior()
    for person in range(1, 51):
        model.learn(entry(person, 1, "q", (3,), 0))
    told = {
        weight: model.evidence("q", IDS, me=b"m" * 16, trust=lambda _, w=weight: w) for weight in (0.2, 1.0)
    }
    assert told[0.2].clicks[2] == pytest.approx(1.0)
    assert told[1.0].clicks[2] == pytest.approx(50.0)
