"""One authenticated link to a peer: messages, requests with replies, credits, heartbeats, an end with a reason.

A `Link` exists only after the handshake held, so its `peer` is proved. `flocklet.link.endpoint` makes links. All deadlines
run on the endpoint's clock. Errors: LinkError when the link ended or an operation was too slow, PeerRefused when the
peer said no, WireError for a message that must not be sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flocklet.clock import Clock
from flocklet.errors import LinkError, WireError
from flocklet.link.bans import Guard
from flocklet.link.deadline import deadline
from flocklet.link.flow_control import Credits
from flocklet.link.handshake import Party, PeerInfo
from flocklet.link.refusal import heard_reason, refusal
from flocklet.link.replay import ReplayWindow
from flocklet.link.settings import LinkSettings
from flocklet.link.tls import Pipe
from flocklet.wire.door import Door
from flocklet.wire.frame import Frame, Size, encode_hop, frame_type
from flocklet.wire.kinds import Bye, Credit, Fail, Ping, Pong, Role
from flocklet.wire.schema import Message

__all__ = ["Link"]

log = logging.getLogger("flocklet.link")

MAX_PENDING_REQUESTS = 256


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that waits: its reply, and which kinds that may be (none named: any)."""

    reply: asyncio.Future[Frame]
    answers: tuple[str, ...]


