"""Compile an export for this machine with sanitizers and run it: the first thing that a proof looks at.

With a cross compiler and an emulator of its processes (qemu-user) it does the same for another Linux machine.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import VerificationError
from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.verify.harness import driver_text, layout_of, record_marks
from flocklet.firmware_export.verify.toolchain import WARNINGS, run_compiler

__all__ = ["HostProgram", "build_host"]


class HostProgram:
    """Hold a compiled driver: `run` sends records through NAME_eval or NAME_step; `emulator` is what runs it."""

    def __init__(self, plan: Plan, program: Path, warnings: str, emulator: Sequence[str] = ()) -> None:
        self.plan = plan
        self.emulator = tuple(emulator)
        self.program = program
        self.warnings = warnings

    def run(self, records: npt.NDArray[Any], *, is_step: bool) -> tuple[npt.NDArray[np.uint32], int]:
        """Return the output words (n, words) and what the self-test returned."""
        layout = layout_of(self.plan)
        source, sink = self.program.with_suffix(".in"), self.program.with_suffix(".out")
        data = np.ascontiguousarray(records, "<u4")
        source.write_bytes(struct.pack("<II", int(is_step), len(data)) + data.tobytes())
        done = subprocess.run(  # noqa: S603 - our own program
            [*self.emulator, str(self.program), str(source), str(sink)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode > 3 or done.returncode < 0:
            lines = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[:2]
            raise VerificationError(f"the export failed on this machine: {' '.join(lines)}")
        words = layout.step_out if is_step else layout.eval_out
        return np.fromfile(sink, "<u4").reshape(-1, words), done.returncode


def build_host(
    plan: Plan,
    source: Path,
    where: Path,
    *,
    sanitize: bool = True,
    flags: tuple[str, ...] = ("-O1",),
    compiler: str = "host",
    emulator: Sequence[str] = (),
) -> HostProgram:
    """Compile the export in `source` with every warning on; raise `VerificationError` where there is one.

    `compiler` is one that `toolchain.available` knows, or the name of a program.
    """
    text = f'#include "{plan.name}.h"\n' + driver_text(plan).replace("__attribute__((used, noinline)) ", "")
    main = fill("host_main.c.in", **record_marks(layout_of(plan)))
    where.mkdir(parents=True, exist_ok=True)
    driver, program = where / "host.c", where / "host"
    driver.write_text(text + main)
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if sanitize else []
    library = where / "policy.o"
    warned = run_compiler(
        compiler,
        [
            "-std=c99",
            *flags,
            *WARNINGS,
            *checks,
            "-I",
            str(source),
            "-c",
            str(source / f"{plan.name}.c"),
            "-o",
            str(library),
        ],
        cwd=where,
    )
    if "warning:" in warned:
        line = next(item for item in warned.splitlines() if "warning:" in item)
        raise VerificationError(f"the compiler '{compiler}' warns: {line}")
    arguments = [
        "-std=c99",
        *flags,
        *checks,
        "-I",
        str(source),
        str(driver),
        str(library),
        "-o",
        str(program),
    ]
    run_compiler(compiler, arguments, cwd=where)
    return HostProgram(plan, program, warned, emulator)
