"""Attacks on trust and taste, each beside a control in which it works: copied profiles, camouflage, new names, churn."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.events.edge import Edge
from flocklet.models.recommend.blend import Blend, top_unseen
from flocklet.models.recommend.graph import Graph
from flocklet.models.recommend.independence import independent
from flocklet.models.recommend.influence import influence
from flocklet.models.recommend.likes import Likes
from flocklet.models.recommend.meritrank import TrustEdges, exact_scores
from flocklet.models.recommend.view import TrustView
from flocklet.models.recommend.walks import TrustWalks, _Change

HONEST, GENRES, PER_GENRE = 60, 3, 40
VICTIM, ATTACKER = 0, 59


def origin(number: int) -> bytes:
    return (number + 1).to_bytes(16, "big")


def honest_trust(rng: np.random.Generator) -> list[tuple[int, int, float]]:
    return [
        (a, int(b), 1.0)
        for a in range(HONEST)
        for b in rng.choice([x for x in range(HONEST) if x != a], 6, replace=False)
    ]


def tastes(rng: np.random.Generator) -> list[list[int]]:
    """Everybody likes fourteen of the forty items of one genre, and one other."""
    return [
        [
            *(p % GENRES * PER_GENRE + rng.choice(PER_GENRE, 14, replace=False)).tolist(),
            int(rng.integers(GENRES * PER_GENRE)),
        ]
        for p in range(HONEST)
    ]


def slots(voice: np.ndarray, likes: list[list[int]], targets: list[int]) -> int:
    """How many of the victim's top ten are targets, everybody counting by `voice`."""
    rows = np.repeat(np.arange(len(likes)), [len(row) for row in likes])
    matrix = Likes.of(rows, np.concatenate(likes), (len(likes), max(targets) + 1), influence=voice)
    model = Blend()
    model.fit(matrix)
    profile = matrix.profile(VICTIM)
    return int(np.isin(top_unseen(model.score(profile), profile, 10), targets).sum())


@pytest.mark.parametrize("shape", ["parallel", "linear", "cycle"])
def test_sybils_that_copy_the_victim_get_nowhere_and_everywhere_without_trust(shape: str) -> None:
    rng = np.random.default_rng(1)
    likes, sybils = tastes(rng), range(HONEST, HONEST + 30)
    targets = [GENRES * PER_GENRE + n for n in range(3)]
    likes[ATTACKER] = likes[ATTACKER] + targets
    likes += [likes[VICTIM] + targets for _ in sybils]
    trust = [t for t in honest_trust(rng) if t[0] != ATTACKER]
    if shape == "linear":
        trust += [(a, b, 1.0) for a, b in zip([ATTACKER, *sybils], sybils, strict=False)]
    else:
        trust += [(ATTACKER, s, 1.0) for s in sybils]
    if shape == "cycle":
        trust += [(s, ATTACKER, 1.0) for s in sybils]
    voice = influence(TrustEdges.of(HONEST + len(sybils), trust), VICTIM)
    assert slots(voice, likes, targets) == 0
    assert slots(np.ones(len(likes), np.float32), likes, targets) == 3  # the control: undefended


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_copies_that_several_people_vouch_for_are_one_voice(share: float) -> None:
    """Sybils behind two attackers are behind no single person; that they all say the same gives them away."""
    rng = np.random.default_rng(4)
    likes, sybils = tastes(rng), range(HONEST, HONEST + 30)
    targets = [GENRES * PER_GENRE + n for n in range(3)]
    for _ in sybils:
        copied = [item for item in likes[VICTIM] if rng.random() < share]
        likes.append([*copied, *targets])
    trust = [t for t in honest_trust(rng) if t[0] not in (58, ATTACKER)]
    trust += [(a, s, 1.0) for s in sybils for a in (58, ATTACKER)]
    voice = influence(TrustEdges.of(len(likes), trust), VICTIM)
    assert voice[HONEST:].sum() > 5.0
    assert slots(voice, likes, targets) == 3  # the control: trust alone does not stop them
    rows = np.repeat(np.arange(len(likes)), [len(row) for row in likes])
    matrix = Likes.of(rows, np.concatenate(likes), (len(likes), max(targets) + 1), influence=voice)
    weighed = independent(matrix, VICTIM)
    assert weighed[HONEST:].sum() < 1.5
    assert weighed[VICTIM] == voice[VICTIM]
    assert slots(weighed, likes, targets) == 0


