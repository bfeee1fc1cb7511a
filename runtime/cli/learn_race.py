"""`flocklet learn train --logs`: read logs, let them race, write the winner as a net."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flocklet.cli.output import Output
from flocklet.errors import ConfigError, UsageError, VerificationError

if TYPE_CHECKING:
    from flocklet.models.policy.environment import Environment
    from flocklet.models.policy.episodes import Episodes

__all__ = ["read_log", "run_race"]

_MOST_BYTES = 256 * 1024 * 1024


def read_log(path: Path, seen: int) -> Episodes:
    """Return the episodes of a CSV file with a header: time, `seen` columns, action, reward, end.

    Raise ConfigError that names the missing column, or the line that is none.
    """
    from flocklet.models.policy.episodes import Episodes

    if not path.is_file():
        raise UsageError(f"there is no log {path}")
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES >> 20} MiB", remedy="give a part of it")
    rows: list[list[float]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            head = [name.strip() for name in next(lines, [])]
            for name in ("time", "action", "reward", "end"):
                if name not in head:
                    raise ConfigError(
                        f"{path} has no column '{name}'", remedy="time, what was seen, action, reward, end"
                    )
            places = [head.index(name) for name in ("action", "reward", "end")]
            inside = [i for i, name in enumerate(head) if name not in ("time", "action", "reward", "end")]
            if len(inside) != seen:
                raise ConfigError(
                    f"{path} shows {len(inside)} numbers, the task {seen}", remedy="one column for each"
                )
            for number, line in enumerate(lines, start=2):
                if not line:
                    continue
                try:
                    found = [float(line[i]) for i in [*inside, *places]]
                except (ValueError, IndexError):
                    raise ConfigError(
                        f"{path} line {number}: '{','.join(line)[:60]}' is no row of numbers"
                    ) from None
                rows.append(found)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} is no CSV file: {error}") from error
    if not rows:
        raise ConfigError(f"{path} has no rows")
    table = np.array(rows)
    end = table[:, -1] > 0.5
    end[-1] = True  # a log may be cut off anywhere
    try:
        action = np.rint(table[:, -3])
        if not np.array_equal(action, table[:, -3]):
            raise ValueError("an action is no whole number")
        return Episodes(table[:, :seen].astype(np.float32), action.astype(np.int64), table[:, -2], end)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: {error}") from error


def run_race(args: argparse.Namespace, env: Environment, rounds: int, output: Output) -> int:
    """Race the logs, write the winner; return the exit code."""
    from flocklet.models.policy.net_copy import net_copy
    from flocklet.models.policy.race import Log, Race
    from flocklet.onnx_io.model import save

    try:
        logs = [Log(path.name, read_log(path, env.spec.seen)) for path in args.logs or []]
        race = Race(env, logs, seed=args.seed)
        with output.progress(f"racing in {args.task}") as step:
            for at in range(rounds):
                report = race.round()
                step(at + 1, rounds, f"return {report.mean_return:.4g}")
    except KeyboardInterrupt:
        output.remark(f"stopped after {race.done} rounds; the winner so far is kept")
    except ValueError as error:
        raise ConfigError(str(error), remedy="the log or the task is at fault") from error
    made = net_copy(race.winner.policy, env, np.random.default_rng([args.seed, 9]))
    if made is None:
        raise VerificationError(
            "no net returns 95 % of what the table does", remedy="train for longer, or with another method"
        )
    policy, reached, goal = made
    save(args.out, policy.to_onnx())
    for log in race.logs:
        dropped = " and was dropped" if log.is_dropped else ""
        output.line(f"{log.name} helped in {log.won} of {log.run} races{dropped}")
    output.remark(f"{race.steps:,} steps, return {reached:.4g} (the table: {goal:.4g})")
    output.remark(f"{args.out} written. Judge it: flocklet learn eval {args.task} {args.out}")
    output.document(
        {
            "policy": str(args.out),
            "task": args.task,
            "method": "race",
            "seed": args.seed,
            "rounds": race.done,
            "steps": race.steps,
            "best_return": reached,
            "logs": [
                {"name": log.name, "won": log.won, "races": log.run, "is_dropped": log.is_dropped}
                for log in race.logs
            ],
        }
    )
    return 0
