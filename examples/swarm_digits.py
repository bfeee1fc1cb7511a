"""Ten peers learn the digits together: first in virtual time, then as ten real processes, with the same code.

Needs scikit-learn (it holds the images): pip install '.[digits]'
"""

import asyncio

from flocklet.swarm.lan.launcher import launch
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.tasks.digits import digits_task

STRATEGY = "fedavg|sgd(lr=0.3,epochs=2,batch=16)|int4"


def main() -> None:
    task = digits_task(peers=10, seed=1)
    report = Simulation(Strategy.parse(STRATEGY), task, seed=1, rounds=40, stop_at=0.95).run()
    print(f"simulated: {report.accuracy:.3f} after {report.curve[-1][0]} rounds, {report.bytes / 1e6:.2f} MB")

    real = asyncio.run(launch(10, STRATEGY, seed=1, rounds=40, stop_at=0.95))
    print(
        f"real: {real.summaries[0]['accuracy']:.3f} in {real.training_s:.1f} s, {real.bytes_out / 1e6:.2f} MB"
    )


if __name__ == "__main__":
    main()
