"""How the loads of a scheduled kernel lie in memory along a counter, and which counter serves best as lanes.

A load is tinygrad's INDEX node: a buffer and a place that is an expression of counters (RANGE nodes).
"""

from __future__ import annotations

from typing import Any

from flocklet.kernels.kernel import Tile

__all__ = ["fitness", "stride"]


def stride(load: Any, counter: Any) -> int:
    """Return how far apart in memory two neighbours along `counter` are."""
    place = load.src[1]
    if place.op.name == "WHERE":
        place = place.src[1]
    others = {u: u.const_like(0) for u in place.toposort() if u.op.name == "RANGE" and u is not counter}
    alone = place.substitute(others) if others else place
    ends = [int(alone.substitute({counter: counter.const_like(i)}).simplify().vmin) for i in (0, 1)]
    return ends[1] - ends[0]


def fitness(sink: Any, counter: Any, tile: Tile) -> tuple[int, int]:
    """Return how well a counter serves as lanes: few loads apart first, then lanes in use."""
    loads = [u for u in sink.toposort() if u.op.name == "REDUCE"]
    apart = {u for total in loads for u in total.src[0].toposort() if u.op.name == "INDEX"}
    size = int(counter.vmax) + 1
    lanes = max(n for n in range(1, tile.lanes + 1) if size % n == 0)
    return -sum(stride(load, counter) not in (0, 1) for load in apart), lanes
