"""The demonstration with real peer processes on five seeds of the split: who ranks how well, and is it chance?

A seed draws the queries and shares the people among the peers. Figures are nDCG@10 per person, then the mean; the
interval is a 95 % bootstrap over people, p a paired randomisation test of flock against alone.

Run: python benchmarks/demo.py [--seeds 5] [--peers 6] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import platformdirs

from flocklet.datasets.installed import fetch_movielens
from flocklet.demo.people import movielens_scenario
from flocklet.demo.play import play
from flocklet.models.search.evaluation.metrics import bootstrap_interval


class Silent:
    """Tell nothing: the table comes in the end."""

    def remark(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[object]:
        yield lambda done, total, note="": None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = fetch_movielens(Path(platformdirs.user_cache_dir("flocklet", appauthor=False)))
    rows = []
    print(
        "seed\tpopularity\tbm25\talone\tflock\tinterval of flock - alone\tp\tpairs\tmeet s\tsettle s\trecover s\tMB\ts"
    )
    for seed in range(args.seeds):
        outcome = play(movielens_scenario(data, np.random.default_rng(seed)), args.peers, seed, Silent())
        gain = outcome.figures["grank_flock"].per_person - outcome.figures["grank_alone"].per_person
        low, high = bootstrap_interval(gain, np.random.default_rng(seed))
        document = outcome.document()
        rows.append({**document, "seed": seed, "gain_interval": [low, high]})
        figures = document["ndcg@10"]
        print(
            f"{seed}\t{figures['popularity']:.4f}\t{figures['bm25']:.4f}\t{figures['grank_alone']:.4f}\t"
            f"{figures['grank_flock']:.4f}\t[{low:+.4f}, {high:+.4f}]\t{outcome.p_value:.4f}\t{outcome.pairs_found}\t"
            f"{outcome.pairs_s:.1f}\t{outcome.settle_s:.1f}\t{outcome.recover_s:.1f}\t"
            f"{outcome.bytes_sent / 1e6:.1f}\t{outcome.wall_s:.0f}",
            flush=True,
        )
    medians = {name: float(np.median([row["ndcg@10"][name] for row in rows])) for name in rows[0]["ndcg@10"]}
    print(
        "median\t"
        + "\t".join(f"{medians[name]:.4f}" for name in ("popularity", "bm25", "grank_alone", "grank_flock"))
    )
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "median": medians}, indent=2))


if __name__ == "__main__":
    main()
