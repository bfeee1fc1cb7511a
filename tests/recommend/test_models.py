"""Recommenders: the contract of every model, exact SALSA against its walks, robustness of influence, choice of weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from flocklet.models.check import check_model
from flocklet.models.recommend.blend import CANDIDATES, Blend, choose_weights, default_scorers, top_unseen
from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Ease, ItemKNN, Popularity, Salsa, Scorer, walked_scores
from flocklet.models.recommend.tags import tags_of
from kit.opinions import Opinion, Recommender, Taste
from studies.published import PUBLISHED, PublishedSettings, PublishedWalk, similar_people

GENRES, PER_GENRE = 4, 12
MAKERS: list[Callable[[], Scorer]] = [
    Popularity,
    ItemKNN,
    Ease,
    Salsa,
    lambda: Factors(4, rounds=2),
    lambda: PublishedWalk(PublishedSettings(walks=50)),
    Blend,
]


def people(count: int = 80, seed: int = 1) -> Likes:
    """Everybody likes eight items of one genre and one of another."""
    rng = np.random.default_rng(seed)
    rows, columns = [], []
    for person in range(count):
        genre = person % GENRES
        mine = genre * PER_GENRE + rng.choice(PER_GENRE, 8, replace=False)
        rows += [person] * 9
        columns += [*mine.tolist(), int(rng.integers(GENRES * PER_GENRE))]
    return Likes.of(np.array(rows), np.array(columns), (count, GENRES * PER_GENRE))


def genre_share(scorer: Scorer, likes: Likes) -> float:
    """Share of the top three unseen items that are of the person's own genre."""
    scorer.fit(likes)
    shares = []
    for person in range(40):
        profile = likes.profile(person)
        top = top_unseen(scorer.score(profile), profile, 3)
        shares.append(np.mean(top // PER_GENRE == person % GENRES))
    return float(np.mean(shares))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make().name)
def test_every_recommender_keeps_the_contract_of_a_model(make: Callable[[], Scorer]) -> None:
    rng = np.random.default_rng(2)
    events = [
        Opinion(
            f"p{rng.integers(9)}",
            int(rng.integers(15)) + 2**63,
            float(rng.choice([0.2, 0.9])),
            int(rng.integers(99)),
        )
        for _ in range(120)
    ]
    queries = [
        Taste((2**63, 2**63 + 3), tuple(2**63 + n for n in range(15))),
        Taste((), (2**63 + 1, 7)),
        Taste((12,), ()),
    ]
    hostile = [
        Opinion("", 1, 0.5, 1),
        Opinion("a", -1, 0.5, 1),
        Opinion("a", 1, float("nan"), 1),
        Opinion("a", 1, 1.5, 1),
        Opinion("a", 1, 0.5, -1),
        Opinion("a\0", 1, 0.5, 1),
    ]
    check_model(lambda: Recommender(make), events, queries, hostile=hostile)


@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make().name)
def test_a_recommender_finds_the_taste_that_popularity_cannot(make: Callable[[], Scorer]) -> None:
    likes = people()
    assert genre_share(make(), likes) > 0.8
    assert genre_share(Popularity(), likes) < 0.5


def test_exact_salsa_is_what_its_walks_converge_to() -> None:
    likes, rng = people(12), np.random.default_rng(3)
    profile, alpha, walks = likes.profile(0), 0.4, 6_000
    likers = [likes.rows[likes.columns == item] for item in range(likes.n_items)]
    visits = np.zeros((2, likes.n_items))
    for _ in range(walks):
        at, seen = 0, np.zeros(likes.n_items)
        while rng.random() >= alpha:
            item = int(rng.choice(likes.liked(at)))
            seen[item] += 1
            if rng.random() < alpha:
                break
            at = int(rng.choice(likers[item]))
        visits += seen, seen**2
    scorer = Salsa(alpha, gamma=0.0)
    scorer.fit(likes)
    exact = scorer.score(profile)
    mean = visits[0] / walks
    sigma = np.sqrt(np.maximum(visits[1] / walks - mean**2, 1e-9) / walks)
    assert (np.abs(mean - exact) < 4.5 * sigma + 1e-4).all()
    assert np.allclose(walked_scores(likes, profile, alpha=alpha, hops=30), exact, atol=1e-5)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    likes = people(30)
    scorer = Ease(5.0)
    scorer.fit(likes)
    matrix = next(dense for _, dense in likes.blocks()).astype(np.float64)
    others = np.delete(matrix, 7, axis=1)
    weights = np.linalg.solve(others.T @ others + 5.0 * np.eye(others.shape[1]), others.T @ matrix[:, 7])
    for item in (0, 3, 20):
        alone = scorer.score(Profile(np.array([item])))
        assert alone[7] == pytest.approx(np.insert(weights, 7, 0.0)[item], abs=1e-4)


@pytest.mark.parametrize(
    "make", [ItemKNN, Ease, Salsa, lambda: Factors(4), Blend, Popularity], ids=lambda m: m().name
)
def test_people_of_no_influence_change_nothing(make: Callable[[], Scorer]) -> None:
    likes = people(40)
    crowd = np.repeat(np.arange(40, 440), 10), np.tile(np.arange(10), 400)
    voice = np.concatenate([np.ones(40), np.zeros(400)])
    rows, columns = np.concatenate([likes.rows, crowd[0]]), np.concatenate([likes.columns, crowd[1]])
    profile = likes.profile(3)
    scores = []
    for matrix in (
        likes,
        Likes.of(rows, columns, (440, likes.n_items), influence=voice),
        Likes.of(rows, columns, (440, likes.n_items)),
    ):
        scorer = make()
        scorer.fit(matrix)
        scores.append(scorer.score(profile))
    assert np.allclose(scores[0], scores[1], atol=2e-3 * np.abs(scores[0]).max())
    assert not np.allclose(scores[0], scores[2], atol=2e-2 * np.abs(scores[0]).max())  # the control


