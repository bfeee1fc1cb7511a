"""G-Rank's counters equal a brute-force count, its modes rank as written, and votes resist click attacks."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.click import NO_CLICK, ClickEntry
from flocklet.events.click_log import ClickLog, Limits
from flocklet.events.click_outcome import Absorbed
from flocklet.identity.key import Identity
from flocklet.models.check import check_model
from flocklet.models.search.ranking.grank import GRank, RankQuery, Settings
from flocklet.models.search.ranking.tally import ClickTally
from kit.clicks import learn_all


def who(number: int) -> bytes:
    return bytes([number]) * 16


def click(person: int, query: str, item: int, seq: int = 1) -> ClickEntry:
    return ClickEntry(who(person), seq, query, (item, item + 1_000), 0, 0)


def items(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


Log = list[tuple[int, str, int | None]]
logs = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from([f"{a} {b}" for a in "abcdef" for b in "ghij"]),
        st.none() | st.integers(0, 3),
    ),
    max_size=60,
)


def brute(log: Log, me: int, top_terms: int) -> dict[int, tuple[int, int, int]]:
    """Count the kappas of `me` with everybody from their definition."""
    tuples, top = {}, {}
    for person in {row[0] for row in log}:
        rows = [row for row in log if row[0] == person]
        tuples[person] = {(query, item) for _, query, item in rows if item is not None}
        asked = Counter(term for _, query, _ in rows for term in query.split())
        top[person] = set(sorted(asked, key=lambda term: (-asked[term], term))[:top_terms])
    return {
        other: (len(top[me] & top[other]), len(tuples[me] & tuples[other]), len(tuples[me] | tuples[other]))
        for other in tuples
        if other != me
    }


@settings(max_examples=60, deadline=None)
@given(logs, logs, st.data())
def test_kappas_equal_brute_force_however_they_came_about(log: Log, noise: Log, data: st.DataObject) -> None:
    """Counters opened early, late or in between, with entries taken back, agree with the definition."""
    tally = ClickTally(top_terms=4)
    steps = [(row, 1) for row in log] + [(row, 1) for row in noise] + [(row, -1) for row in noise]
    looks = data.draw(st.lists(st.integers(0, len(steps)), max_size=3))
    for number, ((person, query, item), amount) in enumerate(steps):
        origin = tally.intern(who(person))
        if item is not None:
            tally.add_click(origin, query, item, amount)
        tally.add_terms(origin, query.split(), amount)
        if number in looks:
            tally.similarity_counts(origin)
    for person in {row[0] for row in log}:
        me = tally.id_of(who(person))
        assert me is not None
        terms, matches, union = tally.similarity_counts(me)
        for other, expected in brute(log, person, 4).items():
            at = tally.id_of(who(other))
            assert at is not None
            assert (int(terms[at]), int(matches[at]), int(union[at])) == expected


def test_what_was_not_counted_cannot_be_taken_back() -> None:
    model = GRank()
    model.learn(click(1, "fox", 1))
    before = model.state()
    for entry in (click(2, "fox", 1), click(1, "fox", 2), click(1, "dog", 1)):
        with pytest.raises(ValueError, match="cannot be taken back"):
            model.unlearn(entry)
    assert all(np.array_equal(before[key], value) for key, value in model.state().items())


ENTRIES = [
    click(1, "fox", 10, 1),
    click(1, "dog", 20, 2),
    click(2, "fox", 10, 1),
    click(2, "fox", 11, 2),
    click(2, "fox", 11, 3),
    click(3, "dog", 21, 1),
    ClickEntry(who(3), 2, "fox", (10, 11), NO_CLICK, 0),
]


@pytest.mark.parametrize(
    "settings_",
    [
        Settings(),
        Settings.thesis(0.0),
        Settings.thesis(1.0),
        Settings(squares_terms=True, drops_isolation=True),
        Settings(aligns_by_row=True),
    ],
)
def test_grank_is_a_sound_model(settings_: Settings) -> None:
    queries = [
        RankQuery("fox", items(10, 11, 12), me=who(1)),
        RankQuery("unseen", items(1)),
        RankQuery("", items()),
    ]
    check_model(
        lambda: GRank(settings_), ENTRIES, queries, hostile=[ENTRIES[0].encode(), RankQuery("fox", items())]
    )


def test_thesis_scores_are_those_of_the_paper() -> None:
    """Worked by hand: kappa_t = 1 ("fox"), kappa_m = 1, kappa_u = 3, so S_1(2) = 2/3 and the own S is 1."""
    model = GRank(Settings.thesis(0.0))
    learn_all(model, ENTRIES)
    assert model.similarity(who(1))[who(2)] == pytest.approx(2 / 3)
    assert model.similarity(who(1))[who(3)] == 0.0  # "dog" and "fox" are shared terms, no tuple is
    scores = model.predict(RankQuery("FOX ", items(10, 11, 12), me=who(1)))
    assert scores.tolist() == pytest.approx([1 + 2 / 3, 2 * 2 / 3, 0], rel=1e-6)
    with_isolation = GRank(Settings.thesis(1.0))
    learn_all(with_isolation, ENTRIES)
    scores = with_isolation.predict(RankQuery("fox", items(10, 11), me=who(1)))
    assert scores.tolist() == pytest.approx([2 + 5 / 3, 2 * 5 / 3], rel=1e-6)


def test_each_audit_switch_changes_what_it_names() -> None:
    def similarity(**switch: bool) -> float:
        model = GRank(Settings(isolation=1.0, one_vote=False, **switch))
        learn_all(model, [*ENTRIES, click(1, "cat", 5, 3), click(2, "cat", 6, 4)])
        return model.similarity(who(1))[who(2)]

    assert similarity() == pytest.approx((2 + 1) / 5)
    assert similarity(squares_terms=True) == 1.0  # (1 + 4) / 5
    lost = GRank(Settings(isolation=1.0, drops_isolation=True))
    learn_all(lost, ENTRIES)
    assert lost.predict(RankQuery("dog", items(21), me=who(1))).tolist() == [0.0]
    by_row = GRank(Settings(isolation=0.0, one_vote=False, aligns_by_row=True))
    learn_all(by_row, ENTRIES)
    row_scores = by_row.predict(RankQuery("fox", items(12, 13, 10), me=who(1)))
    assert row_scores.tolist() == [0.0, 0.0, 0.0]  # row 2 is person 3, whose similarity is 0


def test_default_mode_counts_one_vote_per_identity() -> None:
    model = GRank()
    learn_all(
        model, [click(1, "fox", 10), *(click(2, "fox", 11, seq) for seq in range(1, 50)), click(3, "fox", 10)]
    )
    assert model.order("fox", items(11, 10)).ids.tolist() == [10, 11]
    thesis = GRank(Settings.thesis(1.0))
    thesis.load_state(model.state())
    assert thesis.order("fox", items(11, 10)).ids.tolist() == [11, 10]


def test_matching_metadata_come_first_then_votes_then_text_then_the_lowest_id() -> None:
    model = GRank()
    learn_all(model, [click(1, "fox", 4), click(2, "fox", 5)])
    ranking = model.order(
        "fox",
        items(4, 5, 6, 7, 3),
        np.array([1, 1, 2, 3, 2], dtype=np.float32),
        np.array([False, True, True, True, True]),
    )
    assert ranking.ids.tolist() == [5, 7, 3, 6, 4]
    assert ranking.scores.tolist() == [1, 0, 0, 0, 1]
    thesis = GRank(Settings.thesis())
    assert thesis.order("unseen", items(4, 9, 3), np.ones(3, dtype=np.float32)).ids.tolist() == [3, 4, 9]


def test_thesis_mode_falls_back_to_popular_items() -> None:
    clicks = [click(n, "fox", 10, n) for n in (1, 2)] + [click(1, "dog", 11, 3)]
    thesis, default = GRank(Settings.thesis()), GRank()
    for model in (thesis, default):
        learn_all(model, clicks)
    assert thesis.order("zebra", items()).ids.tolist() == [10, 11]
    assert default.order("zebra", items()).ids.tolist() == []


def test_noise_swaps_two_positions_in_half_of_the_queries() -> None:
    model = GRank(Settings.thesis(noise=0.5))
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(400):
        ids = model.order("fox", items(*range(10)), rng=rng).ids.tolist()
        changed = [n for n in range(10) if ids[n] != n]
        assert len(changed) in (0, 2)
        moved += bool(changed)
    assert 160 < moved < 240
    assert model.order("fox", items(*range(10))).ids.tolist() == list(range(10))  # no generator, no noise


def test_two_persons_of_one_device_see_their_own_rankings() -> None:
    model = GRank(Settings.thesis(0.0))
    learn_all(model, [click(1, "a", 1), click(2, "b", 2), click(3, "a", 1, 1), click(3, "fox", 7, 2)])
    learn_all(model, [click(4, "b", 2, 1), click(4, "fox", 8, 2)])
    assert model.order("fox", items(7, 8), me=who(1)).ids[0] == 7
    assert model.order("fox", items(7, 8), me=who(2)).ids[0] == 8


def test_an_explanation_adds_up_to_the_score() -> None:
    model = GRank()
    learn_all(model, ENTRIES)
    why = model.explain("fox", 10, who(1))
    assert (why.own_clicks, [peer.origin for peer in why.peers]) == (1, [who(2)])
    assert why.peers[0].similarity == pytest.approx(2 / 3)
    assert why.score == pytest.approx(float(model.predict(RankQuery("fox", items(10), me=who(1)))[0]))
    assert model.explain("fox", 99).score == 0.0


@settings(max_examples=30, deadline=None)
@given(logs, st.randoms(use_true_random=False))
def test_state_and_order_do_not_depend_on_arrival(log: Log, random: object) -> None:
    entries = [
        ClickEntry(who(person), n + 1, query, (0, 1, 2, 3), NO_CLICK if item is None else item, 0)
        for n, (person, query, item) in enumerate(log)
    ]
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    models = (GRank(), GRank())
    learn_all(models[0], entries)
    learn_all(models[1], shuffled)
    states = [model.state() for model in models]
    assert all(states[0][key].tobytes() == states[1][key].tobytes() for key in states[0])
    for query in ("a g", "b h"):
        rankings = [model.order(query, items(0, 1, 2, 3), me=who(0)) for model in models]
        assert rankings[0].ids.tolist() == rankings[1].ids.tolist()
        assert rankings[0].scores.tobytes() == rankings[1].scores.tobytes()


def test_a_state_of_something_else_is_refused_and_the_old_one_stays() -> None:
    model = GRank()
    learn_all(model, ENTRIES)
    good = model.state()
    for bad in ({}, good | {"click_origin": good["click_origin"] + 9}, good | {"click_count": good["terms"]}):
        with pytest.raises(SchemaMismatch):
            model.load_state(bad)
    assert model.order("fox", items(10, 11)).ids.tolist()
    with pytest.raises(WireError, match="click entries"):
        model.learn("fox")  # type: ignore[arg-type]


# --- attacks by clicks: what reaches the ranking, through the log, as a peer would send it


def test_slow_drip_below_the_rate_limit_is_one_vote() -> None:
    """An attacker that never exceeds the rate still has one voice; the thesis mode is the control."""
    sybil = Identity.from_seed(b"s" * 32)
    log = ClickLog(Limits(burst=1, per_second=1))
    log.learn_key(sybil.public_key)
    default, thesis = GRank(), GRank(Settings.thesis(1.0))
    for model in (default, thesis):
        learn_all(model, [click(person, "fox", 10) for person in (1, 2, 3)])
    into = Absorbed()
    for seq in range(1, 40):
        one = ClickEntry.signed(sybil, seq=seq, query="fox", shown=(66,), clicked=0, ts=seq)
        log.receive(one.encode(), 2.0 * seq, into)
    assert len(into.accepted) == 39  # the rate limit does not stop it
    for model in (default, thesis):
        learn_all(model, into.accepted)
    assert default.order("fox", items(10, 66), me=who(1)).ids[0] == 10
    assert thesis.order("fox", items(10, 66), me=who(1)).ids[0] == 66


def test_query_bombing_does_not_lift_items_that_do_not_match() -> None:
    model = GRank()
    learn_all(model, [click(person, "fox", 66) for person in range(1, 60)])
    matching = np.array([True, False])
    assert model.order("fox", items(10, 66), None, matching).ids.tolist() == [10, 66]
    unguarded = GRank(Settings(metadata_first=False))
    unguarded.load_state(model.state())
    assert unguarded.order("fox", items(10, 66), None, matching).ids[0] == 66


def test_profile_mimicry_buys_similarity_but_one_vote() -> None:
    """Copy 20 honest clicks, then push: the mimic looks like me, and still three others outvote it."""
    mine = [click(1, f"topic{n}", n, n + 1) for n in range(20)]
    copied = [click(9, f"topic{n}", n, n + 1) for n in range(20)]
    push = [click(9, "fox", 66, 21 + n) for n in range(100)]
    honest = [click(person, "fox", 10) for person in (2, 3, 4)]
    default, thesis = GRank(), GRank(Settings.thesis(0.0))
    for model in (default, thesis):
        learn_all(model, [*mine, *copied, *push, *honest])
    assert default.similarity(who(1))[who(9)] > 0.9
    assert default.order("fox", items(10, 66), me=who(1)).ids[0] == 10
    assert thesis.order("fox", items(10, 66), me=who(1)).ids[0] == 66


def test_a_condemned_origin_loses_its_votes() -> None:
    cheat = Identity.from_seed(b"c" * 32)
    log, model, into = ClickLog(), GRank(), Absorbed()
    log.learn_key(cheat.public_key)
    for seq, item in ((1, 66), (2, 66), (1, 67)):
        one = ClickEntry.signed(cheat, seq=seq, query="fox", shown=(item,), clicked=0, ts=0)
        log.receive(one.encode(), 0.0, into)
    for one in into.accepted:
        model.learn(one)
    assert model.predict(RankQuery("fox", items(66))).tolist() == [1.0]
    for one in into.evicted:
        model.unlearn(one)
    assert model.predict(RankQuery("fox", items(66))).tolist() == [0.0]
    assert not model.clicked_items("fox").size


def test_the_example_of_the_page_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "grank.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/grank.md", "exec"), {})
    assert capsys.readouterr().out.strip() == code.rsplit("# ", 1)[1].strip()
