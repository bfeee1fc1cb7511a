"""One peer of a swarm: its model, its end of the link, what it knows of the others, and what it refuses.

The same class runs in the simulator and on a device; only `clock`, `link` and `compute` differ. Every refusal is
counted in `refused` by reason and logged once per (peer, reason).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flocklet.errors import WireError
from flocklet.models.layout import Vector, vector_id
from flocklet.swarm.codecs import Encoder
from flocklet.swarm.participant import Compute, Observer
from flocklet.swarm.protocols import Clock, Context, Link, Message, PeerId, PeerSampler, Stateful, Update
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Rows, Task, class_names
from flocklet.wire.schema import schema_of

__all__ = ["Peer"]

log = logging.getLogger("flocklet.swarm")

MAX_SAMPLES = 1 << 32


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
        members: list[PeerId],
        sampler: PeerSampler,
        is_enough: Callable[[Vector], bool] | None = None,
    ) -> None:
        self.me = me
        self.share = share
        self.members = members
        self.sampler = sampler
        self.is_joining = False
        self.trainer, self.codec, self.aggregator = strategy.trainer, strategy.codec, strategy.aggregator
        self.task = task
        self.classes = class_names(task.labels[share])
        self.layout = task.model.layout
        self.clock = clock
        self.link = link
        self.compute = compute
        self.observer = observer
        self.rounds = rounds
        self._is_enough = is_enough
        self.x = start
        self.round = 0
        self.start = start  # the model before the newest training
        self.steps = 0  # of the newest training
        self.encoder = Encoder(self.codec, self.layout, clock.rng("codec"))
        self.rule_state = self.aggregator.begin() if isinstance(self.aggregator, Stateful) else None
        self.heard: set[PeerId] = set()
        self.silent: set[PeerId] = set()
        self.refused: Counter[str] = Counter()
        self._told: set[tuple[PeerId, str]] = set()

    async def train(self, round: int) -> Vector:
        """Return our model after local training.

        Without rows it stays as it is: such a peer judges and merges. A model that left the numbers is not used.
        """
        self.start = self.x
        if not len(self.share):
            return self.x
        rows = self.share[self.trainer.plan(len(self.share), self.clock.rng("rows"), round)]
        self.steps = len(rows)
        trained = await self.compute.train(self, self.x, rows, round)
        if not np.isfinite(trained).all():
            self.refuse(self.me, "diverged")
            return self.start
        self.observer.event(self, "trained", round)
        return trained

    def merge(
        self,
        own: Vector | None,
        updates: list[Update],
        round: int,
        *,
        degree: int = 0,
        gossip: Sequence[Update] = (),
    ) -> Vector:
        """Return the aggregator's answer; updates are sorted by sender, whatever their order of arrival.

        An answer that left the numbers (sums of huge models) is not used: the model stays what it was.
        """
        context = Context(
            round=round,
            me=self.me,
            start=self.start,
            layout=self.layout,
            rng=self.clock.rng("merge"),
            degree=degree,
            n=len(self.share),
            gossip=gossip,
            task=self.task,
            share=self.share,
            classes=self.classes,
            state=self.rule_state,
        )
        if own is None:  # who has no rows learnt nothing from them
            updates = [update for update in updates if update.n] or updates
        with np.errstate(over="ignore", invalid="ignore"):
            merged = self.aggregator.merge(own, sorted(updates, key=lambda u: u.sender), context)
        if not np.isfinite(merged).all():
            self.refuse(self.me, "diverged")
            return self.x if own is None else own
        return merged

    def finish(self, round: int, vector: Vector) -> None:
        """Take a merged model as ours and tell the observer."""
        self.x = vector
        self.round = round
        self.observer.model(self, round, vector)

    def is_last(self, round: int, vector: Vector) -> bool:
        """Return whether the model after `round` ends our part: the last round, or good enough."""
        return round >= self.rounds or (self._is_enough is not None and self._is_enough(vector))

    def believes(self, vector: Vector, keep: float) -> bool:
        """Return whether a model does on our own rows nearly what our model does: against an aggregator that lies.

        It must get `keep` times as many right, chance aside, at a loss of at most 1 / `keep` times ours and a quarter. With
        fewer than 8 rows nothing can be said.
        """
        rows = (
            self.share
            if len(self.share) <= 128
            else self.share[np.linspace(0, len(self.share) - 1, 128, dtype=int)]
        )
        if not keep or len(rows) < 8:
            return True
        model, features, labels = self.task.model, self.task.features[rows], self.task.labels[rows]
        with np.errstate(over="ignore", invalid="ignore"):
            both = np.stack([self.x, vector])
            before, after = model.accuracy(both, features, labels)
            if after < keep * before - 1.0 / np.sqrt(len(rows)):
                return False
            if not getattr(model, "is_labelled", True):  # a policy: its return has said all
                return True
            old, new = model.gradient(both, np.stack([features] * 2), np.stack([labels] * 2))[1]
        return bool(new <= (old + 0.25) / keep)

    def update(
        self, message: Message, reference: Vector | None, *, degree: int = 0, classes: int = 0
    ) -> Update | None:
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
        if not 0 <= message.n < MAX_SAMPLES:
            self.refuse(message.sender, "samples")
            return None
        return Update(message.sender, vector, message.n, degree, message.round, classes)

    @property
    def claimed(self) -> int:
        """The number of rows that we say we learnt from."""
        return len(self.share)

    def refuse(self, sender: PeerId, reason: str) -> None:
        """Count a message that was not used, and say so once per peer and reason."""
        self.refused[reason] += 1
        if (sender, reason) not in self._told:
            self._told.add((sender, reason))
            log.warning("peer %s: refused from %s: %s", self.me.hex()[:12], sender.hex()[:12], reason)

    def note(self, sender: PeerId, what: str) -> None:
        """Log a change of a peer's standing, once."""
        log.info("peer %s: %s is %s", self.me.hex()[:12], sender.hex()[:12], what)

    def listen(self, handler: Callable[[Message, Any], None], *kinds: type[Any]) -> None:
        """Hear the messages of these kinds, each checked against its schema; who is heard is no longer silent."""
        schemas = {kind.kind: schema_of(kind) for kind in kinds}  # type: ignore[arg-type]

        def heard(message: Message) -> None:
            schema = schemas.get(message.type)
            if schema is None:
                self.refuse(message.sender, "type")
                return
            try:
                body = schema.read(message.body)
            except WireError as error:
                self.refuse(message.sender, error.reason)
                return
            self.heard.add(message.sender)
            self.silent.discard(message.sender)
            handler(message, body)

        self.link.listen(heard)

    @staticmethod
    def name(vector: Vector) -> bytes:
        """Return the version id of a vector."""
        return vector_id(vector)
