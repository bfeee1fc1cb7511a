"""Who joins and leaves: hold changes back until a merge lets them count, and pass signed news on.

A change of membership is a `member` frame signed by its subject. It waits until this peer merges a model, so that all
who get that model compute the same samples; a goodbye is believed at once where it only saves a ping.
"""

from __future__ import annotations

from flocklet.errors import WireError
from flocklet.swarm.participant import Participant
from flocklet.swarm.protocols import Message, PeerId
from flocklet.swarm.schedules.membership_view import View

__all__ = ["Members"]

MAX_NEWS = 64
_JOIN, _LEAVE = 2, 3  # counters of one life: a later change has the larger one


class Members:
    """The membership part of a sampled strategy: changes heard of, changes that count, changes to pass on."""

    def __init__(self, peer: Participant, view: View) -> None:
        self._peer, self._view = peer, view
        self._news: dict[PeerId, bytes] = {}  # sealed frames
        self._pending: dict[PeerId, Message] = {}

    def announce(self, is_in: bool, round: int, count: int) -> None:
        """Tell `count` random peers (0: all) that we join or leave."""
        link = self._peer.link
        others = [peer for peer in link.peers() if peer != self._peer.me]
        order = self._peer.clock.rng("announce").permutation(len(others))[: count or len(others)].tolist()
        body = {"round": round, "in": is_in}
        link.send([others[i] for i in order], Message("member", _JOIN if is_in else _LEAVE, body))

    def heard(self, message: Message) -> None:
        """Keep a change until the next merge."""
        self._pending[message.sender] = message

    def has_left(self, peer: PeerId) -> bool:
        """Return whether a peer said goodbye."""
        message = self._pending.get(peer)
        return message is not None and message.body.get("in") is False

    def admit(self, round: int) -> None:
        """Let what was heard of count from now on."""
        pending, self._pending = self._pending, {}
        for message in pending.values():
            self._change(message, round)

    def news(self) -> list[bytes]:
        """Return the newest changes, as their subjects signed them."""
        return list(self._news.values())[-MAX_NEWS:]

    def merge(self, message: Message, round: int) -> None:
        """Take in the view and the news that a message carries."""
        packed, news = message.body.get("view"), message.body.get("news", [])
        for frame in news[:MAX_NEWS] if isinstance(news, list) else []:
            try:
                self._change(self._peer.link.open(frame), round)
            except (WireError, TypeError):
                self._peer.refuse(message.sender, "news")
        if isinstance(packed, bytes):
            self._view.merge(packed, message.round)
        sample = message.body.get("of")
        if isinstance(sample, bytes):
            self._view.sampled(sample, message.round)
        self._view.seen(message.sender, message.round - 1)

    def _change(self, message: Message, round: int) -> None:
        is_in, at = message.body.get("in"), message.body.get("round")
        if message.type != "member" or type(is_in) is not bool or type(at) is not int:
            self._peer.refuse(message.sender, "member")
            return
        if self._view.change(message.sender, message.round, is_in, min(at, round)):
            self._news[message.sender] = message.sealed
            if is_in:
                self._view.seen(message.sender, round)
