"""Keep the links true to the roster: who is out loses its link, what is new goes to everybody at once, secrets follow.

Lives on the event loop; what the roster says reaches it as a `Standing`, made on the thread that owns the device.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from flocklet.clock import Clock
from flocklet.device.devices import Devices, Standing
from flocklet.device.flock_feed import FlockNews
from flocklet.errors import LinkError, WireError
from flocklet.identity.key import short_id
from flocklet.link.endpoint import Endpoint
from flocklet.link.link import Link
from flocklet.node.owner import Owner
from flocklet.store.security_log import SecurityEvent, SecurityLog

__all__ = ["FlockKeeper"]

_log = logging.getLogger("flocklet.node")
_EVERY_S = 5.0
_WRITE_S = 900.0
_LOST_S = 10.0
_HEAR_S = 60.0
_HEARD_KEPT = 256
_FIRST_S, _SPREAD_S = 1.0, 4.0


class FlockKeeper:
    """Watch the roster of this device.

    `pull(link, feed)` is the gossip's, `spawn` the supervisor's, `use(standing)` changes what links are proved by,
    `drop(id)` forgets a removed device's events.
    """

    def __init__(
        self,
        devices: Devices,
        owner: Owner,
        endpoint: Endpoint,
        clock: Clock,
        log: SecurityLog,
        *,
        pull: Callable[..., Awaitable[Any]],
        spawn: Callable[[str, Coroutine[Any, Any, None]], Any],
        use: Callable[[Standing], None],
        drop: Callable[[bytes], int],
    ) -> None:
        self.standing = Standing()
        self._devices = devices
        self._owner = owner
        self._endpoint = endpoint
        self._clock = clock
        self._log = log
        self._pull = pull
        self._spawn = spawn
        self._hearing: set[Link] = set()
        self._use = use
        self._drop = drop
        self._changed = asyncio.Event()
        self._lacking_since_s: float | None = None
        self._heard: dict[bytes, float] = {}

    async def start(self) -> None:
        """Read the roster and hear of its changes from now on."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._changed.set)

        self._devices.on_change = tell
        self.standing = await self._owner.run(self._devices.standing)

    def judge(self, device_id: bytes, is_newest: bool) -> str:
        """Return why a proved device gets no link, "" if it gets one."""
        return self.standing.judge(device_id, is_newest=is_newest)

    def keys(self) -> dict[bytes, bytes]:
        """Return the linked devices, id -> raw public key."""
        return {id: link.peer.public_key for id, link in self._endpoint.links.items() if not link.is_closed}

    def hear(self, link: Link) -> None:
        """Ask a peer for flock records; while one exchange runs, no second one begins."""
        if link not in self._hearing:
            self._hearing.add(link)
            self._spawn(f"flock with {link.peer.name}", self._hear(link))

    async def _hear(self, link: Link) -> None:
        try:
            await self._pull(link, "flock")
        finally:
            self._hearing.discard(link)

    def _spread(self, link: Link) -> None:
        """Tell a peer that there is news, and ask for its own."""
        self._spawn(f"flock news to {link.peer.name}", self._tell(link))

    async def _tell(self, link: Link) -> None:
        try:
            if link.speaks(FlockNews):
                await link.ask(FlockNews(), timeout_s=5.0)
        except LinkError as error:
            _log.info("%s does not hear of the flock's news now: %s", link.peer.name, error)
        self.hear(link)

    async def bring(self, device_id: bytes, records: bytes) -> None:
        """Hear what a device brought in its handshake, once a minute from one; a refused one is heard, too.

        So a device that a thief talked into refusing its owner's hears the truth from whom it refuses.
        """
        now_s = self._clock.monotonic()
        if now_s - self._heard.get(device_id, -_HEAR_S) < _HEAR_S:
            return
        self._heard[device_id] = now_s
        while len(self._heard) > _HEARD_KEPT:
            self._heard.pop(next(iter(self._heard)))
        try:
            await self._owner.run(self._devices.take_brought, records)
        except WireError as error:
            _log.info("%s brought flock records that cannot be read: %s", short_id(device_id), error)

    async def run(self) -> None:
        """Follow the roster until cancelled."""
        last_s = written_s = self._clock.monotonic()
        while True:
            await self._wait()
            now_s = self._clock.monotonic()
            is_kept = now_s - written_s >= _WRITE_S
            done = await self._owner.run(self._devices.run_on, now_s - last_s, is_kept=is_kept)
            written_s = now_s if is_kept or done else written_s
            last_s = now_s
            await self.follow()
            await self._mend(now_s)

    async def follow(self) -> None:
        """Bring links in line with the roster as it is now."""
        before, now = self.standing, await self._owner.run(self._devices.standing)
        if now == before:
            return
        self.standing = now
        self._use(now)
        for link in list(self._endpoint.links.values()):
            device_id = link.peer.device_id
            if now.flock is None:
                link.end("closing")
            elif now.is_out or device_id in now.out:
                link.end("removed")
            elif device_id not in now.named and before.flock is not None and now.out != before.out:
                link.end("rotated")
            else:
                self._spread(link)
        for id in sorted(now.dropped - before.dropped):
            await self._owner.run(self._drop, id)
        await self._owner.run(self._note, before, now, self._clock.time())

    def _note(self, before: Standing, now: Standing, at_s: float) -> None:
        for id in sorted(now.out - before.out):
            self._log.append(SecurityEvent(at_s, "removed", short_id(id), "put out of the flock"))
        for id in sorted(before.out - now.out):
            self._log.append(SecurityEvent(at_s, "back", short_id(id), "let in again"))
        for id in sorted(now.named - before.named):
            self._log.append(SecurityEvent(at_s, "named", short_id(id), "links by its key from now on"))
        if before.flock != now.flock:
            self._log.append(SecurityEvent(at_s, "secret", "", "the flock's secret changed"))

    async def _wait(self) -> None:
        pause = asyncio.ensure_future(self._clock.sleep(_EVERY_S))
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((pause, changed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            changed.cancel()
        self._changed.clear()

    async def _mend(self, now_s: float) -> None:
        """Make a secret where nobody else did in time, or where who made it does not hand it over."""
        now = self.standing
        own_id = self._devices.identity.device_id
        if now.has_newest or now.is_out or now.flock is None or own_id not in now.named:
            self._lacking_since_s = None
            return
        if self._lacking_since_s is None:
            self._lacking_since_s = now_s
        order = hashlib.blake2b(own_id, digest_size=1).digest()[0] / 255
        patience_s = _LOST_S if now.is_announced else _FIRST_S + _SPREAD_S * order
        if now_s - self._lacking_since_s >= patience_s:
            self._lacking_since_s = now_s
            await self._owner.run(self._devices.make_secret)
