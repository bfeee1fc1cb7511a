"""What a schedule may ask of the peer that it drives, and who else a peer speaks to: where it trains, who watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flocklet.models.layout import Layout, Vector
from flocklet.swarm.codecs import Encoder
from flocklet.swarm.protocols import Aggregator, Clock, Codec, Link, Message, PeerId, PeerSampler, Update
from flocklet.swarm.task import Rows

__all__ = ["Compute", "Observer", "Participant", "Schedule"]


class Participant(Protocol):
    """One peer as its schedule sees it; `flocklet.swarm.peer.Peer` is one."""

    me: PeerId
    members: list[PeerId]
    is_joining: bool  # it comes while the others are under way
    share: Rows
    classes: Rows
    layout: Layout
    clock: Clock
    link: Link
    codec: Codec
    aggregator: Aggregator
    sampler: PeerSampler
    encoder: Encoder
    rounds: int
    round: int
    x: Vector
    start: Vector
    steps: int  # that its newest training took
    heard: set[PeerId]
    silent: set[PeerId]
    refused: Counter[str]

    @property
    def claimed(self) -> int:
        """The number of rows that it says it learnt from."""
        ...

    async def train(self, round: int) -> Vector:
        """Return its model after local training."""
        ...

    def merge(
        self,
        own: Vector | None,
        updates: list[Update],
        round: int,
        *,
        degree: int = 0,
        gossip: Sequence[Update] = (),
    ) -> Vector:
        """Return the aggregator's answer."""
        ...

    def finish(self, round: int, vector: Vector) -> None:
        """Take a merged model as its own."""
        ...

    def is_last(self, round: int, vector: Vector) -> bool:
        """Return whether the model after `round` ends its part."""
        ...

    def believes(self, vector: Vector, keep: float) -> bool:
        """Return whether a model does on its own rows at least `keep` of what it holds does, chance aside."""
        ...

    def update(
        self, message: Message, reference: Vector | None, *, degree: int = 0, classes: int = 0
    ) -> Update | None:
        """Return what a message contributes, or None after refusing it."""
        ...

    def refuse(self, sender: PeerId, reason: str) -> None:
        """Count a message that was not used."""
        ...

    def note(self, sender: PeerId, what: str) -> None:
        """Log a change of a peer's standing."""
        ...

    def listen(self, handler: Callable[[Message, Any], None], *kinds: type[Any]) -> None:
        """Call `handler` with every message of these kinds and with its typed body."""
        ...


class Schedule(Protocol):
    """Decide when a peer trains, sends and merges."""

    name: str

    def fewest(self, sampled: int) -> int:
        """Return the least number of models that one merge sees if the sampler names `sampled` and nobody fails."""
        ...

    async def run(self, peer: Participant) -> None:
        """Live until the last round."""
        ...


class Compute(Protocol):
    """Where training runs: together with other peers in simulation, in a thread on a device."""

    async def train(self, peer: Participant, start: Vector, rows: Rows, round: int) -> Vector:
        """Return the trained model."""
        ...


class Observer(Protocol):
    """Who watches: the simulator's log, or a live table."""

    def event(self, peer: Participant, kind: str, round: int, detail: bytes = b"") -> None:
        """Note that something happened."""
        ...

    def model(self, peer: Participant, round: int, vector: Vector) -> None:
        """Note the model after a merge."""
        ...
