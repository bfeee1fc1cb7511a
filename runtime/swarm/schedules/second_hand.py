"""Second-hand models (SybilWall, arXiv 2306.15044): each neighbour is told of one peer further away per step.

A record is (peer, round, distance, model). The one to tell is drawn with p ~ lambda exp(-lambda (d - 1)) from those
that came neither from the target nor are it. A receiver adds one to the distance and keeps the newest model per
peer, but never replaces what it heard at first hand. The store has a budget of records; the farthest goes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flocklet.swarm.kinds import Told
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update

__all__ = ["GossipStore"]

LAMBDA = 0.8
MAX_DISTANCE = 16


@dataclass(frozen=True, eq=False)
class _Record:
    about: PeerId
    round: int
    distance: int
    origin: PeerId
    update: Update
    body: dict[str, object]


class GossipStore:
    """What we were told about peers that are not our neighbours; offered to rules as `context.gossip`."""

    def __init__(self, peer: Participant, *, budget: int = 256) -> None:
        self._peer = peer
        self._budget = budget
        self._records: dict[PeerId, _Record] = {}

    def heard_directly(self, message: Message, update: Update) -> None:
        """Remember a neighbour's model, to tell others of it."""
        self._records[update.sender] = _Record(
            update.sender, message.round, 1, update.sender, update, dict(message.tensors)
        )

    def received(self, message: Message, body: Told) -> None:
        """Take in what a neighbour tells about somebody else."""
        about, distance = body.about, body.distance
        if about == self._peer.me:
            return
        known = self._records.get(about)
        if known is not None and (known.distance == 1 or known.round >= message.round):
            return
        update = self._peer.update(message, None)
        if update is None:
            return
        told = Update(about, update.vector, update.n, 0, message.round)
        self._records[about] = _Record(
            about, message.round, distance + 1, message.sender, told, dict(message.tensors)
        )
        while len(self._records) > self._budget:
            farthest = max(self._records.values(), key=lambda record: (record.distance, record.about))
            del self._records[farthest.about]

    def told(self) -> list[Update]:
        """Return what is not first-hand, sorted by whom it is about: for rules that look at it (`context.gossip`)."""
        return [record.update for _, record in sorted(self._records.items()) if record.distance > 1]

    def send(self, neighbours: list[PeerId], step: int) -> None:
        """Tell each neighbour of one peer."""
        rng = self._peer.clock.rng("gossip")
        known = [record for _, record in sorted(self._records.items())]
        for target in neighbours:
            fit = [record for record in known if record.about != target and record.origin != target]
            if not fit:
                continue
            odds = np.array([LAMBDA * math.exp(-LAMBDA * (record.distance - 1)) for record in fit])
            record = fit[int(rng.choice(len(fit), p=odds / odds.sum()))]
            body = {**record.body, "about": record.about, "distance": min(record.distance, MAX_DISTANCE - 1)}
            self._peer.link.send([target], Message("gossip", record.round, body, n=record.update.n))
