"""A peer process: one device on the network. It ties store, models, links and discovery together.

    async with Node("my-home") as node:
        await node.add(["notes"])
        results = await node.search("tent pegs")
        await node.click(results.query_id, 1)

Everything that touches the device runs on one thread of its own (`flocklet.node.owner` has the rule), and the event loop
stays free for links.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.clock import Clock, SystemClock
from flocklet.device.commands import perform
from flocklet.device.device import Device
from flocklet.device.devices import Standing
from flocklet.device.feeds import FEEDS, MakeFeed
from flocklet.device.flock_feed import FlockFeed, FlockNews
from flocklet.device.membership import Membership, create_membership, has_membership, load_membership
from flocklet.device.results import PeerStatus, build
from flocklet.discovery import (
    Announcement,
    PeerRecord,
    PeerTable,
    RememberedSource,
    Source,
    StaticSource,
    TableSettings,
    ToldSource,
)
from flocklet.errors import FlockletError, PeerRefused, StoreError
from flocklet.identity.flock import Flock
from flocklet.identity.key import format_id, short_id
from flocklet.link.bans import Ban
from flocklet.link.dialer import Dialer
from flocklet.link.endpoint import Endpoint
from flocklet.link.handshake import Party
from flocklet.link.link import Link
from flocklet.link.sockets import SocketNetwork
from flocklet.link.transfer import CONTENT_KINDS, ContentServer
from flocklet.node.address_book import AddressBook
from flocklet.node.control import ControlServer
from flocklet.node.facts import clock_problems, peer_rows
from flocklet.node.flock_keeper import FlockKeeper
from flocklet.node.gossip import Gossip
from flocklet.node.indexing import Indexing
from flocklet.node.interfaces import dialling_sources, is_loopback_only, listening_hosts
from flocklet.node.owner import Owner, Rank
from flocklet.node.supervisor import Supervisor
from flocklet.node.told_feed import ToldFeed
from flocklet.node.verbs import Verbs
from flocklet.node.watcher import Watcher
from flocklet.store.home import Home, default_home
from flocklet.store.security_log import SecurityEvent, SecurityLog
from flocklet.wire.door import Door
from flocklet.wire.kinds import Kind, Ok

__all__ = ["Node", "NodeSettings"]

_log = logging.getLogger("flocklet.node")
_TICK_S = 2.0
_TEACH_S = 300.0
_PRACTISED = 4  # clicks a tick
_REFUSALS_KEPT = 32


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How a peer meets others. `interfaces`: names or addresses to use (None: all). `port` 0: any free one.

    `gossip_s`: seconds between two exchanges, 0 for a peer that only answers.
    """

    port: int = 0
    interfaces: tuple[str, ...] | None = None
    peers: tuple[str, ...] = ()
    is_mdns_on: bool = True
    gossip_s: float = 5.0


