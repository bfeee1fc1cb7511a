"""A whole swarm in virtual time: deterministic, with true bytes, thousands of peers on one core."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flocklet.swarm.sim.settings import Settings
from flocklet.swarm.sim.swarm import Report, SimulatedSwarm
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.tasks.catalogue import make_task, with_trainer

__all__ = ["Simulation"]


@dataclass(frozen=True, eq=False)
class Simulation(Settings):
    """One simulated run by its settings: `run()` gives its report, the same one each time; `sweep` makes many."""

    def start(self) -> SimulatedSwarm:
        """Return the swarm of this simulation before anything has happened."""
        name = self.task if isinstance(self.task, str) else ""
        strategy = self.strategy
        if isinstance(strategy, str):
            strategy = Strategy.parse(with_trainer(strategy, name))
        task = make_task(self.task, self.peers, self.seed) if isinstance(self.task, str) else self.task
        return SimulatedSwarm(self, strategy, task)

    def run(self) -> Report:
        """Run to the last round and return what happened."""
        return self.start().run()

    def sweep(self, **values: Sequence[Any]) -> list[Simulation]:
        """Return one simulation for each combination of the fields' values, the last field fastest."""
        return [
            replace(self, **dict(zip(values, chosen, strict=True)))
            for chosen in itertools.product(*values.values())
        ]
