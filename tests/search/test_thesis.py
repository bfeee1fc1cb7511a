"""The simulated thesis network learns, is captured by ten per cent sybils, and one vote per identity stops that."""

import dataclasses

import numpy as np
import pytest

from flocklet.events.click import ClickEntry
from flocklet.models.search.ranking.grank import GRank, Settings
from studies.thesis import Config, Simulation, make_catalogue, simulate
from studies.thesis_bytes import Scale
from studies.thesis_measure import positions, shown_scores

SMALL = Config(peers=20, items=40, tags=8, ticks=500, joins=150, acts=300)


@pytest.fixture(scope="module")
def clean() -> Simulation:
    return simulate(SMALL, seed=1)


@pytest.mark.parametrize("seed", range(5))
def test_a_catalogue_has_the_shape_of_the_thesis_data(seed: int) -> None:
    made = make_catalogue(np.random.default_rng(seed), skew=0.5)
    assert made.tag_of.shape == (256, 39)
    assert (made.tag_of.sum(axis=1) == 3).all()
    assert made.tag_of.any(axis=0).all()
    assert len(set(made.tags)) == 39
    assert len(made.titles) == len(made.artists) == 256
    rare = make_catalogue(np.random.default_rng(seed), skew=3.0)
    assert (rare.tag_of.sum(axis=1) == 3).all()
    assert rare.tag_of.any(axis=0).all()


def test_the_same_seed_gives_the_same_run(clean: Simulation) -> None:
    quick = dataclasses.replace(SMALL, ticks=100)
    assert simulate(quick, seed=1).measures == clean.measures[:2]
    assert simulate(quick, seed=2).measures != clean.measures[:2]


def test_gossip_brings_everybody_to_the_global_counts(clean: Simulation) -> None:
    first, last = clean.measures[0], clean.measures[-1]
    assert last.distance < first.distance / 4
    assert last.top_held > first.top_held + 0.3
    deaf = dataclasses.replace(SMALL, ticks=400, relays=0.0, bootstrap=0.0)
    alone = Simulation.start(deaf, 1)
    before = [alone.popularity[peer].sum() for peer in range(3)]
    assert before == [deaf.tags] * 3  # without a sample each knows its own clicks only


def test_positions_break_ties_by_the_lowest_item() -> None:
    assert positions(np.array([[3, 9, 3, 0]])).tolist() == [[1, 0, 2, 3]]


@pytest.mark.parametrize("isolation", [0.0, 1.0])
@pytest.mark.parametrize("one_vote", [False, True])
def test_the_simulation_ranks_as_the_model_does(isolation: float, one_vote: bool) -> None:
    """The vectorised simulation and `GRank` are two implementations; every score agrees."""
    run = simulate(dataclasses.replace(SMALL, ticks=150, isolation=isolation, one_vote=one_vote), seed=3)
    assert_same_scores(run, Settings(isolation=isolation, one_vote=one_vote))


def test_squared_terms_agree_too() -> None:
    run = simulate(dataclasses.replace(SMALL, ticks=100, squares_terms=True, drops_isolation=True), seed=3)
    assert_same_scores(run, Settings(one_vote=False, squares_terms=True, drops_isolation=True))


def assert_same_scores(run: Simulation, settings: Settings) -> None:
    shown, catalogue = shown_scores(run), run.catalogue
    for viewer in (0, 7):
        model = GRank(settings)
        for number in np.flatnonzero(run.known[viewer]):
            author, pair = int(run.entries.author[number]), int(run.entries.pair[number])
            item = (int(catalogue.item[pair]),)
            query = catalogue.tags[catalogue.query[pair]]
            model.learn(ClickEntry(bytes([author]) * 16, int(run.entries.seq[number]), query, item, 0, 0))
        for query in range(run.config.tags):
            span = catalogue.tuples(query)
            ranking = model.order(
                catalogue.tags[query], catalogue.item[span].astype(np.uint64), me=bytes([viewer]) * 16
            )
            ids = ranking.ids.tolist()
            ours = dict(zip(ids, ranking.scores.tolist(), strict=True))
            theirs = dict(zip(catalogue.item[span].tolist(), shown[viewer, span].tolist(), strict=True))
            known = {item: score for item, score in theirs.items() if score >= 0}
            assert {item: ours[item] for item in known} == pytest.approx(known, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("isolation", "one_vote", "least", "most"),
    [(1.0, False, 0.9, 1.0), (0.0, False, 0.7, 1.0), (1.0, True, 0.0, 0.01)],
)
def test_ten_percent_coordinated_sybils_capture_the_thesis_and_not_the_default(
    isolation: float, one_vote: bool, least: float, most: float
) -> None:
    config = dataclasses.replace(
        SMALL, attack="coordinated", sybils=2, isolation=isolation, one_vote=one_vote, measure_every=500
    )
    captured = np.mean([simulate(config, seed).measures[-1].captured for seed in range(2)])
    assert least <= captured <= most


def test_attackers_are_silent_before_they_act() -> None:
    quick = dataclasses.replace(SMALL, ticks=300, joins=100, acts=200, attack="coordinated", sybils=2)
    run = simulate(quick, seed=0)
    assert all(measure.captured == 0 for measure in run.measures if measure.tick < quick.acts)
    assert int(run.entries.is_attack.sum()) == 2 * SMALL.clicks_per_sybil


@pytest.mark.parametrize("gossip", ["pull", "push"])
@pytest.mark.parametrize("attack", ["targeted", "inflation", "epic"])
def test_every_attack_does_damage(attack: str, gossip: str) -> None:
    quick = dataclasses.replace(SMALL, ticks=200, joins=80, acts=150, gossip=gossip)  # type: ignore[arg-type]
    clean = simulate(quick, 0).measures[-1]
    hit = simulate(dataclasses.replace(quick, attack=attack, sybils=6), 0).measures[-1]  # type: ignore[arg-type]
    assert hit.captured > 0.05 or hit.distance > clean.distance + 1


def test_with_isolation_the_shown_head_is_right_and_without_it_lags() -> None:
    open_minded = simulate(dataclasses.replace(SMALL, isolation=1.0), 1).measures
    assert open_minded[-1].shown_top1 >= 0.95
    assert simulate(SMALL, 1).measures[3].shown_top1 < open_minded[3].shown_top1


def test_pulls_are_weighed_in_real_messages() -> None:
    scale = Scale(every=100)
    simulate(SMALL, 0, scale)
    assert len(scale.sizes) == 5
    for size, entries in scale.sizes:
        assert size > 528 + 64 * entries  # the digests, and a signature each
        assert size < 3_000 + 160 * entries


def test_noise_and_audit_switches_change_the_run(clean: Simulation) -> None:
    for change in ({"noise": 0.5}, {"aligns_by_row": True}, {"squares_terms": True}):
        run = simulate(dataclasses.replace(SMALL, ticks=300, **change), 1)  # type: ignore[arg-type]
        assert run.measures[3] != clean.measures[3]
