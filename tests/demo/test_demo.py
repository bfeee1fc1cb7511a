"""The demonstration itself: honest data, honest judging, and the whole story on a small made-up flock."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.datasets.installed import parse_movielens
from flocklet.demo import people
from flocklet.demo.judge import bm25_rankings, figures, popularity_rankings, questions
from flocklet.demo.people import Scenario, movielens_scenario, synthetic_scenario

FILMS = "item_id:token\ttitle\tyear\tclass\n" + "".join(
    f"{n}\tFilm {n}\t{1990 + n % 5}\t{('Comedy', 'Drama')[n % 2]}\n" for n in range(1, 31)
)
RATINGS = "u\ti\tr\tt\n" + "".join(
    f"{person}\t{film}\t{4 if (film + person) % 3 else 2}\t{1000 * person + film}\n"
    for person in (1, 2, 3)
    for film in range(1, 31)
)


@pytest.fixture
def scenario() -> Scenario:
    return movielens_scenario(parse_movielens(RATINGS, FILMS), np.random.default_rng(0))


def test_the_future_is_never_shown(scenario: Scenario) -> None:
    for life in scenario.lives:
        taught = {item for _, item, _ in life.clicks}
        held_out = {item for held in life.later for item in held.right}
        assert taught <= life.seen
        assert not held_out & life.seen
        assert [at_s for _, _, at_s in life.clicks] == sorted(at_s for _, _, at_s in life.clicks)


def test_every_held_out_query_has_an_answer_that_the_text_finds(scenario: Scenario) -> None:
    films = {film.item_id: film for film in scenario.films}
    for life in scenario.lives:
        for held in life.later:
            assert held.right
            for item in held.right:
                document = films[item].document
                assert held.query in f"{document.title} {document.text}".lower()


def test_the_same_seed_gives_the_same_people() -> None:
    first, second, other = (synthetic_scenario(np.random.default_rng(seed), people=20) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_households_share_everybody(scenario: Scenario) -> None:
    households = scenario.households(2, np.random.default_rng(0))
    names = sorted(life.name for household in households for life in household)
    assert names == sorted(life.name for life in scenario.lives)


def test_a_perfect_ranking_is_judged_1_and_the_worst_0(scenario: Scenario) -> None:
    lives = scenario.lives
    everything = {film.item_id for film in scenario.films}
    perfect = [sorted(held.right) for life in lives for held in life.later]
    worst = [sorted(everything - held.right) for life in lives for held in life.later]
    assert figures(lives, perfect).mean == 1.0
    assert figures(lives, worst).mean == 0.0


def test_seen_films_do_not_count_against_a_ranking(scenario: Scenario) -> None:
    lives = scenario.lives
    with_seen = [[*sorted(life.seen), *sorted(held.right)] for life in lives for held in life.later]
    assert figures(lives, with_seen).mean == 1.0


def test_baselines_answer_every_question(scenario: Scenario) -> None:
    lives = scenario.lives
    clicks = [click for life in lives for click in life.clicks]
    asked = questions(lives)
    for rankings in (
        bm25_rankings(lives, scenario.films),
        popularity_rankings(lives, scenario.films, clicks),
    ):
        assert len(rankings) == len(asked)
        assert 0 < figures(lives, rankings).mean <= 1


def test_wrong_number_of_peers_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--peers", "1"]) == 2
    assert "between 2 and 32" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_whole_story_on_made_up_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With half as many people as `flocklet demo --synthetic` makes up: processes and links are the same."""
    monkeypatch.setattr(people, "synthetic_scenario", partial(synthetic_scenario, people=120))
    assert main(["demo", "--synthetic", "--peers", "3", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert set(told) >= {
        "data",
        "peers",
        "pairs_found",
        "ndcg@10",
        "bytes",
        "wall_s",
        "recovered",
        "strangers_refused",
    }
    assert (told["peers"], told["pairs_found"], told["recovered"], told["strangers_refused"]) == (
        3,
        6,
        True,
        2,
    )
    shown = told["ndcg@10"]
    assert set(shown) == {"popularity", "bm25", "grank_alone", "grank_flock"}
    assert shown["grank_flock"] > shown["grank_alone"] > shown["bm25"]
    assert told["bytes"] > 0
    assert told["synthetic"] is True