def test_tags_bring_an_item_that_nobody_liked_near_its_kind() -> None:
    words = [[f"genre{n // PER_GENRE}", "film", f"title{n}"] for n in range(GENRES * PER_GENRE)]
    tags = tags_of(words, least=0.1, most=0.6)
    assert tags.shape == (GENRES, GENRES * PER_GENRE)
    likes = people()
    keep = likes.columns != 5
    fresh = Likes.of(likes.rows[keep], likes.columns[keep], (80, likes.n_items), tags=tags)
    scorer = Ease(20.0)
    scorer.fit(fresh)
    scores = scorer.score(fresh.profile(0))
    assert scores[5] > scores[PER_GENRE:].mean() + 0.01


def test_weights_are_the_first_candidate_unless_another_is_surely_better() -> None:
    rng = np.random.default_rng(4)
    assert choose_weights(people(), 0, rng) in CANDIDATES
    noise = Likes.of(rng.integers(0, 60, 900), rng.integers(0, 200, 900), (60, 200))
    assert (
        choose_weights(noise, 0, rng)[0:3] == CANDIDATES[0][0:3]
        or choose_weights(noise, 0, rng) in CANDIDATES
    )
    empty = Likes.of(np.zeros(0, np.int64), np.zeros(0, np.int64), (1, 3))
    assert choose_weights(empty, 0, rng) == CANDIDATES[0]


def test_a_crowd_without_influence_has_no_say_in_the_choice() -> None:
    likes = people(60)
    rng = np.random.default_rng(5)
    rows = np.concatenate([likes.rows, np.repeat(np.arange(60, 360), 8)])
    columns = np.concatenate([likes.columns, rng.integers(0, likes.n_items, 2_400)])
    voice = np.concatenate([np.ones(60), np.zeros(300)])
    crowded = Likes.of(rows, columns, (360, likes.n_items), influence=voice)
    judges: list[int] = []
    original = Likes.profile

    class Spy(Likes):
        def profile(self, row: int) -> Profile:
            judges.append(row)
            return original(self, row)

    spied = Spy(
        *(getattr(crowded, name) for name in ("starts", "columns", "n_items", "influence", "tags", "trust"))
    )
    spied_without = Spy.without
    Spy.without = lambda self, held: Spy(  # type: ignore[method-assign]
        *(
            getattr(spied_without(self, held), n)
            for n in ("starts", "columns", "n_items", "influence", "tags", "trust")
        )
    )
    choose_weights(spied, 0, np.random.default_rng(6))
    assert judges
    assert max(judges) < 60


def test_the_published_walk_follows_trust_and_cold_starts() -> None:
    assert (PUBLISHED.walks, PUBLISHED.alpha, PUBLISHED.beta, PUBLISHED.threshold) == (1_000, 0.1, 0.8, 0.99)
    likes = people(40)
    trust = np.array([[0.0, 1.0, 1.0]])  # person 0, of genre 0, trusts one of genre 1 only
    led = Likes.of(likes.rows, likes.columns, (40, likes.n_items), trust=trust)
    walk = PublishedWalk(PublishedSettings(trusted=1))
    walk.fit(led)
    visited = np.flatnonzero(walk.score(led.profile(0)))
    assert set(visited.tolist()) <= set(led.liked(0).tolist()) | set(led.liked(1).tolist())
    assert walk.trust_updates(int(led.liked(1)[0]), 0.1) == {1: 0.1}
    near = similar_people(likes, likes.profile(0), 5)
    assert {row % GENRES for row, _ in near} == {0}


def test_a_stronger_reset_keeps_the_walk_nearer() -> None:
    likes = people(40)
    shares = []
    for alpha in (0.1, 0.6):
        walk = PublishedWalk(PublishedSettings(alpha=alpha))
        walk.fit(likes)
        scores = walk.score(likes.profile(0))
        shares.append(scores[likes.liked(0)].sum())
    assert shares[1] > shares[0]


def test_a_matrix_refuses_what_is_outside_it() -> None:
    with pytest.raises(ValueError, match="outside"):
        Likes.of(np.array([0]), np.array([5]), (1, 5))
    with pytest.raises(ValueError, match="influence"):
        Likes.of(np.array([0]), np.array([0]), (1, 5), influence=np.array([-1.0]))
    with pytest.raises(ValueError, match="one weight"):
        Blend(default_scorers, (1.0,))


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make().name)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3), (0, 0), (1, 1)])
@pytest.mark.parametrize("influence", [0.0, 1.0])
def test_nobody_to_hear_leaves_every_score_at_zero(
    make: Callable[[], Scorer], shape: tuple[int, int], influence: float
) -> None:
    """Also without people and without items; who likes all there is gets numbers."""
    none = np.zeros(0, np.int64)
    count = min(shape) if influence == 0.0 else 0  # likes of people whom nobody hears, or no likes at all
    some = np.arange(count)
    scorer = make()
    scorer.fit(Likes.of(some, some, shape, influence=np.full(shape[0], influence)))
    np.testing.assert_array_equal(scorer.score(Profile(none)), np.zeros(shape[1], np.float32))
    everything = scorer.score(Profile(np.arange(shape[1])))  # walks visit at least where they start
    assert everything.shape == (shape[1],) and np.isfinite(everything).all()
