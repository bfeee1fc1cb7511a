"""Read files in a process of its own: `python -m flocklet.device.readers SOCKET CPU_S MEMORY_BYTES`.

Started by `flocklet.device.readers.process`; the socket is inherited, every file arrives as an open descriptor.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import replace

import msgpack

from flocklet.device.readers.door import LENGTH, End, pack_answer
from flocklet.device.readers.language import LanguageDetector
from flocklet.device.readers.reading import Budget, UnusableError
from flocklet.device.readers.registry import Member, Readers, Refusal
from flocklet.device.readers.sandbox import forbid_calls, limit_cpu, limit_process

__all__ = ["main"]

_PACE = 0.8  # of the CPU time: a reader returns with what it has


def main() -> None:
    """Serve until the other side closes the socket."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    cpu_s, memory_bytes = float(sys.argv[2]), int(sys.argv[3])
    limit_process(memory_bytes)
    forbid_calls()
    readers = Readers()
    languages = LanguageDetector()
    while (request := _next(channel)) is not None:
        name, start, descriptor = request
        limit_cpu(cpu_s)
        budget = Budget(start=start, deadline_s=time.process_time() + cpu_s * _PACE)
        resume = 0
        with os.fdopen(descriptor, "rb") as source:
            try:
                for answer in readers.read(source, name, budget):
                    if isinstance(answer, int):
                        resume = answer
                        continue
                    if isinstance(answer, Member):
                        resume = answer.reading.resume or resume
                        answer = replace(answer, reading=languages.told(answer.reading))
                    _send(channel, answer)
            except UnusableError as error:
                _send(channel, Refusal("", str(error), error.remedy))
            except MemoryError:
                _send(channel, Refusal("", f"needs more than {memory_bytes >> 20} MiB of memory to read"))
            except RecursionError:
                _send(channel, Refusal("", "is nested too deeply"))
            except OSError as error:
                _send(channel, Refusal("", (error.strerror or type(error).__name__).lower()))
        _send(channel, End(resume))


def _next(channel: socket.socket) -> tuple[str, int, int] | None:
    data, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, 1)
    while data and len(data) < LENGTH.size:
        data += channel.recv(LENGTH.size - len(data))
    if not data:
        return None
    (size,) = LENGTH.unpack(data)
    body = b""
    while len(body) < size:
        body += channel.recv(size - len(body))
    name, start = msgpack.unpackb(body)
    return name, start, descriptors[0]


def _send(channel: socket.socket, answer: Member | Refusal | End) -> None:
    body = pack_answer(answer)
    channel.sendall(LENGTH.pack(len(body)) + body)


if __name__ == "__main__":
    main()
