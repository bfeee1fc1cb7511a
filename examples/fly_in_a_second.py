"""Train a quadrotor policy in about a second, judge it, and write it as ONNX.

    python examples/fly_in_a_second.py

The first run compiles the kernels (a few seconds); every later one finds them in the cache.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from flocklet.models.flight.judge.evaluate import hover
from flocklet.models.flight.sim.dynamics import CRAZYFLIE
from flocklet.models.flight.train.bptt import Trainer
from flocklet.models.flight.train.recipes import fleet_of, policy_of, recipe


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, help="fewer or more updates than the recipe's")
    parser.add_argument("--episodes", type=int, default=20, help="hovers per seed of the judge (10 seeds)")
    parser.add_argument("--out", type=Path, default=Path("policy.onnx"))
    args = parser.parse_args()

    settings = recipe("hover", updates=args.updates)
    trainer = Trainer(settings, fleet_of(CRAZYFLIE), np.random.default_rng(args.seed))
    start = time.perf_counter()
    for _ in range(settings.updates):
        report = trainer.update()
        if report.note:
            print(report.note)
    trainer.close()
    seconds = time.perf_counter() - start

    policy = policy_of(trainer.params)
    args.out.write_bytes(policy.to_onnx())
    judged = hover(policy, CRAZYFLIE, episodes=args.episodes).summary()
    print(f"{settings.updates} updates in {seconds:.2f} s ({trainer.programs.backend} kernels) -> {args.out}")
    print(
        f"survival {judged['survival']:.3f}, error {judged['error_m'] or float('nan'):.3f} m, mean of the last second"
    )


if __name__ == "__main__":
    main()
