"""Find peers by mDNS/DNS-SD (RFC 6762, 6763) with one `AsyncZeroconf` per process; import this only when it
is on.

Three choices make it quick and safe:
- No probing (RFC 6762 section 8.1): the instance name is the hash of a nonce, so nobody else has it. This saves the
  library's 1.15 to 1.25 s of probes.
- The browser asks for multicast answers (QM). Answers to the library's usual first question (QU) come as
  unicast to port 5353, where several processes of one machine share the port and only one of them gets the
  packet.
- One announcement a minute. The library asks again only when records expire (75 minutes), so two islands that
  were started apart would otherwise never see each other after they are joined.

Nothing here raises because of the network: `problem` says what is wrong, and it is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from zeroconf import DNSQuestionType, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from flocklet.clock import Clock, SystemClock
from flocklet.discovery.address import Address
from flocklet.discovery.announcement import (
    SERVICE_TYPE,
    Announcement,
    Heard,
    parse_instance,
    parse_txt,
    who_of,
)
from flocklet.discovery.bucket import TokenBucket
from flocklet.discovery.gate import PacketCounts, PacketGate, PacketLimits
from flocklet.discovery.interfaces import (
    Interface,
    announced_hosts,
    choose,
    is_ready,
    list_interfaces,
    listen_hosts,
)
from flocklet.discovery.multicast import UNWELL, CountedZeroconf, open_zeroconf
from flocklet.discovery.source import Sighting, Sink, SourceKind
from flocklet.errors import WireError

__all__ = ["MdnsSource"]

_log = logging.getLogger("flocklet.discovery")

_MAX_NAMES = 1024
_MAX_RESOLVING = 16
_RESOLVE_MS = 3000
_NAMES_PER_S = 200.0
_NAMES_BURST = 400.0
_SHORTEST_ANNOUNCE_S = 1.0  # RFC 6762 section 8.3: at least one second apart
_MAX_RENAMES = 3
_RENEW_JITTER = 1 / 12  # of the time between two nonces: an hour each way
_OVERLAP_S = 10.0
_CLASS_IN = 1
_TYPE_PTR = 12


class MdnsSource:
    """Announce ourselves and browse for others on every interface, or only on the named ones.

    `known()` gives the device ids by which members are recognised; others are newcomers until a handshake. After
    `renew_s` of running time the nonce is a new one. `announcement` None means: browse only. `interfaces` are names or
    addresses ("eth0", "127.0.0.1").
    `counts` has own, clones, malformed, limited, sightings; `packets` counts datagrams.
    """

    kind = SourceKind.MDNS

    def __init__(
        self,
        announcement: Announcement | None,
        *,
        interfaces: Sequence[str] | None = None,
        clock: Clock | None = None,
        limits: PacketLimits | None = None,
        rescan_s: float = 3.0,
        reannounce_s: float = 60.0,
        list_interfaces: Callable[[], list[Interface]] = list_interfaces,
        make_zeroconf: Callable[..., Zeroconf] = CountedZeroconf,
        known: Callable[[], Iterable[bytes]] = tuple,
        renew_s: float = 86_400.0,
    ) -> None:
        self._announcement = announcement
        self._known = known
        self._renew_s = renew_s
        self._own_runs: deque[str] = deque([announcement.run] if announcement else [], maxlen=4)
        self._wanted = None if interfaces is None else tuple(interfaces)
        self._clock = clock or SystemClock()
        self._gate = PacketGate(self._clock.monotonic, limits)
        self._rescan_s = rescan_s
        self._reannounce_s = reannounce_s
        self._list_interfaces = list_interfaces
        self._make_zeroconf = make_zeroconf
        self._sink: Sink | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._info: AsyncServiceInfo | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Future[Any]] = set()
        self._resolving = 0
        self._listening: tuple[str, ...] = ()
        self._announcing: tuple[str, ...] = ()
        self._ids: OrderedDict[str, tuple[bytes | None, str]] = OrderedDict()
        self._names = TokenBucket(_NAMES_PER_S, _NAMES_BURST)
        self._suffix = ""
        self._renames = 0
        self._announced_s: float | None = None
        self._problem = ""
        self.counts: Counter[str] = Counter()

    @property
    def problem(self) -> str:
        """Return one line about what is wrong, "" while all is well."""
        return self._problem

    @property
    def packets(self) -> PacketCounts:
        """Return the counters of datagrams and bytes."""
        return self._gate.counts

    @property
    def is_running(self) -> bool:
        """Tell whether mDNS listens at all."""
        return self._zeroconf is not None

    @property
    def is_announced(self) -> bool:
        """Tell whether our own records are served."""
        return self._info is not None

    @property
    def instance_name(self) -> str:
        """Return the DNS-SD name under which we are announced, "" when we only browse."""
        return "" if self._announcement is None else self._announcement.instance_name(self._suffix)

    async def start(self, sink: Sink) -> None:
        """Listen, announce and browse; on a sick network return all the same and keep trying."""
        if self._supervisor is not None:
            return
        self._sink = sink
        await self._reopen_if_changed()
        self._supervisor = asyncio.create_task(self._supervise(), name="mdns")

    async def stop(self) -> None:
        """Say goodbye (3 packets in 0.25 s) and release every socket and task."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await supervisor
        await self._close(says_goodbye=True)
        self._sink = None

    def announce(self) -> None:
        """Send our records once, unless that happened within the last second."""
        now_s = self._clock.monotonic()
        if self._zeroconf is None or self._info is None:
            return
        if self._announced_s is not None and now_s - self._announced_s < _SHORTEST_ANNOUNCE_S:
            return
        self._announced_s = now_s
        zeroconf = self._zeroconf.zeroconf
        try:
            zeroconf.async_send(zeroconf.generate_service_broadcast(self._info, None))
        except UNWELL as error:
            self._set_problem(f"cannot announce by mDNS: {error}")

    # --- opening and closing ---

    async def _supervise(self) -> None:
        """Follow the interfaces and announce once a minute, each device at a phase of its own."""
        phase = 0.0 if self._announcement is None else self._announcement.device_id[0] / 256
        due_s = self._clock.monotonic() + self._reannounce_s * (0.5 + 0.5 * phase)
        renewed_s = self._clock.monotonic() + _RENEW_JITTER * self._renew_s * (phase - 0.5)
        while True:
            await self._clock.sleep(self._rescan_s)
            try:
                await self._reopen_if_changed()
                if self._clock.monotonic() >= due_s:
                    due_s = self._clock.monotonic() + self._reannounce_s
                    self.announce()
                    self._sweep()
                if self._clock.monotonic() >= renewed_s + self._renew_s:
                    renewed_s = self._clock.monotonic()
                    await self._renew()
            except UNWELL as error:
                self._set_problem(f"mDNS: {error}")

    async def _reopen_if_changed(self) -> None:
        try:
            interfaces = await asyncio.to_thread(self._list_interfaces)  # the first look starts a process
            picked, missing = choose(interfaces, self._wanted)
        except OSError as error:
            self._set_problem(f"the interfaces cannot be listed: {error}")
            return
        ready = [replace(one, hosts=tuple(h for h in one.hosts if is_ready(h, one.index))) for one in picked]
        listening = tuple(listen_hosts(ready, is_default=self._wanted is None))
        announcing = tuple(announced_hosts(picked))
        is_well = self._zeroconf is not None and (self._announcement is None or self._info is not None)
        if (listening, announcing) == (self._listening, self._announcing) and is_well:
            return
        await self._close(says_goodbye=False)
        self._listening, self._announcing = listening, announcing
        if not listening:
            what = f"interface {missing[0]!r} is not there" if missing else "no interface has an address"
            self._set_problem(f"mDNS is off: {what}")
            return
        problem = f"interface {missing[0]!r} is not there" if missing else ""
        problem = await self._open() or problem
        self._set_problem(problem)

    async def _open(self) -> str:
        """Open sockets, announce, browse; return what went wrong, "" if nothing."""
        problem = ""
        only_four = [host for host in self._listening if ":" not in host]
        for hosts in dict.fromkeys((self._listening, tuple(only_four))):
            if not hosts:
                continue
            try:
                self._zeroconf = await open_zeroconf(hosts, self._gate, make=self._make_zeroconf)
                break
            except UNWELL as error:
                problem = f"mDNS is off: {error or type(error).__name__}"
        if self._zeroconf is None:
            return problem
        try:
            await self._register()
        except UNWELL as error:
            self._info = None
            problem = f"not announced by mDNS ({error or type(error).__name__}), but others are seen"
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf,
            SERVICE_TYPE,
            handlers=[self._on_change],
            question_type=DNSQuestionType.QM,
        )
        return problem

    async def _register(self) -> None:
        if self._announcement is None or self._zeroconf is None:
            return
        name = self.instance_name
        info = AsyncServiceInfo(
            SERVICE_TYPE,
            name,
            port=self._announcement.port,
            properties=self._announcement.txt(),
            server=f"{name.partition('.')[0]}.local.",
            parsed_addresses=list(self._announcing),
        )
        sent = await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._info = info
        self._announced_s = self._clock.monotonic()
        self._keep(asyncio.ensure_future(sent))

    async def _renew(self) -> None:
        """Go by another nonce: the new record first, the goodbye of the old one a little later; links are untouched."""
        old, zeroconf = self._info, self._zeroconf
        if self._announcement is None or zeroconf is None or old is None:
            return
        self._announcement = replace(self._announcement, run=secrets.token_hex(8))
        self._own_runs.append(self._announcement.run)
        self._suffix = ""
        await self._register()
        self._keep(asyncio.ensure_future(self._withdraw(zeroconf, old)))

    async def _withdraw(self, zeroconf: AsyncZeroconf, info: AsyncServiceInfo) -> None:
        await self._clock.sleep(_OVERLAP_S)
        with contextlib.suppress(*UNWELL):
            await (await zeroconf.async_unregister_service(info))

    async def _close(self, *, says_goodbye: bool) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        browser, self._browser = self._browser, None
        self._info = None
        self._listening = self._announcing = ()
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if zeroconf is None:
            return
        with contextlib.suppress(*UNWELL):
            if browser is not None:
                await browser.async_cancel()
            if not says_goodbye:
                registry = zeroconf.zeroconf.registry
                registry.async_remove(registry.async_get_service_infos())
            await zeroconf.async_close()

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set_problem(self, problem: str) -> None:
        if problem and problem != self._problem:
            _log.warning("%s; static and remembered peers still work", problem)
        elif self._problem and not problem:
            _log.info("mDNS works again")
        self._problem = problem

    # --- hearing ---

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if zeroconf is self._running():
            self._look(name, is_gone=state_change is ServiceStateChange.Removed)

    def _running(self) -> Zeroconf | None:
        return None if self._zeroconf is None else self._zeroconf.zeroconf

    def _look(self, name: str, *, is_gone: bool = False) -> None:
        """Report what the cache holds about `name`; ask for what is missing."""
        zeroconf = self._running()
        if zeroconf is None:
            return
        if not self._names.take(self._clock.monotonic()):
            self.counts["limited"] += 1
            return
        try:
            parse_instance(name)
        except WireError:
            self.counts["malformed"] += 1
            return
        if is_gone:
            claimed, run = self._ids.pop(name.lower(), (None, ""))
            if run:
                self._give(Sighting(SourceKind.MDNS, claimed_id=claimed, run=run, gone=True))
            return
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if info.load_from_cache(zeroconf):
            self._report(info)
        elif self._resolving < _MAX_RESOLVING:
            self._resolving += 1
            self._keep(asyncio.ensure_future(self._resolve(zeroconf, info)))
        else:
            self.counts["limited"] += 1

    async def _resolve(self, zeroconf: Zeroconf, info: AsyncServiceInfo) -> None:
        try:
            with contextlib.suppress(*UNWELL):
                if await info.async_request(zeroconf, _RESOLVE_MS):
                    self._report(info)
        finally:
            self._resolving -= 1

    def _report(self, info: AsyncServiceInfo) -> None:
        try:
            heard = parse_txt(info.text or b"")
            if parse_instance(info.name) != heard.hint:
                raise WireError("the instance name does not belong to the record")
            hosts = dict.fromkeys(info.parsed_scoped_addresses())
            addresses = tuple(Address(host, info.port or 0) for host in list(hosts)[:16])
        except ValueError as error:
            self.counts["malformed"] += 1
            _log.debug("mDNS record of %r ignored: %s", info.name[:60], error)
            return
        if heard.run in self._own_runs:
            self.counts["own"] += 1
            return
        own = self._announcement
        if own is not None and info.name.lower() == self.instance_name:
            self._yield_name(addresses)
        claimed, flock_tag = self._recognised(heard, info.port or 0)
        if own is not None and claimed == own.device_id:
            self.counts["clones"] += 1
        key = info.name.lower()
        self._ids[key] = (claimed, heard.run or heard.hint)
        self._ids.move_to_end(key)
        if len(self._ids) > _MAX_NAMES:
            self._ids.popitem(last=False)
        self._give(
            Sighting(
                SourceKind.MDNS,
                addresses,
                claimed_id=claimed,
                flock_tag=flock_tag,
                version=heard.version,
                run=heard.run or heard.hint,
            )
        )

    def _recognised(self, heard: Heard, port: int) -> tuple[bytes | None, str]:
        """Return (device id if it is one that we know, tag of the flock, "" for another one)."""
        own = self._announcement
        if heard.version == 1:
            return heard.device_id, heard.flock_tag
        secret = None if own is None else own.key_of(heard, port)
        if own is None or secret is None:
            return None, ""
        known = (id for id in (own.device_id, *self._known()) if who_of(secret, heard.run, id) == heard.who)
        return next(known, None), own.flock_tag

    def _give(self, sighting: Sighting) -> None:
        if self._sink is not None:
            self.counts["sightings"] += 1
            self._sink(sighting)

    def _yield_name(self, addresses: Sequence[Address]) -> None:
        """Take a name with a random suffix when somebody else answers to ours; few times, for they may be
        hostile.
        """
        if self._renames >= _MAX_RENAMES or self._info is None or self._zeroconf is None:
            return
        self._renames += 1
        where = ", ".join(str(address) for address in addresses[:3]) or "an unknown address"
        _log.warning(
            "the name %s is also announced from %s: a clone of this device?", self.instance_name, where
        )
        # Not a goodbye: that would also erase the other's records from everybody's cache.
        self._zeroconf.zeroconf.registry.async_remove(self._info)
        self._info = None
        self._suffix = secrets.token_hex(4)
        self._keep(asyncio.ensure_future(self._register_again()))

    async def _register_again(self) -> None:
        try:
            await self._register()
        except UNWELL as error:
            self._set_problem(f"not announced by mDNS ({error or type(error).__name__}), but others are seen")

    def _sweep(self) -> None:
        """Report again what was heard in the last announcement rounds: a full table may have turned it
        away.
        """
        zeroconf = self._running()
        if zeroconf is None:
            return
        youngest_ms = time.monotonic() * 1000 - 2500 * self._reannounce_s
        pointers = zeroconf.cache.async_all_by_details(SERVICE_TYPE, _TYPE_PTR, _CLASS_IN)
        recent = [p for p in pointers if p.created >= youngest_ms]
        for pointer in recent[-_MAX_NAMES // 4 :]:
            self._look(str(getattr(pointer, "alias", "")))
