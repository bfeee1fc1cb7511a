"""A simulated swarm in which one peer sends something else than it should."""

from __future__ import annotations

from dataclasses import replace

from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.sim.swarm import SimulatedSwarm
from flocklet.swarm.strategy import Strategy


class Faulty(SimulatedSwarm):
    """A simulation in which peer 0 sends `twist(message)` (a list) instead of each of its model messages."""

    def __init__(self, text, task, *, twist, **settings):
        super().__init__(Simulation(task=task, **settings), Strategy.parse(text), task)
        self.twist = twist

    def _switch_on(self, i):
        if i == 0:
            link, send = self.network.links[self.ids[0]], self.network.links[self.ids[0]].send

            def twisted(peers, message):
                for one in self.twist(message) if message.type in ("send", "trained") else [message]:
                    send(peers, one)

            link.send = twisted
        super()._switch_on(i)


def with_body(message, **changes):
    return replace(message, body={**message.body, **changes})
