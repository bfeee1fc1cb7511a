"""TLS 1.3 and frames over one asyncio transport: the only way in which bytes leave or reach a link.

TLS runs on memory buffers (`ssl.MemoryBIO`), so the same code speaks over sockets and over the in-memory network of
the tests, there is no plain mode to fall back to, and a connection can be dropped at any moment of its handshake.
The server shows its self-made certificate; the client takes it as it is (`CERT_NONE`) and judges the key itself,
because what counts is the device id and not a chain or a clock. TLS session tickets are off.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import Protocol

from flocklet.errors import LinkError, WireError
from flocklet.identity.key import Identity
from flocklet.wire.frame import Decoder, Frame

__all__ = ["Pipe", "PipeHandler", "Turns", "client_context", "server_context"]

SCRATCH_BYTES = 128 * 1024
LINGER_S = 1.0
HANDSHAKE_COST = 16  # one unit is about 50 us of one core
AUTHOR_COST = 4
COST_SHIFT = 14  # one unit more per 16 KiB
ERROR_COST = 2


def client_context() -> ssl.SSLContext:
    """Return the TLS 1.3 context of a connecting peer; the server's key is judged by the handshake, not by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def server_context(identity: Identity, certificate: bytes) -> ssl.SSLContext:
    """Return the TLS 1.3 context that shows `certificate` (DER) and proves its key."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    pem = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem += ssl.DER_cert_to_PEM_cert(certificate).encode()
    # The standard library loads keys from files only: one in memory where the system has that, else one for us alone.
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("flocklet", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "key.pem"
            path.touch(0o600)
            path.write_bytes(pem)
            context.load_cert_chain(path)
    return context


class Turns:
    """Share one loop turn among all pipes, so that no flood of frames or handshakes holds the loop for long."""

    def __init__(self, units: int = 64) -> None:
        self._units = units
        self._left = units
        self._is_scheduled = False
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))  # received bytes, used up within the callback

    def spend(self, cost: int) -> bool:
        """Take `cost` from this turn; return False when it is used up: go on in the next turn."""
        self._left -= cost
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._renew)
        return self._left > 0

    @property
    def is_over(self) -> bool:
        """Whether this turn is used up."""
        return self._left <= 0

    def _renew(self) -> None:
        self._left = self._units
        self._is_scheduled = False


class PipeHandler(Protocol):
    """Who gets what a pipe receives; all calls come from the event loop."""

    def established(self, certificate: bytes | None) -> None:
        """TLS stands; `certificate` is the server's (DER), None on the server's side."""
        ...

    def frame_received(self, frame: Frame) -> None:
        """A whole, checked frame came in."""
        ...

    def frame_broken(self, error: WireError) -> None:
        """A bad frame was dropped; if `error` broke the frame borders (decoder.is_fatal), nothing more will come."""
        ...

    def bytes_received(self, count: int) -> None:
        """Bytes came in, whatever they hold."""
        ...

    def closed(self, error: Exception | None) -> None:
        """The connection is gone; the last call."""
        ...


class Pipe(asyncio.BufferedProtocol):
    """Frames in both directions over TLS 1.3; hand it to a transport as its protocol."""

    def __init__(
        self,
        context: ssl.SSLContext,
        decoder: Decoder,
        turns: Turns,
        handler: PipeHandler,
        *,
        is_server: bool,
    ) -> None:
        self.decoder = decoder
        self.handler = handler
        self.is_established = False
        self.is_closed = False
        self._is_server = is_server
        self._turns = turns
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_waiting = False  # for the next turn
        self._holds = 0  # reasons not to read
        self._is_clogged = False  # the transport asked us to stop writing
        self._drained: list[asyncio.Future[None]] = []
        self._abort_timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    # -- what the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start TLS."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        if self.is_closed:  # given up between accept and now
            transport.abort()
        elif not self._is_server:
            self._shake()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return memory for received bytes; it is shared, because `buffer_updated` uses them up."""
        return self._turns.scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take encrypted bytes."""
        if self.is_closed:
            return
        self.handler.bytes_received(nbytes)
        self._incoming.write(self._turns.scratch[:nbytes])
        if not self._is_waiting and not self._holds:
            self._work()

    def eof_received(self) -> bool | None:
        """Let the transport close: there are no half-open links."""
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, once."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self.is_closed = True
        self._transport = None
        self._wake()
        self.handler.closed(self._error or exc)

    def pause_writing(self) -> None:
        """Remember that the peer reads too slowly."""
        self._is_clogged = True

    def resume_writing(self) -> None:
        """Let senders go on."""
        self._is_clogged = False
        self._wake()

    # -- what a link calls

    @property
    def is_clogged(self) -> bool:
        """Whether the peer reads more slowly than we write."""
        return self._is_clogged

    @property
    def address(self) -> str:
        """Where the peer is, as text."""
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        if isinstance(name, tuple) and len(name) >= 2:
            return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
        return str(name or "a peer")

    def send(self, data: bytes) -> None:
        """Encrypt and send; never blocks. Await `drain` to follow the peer's pace."""
        if self.is_closed or not self.is_established or not data:
            return
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            self.abort(LinkError(f"TLS with {self.address} broke: {error.reason or error}"))
            return
        self._flush()

    async def drain(self) -> None:
        """Wait until the transport takes more bytes; returns at once if it does or if the pipe is closed."""
        if self._is_clogged and not self.is_closed:
            future: asyncio.Future[None] = self._loop.create_future()
            self._drained.append(future)
            await future

    def hold(self) -> None:
        """Stop reading until as many calls of `release`."""
        self._holds += 1
        self._pause()

    def release(self) -> None:
        """Read on."""
        self._holds -= 1
        if not self._holds and not self._is_waiting:
            self._next_turn()

    def close(self) -> None:
        """Send what is buffered and TLS' goodbye, then close; after a second, drop the rest."""
        if self.is_closed:
            return
        self.is_closed = True
        transport = self._transport
        if transport is None:
            return
        if self.is_established:
            with contextlib.suppress(ssl.SSLError):  # the peer's own goodbye has not come: not awaited
                self._tls.unwrap()
            if rest := self._outgoing.read():
                transport.write(rest)
        transport.close()
        self._abort_timer = self._loop.call_later(LINGER_S, transport.abort)

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection at once."""
        self._error = self._error or error
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    # -- inside

    def _wake(self) -> None:
        waiting, self._drained = self._drained, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _flush(self) -> None:
        data = self._outgoing.read()
        # A transport that has lost its peer logs every further write: a hostile peer could fill the log.
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _next_turn(self) -> None:
        self._is_waiting = True
        self._pause()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._is_waiting = False
        if self.is_closed or self._holds:
            return
        self._work()
        if not self._is_waiting and not self._holds and not self.is_closed and self._transport is not None:
            self._transport.resume_reading()

    def _work(self) -> None:
        if self._turns.is_over:
            self._next_turn()
            return
        if not self.is_established and not self._shake():
            return
        while not self.is_closed:
            if not self._drain_decoder():
                return
            try:
                # With a buffer SSLObject.read returns a count; typeshed knows only the form without.
                count: int = self._tls.read(SCRATCH_BYTES, self.decoder.room())  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                count = 0
            except ssl.SSLError as error:
                self.abort(LinkError(f"TLS with {self.address} broke: {error.reason or error}"))
                return
            if not count:
                self.close()
                return
            self.decoder.wrote(count)
        if self._outgoing.pending:
            self._flush()

    def _shake(self) -> bool:
        self._turns.spend(HANDSHAKE_COST)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            # No alert is sent: whoever does not speak TLS 1.3 learns nothing.
            self.abort(LinkError(f"{self.address} does not speak TLS 1.3 with us: {error.reason or error}"))
            return False
        self._flush()
        self.is_established = True
        self.handler.established(None if self._is_server else self._tls.getpeercert(True))
        return not self.is_closed

    def _drain_decoder(self) -> bool:
        """Hand out complete frames; return False if the rest has to wait or never comes."""
        decoder = self.decoder
        while not self.is_closed:
            before = decoder.buffered
            try:
                frame = decoder.next_frame()
            except WireError as error:
                self.handler.frame_broken(error)
                if decoder.is_fatal:
                    self.close()
                    return False
                cost = ERROR_COST + AUTHOR_COST
            else:
                if frame is None:
                    return True
                self.handler.frame_received(frame)
                cost = AUTHOR_COST if frame.raw else 1
            cost += (before - decoder.buffered) >> COST_SHIFT
            if not self._turns.spend(cost) or self._holds:
                if not self._holds:
                    self._next_turn()
                return False
        return False
