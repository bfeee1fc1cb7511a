"""Read the owner's files in a child process: what a file does to its reader does not reach the peer."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import msgpack

from flocklet.device.readers.door import LENGTH, MAX_ANSWER_BYTES, BrokenAnswerError, End, unpack_answer
from flocklet.device.readers.reading import MAX_CHARACTERS, Part
from flocklet.device.readers.registry import Member, Refusal

__all__ = ["ReaderLimits", "ReaderProcess"]

_RESUMED_MAX = 20


def _memory_bytes() -> int:
    """Return 512 MiB, on a small device a quarter of its memory."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(512 << 20, max(192 << 20, installed // 4))


@dataclass(frozen=True, slots=True)
class ReaderLimits:
    """What reading one file may cost: CPU and wall seconds, and bytes of address space (0: by the device)."""

    cpu_s: float = 10.0
    wall_s: float = 30.0
    memory_bytes: int = 0


class ReaderProcess:
    """Keep one child process for many files; it is started when needed and anew after it was killed."""

    def __init__(self, limits: ReaderLimits | None = None) -> None:
        self.limits = limits or ReaderLimits()
        self.started = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def read(self, descriptor: int, name: str) -> Iterator[Member | Refusal]:
        """Yield what the open file `descriptor` says and what lies inside of it, or the reason why not; never raise."""
        start = 0
        left = MAX_ANSWER_BYTES
        whole: Member | None = None  # a long document comes in several readings
        for _ in range(_RESUMED_MAX):
            resume = 0
            deadline_s = time.monotonic() + self.limits.wall_s
            try:
                self._ask(descriptor, name, start)
                while True:
                    body = self._receive(left, deadline_s)
                    left -= len(body)
                    answer = unpack_answer(body)
                    if isinstance(answer, End):
                        resume = answer.resume
                        break
                    if isinstance(answer, Member) and not answer.path:
                        whole = answer if whole is None else _appended(whole, answer)
                    else:
                        yield answer
            except (_GoneError, BrokenAnswerError) as error:
                self.close()
                if whole is None:
                    yield Refusal("", str(error))
                else:
                    whole = replace(whole, reading=replace(whole.reading, note=f"read in part: {error}"))
                break
            if not resume or resume <= start:
                break
            start = resume
        else:
            if whole is not None:
                whole = replace(whole, reading=replace(whole.reading, note="read in part: it is too long"))
        if whole is not None:
            yield whole

    def _ask(self, descriptor: int, name: str, start: int) -> None:
        body = msgpack.packb([name, start])
        for attempt in range(2):
            channel = self._running()
            try:
                socket.send_fds(channel, [LENGTH.pack(len(body))], [descriptor])
                channel.sendall(body)
                return
            except OSError:  # it was killed between two files
                self.close()
                if attempt:
                    raise _GoneError("its reader does not start") from None

    def _running(self) -> socket.socket:
        if self._channel is not None:
            return self._channel
        ours, theirs = socket.socketpair()
        memory = self.limits.memory_bytes or _memory_bytes()
        arguments = [str(theirs.fileno()), str(self.limits.cpu_s), str(memory)]
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, no shell
                [sys.executable, "-B", "-P", "-E", "-m", "flocklet.device.readers", *arguments],
                cwd="/",
                env={**kept, "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise _GoneError("its reader does not start") from None
        finally:
            theirs.close()
        self.started += 1
        self._channel = ours
        return ours

    def _receive(self, most: int, deadline_s: float) -> bytes:
        (size,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline_s))
        if size > most:
            raise _GoneError(f"has more than {MAX_ANSWER_BYTES >> 20} MiB of text")
        return self._exactly(size, deadline_s)

    def _exactly(self, size: int, deadline_s: float) -> bytes:
        channel = self._running()
        data = bytearray()
        while len(data) < size:
            channel.settimeout(max(deadline_s - time.monotonic(), 0.01))
            try:
                part = channel.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise _GoneError(f"took more than {self.limits.wall_s:.0f} s to read") from None
            except OSError:
                part = b""
            if not part:
                raise _GoneError(self._cause())
            data += part
        channel.settimeout(None)
        return bytes(data)

    def _cause(self) -> str:
        """Return why the child ended."""
        code: int | None = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(5)
        if code == -signal.SIGXCPU:
            return f"took more than {self.limits.cpu_s:.0f} s of CPU to read"
        if code is not None and code < 0:
            return f"its reader crashed ({signal.Signals(-code).name})"
        return "its reader failed"


class _GoneError(Exception):
    """The child is gone or must go."""


def _appended(whole: Member, more: Member) -> Member:
    """Return a reading with the next stretch of the same document behind it."""
    offset = len(whole.reading.text) + 1
    parts = tuple(Part(part.start + offset, part.label) for part in more.reading.parts)
    text = f"{whole.reading.text}\n{more.reading.text}"[:MAX_CHARACTERS]
    return replace(whole, reading=replace(whole.reading, text=text, parts=whole.reading.parts + parts))
