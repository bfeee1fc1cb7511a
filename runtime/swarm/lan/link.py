"""The `Link` of a strategy on a device: author messages over the authenticated links of an endpoint.

One message is sealed once and goes to each receiver as the same bytes. What cannot be delivered is lost and counted:
strategies have deadlines of their own and wait for nobody for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from flocklet.errors import LinkError, WireError
from flocklet.identity.key import Identity, verify
from flocklet.link.endpoint import Endpoint
from flocklet.link.link import Link
from flocklet.swarm.protocols import Message, PeerId, generator
from flocklet.wire.frame import Frame, Limits, open_frame, seal

__all__ = ["MODEL_LIMITS", "SwarmLink", "SystemTime"]

log = logging.getLogger("flocklet.swarm")

MODEL_LIMITS = Limits(max_bytes=1024 * 1024, max_total_items=32768)
_FIELDS = ("round", "base", "codec", "n")


class SystemTime:
    """The `Clock` of a strategy on a device: seconds since the swarm began, randomness from the run's seed."""

    def __init__(self, seed: int, me: PeerId) -> None:
        self._seed, self._me = seed, me
        self._began = time.monotonic()
        self._rngs: dict[str, np.random.Generator] = {}

    def now(self) -> float:
        """Return seconds since this clock was made."""
        return time.monotonic() - self._began

    async def sleep(self, delay_s: float) -> None:
        """Wait."""
        await asyncio.sleep(delay_s)

    def rng(self, name: str) -> np.random.Generator:
        """Return the generator of that name."""
        return self._rngs.setdefault(name, generator(self._seed, self._me, name))


class SwarmLink:
    """Send and receive a strategy's messages; `serve(link)` is called for every link of the endpoint."""

    def __init__(self, identity: Identity) -> None:
        self.me = identity.device_id
        self.lost: Counter[str] = Counter()
        self.bytes_out = 0
        self.endpoint: Endpoint | None = None
        self._identity = identity
        self._seq = 0
        self._keys: dict[PeerId, bytes] = {}
        self._handler: Callable[[Message], None] | None = None
        self._early: list[Message] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def peers(self) -> list[PeerId]:
        """Return who is linked."""
        return sorted(self.endpoint.links) if self.endpoint is not None else []

    def listen(self, handler: Callable[[Message], None]) -> None:
        """Call `handler` with every message, beginning with those that came before."""
        self._handler = handler
        early, self._early = self._early, []
        for message in early:
            handler(message)

    def send(self, peers: Sequence[PeerId], message: Message) -> None:
        """Seal once, send to each; a peer without a link gets nothing."""
        if not peers or self.endpoint is None:
            return
        self._seq += 1
        fields: dict[str, Any] = {"round": message.round, "n": message.n}
        if message.base:
            fields["base"] = message.base
        if message.codec:
            fields["codec"] = message.codec
        if message.steps:
            fields["K"] = message.steps
        run = self.endpoint.party.run
        sealed = seal(self._identity, message.type, message.body, run=run, seq=self._seq, **fields)
        for receiver in peers:
            link = self.endpoint.link(receiver)
            if link is None:
                self.lost["link"] += 1
            else:
                self.bytes_out += len(sealed)
                self._spawn(self._carry(link, sealed))

    async def ping(self, peer: PeerId, round: int, timeout_s: float) -> bool:
        """Return whether the peer's strategy answers."""
        link = self.endpoint.link(peer) if self.endpoint is not None else None
        if link is None:
            return False
        try:
            reply = await link.request("offer", {"round": round}, timeout_s=timeout_s)
        except LinkError:
            return False
        return reply.type == "ok"

    def open(self, sealed: bytes) -> Message:
        """Return a relayed message, its author's signature checked."""
        return as_message(open_frame(sealed))

    def sign(self, statement: bytes) -> bytes:
        """Return the Ed25519 signature of this device."""
        return self._identity.sign(statement)

    def is_signed(self, author: PeerId, statement: bytes, proof: bytes) -> bool:
        """Return whether a peer whose key this device met signed that statement."""
        if author == self.me:
            return verify(self._identity.public_key, proof, statement)
        link = self.endpoint.link(author) if self.endpoint is not None else None
        if link is not None:
            self._keys[author] = link.peer.public_key
        key = self._keys.get(author)
        return key is not None and verify(key, proof, statement)

    async def serve(self, link: Link) -> None:
        """Take in what comes over one link until it ends."""
        async for frame in link:
            if frame.is_authored:
                self._take(as_message(frame))
            elif frame.type == "offer" and "rid" in frame.header:
                try:
                    await link.reply(frame, "ok", {})
                except LinkError:
                    return
            else:
                link.reject("type")

    async def flush(self) -> None:
        """Wait until what was sent is on its way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def _take(self, message: Message) -> None:
        if self._handler is None:
            self._early.append(message)
            del self._early[:-64]
        else:
            self._handler(message)

    async def _carry(self, link: Link, sealed: bytes) -> None:
        try:
            await link.send_sealed(sealed)
        except (LinkError, WireError) as error:
            self.lost["send"] += 1
            log.info("not delivered: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def as_message(frame: Frame) -> Message:
    """Return the strategy's view of a verified author frame."""
    header = frame.header
    return Message(
        frame.type,
        header.get("round", 0),
        frame.body,
        header.get("base", b""),
        header.get("codec", ""),
        header.get("n", 0),
        header.get("K", 0),
        sender=frame.author,
        seq=header["seq"],
        sealed=frame.raw if frame.type == "member" else b"",
    )
