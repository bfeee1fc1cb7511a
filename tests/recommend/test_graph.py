"""The bounded graph: constant memory, newest wins, strangers cannot push friends out, snapshots come back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from flocklet.events.edge import Edge
from flocklet.models.recommend.graph import Graph, GraphSettings
from flocklet.models.recommend.segments import EDGE_BYTES, Edges, SegmentStore

SMALL = GraphSettings(
    friend_segments=3, stranger_segments=2, segment_size=64, quota_share=0.25, index_every=32, most_items=500
)


def origin(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_memory_stays_constant_under_ten_times_the_capacity() -> None:
    store = SegmentStore(8, 1_000)
    for start in range(0, 80_000, 700):
        n = np.arange(start, start + 700)
        store.append(Edges.of(n, n, np.ones(700), n))
        assert store.size_bytes <= 8 * 1_000 * EDGE_BYTES
        assert len(store) <= 8_000
    live = store.live()
    assert live.ts[-1] == 80_499
    assert live.ts[0] >= 80_499 - 8_000  # the oldest left with their segment
    assert store.dropped + len(store) == 80_500


def test_sampled_neighbours_are_uniform_across_segments() -> None:
    store = SegmentStore(4, 10)
    store.append(Edges.of([1] * 25 + [2] * 7, range(32), np.ones(32), range(32)))
    drawn = store.sample(1, 50_000, np.random.default_rng(3))
    counts = np.bincount(drawn, minlength=25)
    chi_square = float(((counts - 2_000.0) ** 2 / 2_000.0).sum())
    assert len(counts) == 25
    assert chi_square < 51.2  # 24 degrees of freedom, p = 0.001
    assert not len(store.sample(9, 5, np.random.default_rng(3)))


def test_the_newest_edge_holds_in_whatever_order_they_come() -> None:
    versions = [Edge(origin(1), 7, w, ts) for w, ts in ((0.2, 10), (0.9, 30), (0.5, 20), (1.0, 30))]
    for order in itertools.permutations(versions):
        graph = Graph(SMALL)
        for edge in order:
            graph.add([edge])
        assert graph.affinity().weight.tolist() == [1.0]


def test_a_replayed_edge_takes_no_room() -> None:
    graph = Graph(SMALL)
    edge = Edge(origin(1), 7, 0.5, 10)
    assert graph.add([edge]) == {"taken": 1}
    for _ in range(1_000):
        assert graph.add([edge, edge]) == {"old": 2}
    assert len(graph) == 1


def test_weight_zero_takes_an_edge_back_for_good() -> None:
    graph = Graph(SMALL)
    graph.add([Edge(origin(1), origin(2), 1.0, 10), Edge(origin(1), origin(2), 0.0, 20)])
    assert not len(graph.trust())
    graph.add([Edge(origin(1), origin(2), 1.0, 10)])
    assert not len(graph.trust())


def test_no_edge_is_refused_for_its_authors_clock() -> None:
    graph = Graph(SMALL)
    for ts in (0, 1_800_000_000 + 3 * 86_400, 2**32 - 1):
        assert graph.add([Edge(origin(1), ts % 97, 0.5, ts)]) == {"taken": 1}
    assert graph.add([Edge(origin(2), 0, 0.5, 7)]) == {"taken": 1}, "one's number is nothing to another"


def test_what_is_forgotten_counts_for_nothing_and_a_newer_version_stays() -> None:
    graph = Graph(SMALL)
    edges = [Edge(origin(1), item, 0.5, 10) for item in range(5)] + [Edge(origin(1), origin(2), 1.0, 10)]
    graph.add(edges)
    graph.add([Edge(origin(1), 3, 1.0, 20)])
    graph.add([Edge(origin(9), item, 0.5, 10) for item in range(5)], is_friend=False)
    graph.forget(edges)
    likes = graph.affinity()
    pairs = zip(likes.src.tolist(), likes.dst.tolist(), strict=True)
    held = {(graph.people[src], graph.items[dst]) for src, dst in pairs}
    assert held == {(origin(1), 3), *((origin(9), item) for item in range(5))}
    assert not len(graph.trust())
    again = Graph(SMALL)
    again.load_state(graph.state())
    assert len(again.newest()) == len(graph.newest()) == 6
    graph._friends.index()  # the segments agree with the index
    assert len(graph.newest()) == 6


def test_strangers_push_out_strangers_and_never_friends() -> None:
    graph = Graph(SMALL)
    graph.add([Edge(origin(1), item, 0.9, 10) for item in range(40)])
    for sybil in range(1_000, 1_400):
        graph.add([Edge(origin(sybil), item, 1.0, 20) for item in range(5)], is_friend=False)
    affinity = graph.affinity()
    friend = graph.people.number(origin(1))
    assert int((affinity.src == friend).sum()) == 40
    assert len(affinity) <= 40 + 2 * 64


def test_one_identity_cannot_fill_the_ring() -> None:
    graph = Graph(SMALL)
    told = graph.add([Edge(origin(1), item, 0.9, 10) for item in range(150)])
    assert told == {"taken": 48, "quota": 102}  # a quarter of 3 x 64


def test_own_edges_are_carried_over_when_their_segment_goes() -> None:
    graph = Graph(SMALL, own=[origin(1)])
    graph.add([Edge(origin(1), item, 0.9, 10) for item in range(20)])
    for other in range(2, 60):
        graph.add([Edge(origin(other), item, 0.9, 10) for item in range(10)])
    mine = graph.people.number(origin(1))
    affinity = graph.affinity()
    assert int((affinity.src == mine).sum()) == 20


def test_names_are_given_back_when_nobody_uses_them() -> None:
    graph = Graph(SMALL)
    for start in range(0, 3_000, 30):
        told = graph.add([Edge(origin(start + 1), start + n, 0.9, 10) for n in range(30)])
        assert told == {"taken": 30}
    assert len(graph.items) <= SMALL.most_items


def test_a_snapshot_brings_everything_back() -> None:
    rng = np.random.default_rng(4)
    graph = Graph(SMALL, own=[origin(1)])
    for _ in range(12):
        edges = [
            Edge(origin(int(rng.integers(1, 9))), int(rng.integers(40)), 0.5, int(rng.integers(99)))
            for _ in range(9)
        ]
        graph.add(edges, is_friend=bool(rng.integers(2)))
    graph.add([Edge(origin(1), origin(3), -1.0, 5)])
    again = Graph(SMALL, own=[origin(1)])
    again.load_state(graph.state())
    for ours, theirs in ((graph.newest(), again.newest()), (graph.trust(), again.trust())):
        assert ours.keys.tolist() == theirs.keys.tolist()
        assert ours.weight.tolist() == theirs.weight.tolist()
    torn = graph.state()
    torn["friends_dst"] = torn["friends_dst"] + 1_000
    with pytest.raises(ValueError, match="torn"):
        again.load_state(torn)


def test_a_hundred_thousand_edges_take_less_than_four_megabytes() -> None:
    graph = Graph()
    rng = np.random.default_rng(2)
    pairs = np.unique(rng.integers(0, 943 * 1_682, 106_000))[:100_000]
    people, items = pairs // 1_682, pairs % 1_682
    for person in range(943):
        mine = items[people == person]
        graph.add([Edge(origin(person + 1), int(item), 0.9, 10) for item in mine])
    assert len(graph.newest()) == 100_000
    assert graph.size_bytes <= 4_000_000
