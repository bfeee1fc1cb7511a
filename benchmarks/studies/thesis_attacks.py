"""Let sybils join a simulated G-Rank network, behave, and then click for their own ends.

They join as ordinary peers (first clicks, a 10 % sample, queries), act all at once, then only answer:
- `targeted`: each takes a term of its own and clicks that term's bottom item;
- `coordinated`: all take one term and click the same bottom item;
- `inflation`: each clicks random tuples (1,000 in the thesis);
- `epic`: `targeted` by a sybil majority.
The notebook's targeted attack (`notebook_attack`) draws a new term for every click.
"""

from __future__ import annotations

import numpy as np

from studies.thesis import Simulation

__all__ = ["act", "join"]


def join(run: Simulation) -> None:
    """Let the sybils join as ordinary peers."""
    config = run.config
    size = run.entries.size
    for sybil in range(config.peers, run.total):
        run.first_clicks(sybil)
        sample = np.flatnonzero(run.rng.random(size) < config.bootstrap)
        run.learn(sybil, sample)
        run.shares[sybil, sample] = True
        contact = int(run.rng.integers(config.peers))
        run.contacts[contact, sybil] = run.contacts[sybil, contact] = True
    run.present = run.total


def act(run: Simulation) -> None:
    """Let every sybil place its clicks; `run.targets` holds the attacked (query, tuple) afterwards."""
    config, rng = run.config, run.rng
    bottoms = [_bottom(run, query) for query in range(config.tags)]
    common = int(rng.integers(config.tags))
    targets: set[int] = set()
    share = np.diff(run.catalogue.starts) / len(run.catalogue.query)
    for sybil in range(config.peers, run.total):
        own = common if config.attack == "coordinated" else int(rng.integers(config.tags))
        for _ in range(config.clicks_per_sybil):
            query = int(rng.integers(config.tags)) if config.notebook_attack else own
            if config.attack == "inflation":
                query = int(rng.choice(config.tags, p=share))
            span = run.catalogue.tuples(query)
            ranked = np.arange(span.start, span.stop)
            target = int(rng.choice(ranked)) if config.attack == "inflation" else bottoms[query]
            run.click(sybil, ranked, target - span.start, is_attack=True)
            targets.add(query)
            if config.gossip == "push":
                run.exchange(sybil)
    run.targets = [(query, bottoms[query]) for query in sorted(targets)]


def _bottom(run: Simulation, query: int) -> int:
    span = run.catalogue.tuples(query)
    clicks = run.global_clicks[span]
    return (
        int(span.start) + len(clicks) - 1 - int(clicks[::-1].argmin())
    )  # of equals the last: it is shown last
