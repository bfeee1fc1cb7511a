"""`flocklet learn prefer`: ask which of two is better, and say what nothing beats."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.targets import check_target
from flocklet.errors import ConfigError, UsageError

__all__ = ["add_parser", "run"]

_KEYS = {"1": 1.0, "2": 0.0, "=": 0.5}
_MOST_ITEMS = 200


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    prefer = verbs.add_parser(
        "prefer",
        help="learn what you prefer from answers to 'which is better?'",
        description="Show two of several things, ask which is better (1, 2, = for no difference, q to stop), and say "
        "which mixture nothing beats. Answers that go round in a circle are kept as a mixture.",
    )
    prefer.add_argument(
        "items", nargs="*", metavar="ITEM", help="policies (with --task), files, words: two or more"
    )
    prefer.add_argument("--items", dest="file", type=Path, metavar="FILE", help="one item per line instead")
    prefer.add_argument("--task", metavar="TASK", help="replay the policies in this task before asking")
    prefer.add_argument("--replay", type=Path, metavar="FILE.html", help="where the replays go (with --task)")
    prefer.add_argument("--answers", type=int, default=20, metavar="N", help="ask at most N times (20)")
    prefer.add_argument(
        "--keep", type=Path, metavar="FILE.json", help="keep the answers here, and go on from them"
    )
    prefer.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    prefer.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    import numpy as np

    from flocklet.models.policy.preference import has_cycle, next_pair, policy_from_answers

    output = Output(args)
    items = _items(args)
    check_target(args.keep, (".json",))
    if args.answers < 1 or args.seed < 0:
        raise UsageError("--answers is at least 1, --seed 0 or more")
    if args.task:
        _replay(args, items, output)
    answers = _kept(args.keep, items)
    rng = np.random.default_rng([args.seed, len(answers.won)])
    try:
        for _ in range(args.answers):
            first, second, chance = next_pair(answers, rng)
            said = _ask(items[first], items[second])
            if said is None:
                break
            answers.add(first, second, said, chance)
    except KeyboardInterrupt:
        output.remark("stopped; the answers so far count")
    if args.keep:
        rows = list(zip(answers.first, answers.second, answers.won, answers.chance, strict=True))
        args.keep.write_text(json.dumps({"items": items, "answers": rows}) + "\n", encoding="utf-8")
    if not answers.won:
        raise UsageError("nothing was answered", remedy="answer 1, 2 or =")
    policy, wins = policy_from_answers(answers), answers.shares()
    order = np.argsort(-policy, kind="stable").tolist()
    best, is_round = order[0], has_cycle(wins)
    asked = [i for i in range(len(answers.won)) if best in (answers.first[i], answers.second[i])]
    won = sum(answers.won[i] if answers.first[i] == best else 1.0 - answers.won[i] for i in asked)
    if is_round:
        mixture = ", ".join(f"{items[i]} {policy[i]:.0%}" for i in order if policy[i] >= 0.05)
        output.line(f"your answers go round in a circle: mixture kept: {mixture}")
    else:
        output.line(f"you prefer {items[best]} ({won:g} of {len(asked)}); no circle seen")
    output.document(
        {
            "items": items,
            "policy": [float(share) for share in policy],
            "answers": len(answers.won),
            "is_cyclic": is_round,
            "preferred": items[best],
        }
    )
    return 0


def _items(args: argparse.Namespace) -> list[str]:
    items = list(args.items)
    if args.file is not None:
        try:
            lines = args.file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{args.file} is no text in UTF-8: {error}") from error
        items += [line.strip() for line in lines if line.strip()]
    if not 2 <= len(items) <= _MOST_ITEMS or len(set(items)) != len(items):
        raise UsageError(f"{len(items)} items", remedy=f"2 to {_MOST_ITEMS} different ones")
    return items


def _replay(args: argparse.Namespace, items: list[str], output: Output) -> None:
    from flocklet.cli.learn_files import FilePolicy
    from flocklet.models.worlds.catalogue import make_environment
    from flocklet.plots.policy_replay import write_replay

    if args.replay is None:
        raise UsageError("--task shows the policies in a page", remedy="say where: --replay pair.html")
    check_target(args.replay, (".html",))
    env, _ = make_environment(args.task)
    write_replay(args.replay, env, [FilePolicy(Path(item), env.spec) for item in items], seed=args.seed)
    output.remark(f"look at {args.replay}, then answer")


def _kept(path: Path | None, items: list[str]) -> Any:
    from flocklet.models.policy.preference import Answers

    answers = Answers(len(items))
    if path is None or not path.exists():
        return answers
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["items"] != items:
            raise ConfigError(f"{path} holds answers about other items", remedy="choose another file")
        for first, second, won, chance in held["answers"]:
            answers.add(int(first), int(second), float(won), float(chance))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged: {error}", remedy="choose another file") from error
    return answers


def _ask(first: str, second: str) -> float | None:
    while True:
        try:
            said = input(f"1: {first}\n2: {second}\nwhich is better? [1/2/=/q] ").strip()
        except EOFError:
            return None
        if said == "q":
            return None
        if said in _KEYS:
            return _KEYS[said]