def test_independent_people_keep_their_voice() -> None:
    rng = np.random.default_rng(5)
    rows, columns = np.repeat(np.arange(50), 12), rng.integers(0, 400, 600)
    likes = Likes.of(rows, columns, (50, 400))
    assert independent(likes, 0).min() > 0.95
    assert np.allclose(independent(likes, 0), independent(likes, 0, block=7))
    silent = likes.weighed(np.where(np.arange(50) % 2, 0.0, 1.0))
    assert (independent(silent, 2)[1::2] == 0).all()
    nobody = Likes.of(rows[:0], columns[:0], (3, 4))
    assert independent(nobody, 0).tolist() == [1.0, 1.0, 1.0]


def test_a_camouflaged_attacker_loses_the_trust_it_earned_when_it_turns() -> None:
    """Honest for half of the run: heard like anybody. Then it vouches for sybils, and falls silent with them."""
    rng = np.random.default_rng(2)
    graph = Graph()
    for src, dst, weight in honest_trust(rng):
        graph.add([Edge(origin(src), origin(dst), weight, 100)])
    for person in range(HONEST):
        graph.add([Edge(origin(person), item, 1.0, 100) for item in (person, person + 1)])

    def voices(of: list[int]) -> list[float]:
        view = TrustView(graph, origin(VICTIM))
        assert view.is_trust_used
        numbers = [graph.people.number(origin(person)) for person in of]
        return [float(view.voice[number]) for number in numbers if number is not None]

    assert voices([ATTACKER])[0] > 0.9  # the control: camouflage works until it acts
    before = graph.edges_of(origin(ATTACKER))
    graph.add([Edge(e.src, e.target, 0.0, 200) for e in before if e.kind == 1])
    for sybil in range(100, 150):
        graph.add(
            [Edge(origin(ATTACKER), origin(sybil), 1.0, 200), Edge(origin(sybil), 7, 1.0, 200)],
            is_friend=False,
        )
    attacker, honest, *sybils = voices([ATTACKER, 20, *range(100, 150)])
    assert attacker < 0.05
    assert sybils == [0.0] * 50
    assert honest > 0.9


def test_a_new_name_washes_a_bad_one_off_and_the_good_with_it() -> None:
    rng = np.random.default_rng(3)
    fresh = HONEST
    trust = [t for t in honest_trust(rng) if t[:2] != (VICTIM, ATTACKER)]
    distrusted = [*trust, (VICTIM, ATTACKER, -1.0)]
    washed = [*distrusted, *((fresh, b, 1.0) for b in range(10))]  # trusts many, is trusted by none
    voice, scores = (f(TrustEdges.of(HONEST + 1, washed), VICTIM) for f in (influence, exact_scores))
    assert voice[fresh] == scores[fresh] == 0.0
    assert voice[ATTACKER] == 0.0
    assert (
        influence(TrustEdges.of(HONEST, trust), VICTIM)[ATTACKER] > 0.9
    )  # the control: the old name was heard


def test_churn_of_a_weight_drifts_when_a_new_weight_is_taken_for_an_addition() -> None:
    """The control of `test_churn_of_one_weight_does_not_drift`: mend as the published implementation does."""
    triples = [(0, 1, 1.0), (1, 0, 1.0), (2, 1, 1.0), (0, 2, 1.0)]
    wrong, right = [], []
    for seed in range(4):
        graphs = [TrustWalks(TrustEdges.of(3, triples), np.random.default_rng(seed)) for _ in range(2)]
        ours, theirs = (graph.walk(0, 10_000) for graph in graphs)
        for number in range(10):
            weight = 1.01 + 0.01 * (number % 2)
            graphs[0].set_edge(0, 2, weight)
            theirs.mend(_Change(0, 2, 0.0, weight, 1.0, 1.0 + weight))
        right.append(ours.scores()[2])
        wrong.append(theirs.scores()[2])
    exact = exact_scores(TrustEdges.of(3, [*triples[:3], (0, 2, 1.02)]), 0)[2]
    assert abs(np.mean(right) - exact) < 0.005
    assert np.mean(wrong) - exact > 0.04


def test_a_hundred_forged_votes_of_one_identity_count_as_one() -> None:
    """Edge churn in the graph: whoever says the same again and again takes one place and one voice."""
    graph = Graph()
    for ts in range(100, 200):
        graph.add([Edge(origin(1), 7, 1.0, ts), Edge(origin(1), origin(2), (ts % 10) / 10, ts)])
    assert len(graph.newest()) == 2
    assert graph.version(origin(1), origin(2)) == (199, pytest.approx(0.9, abs=1e-3))
    assert graph.add([Edge(origin(1), 7, 1.0, 150)]) == {"old": 1}
