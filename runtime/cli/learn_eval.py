"""`flocklet learn eval`: judge a policy by its return, alone or against another in the same worlds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.targets import check_target
from flocklet.errors import ConfigError, UsageError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    judge = verbs.add_parser(
        "eval",
        help="judge a policy",
        description="Let a policy act in fresh worlds and print the inter-quartile mean of its returns with a 95 % "
        "interval. Exit code 8 when --at-least is not met.",
    )
    judge.add_argument(
        "task", metavar="TASK", help="a name ('flocklet learn tasks'), gym:ID or file.py:Class"
    )
    judge.add_argument("policy", type=Path, metavar="POLICY", help="an ONNX file")
    judge.add_argument("--against", type=Path, metavar="POLICY", help="another policy, in the same worlds")
    judge.add_argument("--seeds", type=int, default=5, metavar="N", help="how many seeds (5)")
    judge.add_argument("--episodes", type=int, default=20, metavar="N", help="episodes per seed (20)")
    judge.add_argument("--at-least", type=float, metavar="X", help="fail unless the mean is at least X")
    judge.add_argument(
        "--replay", type=Path, metavar="FILE.html", help="write a page that replays an episode"
    )
    judge.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    from flocklet.cli.learn_files import FilePolicy
    from flocklet.models.policy.evaluate import compare, evaluate, summary
    from flocklet.models.worlds.catalogue import make_environment

    if args.seeds < 1 or args.episodes < 1:
        raise UsageError(f"--seeds is {args.seeds} and --episodes {args.episodes}", remedy="at least 1 each")
    check_target(args.replay, (".html",))
    output = Output(args)
    env, _ = make_environment(args.task)
    policies = [FilePolicy(path, env.spec) for path in [args.policy, args.against] if path is not None]
    seeds = range(1000, 1000 + args.seeds)
    try:
        returns = [evaluate(env, policy, seeds, args.episodes) for policy in policies]
    except ValueError as error:
        raise ConfigError(str(error), remedy="the environment is at fault") from error
    found = [summary(values) for values in returns]
    rows = [
        (str(policy.path), f"{s.iqm:.4g}", f"{s.low:.4g} to {s.high:.4g}", s.count)
        for policy, s in zip(policies, found, strict=True)
    ]
    output.table(("policy", "return", "95 % interval", "episodes"), rows)
    document: dict[str, Any] = {
        "task": args.task,
        "policies": [
            {"policy": row[0], "iqm": s.iqm, "low": s.low, "high": s.high, "episodes": s.count}
            for row, s in zip(rows, found, strict=True)
        ],
    }
    if len(returns) == 2:
        result = compare(returns[0], returns[1])
        output.line(
            f"{result.verdict}: the difference is {result.difference:.4g} ({result.low:.4g} to {result.high:.4g})"
        )
        document["comparison"] = {
            "verdict": result.verdict,
            "difference": result.difference,
            "low": result.low,
            "high": result.high,
        }
    if args.replay:
        from flocklet.plots.policy_replay import write_replay

        write_replay(args.replay, env, policies, seed=seeds[0])
        output.remark(f"replay: {args.replay}")
    is_met = args.at_least is None or found[0].iqm >= args.at_least
    document["is_met"] = is_met
    output.document(document)
    if not is_met:
        output.warning(f"{args.policy} returns {found[0].iqm:.4g}, below {args.at_least:g}")
        return 8
    return 0
