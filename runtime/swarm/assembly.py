"""The one place where a peer of a swarm is put together, for virtual time and for the network alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flocklet.models.layout import Vector
from flocklet.swarm.attacks.model import Attack
from flocklet.swarm.participant import Compute, Observer
from flocklet.swarm.peer import Peer
from flocklet.swarm.protocols import Clock, Link, PeerId, PeerSampler
from flocklet.swarm.start import start_model
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task

__all__ = ["Run", "assemble"]


@dataclass(frozen=True, eq=False)
class Run:
    """What all peers of one run share; `start` None: everybody begins with a model of its own."""

    strategy: Strategy
    task: Task
    members: list[PeerId]
    sampler: PeerSampler
    seed: int
    rounds: int
    start: Vector | None

    @classmethod
    def of(
        cls,
        strategy: Strategy,
        task: Task,
        members: list[PeerId],
        *,
        seed: int,
        rounds: int,
        shared_start: bool = True,
    ) -> Run:
        """Draw what comes from the seed; raise UsageError for a rule that would be the plain mean here."""
        strategy.check(len(members))
        start = start_model(task, seed, b"") if shared_start else None
        return cls(strategy, task, members, strategy.sampler.draw(members, seed), seed, rounds, start)


def assemble(
    run: Run,
    place: int,
    *,
    clock: Clock,
    link: Link,
    compute: Compute,
    observer: Observer,
    attack: Attack | None = None,
    is_enough: Callable[[Vector], bool] | None = None,
) -> Peer:
    """Return the peer that holds share `place` of the task; with an attack, an attacker wrapped around it."""
    make: Callable[..., Peer] = Peer
    if attack is not None:
        from functools import partial

        from flocklet.swarm.attacks.peer import Attacker, hostile_link

        make, link = partial(Attacker, attack), hostile_link(link, attack, run.task.model.layout, clock)
    start = start_model(run.task, run.seed, link.me, is_shared=False) if run.start is None else run.start
    return make(
        me=link.me,
        share=run.task.shares[place],
        strategy=run.strategy,
        task=run.task,
        clock=clock,
        link=link,
        compute=compute,
        observer=observer,
        rounds=run.rounds,
        start=start,
        members=run.members,
        sampler=run.sampler,
        is_enough=is_enough,
    )