class Node(Verbs):
    """One running peer; use it as an asynchronous context manager.

    Raises on start:
        ConfigError: the home cannot be used, or another process uses it.
        IdentityError: the key is damaged or was copied from another machine.
        LinkError: the port is taken.
        StoreError: the store is damaged or newer than this version.
    """

    def __init__(
        self,
        home: Home | Path | str | None = None,
        settings: NodeSettings | None = None,
        *,
        clock: Clock | None = None,
        rng: np.random.Generator | None = None,
        feeds: Sequence[MakeFeed] = FEEDS,
    ) -> None:
        self.home = (
            home if isinstance(home, Home) else Home(Path(home) if home is not None else default_home())
        )
        self.settings = settings or NodeSettings()
        self.clock = clock or SystemClock()
        self._rng = rng or np.random.default_rng()
        self._stack = contextlib.AsyncExitStack()
        self._make_feeds = feeds
        self.owner = Owner()
        self.supervisor = Supervisor(self.clock, self._rng)
        self._watcher = Watcher(self.clock)
        self._bytes = Counter[str]()
        self.refusals: deque[dict[str, Any]] = deque(maxlen=_REFUSALS_KEPT)
        self.port = 0
        self._announced: Source | None = None

    async def __aenter__(self) -> Node:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        self._started_s = self.clock.monotonic()
        held = self._stack.enter_context(contextlib.ExitStack())
        self._stack.push_async_callback(self.owner.stop)
        self.membership = membership = await self.owner.run(self._take_home, held)
        self.device: Device = await self.owner.run(Device, self.home, membership, self.clock, check=True)
        self._stack.push_async_callback(self.owner.run, self.device.close)
        await self.owner.run(lambda: self.device.index)
        own_id = membership.identity.device_id
        allow_loopback = is_loopback_only(self.settings.interfaces)
        flock = membership.flock
        self.table = PeerTable(own_id, flock.tags, self._rng, TableSettings(allow_loopback=allow_loopback))
        party = Party(membership.identity, membership.certificate, flock)
        told = ToldSource(allow_loopback=allow_loopback)
        feeds = [
            *(await self.owner.run(lambda: [make(self.device) for make in self._make_feeds])),
            ToldFeed(self.table, told),
        ]
        kinds = [Kind.of(message) for feed in feeds for message in feed.kinds]
        door = Door([*CONTENT_KINDS, Kind.of(FlockNews, answers=("ok",)), *kinds])
        self.endpoint = Endpoint(
            party,
            on_link=self._linked,
            on_refused=self._refused,
            may_join=lambda device_id, is_newest: self._keeper.judge(device_id, is_newest),
            on_brought=self._brought,
            clock=self.clock,
            door=door,
            network=SocketNetwork(await asyncio.to_thread(dialling_sources, self.settings.interfaces)),
        )
        self._stack.push_async_callback(self.endpoint.close)
        for device_id, ban in (await self.owner.run(self.device.store.banned_peers)).items():
            self.endpoint.guard.restore(device_id, Ban(*ban))
        self.endpoint.guard.on_change = self._ban_changed
        self._dialer = Dialer(self.table, self.endpoint, self.clock, self._remember, self.supervisor.spawn)
        self.gossip = Gossip(
            feeds, self.owner, self.endpoint.links, self.clock, self._rng, every_s=self.settings.gossip_s
        )
        for feed in feeds:
            if isinstance(feed, FlockFeed):
                feed.key_of = lambda id: self._keeper.keys().get(id)
        self.security = SecurityLog(self.home.security_log)
        self._keeper = FlockKeeper(
            self.device.devices, self.owner, self.endpoint, self.clock, self.security,
            pull=self.gossip.pull, spawn=self.supervisor.spawn, use=self._use_flock,
            drop=self.device.banishment.drop,
        )  # fmt: skip
        await self._keeper.start()
        self._use_flock(self._keeper.standing)
        self._indexing = Indexing(self.device, self.owner, self._watcher)
        self._contents = ContentServer(self.device.lessons)
        self._remembered = RememberedSource(await self.owner.run(AddressBook, self.device))
        self.port = await self.endpoint.serve(
            await asyncio.to_thread(listening_hosts, self.settings.interfaces), self.settings.port
        )
        self._sources: list[Source] = [
            StaticSource(self.settings.peers, clock=self.clock),
            self._remembered,
            told,
        ]
        if self.settings.is_mdns_on:
            self._announced = self._mdns(flock)
            self._sources.append(self._announced)
        for source in self._sources:
            self._stack.push_async_callback(source.stop)
            await source.start(self._dialer.offer)
        control = ControlServer(self.home, self.perform)
        self._stack.push_async_callback(control.stop)
        await control.start()
        self.supervisor.keep("dialer", self._dialer.run)
        self.supervisor.keep("gossip", self.gossip.run)
        self.supervisor.keep("flock", self._keeper.run)
        self.supervisor.keep("tick", self._tick)
        self.supervisor.keep("folders", self._indexing.follow)
        self._stack.push_async_callback(self.supervisor.stop)

    async def stop(self) -> None:
        """Say goodbye, finish what is being written and release everything; safe to call twice."""
        await self._stack.aclose()

    def _take_home(self, held: contextlib.ExitStack) -> Membership:
        """Hold the home until `held` is closed; return who this device is, a new device in a new home."""
        self.home.ensure()
        held.enter_context(self.home.lock(wait_s=1.0))
        return load_membership(self.home) if has_membership(self.home) else create_membership(self.home)

    def _mdns(self, flock: Flock) -> Source:
        from flocklet.discovery.mdns import MdnsSource

        about = Announcement(
            self.membership.identity.device_id,
            flock.tag,
            secrets.token_hex(8),
            self.port,
            keys=flock.discovery_keys,
        )
        return MdnsSource(
            about, interfaces=self.settings.interfaces, clock=self.clock, known=self.table.known_ids
        )

    def _brought(self, device_id: bytes, records: bytes) -> None:
        self.supervisor.spawn("brought records", self._keeper.bring(device_id, records))

    def _use_flock(self, standing: Standing) -> None:
        """Prove, recognise and announce the flock by the secrets that are held now."""
        if standing.flock is None:
            return
        before = self.endpoint.party.flock
        self.endpoint.use_flock(standing.flock, standing.records)
        if standing.flock == before:
            return
        self.table.use_tags(standing.flock.tags)
        if self._announced is not None:
            self.supervisor.spawn("announce", self._announce(standing.flock))

    async def _announce(self, flock: Flock) -> None:
        old, new = self._announced, self._mdns(flock)
        self._announced = new
        if old is not None:
            await old.stop()
            self._sources.remove(old)
        self._sources.append(new)
        self._stack.push_async_callback(new.stop)
        await new.start(self._dialer.offer)

    def _linked(self, link: Link) -> None:
        now_s = self.clock.monotonic()
        self.table.authenticated(link.peer.device_id, now_s, version=link.peer.version)
        self.supervisor.spawn(f"serve {link.peer.name}", self._serve(link))

    async def _serve(self, link: Link) -> None:
        try:
            if self.gossip.every_s:
                self.gossip.begin(link)
            async for frame in link:
                try:
                    if frame.type == FlockNews.kind:
                        await link.answer(frame, Ok())
                        self._keeper.hear(link)
                    elif not (
                        await self._contents.answer(link, frame) or await self.gossip.answer(link, frame)
                    ):
                        link.reject("type")
                except FlockletError as error:
                    _log.warning("peer %s got no answer: %s", link.peer.name, error)
        except Exception:  # ours, and shown as such; the link is dialled anew
            link.reject("internal")
            link.end("internal")
            raise
        finally:
            self._bytes["in"] += link.bytes_in
            self._bytes["out"] += link.bytes_out
            if self.endpoint.link(link.peer.device_id) is None:
                why = str(link.error) if link.error is not None else ""
                self.table.unlinked(link.peer.device_id, self.clock.monotonic(), why)
                self._dialer.wake()

    def _remember(self, record: PeerRecord) -> None:
        self._write("remember", self._remembered.remember, record)

    def _write(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """Let the device's thread write something when nothing else waits."""
        self.supervisor.spawn(name, self.owner.run(function, *args, rank=Rank.UPKEEP))

    def _note(self, kind: str, who: str, what: str) -> None:
        event = SecurityEvent(self.clock.time(), kind, who, what)
        self._write("security log", self.security.append, event)

    def _ban_changed(self, device_id: bytes, ban: Ban | None) -> None:
        self._write("ban", self.device.store.ban_peer, device_id, ban, self.clock.time())
        if ban is not None:
            self._note("banned", short_id(device_id), "its bytes broke the protocol too often")

    def _refused(self, error: PeerRefused) -> None:
        self._note("refused", error.reason, str(error))
        self.refusals.append({"at_s": self.clock.time(), "reason": error.reason, "what": str(error)})

    async def _tick(self) -> None:
        """Tell the table who was heard (a link ends itself when its peer falls silent); teach the reranker at times."""
        taught_s = self.clock.monotonic()
        while True:
            await self.clock.sleep(_TICK_S)
            now_s = self.clock.monotonic()
            for link in list(self.endpoint.links.values()):
                self.table.heard_from(link.peer.device_id, now_s)
            self.endpoint.guard.sweep()
            await self._practise()
            if now_s >= taught_s + _TEACH_S:
                taught_s = now_s
                try:
                    await self.owner.run(self.device.teach, rank=Rank.LEARNING)
                    await self.owner.run(self.device.vouch, rank=Rank.LEARNING)
                except StoreError as error:  # searches go on with what was learnt before
                    _log.warning("the reranker cannot be kept: %s", error)

    async def _practise(self) -> None:
        try:
            for _ in range(_PRACTISED):
                if not await self.owner.run(self.device.practise, 1, rank=Rank.LEARNING):
                    break
        except StoreError as error:
            _log.warning("what the rerankers learnt cannot be kept: %s", error)

    async def perform(self, verb: str, values: Mapping[str, Any]) -> Any:
        """Do a verb, as `flocklet VERB` does through the socket; return the plain answer.

        Raises:
            UsageError: there is no such verb.
        """
        match verb:
            case "add":
                return await self._indexing.look(verb, values)
            case "folders" if values["action"] == "refresh":
                return await self._indexing.look(verb, values)
            case "peers":
                return self._peer_rows()
            case "status":
                return {**await self.owner.run(perform, self.device, "status", {}), **self._facts()}
            case "devices":
                return await self._act_on_devices(values)
            case "gossip":
                self.gossip.set_every(float(values["every_s"]))
                return {"every_s": self.gossip.every_s}
            case _:
                return await self.owner.run(perform, self.device, verb, values)

    async def _act_on_devices(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Act on the flock's devices; after a removal tell everybody at once, and say who has heard of it."""
        answer: dict[str, Any] = await self.owner.run(
            perform, self.device, "devices", {**values, "links": self._keeper.keys()}
        )
        await self._keeper.follow()
        if values.get("act") == "remove" and not answer["is_open"]:
            named = self._keeper.standing.named - {self.membership.identity.device_id}
            told = [link for id, link in self.endpoint.links.items() if id in named and not link.is_closed]
            answer["told"] = {"obeyed": len(told) + 1, "named": len(named) + 1}
        return answer

    async def pull(self) -> int:
        """Exchange with every linked peer now; return how many records were new."""
        return sum([(await self.gossip.pull(link)).new for link in list(self.endpoint.links.values())])

    def peers(self) -> tuple[PeerStatus, ...]:
        """Return every peer that is known, linked ones first."""
        return tuple(build(PeerStatus, row) for row in self._peer_rows())

    def _peer_rows(self) -> list[dict[str, Any]]:
        return peer_rows(self.table, self.endpoint.links, self.clock.monotonic(), self._started_s)

    def _facts(self) -> dict[str, Any]:
        links = list(self.endpoint.links.values())
        identity = self.membership.identity
        return {
            "device_id": format_id(identity.device_id),
            "short_id": short_id(identity.device_id),
            "flock": "open" if self.membership.flock.is_open else "closed",
            "port": self.port,
            "pid": os.getpid(),
            "links": len(links),
            "bytes_in": self._bytes["in"] + sum(link.bytes_in for link in links),
            "bytes_out": self._bytes["out"] + sum(link.bytes_out for link in links),
            "gossip_s": self.gossip.every_s,
            "gossip": dict(self.gossip.counts),
            "refusals": list(self.refusals),
            "tasks": self.supervisor.rows(),
            "refused": dict(self.endpoint.door.refused),
            "bans": {
                short_id(id): f"{ban.reason}, {ban.for_s:.0f} s"
                for id, ban in self.endpoint.guard.banned().items()
            },
            "problems": [
                *(source.problem for source in self._sources if source.problem),
                *self.supervisor.problems(),
                *clock_problems(self.endpoint.links, self.clock.time()),
                *([self._watcher.problem] if self._watcher.problem else []),
            ],
        }
