"""Speed of trust, ingest and answers for benchmarks/recommend.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from recommend_data import split

from flocklet.datasets.installed import MovieLens
from flocklet.events.edge import Edge, sign_page
from flocklet.events.edge_pool import EdgePool
from flocklet.events.edge_sync import Absorbed, absorb_steps, answer_steps, question
from flocklet.events.feed import finish
from flocklet.identity.key import Identity
from flocklet.models.recommend.graph import Graph
from flocklet.models.recommend.meritrank import TrustEdges
from flocklet.models.recommend.segments import Edges, SegmentStore
from flocklet.models.recommend.view import TrustView
from flocklet.models.recommend.walks import TrustWalks

Rows = list[dict[str, Any]]


def median_ms(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times) * 1e3)


def random_trust(n: int = 10_000, edges: int = 100_000) -> TrustEdges:
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, n * n, edges + 200))
    pairs = rng.permutation(pairs[pairs // n != pairs % n])[:edges]
    return TrustEdges(n, pairs // n, pairs % n, rng.uniform(0.1, 1.0, edges), np.zeros(edges))


def trust() -> Rows:
    """10,000 people, 100,000 edges, 10,000 walks; ours and meritrank-python alternate where both can."""
    edges, rng = random_trust(), np.random.default_rng(2)
    graph = TrustWalks(edges, rng)
    ours, theirs = [], []
    peer = meritrank(edges)
    for ego in range(5):
        ours.append(median_ms(lambda ego=ego: graph.walk(ego).scores(), 1))
        if peer is not None:
            theirs.append(median_ms(lambda ego=ego: peer.calculate(ego, num_walks=10_000), 1))
    fresh = TrustWalks(edges, rng)
    for ego in range(3):
        kept = fresh.walk(ego)
    targets = iter(np.setdiff1d(np.arange(5_000, 5_200), edges.dst[edges.src == 0]).tolist())
    return [
        {"what": "all scores of one ego, ms", "ours": float(np.median(ours)), "target": 60.0,
         "meritrank-python": float(np.median(theirs)) if theirs else "not installed"},
        {"what": "top 20 afterwards, ms", "ours": median_ms(lambda: kept.top(20), 50), "target": 1.0,
         "meritrank-python": median_ms(lambda: peer.get_ranks(0, limit=20), 1) if peer is not None else "not installed"},
        {"what": "an edge at the ego (3 egos kept), ms",
         "ours": median_ms(lambda: fresh.set_edge(0, next(targets), 0.5), 60), "target": 5.0,
         "meritrank-python": peer_edge(peer) if peer is not None else "not installed"},
        {"what": "any other edge, ms",
         "ours": median_ms(lambda: fresh.set_edge(int(rng.integers(3, 10_000)), int(rng.integers(3)), 0.5), 100)},
    ]  # fmt: skip


def meritrank(edges: TrustEdges) -> Any:
    try:
        import networkx
        from meritrank_python.rank import IncrementalMeritRank
    except ImportError:
        return None
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(edges.n))
    for src, dst, weight in zip(edges.src.tolist(), edges.dst.tolist(), edges.weight.tolist(), strict=True):
        graph.add_edge(src, dst, weight=weight)
    return IncrementalMeritRank(graph)


def peer_edge(peer: Any) -> float:
    targets = iter(range(6_000, 6_100))
    return median_ms(lambda: peer.add_edge(0, next(targets), 0.5), 5)


def ingest() -> Rows:
    """Unsigned columns into the ring; signed pages checked and taken into a graph, on one core."""
    rng, count = np.random.default_rng(3), 2_000_000
    columns = Edges.of(
        rng.integers(0, 9_999, count), rng.integers(0, 9_999, count), rng.random(count), np.arange(count)
    )
    store = SegmentStore()

    def append() -> None:
        for at in range(0, count, 8_192):
            store.append(columns[at : at + 8_192])

    raw_ms = median_ms(append, 3)
    people = [Identity.from_seed(bytes([n, 1]) * 16) for n in range(200)]
    pages = [
        (who, sign_page(who, [(int(i), 0.9, 5) for i in rng.choice(5_000, 128, replace=False)]))
        for who in people
        for _ in range(2)
    ]
    answers, pool = [], EdgePool()
    for number, (who, page) in enumerate(pages):
        pool.put(page, who.public_key)
        if number % 16 == 15:
            answers.append(finish(answer_steps(pool, question(EdgePool(), bytes(8)), rng)))
            pool = EdgePool()
    graph = Graph()

    def absorb_all() -> None:
        got = Absorbed()
        for message in answers:
            finish(absorb_steps(message, got))
        for page in got.pages:
            graph.add(page.edges)

    begun = time.perf_counter()
    absorb_all()
    spent = time.perf_counter() - begun
    return [
        {"what": "unsigned in memory, edges/s", "ours": count / raw_ms * 1e3, "target": 1e6},
        {
            "what": "signed pages, checked and taken, edges/min",
            "ours": 60 * 128 * len(pages) / spent,
            "target": 1e6,
        },
    ]


def latency(data: MovieLens) -> Rows:
    """100,000 edges in view: memory of the graph, and the time of one recommendation of ten items."""
    graph = Graph()
    for person in range(1, 944):
        mine = data.users == person
        edges = [
            Edge(person.to_bytes(16, "big"), int(f), float(r) / 5, int(t) % 2**31)
            for f, r, t in zip(data.films[mine], data.ratings[mine], data.times[mine], strict=True)
        ]
        graph.add(edges)
    ego = (1).to_bytes(16, "big")
    view = TrustView(graph, ego)
    begun = time.perf_counter()
    view.fit(choose=False)
    fit_s = time.perf_counter() - begun
    state = graph.state()
    whole = median_ms(lambda: view.recommend(10), 200)
    load_ms = median_ms(lambda: Graph().load_state(state), 5)
    part = split(data, "random", 0)
    return [
        {"what": "edges held", "ours": float(len(graph.newest()))},
        {"what": "memory of the graph, MB", "ours": graph.size_bytes / 1e6, "target": 4.0},
        {"what": "fit, s (once per change)", "ours": fit_s},
        {"what": f"recommend 10 of {len(part.tags.T)}+ items, ms", "ours": whole, "target": 1.0},
        {"what": "load a snapshot, ms", "ours": load_ms},
    ]
