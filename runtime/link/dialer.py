"""Turn sightings into links: dial who is due, several addresses of a peer at a time, and note how it went."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

from flocklet.clock import Clock
from flocklet.discovery import Address, DialCandidate, Outcome, PeerRecord, PeerTable, Sighting
from flocklet.errors import LinkError, PeerRefused
from flocklet.link.endpoint import Endpoint
from flocklet.link.link import Link

__all__ = ["Dialer"]

_log = logging.getLogger("flocklet.link")
_STAGGER_S = 0.25  # RFC 8305, section 8: Connection Attempt Delay
_LONGEST_WAIT_S = 5.0
_CONFRONT_EVERY_S = 4.0


class Dialer:
    """Dial the peers of the table that are due, for as long as `run` runs."""

    def __init__(
        self,
        table: PeerTable,
        endpoint: Endpoint,
        clock: Clock,
        on_proven: Callable[[PeerRecord], None],
        spawn: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`on_proven` hears of every peer that proved to be at an address; `spawn(name, coroutine)` begins a dial."""
        self._spawn = spawn
        self._on_proven = on_proven
        self._table = table
        self._endpoint = endpoint
        self._clock = clock
        self._wake = asyncio.Event()
        self._clones: set[Address] = set()
        self._confront_s = -math.inf

    def offer(self, sighting: Sighting) -> None:
        """Take in what a source says; the sink of all sources."""
        if self._table.offer(sighting, self._clock.monotonic()) is Outcome.CLONE:
            self._clones.update(self._table.clone_addresses)
        self._wake.set()

    def wake(self) -> None:
        """Look at the table again: something became due."""
        self._wake.set()

    async def run(self) -> None:
        """Dial for ever."""
        while True:
            now_s = self._clock.monotonic()
            for candidate in self._table.dial_candidates(now_s):
                self._spawn(f"dial {candidate.key[:12]}", self._dial(candidate))
            if self._clones and now_s >= self._confront_s:
                self._confront_s = now_s + _CONFRONT_EVERY_S
                self._spawn("confront", self._confront(self._clones.pop()))
            due_s = self._table.next_due_s()
            wait_s = _LONGEST_WAIT_S if due_s is None else min(_LONGEST_WAIT_S, max(0.05, due_s - now_s))
            await self._until_woken(wait_s)

    async def _until_woken(self, wait_s: float) -> None:
        woken = asyncio.ensure_future(self._wake.wait())
        pause = asyncio.ensure_future(self._clock.sleep(wait_s))
        try:
            await asyncio.wait((woken, pause), return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
            pause.cancel()
        self._wake.clear()

    async def _dial(self, candidate: DialCandidate) -> None:
        """Race the addresses of one peer; the first link wins, the other attempts are given up."""
        attempts = {
            asyncio.create_task(self._attempt(candidate, address, number * _STAGGER_S)): address
            for number, address in enumerate(candidate.addresses)
        }
        reasons: list[str] = []
        is_foreign = False
        pending = set(attempts)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    error = attempt.exception()
                    if error is None:
                        return
                    if not isinstance(error, LinkError):
                        raise error
                    reasons.append(str(error))
                    is_foreign |= isinstance(error, PeerRefused) and error.reason == "flock"
        finally:
            # Also after an error of our own: the lease of this dial ends, and the peer is tried again.
            self._table.dial_ended(
                candidate.key, reason=reasons[-1] if reasons else "", is_foreign=is_foreign
            )
            for attempt in pending:
                attempt.cancel()
            for attempt in pending:
                with contextlib.suppress(asyncio.CancelledError, LinkError):
                    await attempt

    async def _confront(self, address: Address) -> None:
        """Dial somebody who announces our own id: the handshake makes both sides report a cloned key."""
        try:
            await self._endpoint.connect(address.host, address.port)
        except LinkError as error:
            _log.info("%s announces our own id: %s", address, error)

    async def _attempt(self, candidate: DialCandidate, address: Address, after_s: float) -> Link:
        if after_s:
            await self._clock.sleep(after_s)
        try:
            link = await self._endpoint.connect(address.host, address.port, expected=candidate.expected_id)
        except LinkError as error:
            self._failed(candidate, address, error)
            raise
        now_s, device_id = self._clock.monotonic(), link.peer.device_id
        record = self._table.authenticated(device_id, now_s, address=address, version=link.peer.version)
        if self._endpoint.link(device_id) is None:  # it ended before we came to know of it
            self._table.unlinked(device_id, now_s, str(link.error or ""))
        self._on_proven(record)
        return link

    def _failed(self, candidate: DialCandidate, address: Address, error: LinkError) -> None:
        now_s = self._clock.monotonic()
        reason = error.reason if isinstance(error, PeerRefused) else ""
        if reason in ("self", "clone"):
            self._table.met_self(address)
        if reason != "duplicate":  # the other side keeps the link that it opened: all is well
            self._table.failed(candidate.key, address, str(error), now_s, is_barred=reason == "key")
        _log.info("%s: %s", address, error)
