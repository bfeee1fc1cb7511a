"""The verb that measures: bench kernels, bench search."""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from typing import Any

from flocklet.cli import bench_search
from flocklet.cli.output import Output
from flocklet.cli.parser import add_sub_verbs
from flocklet.errors import UsageError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Any) -> None:
    """Add the verb and its sub-verbs."""
    bench = verbs.add_parser(
        "bench", help="measure the kernels, or the ranking on a judged collection", description="Measure."
    )
    below = add_sub_verbs(verbs, bench)
    bench_search.add_parser(below)
    kernels = below.add_parser(
        "kernels",
        help="measure how fast this device computes",
        description="Time flocklet's kernels beside NumPy and onnxruntime, in turns, one thread unless said.",
    )
    kernels.add_argument("--rounds", type=int, default=15, metavar="N", help="rounds per workload (15)")
    kernels.add_argument(
        "--all-compilers", action="store_true", help="measure each C compiler, not only the best"
    )
    kernels.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `bench kernels`; return the exit code."""
    if args.rounds < 1:
        raise UsageError(f"--rounds is {args.rounds}", remedy="at least 1")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before NumPy is loaded

    from flocklet.accel import choose as accel
    from flocklet.cli.bench_kernels import compare, workloads
    from flocklet.kernels.compile.compilers import find_compilers

    output = Output(args)
    report = accel.probe()
    for line in report.lines():
        output.remark(line)
    found = find_compilers() if report.backend("native").works else []
    results = []
    for workload in workloads(found if args.all_compilers else found[:1]):
        if workload.ways:
            mine = compare(workload, rounds=args.rounds)
            results += mine
            rows = [(r.way, f"{r.median:.2f}", f"{r.best:.2f}", r.unit) for r in mine]
            output.table(["way", "median", "best", "unit"], rows, title=workload.name)
    output.document({"compute": asdict(report), "results": [asdict(r) for r in results]})
    return 0
