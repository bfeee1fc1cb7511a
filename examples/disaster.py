"""Forty peers on a scale-free graph; at round 5 the twelve best-connected die. With and without healing, in virtual time.

Needs scikit-learn (it holds the images): pip install '.[digits]'
"""

from pathlib import Path

import numpy as np

from flocklet.plots.swarm import curves
from flocklet.swarm.sim.churn import Happening, hubs
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.tasks.digits import digits_task
from flocklet.swarm.topologies import barabasi_albert

LEARN = "sgd(lr=0.1,steps=3,batch=16)|metropolis"


def main() -> None:
    task = digits_task(peers=40, seed=1, alpha=100.0)
    graph = barabasi_albert(40, 2, np.random.default_rng(1))
    disaster = [Happening(5, "crash", hubs(graph, 12))]
    lines = {}
    for name, heal, script in (("no disaster", 0, []), ("no healing", 0, disaster), ("healing", 4, disaster)):
        strategy = Strategy.parse(f"ba(2,heal={heal},deadline=0.1)|{LEARN}")
        report = Simulation(strategy, task, seed=1, rounds=60, every=5, graph=graph, script=script).run()
        lines[name] = [(second, float(sent), accuracy) for _, second, sent, accuracy in report.curve]
        print(f"{name:12} accuracy {report.accuracy:.3f} after {report.curve[-1][1]:.1f} virtual seconds")
    Path("disaster.svg").write_text(curves(lines, title="12 hubs of 40 die at round 5"))
    print("drawn in disaster.svg")


if __name__ == "__main__":
    main()
