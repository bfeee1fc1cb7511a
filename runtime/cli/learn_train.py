"""`flocklet learn train`: a policy for a task, written as ONNX."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flocklet.cli.output import Output, Step
from flocklet.cli.targets import check_target
from flocklet.errors import ConfigError, UsageError, VerificationError

if TYPE_CHECKING:
    from flocklet.models.policy.environment import Environment
    from flocklet.models.policy.forest import ForestPolicy
    from flocklet.models.policy.methods import AnyLearner
    from flocklet.models.policy.policy import NetPolicy
    from flocklet.models.policy.report import Report

__all__ = ["add_parser", "run"]

_METHODS = ("mdpo", "ppo", "a2c", "npg", "soft", "es", "trees", "race")
_NEAR_WEIGHT = 1.0


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    train = verbs.add_parser(
        "train",
        help="train a policy",
        description="Train a policy and write it as ONNX. Ctrl-C keeps the best policy so far.",
    )
    train.add_argument(
        "task", metavar="TASK", help="a name ('flocklet learn tasks'), gym:ID or file.py:Class"
    )
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the policy goes, .onnx")
    train.add_argument("--with", dest="method", choices=_METHODS, help="how to learn (the task's usual)")
    train.add_argument("--seconds", type=float, metavar="S", help="how long to train")
    train.add_argument(
        "--rounds", type=int, metavar="N", help="how many rounds; the same seed, the same bytes"
    )
    train.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    train.add_argument("--from", dest="origin", type=Path, metavar="POLICY", help="start from this policy")
    train.add_argument(
        "--logs",
        type=Path,
        action="append",
        metavar="FILE.csv",
        help="start from a log (time, what was seen ..., action, reward, end); may be repeated; it must win races",
    )
    train.add_argument(
        "--annotator",
        metavar="WHO",
        help="also reward what words:FILE or you (ask) call progress; needs captions",
    )
    train.add_argument("--near", type=Path, metavar="POLICY", help="stay near this policy while learning")
    train.add_argument(
        "--resume", action="store_true", help="go on from the learner kept beside --out, bit for bit"
    )
    train.add_argument(
        "--small",
        type=Path,
        metavar="FILE",
        help="also write a copy of a few trees for a microcontroller, accepted by its return: .onnx",
    )
    train.add_argument("--plot", type=Path, metavar="FILE", help="draw the learning curve: .png or .svg")
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(
            name, "1"
        )  # before NumPy is loaded: small matrices only wait for a second thread
    from flocklet.cli.learn_annotator import run_annotated
    from flocklet.cli.learn_files import load_learner, read_net, save_learner
    from flocklet.cli.learn_race import run_race
    from flocklet.models.policy.learner import Settings
    from flocklet.models.policy.methods import fresh_policy, make_learner
    from flocklet.models.worlds.catalogue import make_environment
    from flocklet.onnx_io.model import save

    _check(args)
    output = Output(args)
    env, entry = make_environment(args.task)
    method = args.method or (entry.method if entry else "mdpo" if env.spec.actions else "ppo")
    rounds = args.rounds or (entry.rounds if entry else 98)
    if args.annotator:
        return run_annotated(args, env, args.rounds or 40, output)
    if args.logs or method == "race":
        if args.method not in (None, "race") or args.origin or args.near or args.resume:
            raise UsageError(
                "--logs race tables against each other", remedy="leave out --with, --from and --near"
            )
        return run_race(args, env, rounds, output)
    policy: NetPolicy | ForestPolicy
    policy = read_net(args.origin, env.spec) if args.origin else fresh_policy(env.spec, method, args.seed)
    anchors = [(read_net(args.near, env.spec), _NEAR_WEIGHT)] if args.near else []
    about = {"task": args.task, "method": method, "seed": str(args.seed)}
    try:
        learner = make_learner(
            method, env, policy, seed=args.seed, settings=Settings(rounds=rounds), anchors=anchors
        )
        if args.resume:
            state, held = load_learner(args.out)
            if held != about:
                raise UsageError(
                    f"the learner beside {args.out} is of {held.get('task')} with {held.get('method')}, seed "
                    f"{held.get('seed')}",
                    remedy="give the same task, --with and --seed, or train without --resume",
                )
            learner.load_state(state)
        curve: list[tuple[float, float]] = []
        note = _train(learner, args, rounds, output, curve)
    except (ValueError, FloatingPointError) as error:
        raise ConfigError(str(error), remedy="the environment or the settings are at fault") from error
    if learner.best_return > float("-inf"):
        policy.load(learner.best)
    save(args.out, policy.to_onnx())
    save_learner(args.out, learner.state(), about)
    if args.plot:
        from flocklet.plots.flight import draw_curve

        draw_curve(args.plot, {"return": {method: curve}}, x="steps", title=f"{args.task}, seed {args.seed}")
        output.remark(f"learning curve: {args.plot}")
    if note:
        output.remark(note)
    small = _write_small(args.small, policy, env, args.seed, output) if args.small else None
    output.remark(f"{args.out} written. Judge it: flocklet learn eval {args.task} {args.out}")
    output.document(
        {
            "policy": str(args.out),
            **about,
            "seed": args.seed,
            "rounds": learner.done,
            "steps": learner.steps,
            "best_return": learner.best_return if curve else None,
            "small": small,
        }
    )
    return 0


def _write_small(
    path: Path, policy: NetPolicy | ForestPolicy, env: Environment, seed: int, output: Output
) -> dict[str, Any]:
    """Write the small copy; raise VerificationError where no size returns enough."""
    import numpy as np

    from flocklet.models.policy.small_copy import SIZES, small_copy
    from flocklet.onnx_io.model import save

    if env.spec.actions is None:
        raise UsageError("a small copy chooses among actions; this task has continuous controls")
    made = small_copy(policy, env, np.random.default_rng([seed, 9]))
    if made is None:
        raise VerificationError(
            f"no copy of up to {SIZES[-1][0]} trees returns 95 % of the policy's",
            remedy="train it for longer",
        )
    save(path, made.policy.to_onnx())
    trees, depth = made.trees.feature.shape
    output.remark(
        f"small copy for a microcontroller: {trees} trees of depth {depth}, {made.trees.table_bytes} bytes of "
        f"tables, return {made.copy_return:.4g} (the large one: {made.teacher_return:.4g})"
    )
    return {
        "file": str(path),
        "trees": trees,
        "depth": depth,
        "table_bytes": made.trees.table_bytes,
        "return": made.copy_return,
        "teacher_return": made.teacher_return,
        "agreement": made.agreement,
    }


def _check(args: argparse.Namespace) -> None:
    if args.seconds is not None and not args.seconds > 0:
        raise UsageError(f"--seconds is {args.seconds:g}; training takes more than that", remedy="above 0")
    if args.rounds is not None and args.rounds <= 0:
        raise UsageError(f"--rounds is {args.rounds}; training takes at least one", remedy="at least 1")
    if args.seed < 0:
        raise UsageError(f"--seed is {args.seed}", remedy="0 or more")
    check_target(args.out, (".onnx",))
    check_target(args.plot, (".png", ".svg"))
    check_target(args.small, (".onnx",))


def _train(
    learner: AnyLearner,
    args: argparse.Namespace,
    rounds: int,
    output: Output,
    curve: list[tuple[float, float]],
) -> str:
    """Train for the rounds or the seconds; return a note for the end."""
    started, cpu = time.perf_counter(), time.process_time()
    report: Report | None = None
    try:
        with output.progress(f"learning {args.task}") as step:
            while True:
                spent = time.perf_counter() - started
                part = learner.done / rounds if args.seconds is None else spent / args.seconds
                if part >= 1.0:
                    break
                report = learner.round(part)
                if report.mean_return == report.mean_return:
                    curve.append((report.steps, report.mean_return))
                _tell(step, report, part, rounds, args.seconds)
    except KeyboardInterrupt:
        output.remark(f"stopped after {learner.done} rounds; the best policy so far is kept")
    if report is None:
        return "nothing was left to do"
    spent = time.process_time() - cpu
    return (
        f"{learner.steps:,} steps, return {report.mean_return:.4g} (best {learner.best_return:.4g}), "
        f"KL {report.kl:.2g}, {report.note + ', ' if report.note else ''}{spent:.1f} s of CPU"
    )


def _tell(step: Step, report: Report, part: float, rounds: int, seconds: float | None) -> None:
    note = f"return {report.mean_return:.4g}, KL {report.kl:.2g}"
    if seconds is None:
        step(report.round, rounds, note)
    else:
        step(min(part, 1.0) * seconds, seconds, note)
