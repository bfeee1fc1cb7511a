"""The verb that shows everything at once: demo."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.errors import LinkError, UsageError

__all__ = ["add_parser"]

_NAMES = {
    "popularity": "popularity (everybody's clicks, any query)",
    "bm25": "BM25 (the text alone)",
    "grank_alone": "G-Rank alone (the clicks of one household)",
    "grank_flock": "G-Rank after gossip (the flock)",
}


def add_parser(verbs: Any) -> None:
    """Add the verb of this module."""
    demo = verbs.add_parser(
        "demo",
        help="watch a flock of real peers learn together",
        description="Run real peer processes on this machine with the films that 943 real people loved (MovieLens "
        "100K, fetched once), and show what each ranks better together than alone.",
    )
    demo.add_argument("--peers", type=int, default=6, metavar="N", help="peer processes (default: 6)")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the split (default: 0)")
    demo.add_argument("--synthetic", action="store_true", help="use made-up people, fetch nothing")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> int:
    import numpy as np

    from flocklet.demo.people import movielens_scenario, synthetic_scenario
    from flocklet.demo.play import play

    if not 2 <= args.peers <= 32:
        raise UsageError(f"--peers is {args.peers}", remedy="between 2 and 32")
    output = Output(args)
    rng = np.random.default_rng(args.seed)
    if args.synthetic:
        scenario = synthetic_scenario(rng)
    else:
        from flocklet.datasets.installed import fetch_movielens

        try:
            output.remark("MovieLens 100K: reading, fetched on first use")
            scenario = movielens_scenario(fetch_movielens(_cache()), rng)
        except LinkError as error:
            output.warning(f"MovieLens 100K cannot be fetched ({error})")
            output.warning("SYNTHETIC DATA instead: made-up people; the figures say nothing about real ones")
            scenario = synthetic_scenario(rng)
    outcome = play(scenario, args.peers, args.seed, output)
    output.document(outcome.document())
    alone = outcome.figures["grank_alone"].mean
    output.table(
        ("ranking", "nDCG@10", "against alone"),
        [
            (_NAMES[name], f"{figure.mean:.4f}", f"{100 * (figure.mean / alone - 1):+.1f} %")
            for name, figure in outcome.figures.items()
        ],
        title=f"{outcome.data}{' (SYNTHETIC)' if outcome.is_synthetic else ''}: {outcome.people} people on "
        f"{outcome.peers} peers, each judged by the films loved later",
    )
    output.line(
        f"flock against alone: p = {outcome.p_value:.4f} (paired over people); {outcome.bytes_sent / 1e6:.1f} MB sent "
        f"in all; {outcome.pairs_found} pairs; caught up: {'yes' if outcome.recovered else 'NO'}; strangers refused: "
        f"{outcome.strangers_refused} of 2; {outcome.wall_s:.0f} s"
    )
    is_sound = outcome.recovered and outcome.strangers_refused == 2
    return 0 if is_sound else 8


def _cache() -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("flocklet", appauthor=False))
