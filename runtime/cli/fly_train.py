"""`flocklet fly train`: a policy by back-propagation through the simulator, as an ONNX file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flocklet.cli.output import Output, Step
from flocklet.cli.targets import check_target
from flocklet.errors import UsageError

if TYPE_CHECKING:
    from flocklet.models.flight.sim.dynamics import Vehicle
    from flocklet.models.flight.train.bptt import Trainer

__all__ = ["TASKS", "add_parser", "read_vehicle", "run", "write_policy"]

ANY = "any"
TASKS = ("hover", "track", "recover")
_ASK_EVERY = 10
Point = tuple[float, float, float]
"""Million steps so far, mean cost and survival of the last 20 windows."""


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    train = verbs.add_parser(
        "train",
        help="train a policy by back-propagation through the simulator",
        description="Train a policy and write it as ONNX. Ctrl-C keeps the best policy so far.",
    )
    train.add_argument("--task", choices=TASKS, default="hover", help="what to learn (hover)")
    train.add_argument(
        "--algorithm",
        choices=["bptt", "td3"],
        default="bptt",
        help="bptt: back-propagation through the simulator (default); td3: the paper's, for comparison",
    )
    train.add_argument(
        "--vehicle",
        default="crazyflie",
        metavar="FILE|NAME",
        help="a vehicle file, crazyflie, l2f-2025, or 'any': a policy for all vehicles of the 25-50 g class",
    )
    train.add_argument(
        "--seconds", type=float, metavar="S", help="how long to train (default: the task's recipe)"
    )
    train.add_argument(
        "--updates", type=int, metavar="N", help="how many updates instead; the same seed, the same bytes"
    )
    train.add_argument("--steps", type=int, metavar="N", help="how many steps td3 takes (300001)")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    train.add_argument("--from", dest="origin", type=Path, metavar="POLICY", help="start from this policy")
    train.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the policy goes, .onnx")
    train.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the learning curve, cost and survival: .png or .svg"
    )
    train.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before NumPy is loaded: the trainer brings its own threads
    import numpy as np

    from flocklet.models.flight.policy import Policy
    from flocklet.models.flight.train.bptt import Trainer
    from flocklet.models.flight.train.recipes import fleet_of, parameters_of, policy_of, recipe

    if args.seconds is not None and args.seconds <= 0:
        raise UsageError(f"--seconds is {args.seconds:g}; training takes more than that", remedy="above 0")
    if args.updates is not None and args.updates <= 0:
        raise UsageError(f"--updates is {args.updates}; training takes at least one", remedy="at least 1")
    check_target(args.out)
    check_target(args.plot, (".png", ".svg"))
    if args.algorithm == "td3":
        from flocklet.cli.fly_td3 import run_td3

        return run_td3(args)
    if args.steps is not None:
        raise UsageError("--steps is for --algorithm td3", remedy="--updates or --seconds")
    output = Output(args)
    vehicle = read_vehicle(args.vehicle)
    started = time.perf_counter()
    is_long = args.seconds is not None and args.seconds > 2.0
    settings = recipe(
        args.task, is_fleet=vehicle is None, updates=args.updates or (100_000 if is_long else None)
    )
    params = None
    if args.origin is not None:
        params = parameters_of(Policy.from_onnx(args.origin.read_bytes()))
    trainer = Trainer(settings, fleet_of(vehicle), np.random.default_rng(args.seed), params=params)
    curve: list[Point] = []
    try:
        with output.progress(f"training to {args.task}") as step:
            _train(trainer, args.seconds, step, output, curve)
        best = trainer.params
    except KeyboardInterrupt:
        best = trainer.best
        output.remark(f"stopped after {trainer.done} updates; the best policy so far is kept")
    finally:
        trainer.close()
    write_policy(args.out, policy_of(best).to_onnx())
    seconds = time.perf_counter() - started
    steps = trainer.done * settings.rows * settings.threads * settings.steps
    output.remark(
        f"{args.out}: {trainer.done} updates, {steps / 1e6:.2f} M steps in {seconds:.2f} s, "
        f"{trainer.survival:.0%} of the last flights survived"
    )
    if args.plot:
        _draw(args.plot, curve, f"{args.task}, {Path(args.vehicle).name}, seed {args.seed}")
        output.remark(f"learning curve: {args.plot}")
    output.document(
        {
            "policy": str(args.out),
            "task": args.task,
            "vehicle": args.vehicle,
            "seed": args.seed,
            "updates": trainer.done,
            "steps": steps,
            "seconds": seconds,
            "survival": trainer.survival,
            "cost": trainer.mean_cost,
            "backend": trainer.programs.backend,
        }
    )
    return 0


def _draw(path: Path, curve: Sequence[Point], title: str) -> None:
    from flocklet.plots.flight import draw_curve

    panels = {
        "cost per step": {"cost": [(steps, cost) for steps, cost, _ in curve]},
        "survival": {"survival": [(steps, survival) for steps, _, survival in curve]},
    }
    draw_curve(path, panels, x="million steps", title=title)


def _train(trainer: Trainer, seconds: float | None, step: Step, output: Output, curve: list[Point]) -> None:
    """Train for the settings' updates, or for `seconds`; the learning rate falls to its end either way.

    `curve` gets a point per update.
    """
    settings = trainer.settings
    window = settings.rows * settings.threads * settings.steps
    start = time.perf_counter()
    while True:
        spent = time.perf_counter() - start
        part = trainer.done / settings.updates if seconds is None else spent / seconds
        if part >= 1.0:
            return
        report = trainer.update(progress=part)
        if report.note:
            output.warning(f"update {report.update}: {report.note}")
        curve.append((trainer.done * window / 1e6, trainer.mean_cost, trainer.survival))
        if report.update % _ASK_EVERY == 0:
            rate = trainer.done * window / max(time.perf_counter() - start, 1e-9)
            note = (
                f"cost {trainer.mean_cost:.2f}, survival {trainer.survival:.0%}, {rate / 1e6:.2f} M steps/s"
            )
            if seconds is None:
                step(trainer.done, settings.updates, note)
            else:
                step(min(spent, seconds), seconds, note)


def read_vehicle(name: str) -> Vehicle | None:
    """Return a vehicle by name or from a TOML file; None for "any". Raise ConfigError for what cannot fly."""
    if name == ANY:
        return None
    from flocklet.models.flight.sim.vehicle import NAMED

    if name in NAMED:
        return NAMED[name]
    from flocklet.cli.fly_files import read_vehicle as read

    return read(name)[1]


def write_policy(path: Path, data: bytes) -> None:
    """Write a policy so that a crash leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    beside.replace(path)
