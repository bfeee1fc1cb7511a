"""flocklet's side of benchmarks/swarm_peers.py: ten processes (or virtual time) on the digits, one line per round.

Run: python benchmarks/peers/flocklet_digits.py processes|simulation CODEC SEED EVENTS
     python benchmarks/peers/flocklet_digits.py speed PEERS ROUNDS 0|1    one JSON line: peer-rounds a second (T16)
"""

from __future__ import annotations

import asyncio
import json
import sys

from numpy_mlp import tell

ROUNDS, TARGET = 60, 0.95


def processes(strategy: str, seed: int, events: str) -> None:
    """Ten processes over TLS 1.3 that find each other by mDNS; peer 0's view of every round."""
    from flocklet.swarm.lan.launcher import launch

    def ended(index, line):
        if index == 0:
            tell(events, line["round"], line["accuracy"])

    asyncio.run(launch(10, strategy, seed=seed, rounds=ROUNDS, stop_at=TARGET, on_round=ended))


def simulation(strategy: str, seed: int, events: str) -> None:
    """The same in virtual time, one process."""
    from flocklet.swarm.sim.simulation import Simulation
    from flocklet.swarm.strategy import Strategy
    from flocklet.swarm.tasks.digits import digits_task

    class Watched(Simulation):
        def model(self, peer, round, vector):
            known = len(self.report.curve)
            super().model(peer, round, vector)
            for point in self.report.curve[known:]:
                tell(events, point[0], point[3])

    task = digits_task(10, seed)
    Watched(Strategy.parse(strategy), task, seed=seed, rounds=ROUNDS, stop_at=TARGET).run()


def speed(peers: int, rounds: int, is_judged: bool) -> None:
    """Train all for two steps of 16 of their 32 rows; each encodes its model for one peer; judge all, or nobody."""
    import numpy as np

    from flocklet.models.mlp import Mlp
    from flocklet.swarm.sim.network import Conditions
    from flocklet.swarm.sim.simulation import Simulation
    from flocklet.swarm.strategy import Strategy
    from flocklet.swarm.task import Task, stratified
    from flocklet.swarm.tasks.digits import load_digits

    images, rng = load_digits(), np.random.default_rng(0)
    train, test = stratified(images.labels, 0.2, rng)
    shares = tuple(np.sort(rng.choice(len(train), 32, replace=False)) for _ in range(peers))
    task = Task(
        Mlp((64, 64, 10)), images.features[train], images.labels[train], images.features[test],
        images.labels[test], shares,
    )  # fmt: skip
    report = Simulation(
        Strategy.parse("onepeer|sgd(lr=0.3,steps=2,batch=16)"), task, seed=1, rounds=rounds,
        every=1 if is_judged else rounds, judged=None if is_judged else range(min(peers, 10)), shared_start=False,
        conditions=Conditions(is_decoded=False),
    ).run()  # fmt: skip
    print(json.dumps({"rate": peers * rounds / report.wall_s, "rounds": rounds, "accuracy": report.accuracy}))


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        sys.exit(speed(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"))
    mode, codec, seed, events = sys.argv[1:]
    {"processes": processes, "simulation": simulation}[mode](
        f"fedavg|sgd(lr=0.3,epochs=2,batch=16)|{codec}", int(seed), events
    )
