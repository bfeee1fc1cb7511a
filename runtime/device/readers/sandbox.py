"""Take from this process what a reader of files needs not: memory, CPU time, writing, the network, other programs.

Limits are those of setrlimit(2). On Linux a seccomp filter refuses, with EPERM, the system calls that open
sockets, start programs, trace or signal processes, and create, change or remove files (seccomp(2), prctl(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys

__all__ = ["forbid_calls", "limit_cpu", "limit_process"]

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | errno.EPERM
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# machine -> AUDIT_ARCH, refused calls, (open call, offset of its flags in seccomp_data)
_MACHINES = {
    "x86_64": (
        0xC000003E,
        (41, 42, 43, 49, 50, 53, 288, 57, 58, 59, 322, 62, 200, 234, 297, 101, 310, 311, 76, 77, 82, 83, 84, 85, 86, 87, 88,
         90, 91, 92, 93, 94, 133, 155, 165, 175, 188, 189, 258, 259, 260, 263, 264, 265, 266, 268, 316, 321, 425, 437),
        ((2, 24), (257, 32)),
    ),
    "aarch64": (
        0xC00000B7,
        (198, 200, 201, 202, 203, 199, 242, 221, 281, 129, 130, 131, 138, 240, 117, 270, 271, 45, 46, 33, 34, 35, 36, 37,
         38, 276, 52, 53, 54, 55, 5, 6, 40, 105, 280, 425, 437),
        ((56, 32),),
    ),
}  # fmt: skip


def limit_process(memory_bytes: int) -> None:
    """Bound the address space, and allow no written file, no core dump, and few open files."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))


def limit_cpu(seconds: float) -> None:
    """Let the system end this process (SIGXCPU) after `seconds` more of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def forbid_calls() -> bool:
    """Install the filter; return whether it could be."""
    machine = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or machine is None or struct.calcsize("P") != 8:
        return False
    architecture, calls, opens = machine
    program: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _EPERM),
    ]
    program.append((_LOAD, 0, 0, 0))
    for call in calls:
        program += [(_JUMP_EQUAL, 0, 1, call), (_RETURN, 0, 0, _EPERM)]
    for call, offset in opens:
        program += [
            (_JUMP_EQUAL, 0, 4, call),
            (_LOAD, 0, 0, offset),
            (_JUMP_SET, 0, 1, _WRITING),
            (_RETURN, 0, 0, _EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(program), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    filtered = ctypes.create_string_buffer(header, len(header))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0) == 0)
