"""The Unix socket between the verbs and a running peer: one msgpack request, one msgpack reply, same user only.

Frame: `u32 length (big-endian) | msgpack`. Request `{"verb": str, "args": map}`; reply `{"ok": value}` or
`{"error": {"message", "remedy", "exit_code"}}`. The socket lives in the home directory, mode 0600.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgpack

from flocklet.errors import ConfigError, FlockletError, LinkError
from flocklet.store.home import Home

__all__ = ["ControlServer", "Handler", "RemoteError", "ask"]

_log = logging.getLogger("flocklet.node")
_REQUEST_MAX_BYTES = 256 << 20  # a whole history may be imported in one request; the sender is our own user
_LENGTH = struct.Struct(">I")
_ODD_TEXT = (
    "surrogatepass"  # names of files are bytes, and some are no UTF-8: Python holds those as halves of pairs
)

Handler = Callable[[str, Mapping[str, Any]], Awaitable[Any]]


class RemoteError(FlockletError):
    """Carry an error of the running peer, with its remedy and exit code, to the verb that asked."""

    def __init__(self, message: str, remedy: str, exit_code: int) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = exit_code


def ask(home: Home, verb: str, args: Mapping[str, Any], *, timeout_s: float = 600.0) -> Any:
    """Ask the peer that runs in `home` and return its answer.

    Raises:
        FileNotFoundError: no peer is running there.
        RemoteError: the peer reports an error.
        LinkError: the peer does not answer in time or breaks off.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(timeout_s)
        try:
            channel.connect(os.fspath(home.socket))
        except ConnectionRefusedError as error:  # a socket file that a killed peer left behind
            raise FileNotFoundError(home.socket) from error
        except PermissionError as error:
            raise ConfigError(f"the peer in {home.path} belongs to another user") from error
        try:
            body = msgpack.packb({"verb": verb, "args": dict(args)}, unicode_errors=_ODD_TEXT)
            channel.sendall(_LENGTH.pack(len(body)) + body)
            (length,) = _LENGTH.unpack(_receive(channel, _LENGTH.size))
            reply = msgpack.unpackb(_receive(channel, length), strict_map_key=False, unicode_errors=_ODD_TEXT)
        except TimeoutError as error:
            raise LinkError(f"the running peer did not answer '{verb}' within {timeout_s:.0f} s") from error
        except (OSError, ValueError) as error:
            raise LinkError(f"the running peer broke off while answering '{verb}'") from error
    if "error" in reply:
        failure = reply["error"]
        raise RemoteError(failure["message"], failure["remedy"], failure["exit_code"])
    return reply["ok"]


def _receive(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = channel.recv(min(1 << 20, size - len(parts)))
        if not part:
            raise ConnectionResetError("the peer closed the control socket")
        parts += part
    return bytes(parts)


class ControlServer:
    """Serve the verbs of the user who started the peer."""

    def __init__(self, home: Home, handler: Handler) -> None:
        self._home = home
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; the caller holds the lock of the home, so a socket that is there is a dead one."""
        await asyncio.to_thread(self._clear)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, os.fspath(self._home.socket))
        except OSError as error:
            raise ConfigError(
                f"cannot make the control socket {self._home.socket}: {error.strerror}"
            ) from error
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Stop listening, let nobody wait, and remove the socket."""
        if self._server is not None:
            self._server.close()
            for task in list(self._busy):
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None
            await asyncio.to_thread(self._clear)

    def _clear(self) -> None:
        """Have a directory for the socket and no socket in it."""
        self._home.socket_directory()
        self._home.socket.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this callback as a task
        self._busy.add(task)
        try:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if length > _REQUEST_MAX_BYTES:
                raise ValueError(f"request of {length} bytes")
            request = msgpack.unpackb(
                await reader.readexactly(length), strict_map_key=False, unicode_errors=_ODD_TEXT
            )
            reply = await self._answer(request["verb"], request["args"])
            body = msgpack.packb(reply, unicode_errors=_ODD_TEXT)
            writer.write(_LENGTH.pack(len(body)) + body)
            await writer.drain()
        except (OSError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError) as error:
            _log.debug("a control request broke off: %s", error)
        finally:
            self._busy.discard(task)
            writer.close()

    async def _answer(self, verb: str, args: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"ok": await self._handler(verb, args)}
        except FlockletError as error:
            return {"error": {"message": str(error), "remedy": error.remedy, "exit_code": error.exit_code}}
        except UnicodeEncodeError as error:
            text = error.object[error.start : error.end].encode("ascii", "backslashreplace").decode()
            message = f"'{verb}' was given text that UTF-8 cannot hold: {text}"
            return {"error": {"message": message, "remedy": "type it anew", "exit_code": 2}}
        except Exception as error:  # a defect of ours must not take the peer down
            _log.exception("verb %s failed", verb)
            message = f"internal error in '{verb}': {type(error).__name__}: {error}"
            return {"error": {"message": message, "remedy": "see the log of 'flocklet up'", "exit_code": 1}}
