"""flocklet's side of benchmarks/swarm_peers.py: ten processes (or virtual time) on the digits, one line per round.

Run: python benchmarks/peers/flocklet_digits.py processes|simulation CODEC SEED EVENTS
"""

from __future__ import annotations

import asyncio
import sys

from numpy_mlp import tell

ROUNDS, TARGET = 60, 0.95


def processes(strategy: str, seed: int, events: str) -> None:
    """Ten processes over TLS 1.3 that find each other by mDNS; peer 0's view of every round."""
    from flocklet.launcher import launch

    def ended(index, line):
        if index == 0:
            tell(events, line["round"], line["accuracy"])

    asyncio.run(launch(10, strategy, seed=seed, rounds=ROUNDS, stop_at=TARGET, on_round=ended))


def simulation(strategy: str, seed: int, events: str) -> None:
    """The same in virtual time, one process."""
    from flocklet.digits import digits_task
    from flocklet.swarm.simulation import Simulation
    from flocklet.swarm.strategy import Strategy

    class Watched(Simulation):
        def model(self, peer, round, vector):
            known = len(self.report.curve)
            super().model(peer, round, vector)
            for point in self.report.curve[known:]:
                tell(events, point[0], point[3])

    task = digits_task(10, seed)
    Watched(Strategy.parse(strategy), task, seed=seed, rounds=ROUNDS, stop_at=TARGET).run()


if __name__ == "__main__":
    mode, codec, seed, events = sys.argv[1:]
    {"processes": processes, "simulation": simulation}[mode](
        f"fedavg|sgd(lr=0.3,epochs=2,batch=16)|{codec}", int(seed), events
    )
