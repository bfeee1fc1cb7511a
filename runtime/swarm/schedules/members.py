"""Who joins and leaves: hold changes back until a merge lets them count, and pass signed news on.

A change of membership is a `member` frame signed by its subject. It waits until this peer merges a model, so that all
who get that model compute the same samples; a goodbye is believed at once where it only saves a ping.
"""

from __future__ import annotations

from collections.abc import Sequence

from flocklet.errors import WireError
from flocklet.swarm.kinds import MAX_NEWS, PREFIX_BYTES, VIEW_ENTRY, Aggregated, Member, Trained
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId
from flocklet.swarm.schedules.membership_view import View
from flocklet.wire.schema import schema_of

__all__ = ["Members"]


class Members:
    """The membership part of a sampled strategy: changes heard of, changes that count, changes to pass on."""

    def __init__(self, peer: Participant, view: View) -> None:
        self._peer, self._view = peer, view
        self._news: dict[
            PeerId, tuple[bytes, bool]
        ] = {}  # sealed frames, and whether they say `in`; newest last
        self._pending: dict[PeerId, Message] = {}
        self._counter = 0

    def announce(self, is_in: bool, round: int, count: int) -> None:
        """Tell `count` random peers (0: all) that we join or leave."""
        link = self._peer.link
        others = [peer for peer in link.peers() if peer != self._peer.me]
        order = self._peer.clock.rng("announce").permutation(len(others))[: count or len(others)].tolist()
        # A later change has the larger counter, in a later life too: milliseconds, doubled; odd is in, even is out.
        at = 2 * int(self._peer.clock.now() * 1000)
        self._counter = max(at, self._counter - self._counter % 2) + (1 if is_in else 2)
        body = {"round": round, "in": is_in}
        link.send([others[i] for i in order], Message("member", self._counter, body))

    def heard(self, message: Message) -> None:
        """Keep a change until the next merge."""
        self._pending[message.sender] = message

    def has_left(self, peer: PeerId) -> bool:
        """Return whether a peer said goodbye."""
        message = self._pending.get(peer)
        return message is not None and message.body["in"] is False

    def admit(self, round: int) -> None:
        """Let what was heard of count from now on."""
        pending, self._pending = self._pending, {}
        for message in pending.values():
            self._change(message, round)

    def news(self) -> list[bytes]:
        """Return the newest changes as their subjects signed them; who came first: who left shows by not answering, too."""
        came = [sealed for sealed, is_in in self._news.values() if is_in][-MAX_NEWS:]
        left = [sealed for sealed, is_in in self._news.values() if not is_in]
        room = MAX_NEWS - len(came)
        return (left[-room:] if room else []) + came

    def fits(self, body: Trained | Aggregated) -> bool:
        """Return whether view and sample are no longer than all members need."""
        count = len(self._view)
        return len(body.view) <= VIEW_ENTRY * count and len(body.of) <= PREFIX_BYTES * count

    def hear(self, teller: PeerId, news: Sequence[bytes], round: int) -> None:
        """Take in changes as their subjects signed them; who tells them needs no authority."""
        for frame in news:
            try:
                self._change(self._peer.link.open(frame), round)
            except WireError:
                self._peer.refuse(teller, "news")

    def merge(self, message: Message, body: Trained | Aggregated, round: int) -> None:
        """Take in the view and the sample that a message carries."""
        self._view.merge(body.view, message.round)
        self._view.sampled(body.of, message.round)
        self._view.seen(message.sender, message.round - 1)

    def _change(self, message: Message, round: int) -> None:
        if message.type != Member.kind:
            raise WireError("news that is no change of membership", reason="news")
        change = schema_of(Member).read(message.body)
        if self._view.change(message.sender, message.round, change.in_, min(change.round, round)):
            self._news.pop(message.sender, None)
            self._news[message.sender] = message.sealed, change.in_
            if change.in_:
                self._view.seen(message.sender, round)
