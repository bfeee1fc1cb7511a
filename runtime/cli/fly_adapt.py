"""`flocklet fly adapt`: fine-tune a policy to one's own vehicle, and merge what other peers learnt."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from flocklet.cli.fly_train import TASKS, read_vehicle, write_policy
from flocklet.cli.output import Output
from flocklet.errors import UsageError

__all__ = ["add_parser", "run"]


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    adapt = verbs.add_parser(
        "adapt",
        help="fine-tune a policy to your own vehicle in a few updates",
        description="Fine-tune a policy to one vehicle. --merge first adds the mean of what other policies learnt since "
        "POLICY: give policies that were adapted from the same file.",
    )
    adapt.add_argument("policy", type=Path, metavar="POLICY", help="the policy to start from, .onnx")
    adapt.add_argument("--vehicle", required=True, metavar="FILE|NAME", help="your vehicle: a file or a name")
    adapt.add_argument(
        "--merge", type=Path, nargs="+", default=[], metavar="PEER", help="peers' adapted policies"
    )
    adapt.add_argument("--task", choices=TASKS, default="track", help="what to keep (track)")
    adapt.add_argument(
        "--updates", type=int, default=200, metavar="N", help="how many updates (200; 0 only merges)"
    )
    adapt.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    adapt.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the policy goes, .onnx")
    adapt.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    import numpy as np

    from flocklet.models.base import difference, version_id
    from flocklet.models.flight.policy import Policy
    from flocklet.models.flight.train.adapt import adaptation, merge, tensors, vector
    from flocklet.models.flight.train.bptt import Trainer
    from flocklet.models.flight.train.recipes import fleet_of, parameters_of, policy_of

    if args.updates < 0:
        raise UsageError(f"--updates is {args.updates}; it cannot be below 0", remedy="0 or more")
    output = Output(args)
    vehicle = read_vehicle(args.vehicle)
    base = tensors(parameters_of(Policy.from_onnx(args.policy.read_bytes())))
    others = [tensors(parameters_of(Policy.from_onnx(path.read_bytes()))) for path in args.merge]
    start = merge(base, [difference(other, base) for other in others])
    params = vector(start)
    started = time.perf_counter()
    if args.updates:
        trainer = Trainer(
            adaptation(args.task, args.updates),
            fleet_of(vehicle),
            np.random.default_rng(args.seed),
            params=params,
        )
        try:
            with output.progress("adapting") as step:
                for done in range(args.updates):
                    report = trainer.update()
                    if report.note:
                        output.warning(f"update {report.update}: {report.note}")
                    step(
                        done + 1,
                        args.updates,
                        f"cost {trainer.mean_cost:.2f}, survival {trainer.survival:.0%}",
                    )
            params = trainer.params
        except KeyboardInterrupt:
            params = trainer.best
            output.remark(f"stopped after {trainer.done} updates; the best policy so far is kept")
        finally:
            trainer.close()
    seconds = time.perf_counter() - started
    write_policy(args.out, policy_of(params).to_onnx())
    delta = difference(tensors(params), base)
    size = sum(value.nbytes for value in delta.values.values())
    change = float(np.sqrt(sum(float((value**2).sum()) for value in delta.values.values())))
    output.remark(
        f"{args.out}: {args.updates} updates in {seconds:.2f} s; the delta from {delta.base.hex()[:8]} is {size} bytes"
    )
    output.document(
        {
            "policy": str(args.out),
            "vehicle": args.vehicle,
            "updates": args.updates,
            "seconds": seconds,
            "merged": len(others),
            "base": delta.base.hex(),
            "version": version_id(tensors(params)).hex(),
            "delta_bytes": size,
            "delta_norm": change,
        }
    )
    return 0
