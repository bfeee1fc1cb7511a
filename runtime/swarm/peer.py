"""One peer of a swarm: its model, its end of the link, what it knows of the others, and what it refuses.

The same class runs in the simulator and on a device; only `clock`, `link` and `compute` differ. Every refusal is
counted in `refused` by reason and logged once per (peer, reason).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from flocklet.errors import WireError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Encoder
from flocklet.swarm.protocols import Clock, Context, Link, Message, PeerId, Update
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Rows, Task

if TYPE_CHECKING:
    from flocklet.swarm.attacks.model import Attack

__all__ = ["Compute", "Observer", "Peer"]

log = logging.getLogger("flocklet.swarm")

MAX_SAMPLES = 1 << 32


class Compute(Protocol):
    """Where training runs: together with other peers in simulation, in a thread on a device."""

    async def train(self, peer: Peer, start: Vector, rows: Rows, round: int) -> Vector:
        """Return the trained model."""
        ...


class Observer(Protocol):
    """Who watches: the simulator's log, or a live table."""

    def event(self, peer: Peer, kind: str, round: int, detail: bytes = b"") -> None:
        """Note that something happened."""
        ...

    def model(self, peer: Peer, round: int, vector: Vector) -> None:
        """Note the model after a merge."""
        ...


class Peer:
    """The state of one peer; a schedule drives it."""

    def __init__(
        self,
        *,
        me: PeerId,
        share: Rows,
        strategy: Strategy,
        task: Task,
        clock: Clock,
        link: Link,
        compute: Compute,
        observer: Observer,
        rounds: int,
        start: Vector,
        attack: Attack | None = None,
        is_enough: Callable[[Vector], bool] | None = None,
    ) -> None:
        self.me = me
        self.share = share
        self.strategy = strategy
        self.task = task
        self.layout = task.model.layout
        self.clock = clock
        self.link = link
        self.compute = compute
        self.observer = observer
        self.rounds = rounds
        self.attack = attack
        self._is_enough = is_enough
        self.x = start
        self.round = 0
        self.start = start  # the model before the newest training
        self.encoder = Encoder(strategy.codec, self.layout, clock.rng("codec"))
        self.memory: dict[str, Any] = {
            "classes": np.flatnonzero(np.bincount(task.labels[share])),
            "share": share,
        }  # of the rules
        self.heard: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        self.refused: Counter[str] = Counter()
        self._told: set[tuple[PeerId, str]] = set()

    async def train(self, round: int) -> Vector:
        """Return our model after local training; an attacker returns what it wants others to believe."""
        self.start = self.x
        if self.attack is not None and not self.attack.trains:
            return self.attack.craft(self.x, self.x, self)
        rows = self.share[self.strategy.trainer.plan(len(self.share), self.clock.rng("rows"), round)]
        trained = await self.compute.train(self, self.x, rows, round)
        if self.attack is not None:
            trained = self.attack.craft(trained, self.x, self)
        self.observer.event(self, "trained", round)
        return trained

    def merge(self, own: Vector | None, updates: list[Update], round: int, *, degree: int = 0) -> Vector:
        """Return the aggregator's answer; updates are sorted by sender, whatever their order of arrival."""
        if self.attack is not None and not self.attack.merges and own is not None:
            return own
        context = Context(
            round=round,
            me=self.me,
            start=self.start,
            layout=self.layout,
            rng=self.clock.rng("merge"),
            degree=degree,
            n=len(self.share),
            memory=self.memory,
            gossip=self.memory.get("gossip", ()),
            task=self.task,
        )
        return self.strategy.aggregator.merge(own, sorted(updates, key=lambda u: u.sender), context)

    def finish(self, round: int, vector: Vector) -> None:
        """Take a merged model as ours and tell the observer."""
        self.x = vector
        self.round = round
        self.observer.model(self, round, vector)

    def is_last(self, round: int, vector: Vector) -> bool:
        """Return whether the model after `round` ends our part: the last round, or good enough."""
        return round >= self.rounds or (self._is_enough is not None and self._is_enough(vector))

    def update(self, message: Message, reference: Vector | None) -> Update | None:
        """Return what a message contributes, or None after refusing it; `reference` is added if it is a delta."""
        try:
            vector = message.vector(self.layout)
            if reference is not None:
                vector = vector + reference
                if not np.isfinite(vector).all():
                    raise WireError("a model is not finite", reason="finite")
        except WireError as error:
            self.refuse(message.sender, error.reason)
            return None
        degree, classes = message.body.get("d", 0), message.body.get("c", 0)
        if type(degree) is not int or type(classes) is not int or not 0 <= degree < 1 << 16 or classes < 0:
            self.refuse(message.sender, "body")
            return None
        if not 0 < message.n < MAX_SAMPLES:
            self.refuse(message.sender, "samples")
            return None
        return Update(message.sender, vector, message.n, degree, message.round, classes)

    @property
    def claimed(self) -> int:
        """The number of rows that we say we learnt from."""
        return self.attack.claim(len(self.share)) if self.attack is not None else len(self.share)

    def refuse(self, sender: PeerId, reason: str) -> None:
        """Count a message that was not used, and say so once per peer and reason."""
        self.refused[reason] += 1
        if (sender, reason) not in self._told:
            self._told.add((sender, reason))
            log.warning("peer %s: refused from %s: %s", self.me.hex()[:12], sender.hex()[:12], reason)

    def note(self, sender: PeerId, what: str) -> None:
        """Log a change of a peer's standing, once."""
        log.info("peer %s: %s is %s", self.me.hex()[:12], sender.hex()[:12], what)

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Hear every message; who is heard is no longer silent."""

        def heard(message: Message) -> None:
            self.heard.add(message.sender)
            self.silent.discard(message.sender)
            handler(message)

        self.link.listen(heard)

    @staticmethod
    def name(vector: Vector) -> bytes:
        """Return the version id of a vector."""
        return vector_id(vector)
