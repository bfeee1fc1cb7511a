"""Pull what peers know and we lack: clicks, edges of trust, rerankers, and where other peers are.

One exchange at a time, a random peer each. A pull asks; nothing that was not asked for is taken. Every entry in an
answer is signed by the person who clicked, and the answer as a whole is noted by its content id, so that `status` can
say how many deltas came in.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from flocklet.clock import Clock
from flocklet.device.device import Device
from flocklet.device.rerankers import MODEL_LIMITS, StaleBase
from flocklet.discovery import MAX_TOLD, PeerTable, ToldSource, encode_told
from flocklet.errors import LinkError, PeerRefused, StoreError, WireError
from flocklet.link.link import Link
from flocklet.link.transfer import ContentServer, MemorySink, fetch
from flocklet.wire.frame import Frame

__all__ = ["Gossip", "InTurn"]

_log = logging.getLogger("flocklet.node")
_MODELS_MOST = 8
QUORUM_MOST = 5  # as many peers' models are merged at once, their median; fewer when fewer are linked
_PEERS_EVERY = 6  # one exchange in so many also asks who else is there

InTurn = Callable[..., Awaitable[Any]]
"""Run a function of the device on the one thread that owns it: `await in_turn(function, *args)`."""


class Gossip:
    """Exchange with the linked peers every `every_s` seconds (0: only answer)."""

    def __init__(
        self,
        device: Device,
        in_turn: InTurn,
        links: Mapping[bytes, Link],
        table: PeerTable,
        told: ToldSource,
        clock: Clock,
        rng: np.random.Generator,
        *,
        every_s: float,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._device = device
        self._in_turn = in_turn
        self._links = links
        self._table = table
        self._told = told
        self._clock = clock
        self._rng = rng
        self._every_s = every_s
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._contents = ContentServer(device.lessons)

    @property
    def every_s(self) -> float:
        """Seconds between two exchanges; 0 while this peer only answers."""
        return self._every_s

    def set_every(self, every_s: float) -> None:
        """Change the pace at once."""
        self._every_s = max(0.0, every_s)
        self._changed.set()

    async def run(self) -> None:
        """Exchange for ever, at a pace with a jitter of a fifth, so that peers do not march in step."""
        rounds = 0
        while True:
            if not await self._pause():
                continue
            link = self._any_link()
            if link is None:
                continue
            rounds += 1
            await self.pull(link)
            await self.pull_edges(link)
            if self._device.lessons.is_due:
                await self.pull_models(link)
            if rounds % _PEERS_EVERY == 1:
                await self.ask_for_peers(link)

    async def _pause(self) -> bool:
        """Wait for the next exchange; False when the pace changed meanwhile."""
        self._changed.clear()
        if not self._every_s:
            await self._changed.wait()
            return False
        pause = asyncio.ensure_future(
            self._clock.sleep(self._every_s * (0.8 + 0.4 * float(self._rng.random())))
        )
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((pause, changed), return_when=asyncio.FIRST_COMPLETED)
            return not changed.done()
        finally:
            pause.cancel()
            changed.cancel()

    def _any_link(self) -> Link | None:
        open_links = [link for _, link in sorted(self._links.items()) if not link.is_closed]
        return open_links[int(self._rng.integers(len(open_links)))] if open_links else None

    async def pull(self, link: Link) -> int:
        """Ask one peer for everything that we lack; return how many entries were new. Never raises for the peer."""
        async with self._turn:
            pull = await self._in_turn(self._device.exchange.start_pull, link.peer.device_id)
            try:
                while pull.request is not None:
                    answer = await link.request("clk?", pull.request)
                    if answer.type != "clk!":
                        raise WireError(f"a pull was answered by {answer.type!r}", reason="type")
                    await self._in_turn(self._device.exchange.take, pull, answer.body, link.peer.device_id)
            except WireError as error:
                _log.info("peer %s sent a wrong answer: %s", link.peer.name, error)
                self.counts[f"rejected {error.reason}"] += 1
                link.reject(error.reason)
            except StoreError as error:
                _log.warning("what peer %s sent cannot be kept: %s", link.peer.name, error)
                self.counts["not kept"] += 1
            except LinkError as error:
                _log.info("pull broken off: %s", error)
                self.counts["broken"] += 1
            new = len(pull.absorbed.accepted)
            self.counts["pulls"] += 1
            self.counts["entries"] += new
            for reason, number in pull.absorbed.refused.items():
                self.counts[f"refused {reason}"] += number
            return new

    async def pull_edges(self, link: Link) -> int:
        """Ask one peer for who trusts whom and who likes what; return how many edges were new."""
        async with self._turn:
            new = 0
            try:
                taste = await self._in_turn(lambda: self._device.taste)
                answer = await link.request("edg?", await self._in_turn(taste.ask))
                if answer.type != "edg!":
                    raise WireError(f"a pull of edges was answered by {answer.type!r}", reason="type")
                new = await self._in_turn(taste.absorb, answer.body)
            except WireError as error:
                self.counts[f"rejected {error.reason}"] += 1
                link.reject(error.reason)
            except StoreError as error:
                _log.warning("edges that peer %s sent cannot be kept: %s", link.peer.name, error)
            except (LinkError, PeerRefused) as error:
                _log.debug("peer %s gave no edges: %s", link.peer.name, error)
            self.counts["edges"] += new
            return new

    async def pull_models(self, link: Link) -> Counter[str]:
        """Ask one peer for its rerankers; return what became of them. A refused one is one line in the log."""
        lessons, device_id = self._device.lessons, link.peer.device_id
        told: Counter[str] = Counter()
        async with self._turn:
            try:
                answer = await link.request("want", await self._in_turn(lessons.ask, device_id))
                frames = answer.body.get("frames") if answer.type == "frames" else None
                if type(frames) is not list or len(frames) > _MODELS_MOST:
                    raise WireError("a request for models was answered by something else", reason="type")
                for sealed in frames:
                    told[await self._take_model(link, sealed)] += 1
            except WireError as error:
                self.counts[f"rejected {error.reason}"] += 1
                link.reject(error.reason)
            except StoreError as error:
                _log.warning("models that peer %s sent cannot be kept: %s", link.peer.name, error)
            except (LinkError, PeerRefused) as error:
                _log.debug("peer %s gave no models: %s", link.peer.name, error)
            self.counts["models"] += told["merged"] + told["waiting"]
            return told

    async def _take_model(self, link: Link, sealed: object) -> str:
        """Take one model in; fetch it whole when we lack the version that its delta starts from."""
        lessons, device_id = self._device.lessons, link.peer.device_id
        trust = await self._in_turn(self._device.trust_in, device_id)
        quorum = min(QUORUM_MOST, max(1, len(self._links)))
        judge = {"trust": trust, "quorum": quorum}
        try:
            if type(sealed) is not bytes:
                raise WireError("a model is not bytes", reason="type")
            try:
                return str(await self._in_turn(lessons.receive, sealed, device_id, **judge))
            except StaleBase as stale:
                sink = MemorySink()
                try:
                    await fetch(link, stale.content, sink, max_bytes=MODEL_LIMITS.max_bytes)
                except (LinkError, PeerRefused):
                    raise stale from None
                return str(await self._in_turn(lessons.receive_whole, stale.frame, sink.data, **judge))
        except WireError as error:
            lessons.refuse(device_id, error)
            self.counts[f"rejected {error.reason}"] += 1
            link.reject(error.reason)
            return "refused"

    async def ask_for_peers(self, link: Link) -> None:
        """Ask a peer who else is there; what it says are hints that a handshake must confirm."""
        try:
            answer = await link.request("peers", {})
            self._told.receive(link.peer.device_id, _told_body(answer))
        except WireError as error:
            link.reject(error.reason)
        except (LinkError, PeerRefused) as error:
            _log.debug("peer %s told nothing: %s", link.peer.name, error)

    async def answer(self, link: Link, frame: Frame) -> bool:
        """Answer a request that is ours to answer; False when it is not. Raises WireError for a malformed one."""
        if frame.type == "clk?":
            body = await self._in_turn(self._device.exchange.answer, frame.body)
            self.counts["answers"] += 1
            await link.reply(frame, "clk!", body)
            return True
        if frame.type == "edg?":
            taste = await self._in_turn(lambda: self._device.taste)
            await link.reply(frame, "edg!", await self._in_turn(taste.answer, frame.body))
            return True
        if frame.type == "want":
            await link.reply(frame, "frames", await self._in_turn(self._device.lessons.answer, frame.body))
            return True
        if frame.type == "get":
            await self._contents.answer(link, frame)
            return True
        if frame.type == "peers":
            await link.reply(frame, "peers", {"peers": encode_told(self._table.shareable(MAX_TOLD))})
            return True
        return False


def _told_body(answer: Frame) -> bytes:
    body = answer.body.get("peers") if answer.type == "peers" else None
    if type(body) is not bytes:
        raise WireError("a question for peers was answered by something else", reason="type")
    return body
