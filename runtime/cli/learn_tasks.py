"""`flocklet learn tasks`: what can be learnt."""

from __future__ import annotations

import argparse
from typing import Any

from flocklet.cli.output import Output

__all__ = ["add_parser", "run"]


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    tasks = verbs.add_parser(
        "tasks", help="list what can be learnt", description="List the tasks, or explain one."
    )
    tasks.add_argument("name", nargs="?", metavar="NAME", help="a task, gym:ID or file.py:Class")
    tasks.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    from flocklet.models.worlds.catalogue import TASKS, make_environment

    output = Output(args)
    found = {name: (make_environment(name)) for name in ([args.name] if args.name else TASKS)}
    rows, listed = [], []
    for name, (env, entry) in found.items():
        spec = env.spec
        does = f"{spec.actions} choices" if spec.actions is not None else f"{spec.controls} controls"
        good, cost = (entry.good, entry.cost) if entry else ("unknown", "unknown")
        rows.append((name, spec.agents, spec.seen, does, spec.steps, good, cost))
        listed.append(
            {
                "name": name,
                "about": entry.about if entry else "",
                "agents": spec.agents,
                "seen": spec.seen,
                "actions": spec.actions,
                "controls": spec.controls,
                "steps": spec.steps,
                "heads": list(spec.heads),
                "level": {key: list(value) for key, value in spec.level.items()},
                "good": good,
                "cost": cost,
            }
        )
    output.table(("task", "agents", "sees", "does", "steps", "good score", "cost"), rows)
    if args.name:
        task = listed[0]
        if task["about"]:
            output.remark(
                f"{args.name}: {task['about']}; reward: {', '.join(found[args.name][0].spec.heads)}"
            )
        output.remark(f"train it: flocklet learn train {args.name} --out {_file(args.name)}")
    output.document({"tasks": listed})
    return 0


def _file(name: str) -> str:
    stem = name.rpartition(":")[2].rpartition("/")[2].lower()
    return f"{stem}.onnx"
