"""Where the links of this process come from: accept and open connections, greet, keep at most one link per peer.

    endpoint = Endpoint(Party(identity, certificate, flock), on_link=started)
    port = await endpoint.serve(["0.0.0.0", "::"], 0)
    link = await endpoint.connect("192.168.1.7", 4711, expected=device_id)

Every link speaks TLS 1.3 and has proved its key and, in a closed flock, the secret. There is no other mode.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace

from flocklet.clock import Clock, SystemClock
from flocklet.errors import IdentityError, LinkError, PeerRefused, WireError
from flocklet.identity.certificate import certificate_key
from flocklet.identity.flock import Flock
from flocklet.link.bans import Guard
from flocklet.link.deadline import deadline
from flocklet.link.handshake import Handshake, Nonces, Party
from flocklet.link.link import Link
from flocklet.link.refusal import refusal
from flocklet.link.replay import ReplayWindow
from flocklet.link.settings import LinkSettings
from flocklet.link.sockets import Listener, Network, SocketNetwork
from flocklet.link.tls import Pipe, Turns, client_context, server_context
from flocklet.link.transfer import CONTENT_KINDS
from flocklet.wire.door import Door
from flocklet.wire.frame import DATA_LIMITS, Decoder, Frame, Limits

__all__ = ["Endpoint"]

log = logging.getLogger("flocklet.link")


class Endpoint:
    """All links of this process.

    `on_link(link)` is called for every new link, whoever opened it. `on_refused(error)` hears of every connection
    that came to nothing for a reason, on either side (`error.reason`, see PROTOCOL.md). `may_join(device_id, is_newest)`
    returns why a device is not let in although it proved its key and one of our secrets, "" if it is. `door` says which
    kinds of message are taken, here and by the peers. `on_brought(device_id, records)` hears what a device with one of our
    secrets brings, also when it is then refused.
    """

    def __init__(
        self,
        party: Party,
        *,
        on_link: Callable[[Link], None] = lambda link: None,
        on_refused: Callable[[PeerRefused], None] = lambda error: None,
        may_join: Callable[[bytes, bool], str] = lambda device_id, is_newest: "",
        on_brought: Callable[[bytes, bytes], None] = lambda device_id, records: None,
        settings: LinkSettings | None = None,
        data_limits: Limits = DATA_LIMITS,
        door: Door | None = None,
        clock: Clock | None = None,
        network: Network | None = None,
    ) -> None:
        self.door = door if door is not None else Door(CONTENT_KINDS, is_loose=True)
        self.party = replace(party, features=self.door.features)
        self.settings = settings or LinkSettings()
        self.clock = clock or SystemClock()
        self.guard = Guard(self.clock, max_rejects=self.settings.max_rejects, ban_s=self.settings.ban_s)
        self.replay = ReplayWindow()
        self.links: dict[bytes, Link] = {}  # by device id
        self.on_link = on_link
        self.on_refused = on_refused
        self._may_join = may_join
        self._on_brought = on_brought
        self._data_limits = data_limits
        self._network = network or SocketNetwork()
        self._nonces = Nonces()
        self._turns = Turns()
        self._client_context: ssl.SSLContext | None = None
        self._server_context: ssl.SSLContext | None = None
        self._listeners: list[Listener] = []
        self._greetings: dict[_Greeting, None] = {}  # half-open, oldest first
        self._is_closed = False
        self._is_prepared = False

    async def serve(self, hosts: Sequence[str] = ("0.0.0.0", "::"), port: int = 0) -> int:  # noqa: S104
        """Accept links; return the port. Raise LinkError in one line if it cannot be had."""
        await self._prepare()
        if self._server_context is None:
            self._server_context = server_context(self.party.identity, self.party.certificate)
        listener = await self._network.listen(self._accept, hosts, port)
        self._listeners.append(listener)
        return listener.port

    async def connect(self, host: str, port: int, *, expected: bytes | None = None) -> Link:
        """Open a link; `expected` is the device id that must answer, if it is known.

        Return the link to that peer: if the peer opened one at the same time, the one that both sides keep.
        Raise LinkError if nobody answers in time, PeerRefused with a reason if either side says no.
        """
        if self._is_closed:
            raise LinkError("this endpoint is closed")
        await self._prepare()
        if self._client_context is None:
            self._client_context = client_context()
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        greeting = _Greeting(self, self._client_context, is_server=False, expected=expected)
        try:
            async with deadline(self.clock, self.settings.handshake_s):
                await self._network.connect(lambda: greeting.pipe, host, port)
                return await asyncio.shield(greeting.result)
        except TimeoutError as error:
            greeting.fail(refusal("timeout", where))
            raise LinkError(f"{where} did not answer within {self.settings.handshake_s:g} s") from error
        except LinkError:
            if (
                not greeting.result.done()
            ):  # nobody answered; a refusal closes its pipe after telling the peer
                greeting.pipe.abort()
            raise
        except asyncio.CancelledError:
            greeting.pipe.abort()
            raise
        finally:
            greeting.settle()

    def use_flock(self, flock: Flock, records: bytes) -> None:
        """Prove other secrets and bring other records from the next handshake on; links that are open stay."""
        self.party = replace(self.party, flock=flock, records=records)

    def link(self, device_id: bytes) -> Link | None:
        """Return the link to a peer, if there is one now."""
        return self.links.get(device_id)

    async def close(self) -> None:
        """Close listeners and links, and wait until their connections are gone."""
        self._is_closed = True
        for listener in self._listeners:
            listener.close()
        for greeting in list(self._greetings):
            greeting.fail(refusal("closing", greeting.pipe.address))
        async with asyncio.TaskGroup() as group:
            for link in list(self.links.values()):
                group.create_task(link.close())
        await asyncio.sleep(0)

    async def _prepare(self) -> None:
        """Judge our own certificate, once, in a thread: its parser takes 100 ms to import, too long for the loop."""
        if self._is_prepared:
            return
        key = await asyncio.to_thread(certificate_key, self.party.certificate)
        if key != self.party.identity.public_key:
            raise IdentityError("the certificate belongs to another key", remedy="delete it: it is remade")
        self._is_prepared = True

    # -- what greetings call

    def _accept(self) -> Pipe:
        assert self._server_context is not None  # noqa: S101 - set by serve
        greeting = _Greeting(self, self._server_context, is_server=True)
        if len(self._greetings) > self.settings.max_half_open:
            # An honest peer needs milliseconds: the oldest is the one that only holds its place.
            oldest = next(iter(self._greetings))
            oldest.fail(refusal("full", oldest.pipe.address))
        return greeting.pipe

    def _judge(self, device_id: bytes, run: bytes, is_newest: bool, is_opened_here: bool) -> str | None:
        """Return the reason why a proved peer gets no link, or None."""
        if self._is_closed:
            return "closing"
        if self.guard.is_banned(device_id):
            return "banned"
        if reason := self._may_join(device_id, is_newest):
            return reason
        old = self.links.get(device_id)
        if old is None:
            return "full" if len(self.links) >= self.settings.max_links else None
        is_restarted = old.peer.run != run
        is_settled = self.clock.monotonic() - old.opened_s > self.settings.handshake_s
        if is_restarted or is_settled or old.is_opened_here == is_opened_here:
            return None  # a peer may replace its own older link
        opener = self.party.identity.device_id if is_opened_here else device_id
        return None if opener == min(self.party.identity.device_id, device_id) else "duplicate"

    def _greeted(self, greeting: _Greeting, handshake: Handshake, answer: bytes) -> Link:
        """Make the link of a finished handshake; return the older one if that is to be kept."""
        peer, pipe = handshake.peer, greeting.pipe
        assert peer is not None  # noqa: S101 - the handshake is done
        is_opened_here = not greeting.is_server
        if is_opened_here and (
            reason := self._judge(peer.device_id, peer.run, peer.is_newest, is_opened_here)
        ):
            raise refusal(reason, peer.name)
        pipe.decoder.open()
        link = Link(
            pipe,
            peer,
            self.party,
            is_opened_here=is_opened_here,
            clock=self.clock,
            settings=self.settings,
            guard=self.guard,
            replay=self.replay,
            on_closed=self._forget,
            door=self.door,
        )
        pipe.handler = link
        pipe.send(answer)
        old = self.links.get(peer.device_id)
        self.links[peer.device_id] = link
        if old is not None:
            old.end("duplicate")
        log.info("link with %s at %s", peer.name, link.address)
        self.on_link(link)
        return link

    def _forget(self, link: Link) -> None:
        if self.links.get(link.peer.device_id) is link:
            del self.links[link.peer.device_id]

    def _refused(self, error: PeerRefused) -> None:
        level = logging.WARNING if error.reason in ("clone", "key") else logging.INFO
        log.log(level, "%s", error)
        self.guard.strangers[error.reason] += 1
        self.on_refused(error)


class _Greeting:
    """A connection that is not a link yet: it has one deadline, and ends as a link or with a reason."""

    def __init__(
        self, endpoint: Endpoint, context: ssl.SSLContext, *, is_server: bool, expected: bytes | None = None
    ) -> None:
        self.is_server = is_server
        self.result: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        self._endpoint = endpoint
        self._expected = expected
        self._handshake: Handshake | None = None
        decoder = Decoder(data_limits=endpoint._data_limits, door=endpoint.door)
        self.pipe = Pipe(context, decoder, endpoint._turns, self, is_server=is_server)
        endpoint._greetings[self] = None
        self._timer = asyncio.ensure_future(self._expire()) if is_server else None

    async def _expire(self) -> None:
        await self._endpoint.clock.sleep(self._endpoint.settings.handshake_s)
        self._timer = None
        self.fail(refusal("timeout", self.pipe.address))

    def settle(self) -> None:
        """Free the slot."""
        self._endpoint._greetings.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def fail(self, error: LinkError) -> None:
        """End without a link; the peer hears the reason if it speaks TLS with us."""
        if self.result.done():
            return
        self.result.set_exception(error)
        self.result.exception()  # nobody may be waiting for it
        self.settle()
        if isinstance(error, PeerRefused):
            if self._handshake is not None:
                self.pipe.send(self._handshake.refuse(error))
            self._endpoint._refused(error)
        if self.pipe.is_established:
            self.pipe.close()
        else:
            self.pipe.abort()

    # -- what the pipe calls

    def established(self, certificate: bytes | None) -> None:
        """Send our hello."""
        endpoint, is_server = self._endpoint, self.is_server
        self._handshake = Handshake(
            endpoint.party,
            is_server=is_server,
            server_certificate=endpoint.party.certificate if is_server else certificate or b"",
            address=self.pipe.address,
            expected=self._expected,
            may_join=lambda device_id, run, is_newest: (
                endpoint._judge(device_id, run, is_newest, False) if is_server else None
            ),
            on_brought=endpoint._on_brought,
            nonces=endpoint._nonces,
        )
        try:
            self.pipe.send(self._handshake.start())
        except PeerRefused as error:
            self.fail(error)

    def frame_received(self, frame: Frame) -> None:
        """Take the next step."""
        handshake = self._handshake
        assert handshake is not None  # noqa: S101 - frames come after TLS
        try:
            answer = handshake.receive(frame)
            if handshake.peer is None:
                self.pipe.send(answer)
                return
            link = self._endpoint._greeted(self, handshake, answer)
        except PeerRefused as error:
            kept = self._endpoint.links.get(handshake.peer.device_id) if handshake.peer else None
            if error.reason == "duplicate" and kept is not None and not self.result.done():
                self.pipe.send(handshake.refuse(error))
                self.pipe.close()
                self.result.set_result(kept)
                self.settle()
                return
            self.fail(error)
            return
        if not self.result.done():
            self.result.set_result(link)
        self.settle()

    def frame_broken(self, error: WireError) -> None:
        """Refuse: nothing but a handshake may come here."""
        reason = error.reason if error.reason in ("version", "order") else "garbage"
        self.fail(refusal(reason, self.pipe.address, detail=str(error)))

    def bytes_received(self, count: int) -> None:
        """Nothing to count: the deadline and the size of the hello bound a stranger."""

    def closed(self, error: Exception | None) -> None:
        """The connection is gone before it was a link."""
        if isinstance(error, LinkError):
            self.fail(error)
        else:
            where = self.pipe.address
            self.fail(LinkError(f"{where} closed the connection before it proved anything"))
