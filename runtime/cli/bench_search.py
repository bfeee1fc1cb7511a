"""The sub-verb `bench search`: how well flocklet ranks a judged collection that a person brings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.errors import UsageError

__all__ = ["add_parser"]

_METRICS = ("ndcg@10", "mrr", "map", "recall@100")
_DOCUMENT = ("collection", "documents", "queries", "methods", "latency_us", "index_bytes")
_CLICKS = ("nav", "info", "pbm")


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    bench = verbs.add_parser(
        "search",
        help="measure the ranking on a judged collection (BEIR layout)",
        description="Measure BM25, the reranker (cross-validated over the queries) and learning from simulated clicks "
        "(navigational, informational, position-based people) on DIR with corpus.jsonl, queries.jsonl and "
        "qrels/test.tsv. p_vs_bm25 is a paired randomisation test on nDCG@10.",
    )
    bench.add_argument("folder", type=Path, metavar="DIR", help="a collection in the BEIR layout")
    bench.add_argument("--seed", type=int, default=0, metavar="N", help="seed of folds, people and tests")
    bench.add_argument(
        "--impressions", type=int, default=5_000, metavar="N", help="simulated searches per kind of people"
    )
    bench.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw nDCG over impressions as PNG (or .svg)"
    )
    bench.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    from flocklet.cli.bench_search_run import bench_collection
    from flocklet.datasets.installed import load_collection

    output = Output(args)
    if args.impressions < 1:
        raise UsageError(f"--impressions is {args.impressions}", remedy="at least 1")
    if args.plot and args.plot.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"--plot {args.plot} is neither .png nor .svg", remedy="name a .png or .svg file")
    if args.plot and not args.plot.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {args.plot.absolute().parent}", remedy="make it first")
    collection = load_collection(args.folder)
    with output.progress("ranking") as step:
        report, curves = bench_collection(
            collection, seed=args.seed, impressions=args.impressions, report=step, has_curves=bool(args.plot)
        )
    if args.plot:
        from flocklet.plots.curves import Series, draw

        lines = [
            Series(name, [float(at) for at in curve.impressions], curve.learnt)
            for name, curve in curves.items()
        ]
        flat = [float(curves["clicks_pbm"].impressions[0]), float(args.impressions)]
        for name in ("rerank_cv", "bm25"):
            value = float(report["traffic_ndcg@10"][name])
            lines.insert(0, Series(name, flat, [value, value], is_dashed=name == "bm25"))
        draw(args.plot, lines, title=f"nDCG@10 on {report['collection']}", x="impressions")
    output.document({name: report[name] for name in _DOCUMENT})
    output.remark(
        f"{report['collection']}: {report['documents']} documents, {report['queries']} judged queries, "
        f"search {report['latency_us']:.0f} us, index {report['index_bytes'] / 1e6:.1f} MB"
    )
    rows = [
        (
            name,
            *(f"{values[metric]:.3f}" for metric in _METRICS),
            f"{values['p_vs_bm25']:.4f}",
            f"{report['traffic_ndcg@10'][name]:.3f}",
        )
        for name, values in report["methods"].items()
    ]
    output.table(("method", *_METRICS, "p vs bm25", "ndcg as asked"), rows)
    folds = ", ".join(report["rerank_folds"])
    output.remark(
        f"rerank_cv used per fold: {folds}; clicks_*: {report['impressions']} searches, seed {args.seed}"
    )
    if args.plot:
        output.remark(f"plot: {args.plot}")
    return 0
