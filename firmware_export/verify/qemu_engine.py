"""Run an image from reset in `qemu-system-arm`: the second, independent engine.

The image boots through its vector table, enables the FPU, reads `in.bin` and writes `out.bin` by
semihosting. With `-icount shift=0` one instruction takes 1 ns of virtual time, so SysTick counts
instructions to within a few.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import VerificationError
from flocklet.firmware_export.verify.toolchain import Core

__all__ = ["Run", "available", "run_image", "version"]

_TOOL = "qemu-system-arm"


@dataclass(frozen=True)
class Run:
    """Hold what an image wrote: output words (n, words) uint32, instructions per call (n,), its exit code."""

    output: npt.NDArray[np.uint32]
    instructions: npt.NDArray[np.float64]
    exit_code: int
    printed: str


def available() -> bool:
    """Return whether QEMU for ARM is installed."""
    return shutil.which(_TOOL) is not None


def version() -> str:
    """Return the version of QEMU."""
    done = subprocess.run([_TOOL, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    found = re.search(r"version (\S+)", done.stdout)
    return found.group(1) if found else "unknown"


def run_image(
    image: Path,
    core: Core,
    records: npt.NDArray[Any],
    out_words: int,
    where: Path,
    *,
    is_step: bool,
    timeout_s: float = 60,
) -> Run:
    """Boot an image with input records (n, words); raise `VerificationError` where it faults or hangs.

    The exit code is 70 after a fault, else what the self-test returned.
    """
    if not available():
        raise VerificationError(
            f"{_TOOL} is not installed", remedy=f"install {_TOOL}, or leave out the engine qemu"
        )
    data = np.ascontiguousarray(records, "<u4")
    (where / "in.bin").write_bytes(struct.pack("<II", int(is_step), len(data)) + data.tobytes())
    for name in ("out.bin", "ticks.bin"):
        (where / name).unlink(missing_ok=True)
    command = [_TOOL, "-M", core.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", str(image)]
    try:
        done = subprocess.run(  # noqa: S603 - the arguments are ours
            command,
            cwd=where,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise VerificationError(f"the image hung in {_TOOL} ({core.machine})") from error
    printed = done.stdout + done.stderr
    if done.returncode == 70 or "FAULT" in printed:
        raise VerificationError(f"the image faulted in {_TOOL} ({core.machine})")
    output = np.fromfile(where / "out.bin", "<u4") if (where / "out.bin").exists() else np.zeros(0, "<u4")
    ticks = np.fromfile(where / "ticks.bin", "<u4") if (where / "ticks.bin").exists() else np.zeros(0, "<u4")
    if output.size != len(data) * out_words:
        raise VerificationError(
            f"the image wrote {output.size // max(out_words, 1)} of {len(data)} results in {_TOOL} "
            f"(exit code {done.returncode}): {printed.strip()[:200]}"
        )
    return Run(output.reshape(-1, out_words), ticks * (1e3 / core.mhz), done.returncode, printed)
