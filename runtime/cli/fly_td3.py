"""`flocklet fly train --algorithm td3`: the paper's trainer, the control for our own."""

from __future__ import annotations

import argparse
import time

import numpy as np

from flocklet.cli.fly_train import ANY, read_vehicle, write_policy
from flocklet.cli.output import Output
from flocklet.errors import UsageError

__all__ = ["run_td3"]

_AT_A_TIME = 500


def run_td3(args: argparse.Namespace) -> int:
    """Train by TD3 as Learning to Fly in Seconds does (Eschmann, Albani & Loianno 2024); return the exit code."""
    from flocklet.models.flight.train.td3 import Recipe, Td3

    if args.task != "hover" or args.vehicle == ANY:
        raise UsageError("td3 learns to hover, on one vehicle", remedy="leave out --algorithm for the rest")
    for option, value in (("--updates", args.updates), ("--from", args.origin), ("--plot", args.plot)):
        if value is not None:
            raise UsageError(f"td3 takes no {option}", remedy="--steps and --seconds say how long")
    recipe = Recipe()
    steps = recipe.steps if args.steps is None else args.steps
    if not 1 <= steps <= recipe.steps:
        raise UsageError(f"--steps is {steps}", remedy=f"1 to {recipe.steps}, the paper's number")
    vehicle = read_vehicle(args.vehicle)
    assert vehicle is not None  # noqa: S101 - "any" was refused above
    output = Output(args)
    started = time.perf_counter()
    trainer = Td3(np.random.default_rng(args.seed), vehicle=vehicle)
    try:
        with output.progress("training to hover by TD3") as step:
            while trainer.t < steps:
                spent = time.perf_counter() - started
                if args.seconds is not None and spent >= args.seconds:
                    break
                trainer.advance(min(trainer.t + _AT_A_TIME, steps))
                step(trainer.t, steps, f"{trainer.t / max(time.perf_counter() - started, 1e-9):,.0f} steps/s")
    except KeyboardInterrupt:
        output.remark(f"stopped after {trainer.t} steps; the policy as it is now is kept")
    finally:
        policy, backend = trainer.policy(), trainer.backend
        trainer.close()
    write_policy(args.out, policy.to_onnx())
    seconds = time.perf_counter() - started
    output.remark(f"{args.out}: {trainer.t} of {recipe.steps} steps in {seconds:.2f} s")
    if trainer.t <= recipe.actor_warm_up:
        output.warning(
            f"the actor learns from step {recipe.actor_warm_up} on: this policy has learnt nothing yet"
        )
    output.document(
        {
            "policy": str(args.out), "algorithm": "td3", "task": args.task, "vehicle": args.vehicle, "seed": args.seed,
            "steps": trainer.t, "seconds": seconds, "backend": backend,
        }
    )  # fmt: skip
    return 0
