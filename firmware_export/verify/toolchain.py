"""Compile the generated C: which compilers are here, and how each is called for each core.

Two cross compilers are known: `ziglang` from PyPI (the default; pip is enough) and Debian's `gcc-arm-none-
eabi` (the reference compiler). The host compiler is whatever `cc` is. Nothing here runs the result.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from flocklet.errors import MissingExtra, VerificationError

__all__ = [
    "CORES",
    "WARNINGS",
    "Core",
    "available",
    "compile_image",
    "compile_object",
    "run_compiler",
    "version",
]

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wdouble-promotion",
    "-Wshadow",
    "-Wcast-qual",
    "-Wundef",
    "-Wmissing-braces",
]
_ZIG_FLAGS = [
    "-g0",
    "-ffp-contract=off",
    "-fno-sanitize=undefined",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
]
_PROGRAMS = {"host": "cc", "gcc": "arm-none-eabi-gcc"}
_SECTIONS = ["-ffunction-sections", "-fdata-sections"]


@dataclass(frozen=True)
class Core:
    """Name a core: compiler flags, the memory of the test image and how the emulators call it."""

    name: str
    gcc: tuple[str, ...]
    zig: tuple[str, ...]
    has_fpu: bool
    flash: int
    ram: int
    ram_bytes: int
    machine: str = ""
    mhz: int = 0


def _core(
    name: str, gcc: str, zig: str, has_fpu: bool, where: tuple[int, int, int], machine: str, mhz: int
) -> Core:
    return Core(name, tuple(gcc.split()), tuple(zig.split()), has_fpu, *where, machine, mhz)


_THUMB = "-target thumb-freestanding-eabi"
CORES = {
    core.name: core
    for core in (
        _core(
            "cortex-m4",
            "-mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16",
            f"{_THUMB}hf -mcpu=cortex_m4+vfp4d16sp",
            True,
            (0x08000000, 0x20000000, 0x20000),
            "netduinoplus2",
            168,
        ),
        _core(
            "cortex-m7",
            "-mthumb -mcpu=cortex-m7 -mfloat-abi=hard -mfpu=fpv5-d16",
            f"{_THUMB}hf -mcpu=cortex_m7+fp_armv8d16sp",
            True,
            (0x00000000, 0x20000000, 0x20000),
            "mps2-an500",
            25,
        ),
        _core(
            "cortex-m33",
            "-mthumb -mcpu=cortex-m33 -mfloat-abi=hard -mfpu=fpv5-sp-d16",
            f"{_THUMB}hf -mcpu=cortex_m33+fp_armv8d16sp",
            True,
            (0x10000000, 0x38000000, 0x20000),
            "mps2-an505",
            20,
        ),
        _core(
            "cortex-m0plus",
            "-mthumb -mcpu=cortex-m0plus",
            f"{_THUMB} -mcpu=cortex_m0plus",
            False,
            (0x00000000, 0x20000000, 0x4000),
            "microbit",
            16,
        ),
        _core(
            "rv32imc",
            "",
            "-target riscv32-freestanding -mcpu=generic_rv32+m+c",
            False,
            (0x08000000, 0x20000000, 0x20000),
            "",
            0,
        ),
    )
}


def _command(compiler: str) -> list[str]:
    if compiler == "zig":
        if importlib.util.find_spec("ziglang") is None:
            raise MissingExtra("ziglang", "firmware", "cross-compiling for microcontrollers")
        return [sys.executable, "-m", "ziglang", "cc"]
    name = _PROGRAMS.get(compiler, compiler)
    found = shutil.which(name)
    if found is None:
        raise VerificationError(
            f"the compiler '{name}' is not installed", remedy=f"install {name}, or use --cc zig"
        )
    return [found]


def available(compiler: str) -> bool:
    """Return whether 'zig', 'gcc' (ARM), 'host' or a compiler by the name of its program can be called here."""
    if compiler == "zig":
        return importlib.util.find_spec("ziglang") is not None
    return shutil.which(_PROGRAMS.get(compiler, compiler)) is not None


def _environment() -> dict[str, str]:
    cache = Path(
        os.environ.get("FLOCKLET_ZIG_CACHE", Path(tempfile.gettempdir()) / f"flocklet-zig-{os.getuid()}")
    )
    return {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache), **os.environ}


def run_compiler(compiler: str, arguments: list[str], *, cwd: Path, timeout_s: float = 300) -> str:
    """Call a compiler; return what it printed, or raise `VerificationError` with its first complaint."""
    command = [*_command(compiler), *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            command,
            cwd=cwd,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"the compiler '{compiler}' took more than {timeout_s:g} s") from error
    printed = done.stdout + done.stderr
    if done.returncode:
        lines = [line for line in printed.splitlines() if "error" in line or "undefined" in line]
        raise VerificationError(
            f"'{compiler}' refused the code: {(lines or printed.splitlines() or ['no message'])[0]}"
        )
    return printed


@functools.cache
def version(compiler: str) -> str:
    """Return the version line of a compiler."""
    lines = run_compiler(compiler, ["--version"], cwd=Path.cwd()).splitlines()
    return lines[0] if lines else "unknown"


def _flags(compiler: str, core: Core | None) -> list[str]:
    if compiler == "host" or core is None:
        return []
    flags = core.zig if compiler == "zig" else core.gcc
    if not flags:
        raise VerificationError(
            f"the compiler '{compiler}' cannot compile for {core.name}", remedy="use --cc zig"
        )
    return [*flags, *(_ZIG_FLAGS if compiler == "zig" else [])]


def _symbols(compiler: str, flags: list[str]) -> list[str]:
    """Return what keeps zig from stripping the symbols that an emulator needs: it does so at -Os and -Oz."""
    return ["-g"] if compiler == "zig" and {"-Os", "-Oz"} & set(flags) else []


def compile_object(
    compiler: str,
    core: Core | None,
    sources: list[Path],
    output: Path,
    *,
    flags: list[str],
    include: list[Path],
) -> str:
    """Compile one source to an object file; return what the compiler printed (warnings)."""
    where = [item for path in include for item in ("-I", str(path))]
    arguments = [
        *_flags(compiler, core),
        *flags,
        *_SECTIONS,
        *where,
        "-c",
        *map(str, sources),
        "-o",
        str(output),
    ]
    return run_compiler(compiler, arguments, cwd=output.parent)


def compile_image(
    compiler: str,
    core: Core,
    sources: list[Path],
    output: Path,
    *,
    script: Path,
    flags: list[str],
    include: list[Path],
    libraries: list[str] | None = None,
) -> str:
    """Link a freestanding image for a core with a linker script; return what the compiler printed."""
    where = [item for path in include for item in ("-I", str(path))]
    link = ["-Wl,--gc-sections", "-Wl,-e,reset_handler", "-Wl,-u,reset_handler", "-T", str(script)]
    if compiler == "gcc":
        bare = ["-nostdlib"] if libraries is None else ["-nostartfiles"]
        link = [*bare, *link, "-Wl,--no-warn-rwx-segments"]
    if libraries is None:
        libraries = ["-lgcc"] if compiler == "gcc" else []
    arguments = [
        *_flags(compiler, core),
        *flags,
        *_symbols(compiler, flags),
        *_SECTIONS,
        *link,
        *where,
        *map(str, sources),
        "-o",
        str(output),
    ]
    return run_compiler(compiler, [*arguments, *libraries], cwd=output.parent)
