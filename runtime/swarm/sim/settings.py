"""All that one simulated run depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flocklet.errors import UsageError
from flocklet.swarm.attacks.model import Attack
from flocklet.swarm.sim.churn import Happening
from flocklet.swarm.sim.network import Conditions
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task
from flocklet.swarm.tasks.catalogue import check_numbers

__all__ = ["Settings"]


@dataclass(frozen=True, eq=False)
class Settings:
    """What a simulation is told.

    `strategy` and `task` may be given by their words: a task by name is shared out among `peers` and brings its trainer.
    The last `attackers` peers do `attack`, or each place in `attacks` its own. `judged` are the places whose accuracy
    counts (default: the honest ones that are on); `stop_at` ends the run at an accuracy, measured every `every` rounds;
    `script` is what happens meanwhile (`late` peers join by it); `graph` stands in for the drawn one; `speeds` multiplies
    the time that each peer trains, `step_s` a step; `compute` is "numpy", "tinygrad" or "gpu".
    """

    strategy: Strategy | str = "modest"
    task: Task | str = "digits"
    peers: int = 10
    seed: int = 1
    rounds: int = 40
    stop_at: float | None = None
    attack: str = ""
    attackers: int = 0
    compute: str = "numpy"
    conditions: Conditions = field(default_factory=Conditions)
    attacks: Mapping[int, Attack] | None = None
    script: Sequence[Happening] = ()
    late: Sequence[int] = ()
    judged: Sequence[int] | None = None
    every: int = 1
    shared_start: bool = True
    step_s: float = 0.001
    graph: Sequence[Sequence[int]] | None = None
    speeds: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_numbers(self.count, self.seed, self.rounds)
        if self.attackers and (not self.attack or not 0 < self.attackers < self.count):
            raise UsageError(
                "attackers need an attack and an honest peer", remedy="fewer --attackers, or --attack KIND"
            )
        if self.stop_at is not None and not 0 <= self.stop_at <= 1:
            raise UsageError(f"--stop-at {self.stop_at:g} is no accuracy", remedy="a share from 0 to 1")

    @property
    def count(self) -> int:
        """How many peers there are."""
        return self.peers if isinstance(self.task, str) else len(self.task.shares)

    def attackers_by_place(self, count: int) -> dict[int, Attack]:
        """Return a new attacker for each place that has one; those of one `attack` share a cabal."""
        found = dict(self.attacks or {})
        cabal: dict[bytes, Any] = {}
        for i in range(count - self.attackers, count):
            found[i] = Attack(self.attack, cabal=cabal)
        return found
