"""Find the C compilers of this machine and say with which flags each one builds kernels.

Order: `$FLOCKLET_CC`, clang, cc/gcc, `zig cc` from the extra `compiler`. Nothing is executed while searching:
a compiler is known by the path, size and time of its executable, so that a warm start costs a few `stat`
calls.

The mathematics flags are single ones on purpose: a library *linked* with `-ffast-math` switches the whole
process to flush-to-zero when it is loaded (gcc, and clang before 19), and every other library would silently
change its results.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = [
    "MATH_FLAGS",
    "Compiler",
    "cpu_features",
    "cpu_id",
    "cross_compiler",
    "find_compiler",
    "find_compilers",
]

MATH_FLAGS = (
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-freciprocal-math",
    "-ffp-contract=fast",
)
_CLANGS = ("clang", *(f"clang-{n}" for n in range(24, 13, -1)))
_GCCS = ("cc", "gcc")


@dataclass(frozen=True)
class Compiler:
    """One C compiler: how to call it, what family it is, and which processor it builds for.

    `target` is empty for this machine, else a cross target of `zig cc` such as `aarch64-linux-gnu`.
    """

    argv: tuple[str, ...]
    family: str
    target: str = ""
    cpu: str = "native"

    @property
    def name(self) -> str:
        """Return a short name for tables."""
        return " ".join([Path(self.argv[0]).name, *self.argv[1:2], *([self.target] if self.target else [])])

    @cached_property
    def identity(self) -> str:
        """Return text that changes when the executable, the flags or the processor change."""
        try:
            real = Path(self.argv[0]).resolve()
            status = real.stat()
            stamp = f"{real}:{status.st_size}:{status.st_mtime_ns}"
        except OSError:
            stamp = self.argv[0]
        chip = f"{self.target}:{self.cpu}" if self.target else cpu_id()
        return f"{stamp}|{' '.join(self.argv[1:])}|{' '.join(self.flags)}|{chip}"

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Return the flags that kernels are compiled with."""
        is_arm = self.target.startswith("aarch64") or (
            not self.target and platform.machine() in ("aarch64", "arm64")
        )
        flags = ["-std=gnu11", "-O3", "-fPIC", *MATH_FLAGS]
        if self.target:
            flags += ["-target", self.target]
        flags.append(f"-mcpu={self.cpu}" if is_arm else f"-march={self.cpu}")
        if not is_arm and not self.target and "avx512f" in cpu_features():
            flags.append("-mprefer-vector-width=512")
        if self.family == "zig":
            flags.append("-fno-sanitize=all")
        return tuple(flags)

    def command(self, source: Path, library: Path) -> list[str]:
        """Return the command line that builds `library` from `source`."""
        return self.link([source], library)

    def link(self, inputs: Sequence[Path], library: Path) -> list[str]:
        """Return the command line that makes `library` of C files or objects."""
        return [*self.argv, *self.flags, "-shared", *map(str, inputs), "-o", str(library), "-lm"]

    def compile(self, source: Path, target: Path) -> list[str]:
        """Return the command line that makes the object `target` of `source`."""
        return [*self.argv, *self.flags, "-c", str(source), "-o", str(target)]


def _family(executable: str, extra: list[str]) -> str:
    name = Path(executable).name
    if "zig" in name or "ziglang" in extra:
        return "zig"
    if "clang" in name:
        return "clang"
    try:  # 'cc' may be a link to clang (FreeBSD, macOS, some Debian set-ups)
        resolved = Path(executable).resolve().name
    except OSError:
        resolved = name
    return "clang" if "clang" in resolved or platform.system() == "Darwin" else "gcc"


def _zig() -> Path | None:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / ("zig.exe" if os.name == "nt" else "zig")
    return path if os.access(path, os.X_OK) else None


def find_compilers(environ: Mapping[str, str] | None = None) -> list[Compiler]:
    """Return every usable compiler, best first; `FLOCKLET_CC=none` means there is none."""
    env = os.environ if environ is None else environ
    wanted = env.get("FLOCKLET_CC", "").strip()
    if wanted.lower() == "none":
        return []
    found: list[Compiler] = []
    if wanted:
        argv = shlex.split(wanted)
        executable = shutil.which(argv[0], path=env.get("PATH"))
        if executable is not None:
            found.append(Compiler((executable, *argv[1:]), _family(executable, argv[1:])))
    for names in (_CLANGS, _GCCS):
        for name in names:
            executable = shutil.which(name, path=env.get("PATH"))
            if executable is not None:
                known = Compiler((executable,), _family(executable, []))
                found += [known] if known.argv not in [c.argv for c in found] else []
                break
    zig = _zig()
    if zig is not None:
        found.append(Compiler((str(zig), "cc"), "zig"))
    return found


def find_compiler(environ: Mapping[str, str] | None = None) -> Compiler | None:
    """Return the best compiler here, or None."""
    found = find_compilers(environ)
    return found[0] if found else None


def cross_compiler(target: str = "aarch64-linux-gnu", cpu: str = "cortex_a72") -> Compiler | None:
    """Return `zig cc` aimed at another machine, or None when the extra `compiler` is not installed."""
    zig = _zig()
    return None if zig is None else Compiler((str(zig), "cc"), "zig", target=target, cpu=cpu)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return ""


def cpu_features() -> frozenset[str]:
    """Return the features that the kernel reports for this processor; empty where it does not."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def cpu_id() -> str:
    """Return a short digest of the processor and its features: a library is never reused on another one."""
    info = _cpuinfo()
    keep = [
        line
        for line in info.splitlines()
        if re.match(r"(model name|flags|Features|CPU (part|implementer))", line)
    ]
    text = "\n".join([platform.machine(), platform.system(), *keep]) if keep else repr(platform.uname())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
