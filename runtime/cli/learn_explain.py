"""`flocklet learn explain`: what a policy looks at, and the rules of one made of trees."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.errors import UsageError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    explain = verbs.add_parser(
        "explain",
        help="say what a policy looks at",
        description="Print how much each observed number matters (its values exchanged between moments, with a "
        "95 % interval) and, for trees, the splits that move the choice most.",
    )
    explain.add_argument(
        "task", metavar="TASK", help="a name ('flocklet learn tasks'), gym:ID or file.py:Class"
    )
    explain.add_argument("policy", type=Path, metavar="POLICY", help="an ONNX file")
    explain.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    explain.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    import numpy as np

    from flocklet.cli.learn_files import FilePolicy
    from flocklet.firmware_export.trees.oblivious_onnx import read_oblivious
    from flocklet.models.policy.explain import importance, rules
    from flocklet.models.worlds.catalogue import make_environment

    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}", remedy="0 or more")
    output = Output(args)
    env, _ = make_environment(args.task)
    policy = FilePolicy(args.policy, env.spec)
    found = importance(policy, env, np.random.default_rng(args.seed))
    unit = "KL" if env.spec.actions is not None else "change of the controls"
    output.table(
        ("number", unit, "95 % interval"),
        [(item.column, f"{item.mean:.3g}", f"{item.low:.3g} to {item.high:.3g}") for item in found],
    )
    splits = []
    if policy.is_trees:
        trees = read_oblivious(args.policy)
        if trees is not None:
            splits = rules(trees)
    for rule in splits:
        output.line(str(rule))
    output.document(
        {
            "task": args.task,
            "policy": str(args.policy),
            "importance": [
                {"column": item.column, "mean": item.mean, "low": item.low, "high": item.high}
                for item in found
            ],
            "rules": [
                {
                    "column": rule.column,
                    "threshold": rule.threshold,
                    "is_equal": rule.is_equal,
                    "weight": rule.weight,
                    "choice": rule.choice,
                }
                for rule in splits
            ],
        }
    )
    return 0
