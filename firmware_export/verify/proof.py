"""Prove an export: the same bits from every compiler, core and engine that is here, and say which were not.

Each row of a report is one build on one engine. A row is "equal" only where the engine ran and its
outputs, its closed loop and its self-test agree bit for bit with the NumPy reference; else it is
"different", "failed" or "not run". An export is verified where at least one emulator row is equal and no
row is different or failed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import FlockletError, MissingExtra, VerificationError
from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.export import Artifact
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.verify import qemu_engine, unicorn_engine
from flocklet.firmware_export.verify.cycles import count_cycles
from flocklet.firmware_export.verify.elf import Image, read_elf
from flocklet.firmware_export.verify.expected import Expected, digest, expected_of, fuzz_records
from flocklet.firmware_export.verify.harness import build_empty, build_image, build_size, layout_of
from flocklet.firmware_export.verify.host import HostProgram, build_host
from flocklet.firmware_export.verify.toolchain import (
    CORES,
    WARNINGS,
    Core,
    available,
    compile_object,
    version,
)
from flocklet.firmware_export.verify.unicorn_engine import Emulator

__all__ = ["Report", "Row", "verify"]


@dataclass(frozen=True)
class Row:
    """Hold one build on one engine; numbers are 0 where they were not measured."""

    engine: str
    core: str
    compiler: str
    flags: str
    result: str
    detail: str = ""
    sha256: str = ""
    eval_instructions: int = 0
    step_instructions: int = 0
    step_cycles: int = 0
    stack_bytes: int = 0
    flash_eval: int = 0
    flash_step: int = 0
    static_ram: int = 0


@dataclass(frozen=True)
class Report:
    """Hold the rows of a verification and the digest that equal rows share."""

    name: str
    dtype: str
    sha256: str
    rows: tuple[Row, ...] = field(default_factory=tuple)

    @property
    def verified(self) -> bool:
        """Return whether an emulator ran and everything that ran was equal."""
        ran = [row for row in self.rows if row.result != "not run"]
        return all(row.result == "equal" for row in ran) and any(
            row.engine in {"unicorn", "qemu"} for row in ran
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "sha256": self.sha256,
            "verified": self.verified,
            "rows": [asdict(row) for row in self.rows],
        }


def _host_row(plan: Plan, source: Path, where: Path, expected: Expected, fuzz: int) -> Row:
    program = build_host(plan, source, where)
    label = ("host", "this machine", "cc", "-std=c99 -O1 -fsanitize=address,undefined")
    result, detail, sha = _compare_host(program, expected)
    if result == "equal" and fuzz:
        records, hostile = fuzz_records(plan, np.random.default_rng(1), fuzz)
        words, _ = program.run(records, is_step=True)
        low, high, _ = plan.action.bounds(plan.network.n_out)
        action, status = np.ascontiguousarray(words[:, :-1]).view(np.float32), words[:, -1]
        if not (np.isfinite(action).all() and (action >= low).all() and (action <= high).all()):
            result, detail = "failed", "an action left its limits for a hostile input"
        elif not (status[hostile] != 0).all():
            result, detail = "failed", "a hostile input set no status bit"
        else:
            detail = f"{fuzz} hostile inputs: actions finite and in range, status set"
    return Row(*label, result, detail, sha)


def _compare_host(program: HostProgram, expected: Expected) -> tuple[str, str, str]:
    y, good = program.run(expected.x.view(np.uint32), is_step=False)
    steps, _ = program.run(expected.records, is_step=True)
    return _judge(y, steps, good, expected)


def _judge(
    y: npt.NDArray[Any], steps: npt.NDArray[Any], selftest: int, expected: Expected
) -> tuple[str, str, str]:
    sha = digest(y, steps)
    if not np.array_equal(y, expected.y.view(np.uint32)):
        return (
            "different",
            f"{int((y != expected.y.view(np.uint32)).sum())} of {y.size} network outputs differ",
            sha,
        )
    if not np.array_equal(steps, expected.step_words):
        first = int(np.flatnonzero((steps != expected.step_words).any(axis=1))[0])
        return "different", f"the closed loop differs from step {first}", sha
    if selftest:
        return "failed", f"the self-test returned {selftest}", sha
    return "equal", "", sha


def run_unicorn(plan: Plan, image: Image, core: Core, expected: Expected) -> tuple[str, str, str, Emulator]:
    """Run outputs, closed loop and self-test of an image in unicorn.

    Return (result, detail, digest, emulator).
    """
    emulator = Emulator(image, core)
    layout = layout_of(plan)
    source, target = emulator.buffer(0), emulator.buffer(1)
    y = np.zeros((len(expected.x), layout.eval_out), np.uint32)
    for i, x in enumerate(expected.x):
        emulator.write(source, x)
        emulator.call("drive_eval", source, target)
        y[i] = emulator.read(target, "<u4", layout.eval_out)
    emulator.call("drive_reset")
    steps = np.zeros((len(expected.records), layout.step_out), np.uint32)
    for i, record in enumerate(expected.records):
        emulator.write(source, record)
        emulator.call("drive_step", source, target)
        steps[i] = emulator.read(target, "<u4", layout.step_out)
    emulator.call("drive_selftest")
    register = emulator.regs.UC_ARM_REG_R0 if emulator.is_arm else emulator.regs.UC_RISCV_REG_A0
    return (*_judge(y, steps, int(emulator.uc.reg_read(register)), expected), emulator)


def step_call(plan: Plan, emulator: Emulator, source: int, target: int, now_us: int) -> list[int]:
    """Return the word arguments of NAME_step by the procedure call standard of the core."""
    words = [emulator.image.symbol("state"), source]
    if layout_of(plan).step_in > plan.obs.state + 2:
        words.append(source + 4 * plan.obs.state)
    if has_time(plan):
        words += [0] if emulator.is_arm and len(words) % 2 else []
        words += [now_us & 0xFFFFFFFF, now_us >> 32]
    return [*words, target]


def measure(plan: Plan, emulator: Emulator, expected: Expected, *, cycles: bool) -> dict[str, int]:
    """Count instructions, stack and (M4) model cycles of NAME_eval and NAME_step.

    The worst of 16 and 20 calls.
    """
    source, target = emulator.buffer(0), emulator.buffer(1)
    worst = {"eval_instructions": 0, "step_instructions": 0, "step_cycles": 0, "stack_bytes": 0}
    for x in expected.x[:16]:
        emulator.write(source, x)
        call = emulator.call("drive_eval", source, target, count=True)
        worst["eval_instructions"] = max(worst["eval_instructions"], call.instructions)
    emulator.call("drive_reset")
    symbol = f"{plan.name}_step"
    for i, record in enumerate(expected.records[:20]):
        emulator.write(source, record)
        now = int(record[-2]) | int(record[-1]) << 32
        arguments = step_call(plan, emulator, source, target, now)
        call = emulator.call(symbol, *arguments, count=True, stack=True)
        worst["step_instructions"] = max(worst["step_instructions"], call.instructions)
        worst["stack_bytes"] = max(worst["stack_bytes"], call.stack_bytes)
        if cycles and 10 <= i < 10 + min(
            max(plan.obs.period, 1), 10
        ):  # the same record again, traced: state moves on, costs repeat with the period
            worst["step_cycles"] = max(worst["step_cycles"], count_cycles(emulator, symbol, *arguments).total)
    return worst


def _cross_rows(
    plan: Plan, source: Path, where: Path, core: Core, compiler: str, flags: list[str],
    engines: Sequence[str],
    expected: Expected, *, counts: bool,
) -> list[Row]:  # fmt: skip
    label = (core.name, f"{compiler}: {version(compiler)}", " ".join(flags))
    library = where / "policy.o"
    with ThreadPoolExecutor(4) as pool:  # each is a process of its own: they run beside each other
        warn = pool.submit(
            compile_object, compiler, core, [source / f"{plan.name}.c"], library,
            flags=[*flags, *WARNINGS], include=[source],
        )  # fmt: skip
        sizes: dict[str, Future[Path]] = {}
        if counts and "unicorn" in engines and unicorn_engine.available():
            sizes["empty"] = pool.submit(build_empty, compiler, core, where / "e", flags=flags)
            for what in ("eval", "step"):
                sizes[what] = pool.submit(
                    build_size, plan, source, compiler, core, where / what, flags=flags, what=what
                )
        image_path = build_image(plan, source, compiler, core, where, flags=flags)
        printed = warn.result()
    image = read_elf(image_path)
    rows = []
    warned = next((line for line in printed.splitlines() if "warning:" in line), "")
    static_ram = read_elf(library).ram_bytes
    for engine in engines:
        if engine == "unicorn":
            if not unicorn_engine.available():
                rows.append(Row(engine, *label, "not run", "the package unicorn is not installed"))
                continue
            result, detail, sha, emulator = run_unicorn(plan, image, core, expected)
            numbers: dict[str, Any] = {}
            if counts:
                numbers = measure(plan, emulator, expected, cycles=core.name == "cortex-m4")
                flash = {key: read_elf(made.result()).flash_bytes for key, made in sizes.items()}
                numbers |= {f"flash_{what}": flash[what] - flash["empty"] for what in ("eval", "step")}
            if warned or static_ram:
                result, detail = "failed", warned or f"{static_ram} bytes of static RAM"
            rows.append(Row(engine, *label, result, detail, sha, static_ram=static_ram, **numbers))
        elif not core.machine:
            rows.append(Row(engine, *label, "not run", f"QEMU has no board here for {core.name}"))
        elif not qemu_engine.available():
            rows.append(Row(engine, *label, "not run", "qemu-system-arm is not installed"))
        else:
            layout = layout_of(plan)
            y = qemu_engine.run_image(
                image_path, core, expected.x.view(np.uint32), layout.eval_out, where, is_step=False
            )
            steps = qemu_engine.run_image(
                image_path, core, expected.records, layout.step_out, where, is_step=True
            )
            result, detail, sha = _judge(y.output, steps.output, y.exit_code | steps.exit_code, expected)
            most = int(steps.instructions.max()) if counts else 0
            rows.append(
                Row(engine, *label, result, detail or "instructions by SysTick", sha, step_instructions=most)
            )
    return rows


def verify(
    artifact: Artifact,
    *,
    cores: Sequence[str] = ("cortex-m4",),
    engines: Sequence[str] = ("unicorn", "qemu"),
    cc: Sequence[str] = ("zig", "gcc"),
    flags: Sequence[str] = ("-std=c99 -O2",),
    host: bool = True,
    fuzz: int = 2000,
    counts: bool = True,
    vectors: int = 64,
) -> Report:
    """Build and run an export everywhere it can be; return the report and store it in the manifest.

    Compilers and engines that are not installed give rows "not run". Raises `MissingExtra` where nothing
    can run.
    """
    plan, source = artifact.plan, artifact.directory
    expected = expected_of(plan, vectors=vectors)
    rows: list[Row] = []
    if not any(available(compiler) for compiler in cc):
        raise MissingExtra("ziglang", "firmware", "cross-compiling for microcontrollers")
    if engines and not (unicorn_engine.available() or (qemu_engine.available() and "qemu" in engines)):
        raise MissingExtra("unicorn", "firmware", "running the code on an emulated core")
    with tempfile.TemporaryDirectory(prefix="flocklet-verify-") as made, ThreadPoolExecutor(1) as beside:
        here: Future[list[Row]] | None = None
        if host:
            if available("host"):
                here = beside.submit(
                    _attempt,
                    lambda: [_host_row(plan, source, Path(made) / "host", expected, fuzz)],
                    "host", "this machine", "cc",
                )  # fmt: skip
            else:
                rows.append(Row("host", "this machine", "cc", "", "not run", "no host compiler 'cc'"))
        for name in cores:
            if name not in CORES:
                raise VerificationError(f"the core '{name}' is unknown", remedy=f"known: {', '.join(CORES)}")
            core = CORES[name]
            for compiler in cc:
                if not available(compiler):
                    rows.append(
                        Row("-", name, compiler, "", "not run", f"the compiler {compiler} is not installed")
                    )
                    continue
                if compiler == "gcc" and not core.gcc:
                    continue
                for line in flags:
                    where = Path(made) / f"{name}-{compiler}-{len(rows)}"
                    where.mkdir()
                    rows += _attempt(
                        lambda w=where, c=core, k=compiler, f=line: _cross_rows(
                            plan, source, w, c, k, f.split(), engines, expected, counts=counts
                        ),
                        "-", name, compiler,
                    )  # fmt: skip
        rows = [*(here.result() if here else []), *rows]
    report = Report(plan.name, plan.dtype, expected.sha256, tuple(rows))
    _store(artifact, report)
    return report


def _attempt(work: Any, engine: str, core: str, compiler: str) -> list[Row]:
    try:
        return list(work())
    except FlockletError as error:
        return [Row(engine, core, compiler, "", "failed", str(error))]


def _store(artifact: Artifact, report: Report) -> None:
    """Write the rows that ran into the manifest, with what was not run beside them."""
    artifact.manifest["verified"] = report.to_json()["rows"] if report.verified else []
    artifact.manifest["verification"] = report.to_json()
    path = artifact.directory / "manifest.json"
    path.write_text(json.dumps(artifact.manifest, indent=2, sort_keys=True) + "\n")