class Link:
    """A proved peer at the other end; iterate over it, or call `recv`, for the messages that it sends."""

    def __init__(
        self,
        pipe: Pipe,
        peer: PeerInfo,
        party: Party,
        *,
        is_opened_here: bool,
        clock: Clock,
        settings: LinkSettings,
        guard: Guard,
        replay: ReplayWindow,
        on_closed: Callable[[Link], None],
        door: Door | None = None,
    ) -> None:
        self.peer = peer
        self.address = pipe.address
        self.is_opened_here = is_opened_here
        self.opened_s = clock.monotonic()
        self.error: LinkError | None = None  # why the link ended
        self.rtt_s: float | None = None
        self.clock_ahead_s: float | None = (
            None  # how far the peer's wall clock is ahead of ours, to the minute
        )
        self.bytes_in = 0
        self.bytes_out = 0
        self.dropped: Counter[str] = Counter()  # author messages seen before; not the neighbour's fault
        self._pipe = pipe
        self._clock = clock
        self._settings = settings
        self._guard = guard
        self._replay = replay
        self._on_closed = on_closed
        self._door = door if door is not None else Door(is_loose=True)
        self._credits = Credits(
            {Size.DATA: peer.data_credits, Size.CONTROL: peer.control_credits},
            {Size.DATA: party.data_credits, Size.CONTROL: party.control_credits},
        )
        self._queue: deque[Frame] = deque()
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._pending: dict[int, _Asked] = {}
        self._last_rid = 0
        self._heard_s = self.opened_s
        self._ping_s: float | None = None
        self._allowance = float(settings.burst_bytes)
        self._allowance_s = self.opened_s
        self._gone = asyncio.Event()
        self._tasks = {asyncio.ensure_future(self._heartbeat())}
        replay.vouch(peer.device_id, peer.run)

    def __repr__(self) -> str:
        return f"Link({self.peer.name} at {self.address}{', closed' if self.is_closed else ''})"

    @property
    def is_closed(self) -> bool:
        """Whether the link has ended; `error` tells why."""
        return self.error is not None

    # -- sending

    def speaks(self, message: type[Message]) -> bool:
        """Whether the peer announced this kind; others are not sent to it."""
        return message.kind in self.peer.features

    async def ask(self, message: Message, *, timeout_s: float | None = None) -> Any:
        """Send a request and return the message that answers it, of one of the kinds that may.

        Raises PeerRefused if the peer says `fail`, or does not speak this kind.
        """
        if not self.speaks(type(message)):
            raise refusal("kind", self.peer.name, detail=f"{message.kind!r}")
        kind = self._door.kind(message.kind)
        reply = await self._ask(
            kind.name, kind.size, kind.answers, timeout_s, lambda rid: encode_hop(message, rid=rid)
        )
        return reply.body

    async def answer(self, request: Frame, message: Message, *, timeout_s: float | None = None) -> None:
        """Answer a request that was received on this link."""
        await self._send(None, encode_hop(message, re=request.header["rid"]), timeout_s)

    async def send(self, type: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Send a hop message that needs no reply; waits for credit and for the peer's pace."""
        await self._send(self._door.kind(type).size, encode_hop(type, body), timeout_s)

    async def send_sealed(self, sealed: bytes, *, timeout_s: float | None = None) -> None:
        """Send an author message as `flocklet.wire.frame.seal` made it, our own or somebody else's."""
        kind = self._door.kind(frame_type(sealed))
        if not kind.is_authored:
            raise WireError("only author messages are sealed", reason="type")
        await self._send(kind.size, sealed, timeout_s)

    async def request(self, type: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> Frame:
        """Send a hop message without a schema and return its reply; `ask` is for the others."""
        size = self._door.kind(type).size
        return await self._ask(type, size, (), timeout_s, lambda rid: encode_hop(type, body, rid=rid))

    async def _ask(
        self,
        type: str,
        size: Size,
        answers: tuple[str, ...],
        timeout_s: float | None,
        encode: Callable[[int], bytes],
    ) -> Frame:
        if len(self._pending) >= MAX_PENDING_REQUESTS:
            raise LinkError(f"{MAX_PENDING_REQUESTS} requests to {self.peer.name} have no reply yet")
        self._last_rid = rid = self._last_rid % 0xFFFFFFFF + 1
        data = encode(rid)
        timeout_s = self._settings.operation_s if timeout_s is None else timeout_s
        future: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._pending[rid] = _Asked(future, answers)
        try:
            async with deadline(self._clock, timeout_s):
                await self._write(size, data)
                reply = await future
        except TimeoutError as error:
            raise self._too_slow(f"answer {type!r}", timeout_s) from error
        finally:
            del self._pending[rid]
            future.cancel()
        if isinstance(reply.body, Fail):
            reason = heard_reason(reply.body.reason)
            raise refusal(reason, f"{self.peer.name}", by_peer=True, detail=f"asked for {type!r}")
        return reply

    async def reply(
        self, request: Frame, type: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> None:
        """Answer a request that was received on this link, by a message without a schema."""
        await self._send(None, encode_hop(type, body, re=request.header["rid"]), timeout_s)

    async def fail(self, request: Frame, reason: str) -> None:
        """Answer a request with the reason code why there is no answer: one of `flocklet.link.refusal.REASONS`."""
        await self.answer(request, Fail(reason[:64]))

    async def _send(self, size: Size | None, data: bytes, timeout_s: float | None) -> None:
        # The common case waits for nothing and needs no timer.
        if self.error is None and not self._pipe.is_clogged and (size is None or self._credits.spend(size)):
            self._put(data)
            return
        timeout_s = self._settings.operation_s if timeout_s is None else timeout_s
        try:
            async with deadline(self._clock, timeout_s):
                await self._write(size, data)
        except TimeoutError as error:
            raise self._too_slow("take a message", timeout_s) from error

    async def _write(self, size: Size | None, data: bytes) -> None:
        while self.error is None and self._pipe.is_clogged:
            await self._pipe.drain()
        while size is not None and self.error is None and not self._credits.spend(size):
            await self._credits.wait(size)
        if self.error is not None:
            raise self.error
        self._put(data)

    def _put(self, data: bytes) -> None:
        if len(data) > self.peer.max_frame_bytes + 4:
            raise WireError(
                f"a message of {len(data)} bytes is larger than {self.peer.name} takes "
                f"({self.peer.max_frame_bytes})",
                reason="size",
            )
        self.bytes_out += len(data)
        self._pipe.send(data)

    def _too_slow(self, what: str, timeout_s: float) -> LinkError:
        return LinkError(f"{self.peer.name} at {self.address} did not {what} within {timeout_s:g} s")

    # -- receiving

    async def recv(self, *, timeout_s: float | None = None) -> Frame:
        """Return the next message; a request carries `rid` in its header and waits for `reply` or `fail`.

        Without `timeout_s` it waits until a message comes or the link ends.
        """
        if not self._queue:
            if timeout_s is None:
                await self._until_received()
            else:
                try:
                    async with deadline(self._clock, timeout_s):
                        await self._until_received()
                except TimeoutError as error:
                    raise self._too_slow("send a message", timeout_s) from error
        frame = self._queue.popleft()
        self._used_up(self._door.kind(frame.type).size)
        return frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        """Yield messages until the link ends."""
        while True:
            try:
                frame = await self.recv()
            except LinkError:
                return
            yield frame

    def reject(self, reason: str) -> None:
        """Count a message of this peer as bad; too many of them end the link and ban the peer."""
        log.debug("peer %s: rejected, %s", self.peer.name, reason)
        if self._guard.reject(self.peer.device_id, reason):
            self.end("banned")

    async def _until_received(self) -> None:
        while not self._queue:
            if self.error is not None:
                raise self.error
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._receivers.append(future)
            try:
                await future
            finally:
                if (not future.done() or future.cancelled()) and future in self._receivers:
                    self._receivers.remove(
                        future
                    )  # it may be gone: the link ended, or was cancelled at that moment

    def _used_up(self, size: Size) -> None:
        if (count := self._credits.used_up(size)) and self.error is None:
            self._pipe.send(encode_hop(Credit(**{size.value: count})))

    # -- ending

    def end(self, reason: str) -> None:
        """End the link at once, telling the peer why; `close` also waits until it is gone."""
        if self.error is not None:
            return
        self._pipe.send(encode_hop(Bye(reason)))
        self._finish(
            refusal(reason, self.peer.name) if reason != "closing" else LinkError("the link was closed here")
        )
        self._pipe.close()

    async def close(self, reason: str = "closing") -> None:
        """End the link and wait until its connection is gone."""
        self.end(reason)
        try:
            async with asyncio.timeout(self._settings.close_s):
                await self._gone.wait()
        except TimeoutError:
            self._pipe.abort()
            await self._gone.wait()

    def _finish(self, error: LinkError) -> None:
        if self.error is not None:
            return
        self.error = error
        for task in self._tasks:
            task.cancel()
        for asked in self._pending.values():
            if not asked.reply.done():
                asked.reply.set_exception(error)
        self._credits.wake_all()
        receivers, self._receivers = self._receivers, deque()
        for waiting in receivers:
            if not waiting.done():
                waiting.set_result(None)
        self._on_closed(self)

    # -- what the pipe calls

    def established(self, certificate: bytes | None) -> None:
        """Never called: a link begins after that."""

    def closed(self, error: Exception | None) -> None:
        """The connection is gone."""
        why = f": {error}" if error is not None else ""
        self._finish(LinkError(f"the connection to {self.peer.name} at {self.address} broke{why}"))
        self._gone.set()

    def bytes_received(self, count: int) -> None:
        """Note that the peer lives, and slow it down if it sends faster than it may."""
        self.bytes_in += count
        self._heard_s = now_s = self._clock.monotonic()
        rate = self._settings.max_bytes_per_s
        if rate is None:
            return
        refill = self._allowance + (now_s - self._allowance_s) * rate
        self._allowance = min(refill, self._settings.burst_bytes) - count
        self._allowance_s = now_s
        if self._allowance < 0:
            self._pipe.hold()
            self._spawn(self._resume(-self._allowance / rate))

    def frame_broken(self, error: WireError) -> None:
        """Count a bad frame; tell who waits for it; end the link if the stream lost its frame borders."""
        header = self._pipe.decoder.refused
        self.reject(error.reason)
        if self._pipe.decoder.is_fatal:
            log.info("peer %s at %s: %s", self.peer.name, self.address, error)
            self.end("garbage")
            return
        asked = self._pending.get(header.get("re", 0))
        if asked is not None and not asked.reply.done():
            asked.reply.set_exception(refusal("garbage", self.peer.name, detail=str(error)))
        elif "rid" in header and self.error is None and not self._pipe.is_clogged:
            self._pipe.send(encode_hop(Fail("garbage"), re=header["rid"]))

    def frame_received(self, frame: Frame) -> None:
        """Sort a frame: the link's own, a reply, or one for the owner of the link."""
        if self.error is not None:
            return
        kind = self._door.kind(frame.type)
        if kind.role is Role.LINK:
            self._own_message(frame)
        elif "re" in frame.header:
            self._reply_received(frame)
        elif kind.role is Role.REPLY or (kind.role is Role.REQUEST and "rid" not in frame.header):
            self.reject("header")  # an answer to nothing, or a question that cannot be answered
        else:
            self._message_received(frame, kind.size)

    def _message_received(self, frame: Frame, size: Size) -> None:
        try:
            self._credits.received(size)
        except WireError as error:
            self.reject(error.reason)
            self.end("credit")
            return
        if frame.is_authored:
            try:
                self._replay.accept(frame)
            except WireError as error:
                self.dropped[error.reason] += 1
                self._used_up(size)
                return
        self._queue.append(frame)
        while self._receivers:
            future = self._receivers.popleft()
            if not future.done():
                future.set_result(None)
                break

    def _reply_received(self, frame: Frame) -> None:
        asked = self._pending.get(frame.header["re"])
        if asked is None or asked.reply.done():
            if frame.header["re"] > self._last_rid:
                self.reject("order")  # never asked for; a reply that comes too late is dropped silently
        elif asked.answers and frame.type not in (*asked.answers, "fail"):
            self.reject("type")  # the request waits on: its time is bounded
        else:
            asked.reply.set_result(frame)

    def _own_message(self, frame: Frame) -> None:
        match frame.body:
            case Ping(clock=minutes):
                self._clock_heard(minutes)
                if not self._pipe.is_clogged:  # who does not read gets no answers
                    self._pipe.send(encode_hop(Pong(self._minutes())))
            case Pong(clock=minutes):
                self._clock_heard(minutes)
                if self._ping_s is not None:
                    self.rtt_s, self._ping_s = self._clock.monotonic() - self._ping_s, None
            case Bye(reason=reason):
                self._finish(refusal(heard_reason(reason), self.peer.name, by_peer=True))
                self._pipe.close()
            case Credit(data=data, control=control):
                self._credits.granted(Size.DATA, data)
                self._credits.granted(Size.CONTROL, control)

    def _minutes(self) -> int:
        """Return our wall clock as a hint for the peer's doctor; nothing is ever ordered or judged by it."""
        return min(max(int(self._clock.time() // 60), 0), 0xFFFFFFFF)

    def _clock_heard(self, minutes: int) -> None:
        self.clock_ahead_s = 60.0 * (minutes - self._minutes())

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resume(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._pipe.release()

    async def _heartbeat(self) -> None:
        settings = self._settings
        while True:
            await self._clock.sleep(settings.heartbeat_s)
            silence_s = self._clock.monotonic() - self._heard_s
            if silence_s >= settings.silence_s:
                self.end("timeout")
                return
            self._pipe.decoder.trim()
            if silence_s >= settings.heartbeat_s and not self._pipe.is_clogged:
                self._ping_s = self._clock.monotonic()
                self._pipe.send(encode_hop(Ping(self._minutes())))
