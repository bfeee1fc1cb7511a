"""Graphs on n vertices as sorted neighbour lists, and the Metropolis mixing matrix.

All draws come from a passed generator. Random graphs are redrawn until they are connected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError

__all__ = [
    "Graph", "barabasi_albert", "components", "exponential_hop", "full", "geometric", "metropolis", "one_peer_exponential",
    "regular", "ring",
]  # fmt: skip

Graph = tuple[tuple[int, ...], ...]
"""Vertex i -> its neighbours, sorted."""

_TRIES = 1000


def full(n: int) -> Graph:
    """Return everybody with everybody."""
    return tuple(tuple(j for j in range(n) if j != i) for i in range(n))


def ring(n: int) -> Graph:
    """Return the cycle."""
    return _graph(n, [(i, (i + 1) % n) for i in range(n)]) if n > 1 else ((),)


def regular(n: int, degree: int, rng: np.random.Generator) -> Graph:
    """Return a random connected graph in which everyone has `degree` neighbours (a shuffled circulant, rewired).

    Double edge swaps keep all degrees; 10 n degree of them mix well (Milo et al. 2003, arXiv cond-mat/0312028).
    """
    if not 2 <= degree < n or n * degree % 2:
        raise UsageError(
            f"no {degree}-regular connected graph on {n} vertices",
            remedy="2 <= degree < peers, one of them even",
        )
    for _ in range(_TRIES):
        edges = [(i, (i + step) % n) for i in range(n) for step in range(1, degree // 2 + 1)]
        if degree % 2:
            edges += [(i, i + n // 2) for i in range(n // 2)]
        present = {frozenset(edge) for edge in edges}
        draws = rng.integers(len(edges), size=(10 * len(edges), 2))
        for first, second in draws.tolist():
            (a, b), (c, d) = edges[first], edges[second]
            if len({a, b, c, d}) < 4 or frozenset((a, d)) in present or frozenset((c, b)) in present:
                continue
            present -= {frozenset((a, b)), frozenset((c, d))}
            present |= {frozenset((a, d)), frozenset((c, b))}
            edges[first], edges[second] = (a, d), (c, b)
        graph = _graph(n, edges)
        if len(components(graph)) == 1:
            return graph
    raise UsageError(f"no connected {degree}-regular graph found on {n} vertices", remedy="a larger degree")


def barabasi_albert(n: int, m: int, rng: np.random.Generator) -> Graph:
    """Return preferential attachment with m edges per newcomer (Barabasi and Albert 1999)."""
    if not 1 <= m < n:
        raise UsageError(f"no Barabasi-Albert graph with m={m} on {n} vertices", remedy="1 <= m < peers")
    edges: list[tuple[int, int]] = []
    ends: list[int] = list(range(m))
    for newcomer in range(m, n):
        chosen: set[int] = set()
        while len(chosen) < m:
            chosen.add(ends[int(rng.integers(len(ends)))])
        edges += [(newcomer, other) for other in sorted(chosen)]
        ends += [*sorted(chosen), *([newcomer] * m)]
    return _graph(n, edges)


def geometric(n: int, radius: float, rng: np.random.Generator) -> Graph:
    """Return points in the unit square with edges below `radius`."""
    for _ in range(_TRIES):
        points = rng.random((n, 2))
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        pairs = np.argwhere(np.triu(distance < radius, 1))
        graph = _graph(n, [(int(i), int(j)) for i, j in pairs])
        if len(components(graph)) == 1:
            return graph
    raise UsageError(
        f"no connected geometric graph of {n} points at radius {radius:g}", remedy="a larger radius"
    )


def one_peer_exponential(n: int, step: int) -> Graph:
    """Return the directed one-peer graph of this step: i sends to i + 2^(step mod log2 n) (Ying et al. 2021)."""
    hop = exponential_hop(n, step)
    return tuple(((i + hop) % n,) for i in range(n))


def exponential_hop(n: int, step: int) -> int:
    """Return how far each of n peers sends at this step of the one-peer exponential graph."""
    return 1 << step % max(1, (n - 1).bit_length())


def components(graph: Graph) -> list[list[int]]:
    """Return the connected components, largest first."""
    left, found = set(range(len(graph))), []
    while left:
        reached = {min(left)}
        border = reached
        while border:
            border = {j for i in border for j in graph[i]} - reached
            reached = reached | border
        found.append(sorted(reached))
        left -= reached
    return sorted(found, key=lambda part: (-len(part), part))


def metropolis(graph: Graph) -> NDArray[np.float64]:
    """Return W: 1/(1 + max(d_i, d_j)) on edges, the rest on the diagonal; symmetric, rows sum to 1."""
    weights = np.zeros((len(graph), len(graph)))
    for i, row in enumerate(graph):
        for j in row:
            weights[i, j] = 1.0 / (1 + max(len(row), len(graph[j])))
        weights[i, i] = 1.0 - weights[i].sum()
    return weights


def _graph(n: int, edges: Sequence[tuple[int, int]]) -> Graph:
    rows: list[set[int]] = [set() for _ in range(n)]
    for i, j in edges:
        rows[i].add(j)
        rows[j].add(i)
    return tuple(tuple(sorted(row)) for row in rows)
