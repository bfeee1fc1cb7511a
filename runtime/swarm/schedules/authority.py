"""Who may merge and who may push, in sampled rounds: nobody's word is enough, not even for the aggregator of a round.

Whoever hands a model in signs the round and whom it hands it to: a *stamp*. The aggregator shows the stamps of those whose
models it merged, the *ticket*. A receiver takes a model only with the stamps of more than half of a sample, each a member
of its own view: so a peer can push only when most of the sample, after its own pings, chose it to merge. Where fewer
live, the receiver asks its own candidates who is there, and wants half of those.

The sample that a merge waits for comes from the model that the aggregator holds, or from what most of the sample signed,
or from the aggregator's own view; never from one trainer.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from flocklet.swarm.kinds import PREFIX_BYTES as PREFIX
from flocklet.swarm.kinds import STAMP_BYTES
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import PeerId
from flocklet.swarm.schedules.liveness import Liveness
from flocklet.swarm.schedules.membership_view import View

__all__ = ["Authority", "names_of", "statement"]


def statement(round: int, aggregator: PeerId) -> bytes:
    """Return what a stamp signs: 32 bytes that bind the round and the one peer that shall merge it."""
    said = round.to_bytes(8, "big") + aggregator
    return hashlib.blake2b(said, digest_size=32, person=b"flocklet-ticket").digest()


def names_of(packed: bytes) -> list[bytes]:
    """Return the ids, cut to 8 bytes, in a packed sample."""
    return [packed[at : at + PREFIX] for at in range(0, len(packed), PREFIX)]


class Authority:
    """The rules of one peer about tickets and samples; `s` is the sample's size, 0 for everybody."""

    def __init__(self, peer: Participant, view: View, liveness: Liveness, s: int, success: float) -> None:
        self._peer, self._view, self._liveness = peer, view, liveness
        self._s, self._success = s, success

    def stamp(self, round: int, aggregator: PeerId) -> bytes:
        """Return our signature for handing in to `aggregator`."""
        return self._peer.link.sign(statement(round, aggregator))

    def is_stamp(self, author: PeerId, round: int, aggregator: PeerId, proof: bytes) -> bool:
        """Return whether `author`, a member, signed that it hands in to `aggregator`."""
        return self._peer.link.is_signed(author, statement(round, aggregator), proof)

    @staticmethod
    def ticket(proofs: Mapping[PeerId, bytes], most: int | None = None) -> bytes:
        """Return the first `most` stamps, packed."""
        return b"".join(peer[:PREFIX] + proof for peer, proof in sorted(proofs.items())[:most])

    def shown(self, proofs: Mapping[PeerId, bytes], round: int) -> bytes:
        """Return the ticket of those whose models were merged: a quorum of them, more would prove no more."""
        return self.ticket(proofs, self.quorum(len(self.sample(round - 1, round))))

    def quorum(self, size: int) -> int:
        """Return how many of a sample of `size` must vouch: more than one, and half of those that a round needs."""
        return max(1, min(size, max(2, math.ceil(self._success * size / 2))))

    def sample(self, round: int, at: int) -> list[PeerId]:
        """Return the sample of a round when all live, as our view of round `at` has it: nobody was active in the future."""
        return self._view.candidates(round, at=at)[: self._s or None]

    def vouchers(self, ticket: bytes, round: int, aggregator: PeerId) -> int:
        """Return how many different members' stamps for that round and aggregator a ticket holds."""
        found: set[PeerId] = set()
        for at in range(0, min(len(ticket), STAMP_BYTES * len(self._view)), STAMP_BYTES):
            author = self._view.find(ticket[at : at + PREFIX])
            proof = ticket[at + PREFIX : at + STAMP_BYTES]
            if author is not None and author not in found and self.is_stamp(author, round, aggregator, proof):
                found.add(author)
        return len(found)

    async def is_enough(self, vouchers: int, round: int, at: int) -> bool:
        """Return whether so many are half of those that live now of the sample before `round`, by our own view."""
        sample = self.sample(round - 1, at)
        answers = await asyncio.gather(*(self._liveness.answers(peer, round) for peer in sample))
        return vouchers >= self.quorum(sum(answers))

    def agreed(self, claims: Iterable[tuple[PeerId, bytes]]) -> set[bytes] | None:
        """Return the sample that enough of its own members name alike, as ids cut to 8 bytes; None without one.

        A claim is (who says it, the packed sample that it names).
        """
        votes = Counter(packed for author, packed in claims if author[:PREFIX] in names_of(packed))
        for packed, count in votes.most_common(1):
            if count >= self.quorum(len(packed) // PREFIX):
                return set(names_of(packed))
        return None
