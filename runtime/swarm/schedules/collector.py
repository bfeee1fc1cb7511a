"""What an aggregator does until it merges: hold what is handed in, know whom to wait for, and when to wait no longer.

Whom to wait for is never one trainer's word: see `flocklet.swarm.schedules.authority`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flocklet.swarm.kinds import PREFIX_BYTES as PREFIX
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId, Update
from flocklet.swarm.schedules.authority import Authority, names_of
from flocklet.swarm.schedules.background import Background
from flocklet.swarm.schedules.liveness import Liveness
from flocklet.swarm.schedules.membership_view import View

__all__ = ["Collector", "Handed", "Patience"]


@dataclass(frozen=True, eq=False)
class Handed:
    """One hand-in: a message, or what we trained ourselves; and what its author says of its round."""

    what: Message | Update
    proof: bytes
    of: bytes
    by: bytes = b""
    on: bytes = b""  # the model that it was trained on


class Patience(Protocol):
    """How long a merge waits."""

    @property
    def success(self) -> float:
        """The share of the sample that is enough."""
        ...

    @property
    def ping_s(self) -> float:
        """How long an answer to a ping may take."""
        ...

    @property
    def aggregation_s(self) -> float:
        """When to merge what is there."""
        ...

    @property
    def minimum(self) -> int:
        """How many models must be there by then."""
        ...

    @property
    def rules(self) -> bool:
        """Whether the rules of authority hold."""
        ...


class Rounds(Protocol):
    """Who collects: what it knows, and what becomes of a merge."""

    background: Background

    def known(self, round: int) -> set[bytes] | None:
        """Return the sample that trains for a round, if the model that it trains on is held."""
        ...

    def merge(self, round: int, held: dict[PeerId, Handed]) -> None:
        """Merge what was collected."""
        ...


class Collector:
    """Hand-ins by round, until each is merged."""

    def __init__(
        self,
        peer: Participant,
        view: View,
        liveness: Liveness,
        authority: Authority,
        patience: Patience,
        rounds: Rounds,
    ) -> None:
        self._peer, self._view, self._liveness, self._authority = peer, view, liveness, authority
        self._patience, self._rounds = patience, rounds
        self._held: dict[int, dict[PeerId, Handed]] = {}
        self._arrived_s = 0.0  # when the last model to merge came
        self.closed = 1  # the newest round that we merged

    def has(self, sender: PeerId, round: int) -> bool:
        """Return whether that peer handed in for that round."""
        return sender in self._held.get(round, {})

    def take(self, round: int, sender: PeerId, handed: Handed) -> None:
        """Keep a hand-in, and merge if it was the last that is waited for."""
        if round <= self.closed:
            return
        known = self._rounds.known(round) if self._patience.rules else None
        if known is not None and sender[:PREFIX] not in known:
            self._peer.refuse(sender, "sample")
            return
        held = self._held.setdefault(round, {})
        if not held:
            self._rounds.background.spawn(self._hurry(round))
        held[sender] = handed
        self._arrived_s = self._peer.clock.now()
        for other, theirs in list(self._held.items()):  # one peer, one round that is still open
            if other != round and theirs.pop(sender, None) is not None and not theirs:
                del self._held[other]
        if len(held) >= max(1, int(len(self._expected(round, held)) * self._patience.success)):
            self._close(round)

    def _expected(self, round: int, held: Mapping[PeerId, Handed]) -> set[bytes]:
        """Return who trains for this merge: ids cut to 8 bytes."""
        claims = [(sender, handed.of) for sender, handed in held.items()]
        mine = {sender[:PREFIX] for sender in held}
        if not self._patience.rules:
            return mine.union(*(names_of(of) for _, of in claims))
        known = self._rounds.known(round)
        agreed = self._authority.agreed(claims) if known is None else known
        if agreed is not None:
            return agreed
        return mine | {peer[:PREFIX] for peer in self._authority.sample(round - 1, self._peer.round + 1)}

    async def _hurry(self, round: int) -> None:
        """Close a merge when all who are missing are dead, or after `aggregation_s` with `minimum` models.

        With four in five of them it is closed as soon as nothing came for a ping's time and twice as long as all
        those took to come: when the membership changes, some hand in to another peer and are waited for in vain.
        What fewer than a quorum handed in nobody would take, so more are waited for while they live.
        """
        clock, began = self._peer.clock, self._peer.clock.now()
        while True:
            await clock.sleep(self._patience.ping_s / 2)
            if round not in self._held:
                return
            held = self._held[round]
            expected = self._expected(round, held)
            names = expected - {sender[:PREFIX] for sender in held}
            missing = sorted(peer for name in names if (peer := self._view.find(name)) is not None)
            alive = any(await asyncio.gather(*(self._liveness.answers(peer, round) for peer in missing)))
            now_s = clock.now()
            is_late = now_s - began > self._patience.aggregation_s
            is_quiet = now_s - self._arrived_s >= self._patience.ping_s + 2 * (self._arrived_s - began)
            if len(held) >= 0.8 * (len(held) + len(missing)):
                is_late = is_late or is_quiet
            least = self._patience.minimum
            if self._patience.rules:
                least = max(least, self._authority.quorum(len(expected)))
            if round in self._held and (not alive or (is_late and len(held) >= least)):
                self._close(round)

    def _close(self, round: int) -> None:
        self.closed = round
        held = self._held.pop(round)
        for old in [key for key in self._held if key <= round]:
            del self._held[old]
        if self._patience.rules:
            agreed = self._authority.agreed((sender, handed.of) for sender, handed in held.items())
            for sender in [sender for sender in held if agreed is not None and sender[:PREFIX] not in agreed]:
                del held[sender]
                self._peer.refuse(sender, "sample")
        self._rounds.merge(round, held)
