"""Prove a tree table: the same bits from an emulated core as from NumPy, and what the code costs there.

Rows are those of `proof.py`: "equal" only where the engine ran and every output has the bits of
`trees.predict`. Trees run in unicorn; QEMU is not used for them and gives a row that says so.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import FlockletError, MissingExtra
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.trees.trees import Trees
from flocklet.firmware_export.verify import unicorn_engine
from flocklet.firmware_export.verify.elf import read_elf
from flocklet.firmware_export.verify.harness import build_empty, start_text, write_link
from flocklet.firmware_export.verify.proof import Report, Row
from flocklet.firmware_export.verify.toolchain import (
    CORES,
    WARNINGS,
    available,
    compile_image,
    compile_object,
    version,
)
from flocklet.firmware_export.verify.unicorn_engine import Emulator

__all__ = ["verify_trees"]

F32: TypeAlias = npt.NDArray[np.float32]


def verify_trees(
    trees: Trees,
    directory: Path | str,
    *,
    name: str,
    x: F32,
    cores: Sequence[str] = ("cortex-m4",),
    cc: Sequence[str] = ("zig", "gcc"),
    flags: str = "-std=c99 -O2",
) -> Report:
    """Run the exported trees in `directory` on emulated cores for inputs x (n, n_in); return the report.

    The report is stored in manifest.json under `verification`. Raises `MissingExtra` without an emulator.
    """
    if not unicorn_engine.available():
        raise MissingExtra("unicorn", "firmware", "running the code on an emulated core")
    source = Path(directory)
    x = np.ascontiguousarray(x, np.float32)
    wanted = np.ascontiguousarray(trees.predict(x), np.float32)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="flocklet-trees-") as made:
        for core in cores:
            for compiler in cc:
                if not available(compiler):
                    rows.append(Row("-", core, compiler, flags, "not run", f"{compiler} is not installed"))
                elif compiler != "gcc" or CORES[core].gcc:
                    where = Path(made) / f"{core}-{compiler}"
                    where.mkdir()
                    try:
                        rows.append(_row(source, name, compiler, core, where, flags.split(), x, wanted))
                    except FlockletError as error:
                        rows.append(Row("unicorn", core, compiler, flags, "failed", str(error)))
    rows.append(Row("qemu", ", ".join(cores), "-", "-", "not run", "trees are run in unicorn only"))
    report = Report(name, "trees", hashlib.sha256(wanted.tobytes()).hexdigest(), tuple(rows))
    path = source / "manifest.json"
    manifest = json.loads(path.read_text()) | {"verification": report.to_json()}
    path.write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return report


def _row(
    source: Path, name: str, compiler: str, core_name: str, where: Path, flags: list[str], x: F32, wanted: F32
) -> Row:
    core = CORES[core_name]
    program, library, image_path = where / "start.c", where / "trees.o", where / "trees.elf"
    program.write_text(start_text(core) + named(fill("tree_driver.c.in"), name))
    code = source / f"{name}.c"
    printed = compile_object(compiler, core, [code], library, flags=[*flags, *WARNINGS], include=[source])
    warned = next((line for line in printed.splitlines() if "warning:" in line), "")
    script = write_link(core, where)
    compile_image(compiler, core, [program, code], image_path, script=script, flags=flags, include=[source])
    image = read_elf(image_path)
    empty = read_elf(build_empty(compiler, core, where / "empty", flags=flags)).flash_bytes
    emulator = Emulator(image, core)
    take, give = emulator.buffer(0), emulator.buffer(1)
    y = np.zeros_like(wanted)
    most = stack = 0
    for i, row in enumerate(x):
        emulator.write(take, row)
        call = emulator.call("drive_eval", take, give, count=i < 16, stack=i < 16)
        most, stack = max(most, call.instructions), max(stack, call.stack_bytes)
        y[i] = emulator.read(give, "<f4", wanted.shape[1])
    static_ram = read_elf(library).ram_bytes
    differ = int((y.view(np.uint32) != wanted.view(np.uint32)).sum())
    result, detail = ("different", f"{differ} of {y.size} outputs differ") if differ else ("equal", "")
    if warned or static_ram:
        result, detail = "failed", warned or f"{static_ram} bytes of static RAM"
    return Row(
        "unicorn", core_name, f"{compiler}: {version(compiler)}", " ".join(flags), result, detail,
        hashlib.sha256(y.tobytes()).hexdigest(), eval_instructions=most, stack_bytes=stack,
        flash_eval=image.flash_bytes - empty, static_ram=static_ram,
    )  # fmt: skip
