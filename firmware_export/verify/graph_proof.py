"""Prove a net's C: the same bits from this machine and from emulated cores as from the NumPy reference."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import FlockletError, MissingExtra, VerificationError
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.packages.graph_files import graph_inputs, load_graph
from flocklet.firmware_export.plan.graph_reference import run_graph
from flocklet.firmware_export.verify import unicorn_engine
from flocklet.firmware_export.verify.elf import read_elf
from flocklet.firmware_export.verify.harness import start_text, write_link
from flocklet.firmware_export.verify.proof import Report, Row
from flocklet.firmware_export.verify.toolchain import (
    CORES,
    WARNINGS,
    available,
    compile_image,
    compile_object,
    run_compiler,
    version,
)
from flocklet.firmware_export.verify.unicorn_engine import Emulator

__all__ = ["run_on_host", "verify_graph"]

F32: TypeAlias = npt.NDArray[np.float32]
_RAM_BYTES = 0x3C000  # of the 256 KiB that the emulator maps, less the stack


def run_on_host(directory: Path, name: str, where: Path, x: F32, n_out: int) -> F32:
    """Compile a net for this machine with sanitizers and every warning on, and run it on inputs (n, n_in)."""
    (where / "host.c").write_text(named(fill("graph_host.c.in"), name))
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    base = ["-std=c99", "-O1", *checks, "-I", str(directory)]
    printed = run_compiler(
        "host", [*base, *WARNINGS, "-c", str(directory / f"{name}.c"), "-o", str(where / "net.o")], cwd=where
    )
    if "warning:" in printed:
        raise VerificationError(f"the host compiler warns: {printed.splitlines()[0]}")
    run_compiler("host", [*base, "host.c", "net.o", "-o", "host"], cwd=where)
    (where / "in.bin").write_bytes(np.ascontiguousarray(x, "<f4").tobytes())
    done = subprocess.run(  # noqa: S603 - our own program
        [str(where / "host"), "in.bin", "out.bin"],
        cwd=where,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if done.returncode:
        raise VerificationError(
            f"the net failed on this machine: {(done.stderr.splitlines() or ['no message'])[0]}"
        )
    return np.fromfile(where / "out.bin", "<f4").reshape(-1, n_out)


def verify_graph(
    directory: Path,
    *,
    cores: Sequence[str] = ("cortex-m4",),
    cc: Sequence[str] = ("zig", "gcc"),
    flags: str = "-std=c99 -O2",
    vectors: int = 3,
    count: bool = True,
) -> Report:
    """Run an exported net on this machine and on emulated cores; the report also goes into the manifest."""
    if not unicorn_engine.available():
        raise MissingExtra("unicorn", "firmware", "running the code on an emulated core")
    name, graph = load_graph(directory)
    x = graph_inputs(graph, vectors, seed=1)
    wanted = run_graph(graph, x)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="flocklet-net-") as made:
        if available("host"):
            rows.append(
                _attempt(
                    "host", "this machine", "cc", Path(made), lambda w: _host(directory, name, w, x, wanted)
                )
            )
        for core in cores:
            for compiler in cc:
                if not available(compiler):
                    rows.append(Row("-", core, compiler, flags, "not run", f"{compiler} is not installed"))
                elif compiler != "gcc" or CORES[core].gcc:
                    where = Path(made) / f"{core}-{compiler}"
                    rows.append(
                        _attempt(
                            "unicorn",
                            core,
                            compiler,
                            where,
                            lambda w, c=core, k=compiler: _emulated(
                                directory, name, k, c, w, flags.split(), x, wanted, count
                            ),
                        )
                    )
    report = Report(name, "f32", hashlib.sha256(wanted.tobytes()).hexdigest(), tuple(rows))
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text()) | {"verification": report.to_json()}
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return report


def _attempt(engine: str, core: str, compiler: str, where: Path, work: Any) -> Row:
    where.mkdir(parents=True, exist_ok=True)
    try:
        row: Row = work(where)
    except FlockletError as error:
        return Row(engine, core, compiler, "", "failed", str(error))
    return row


def _judged(y: F32, wanted: F32) -> tuple[str, str, str]:
    differ = int((y.view(np.uint32) != wanted.view(np.uint32)).sum())
    sha = hashlib.sha256(np.ascontiguousarray(y, "<f4").tobytes()).hexdigest()
    return ("different", f"{differ} of {y.size} outputs differ", sha) if differ else ("equal", "", sha)


def _host(directory: Path, name: str, where: Path, x: F32, wanted: F32) -> Row:
    y = run_on_host(directory, name, where, x, wanted.shape[1])
    return Row("host", "this machine", "cc", "-std=c99 -O1 -fsanitize=address,undefined", *_judged(y, wanted))


def _emulated(
    directory: Path, name: str, compiler: str, core_name: str, where: Path, flags: list[str], x: F32, wanted: F32,
    count: bool,
) -> Row:  # fmt: skip
    core = replace(CORES[core_name], ram_bytes=_RAM_BYTES)
    program, library, image_path = where / "start.c", where / "net.o", where / "net.elf"
    program.write_text(start_text(core) + named(fill("graph_driver.c.in"), name))
    code = directory / f"{name}.c"
    printed = compile_object(compiler, core, [code], library, flags=[*flags, *WARNINGS], include=[directory])
    warned = next((line for line in printed.splitlines() if "warning:" in line), "")
    script = write_link(core, where)
    compile_image(
        compiler, core, [program, code], image_path, script=script, flags=flags, include=[directory]
    )
    image = read_elf(image_path)
    emulator = Emulator(image, core)
    take, give = emulator.buffer(0), emulator.buffer(8)
    y = np.zeros_like(wanted)
    most = stack = 0
    for i, row in enumerate(x):
        emulator.write(take, row)
        call = emulator.call("drive_eval", take, give, count=count and i == 0, stack=i == 0)
        most, stack = max(most, call.instructions), max(stack, call.stack_bytes)
        y[i] = emulator.read(give, "<f4", wanted.shape[1])
    static_ram = read_elf(library).ram_bytes
    result, detail, sha = _judged(y, wanted)
    if warned or static_ram:
        result, detail = "failed", warned or f"{static_ram} bytes of static RAM"
    return Row(
        "unicorn", core_name, f"{compiler}: {version(compiler)}", " ".join(flags), result, detail, sha,
        eval_instructions=most, stack_bytes=stack, flash_eval=image.flash_bytes, static_ram=static_ram,
    )  # fmt: skip
