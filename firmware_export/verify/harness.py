"""Write the test image around an export: start-up code, linker script, and a driver for an emulator.

The image uses no C library. `drive_step` and `drive_eval` are what the emulator calls by symbol; from
reset the image reads `in.bin` through semihosting, runs, writes `out.bin` and `ticks.bin` and exits
(QEMU). A fault prints FAULT and exits with 70.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flocklet.firmware_export.c.step import has_time
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import hidden_size
from flocklet.firmware_export.verify.toolchain import Core, compile_image

__all__ = [
    "Layout",
    "build_empty",
    "build_image",
    "build_size",
    "driver_text",
    "layout_of",
    "record_marks",
    "start_text",
    "write_link",
]


@dataclass(frozen=True)
class Layout:
    """Hold the words of one input record and one output record, for single calls and for control steps."""

    eval_in: int
    eval_out: int
    step_in: int
    step_out: int


def layout_of(plan: Plan) -> Layout:
    """Return the record sizes: step input is obs, previous action, time (2 words).

    Output is action and status.
    """
    net = plan.network
    previous = net.n_out if plan.obs.history and plan.obs.feed == "previous_action" else 0
    return Layout(net.n_in, net.n_out, plan.obs.state + previous + 2, net.n_out + 1)


_LINK = """\
MEMORY {{
  FLASH (rx) : ORIGIN = 0x{flash:08x}, LENGTH = 1M
  RAM (rwx) : ORIGIN = 0x{ram:08x}, LENGTH = 0x{size:x}
}}
_stack_top = ORIGIN(RAM) + LENGTH(RAM);
SECTIONS {{
  .text : {{
    KEEP(*(.isr_vector))
    *(.text .text.*)
    *(.rodata .rodata.* .srodata .srodata.*)
    . = ALIGN(4);
  }} > FLASH
  .ARM.exidx : {{ *(.ARM.exidx* .gnu.linkonce.armexidx.*) }} > FLASH
  _data_load = LOADADDR(.data);
  .data : {{ _data = .; *(.data .data.* .sdata .sdata.*) . = ALIGN(4); _data_end = .; }} > RAM AT > FLASH
  .bss (NOLOAD) : {{ _bss = .; *(.bss .bss.* .sbss .sbss.* COMMON) . = ALIGN(4); _bss_end = .; }} > RAM
  /DISCARD/ : {{ *(.comment .ARM.attributes .riscv.attributes .eh_frame* .note*) }}
}}
"""


def driver_text(plan: Plan) -> str:
    """Return drive_reset, drive_step, drive_eval and drive_selftest, which take records of `layout_of`."""
    n, layout = plan.name, layout_of(plan)
    previous = layout.step_in - plan.obs.state - 2
    at = plan.obs.state + previous
    n_hidden = hidden_size(plan.network) if plan.integer is None else 0
    memory = f"static {n}_scratch_t scratch;\n" + (f"static float hidden[{n_hidden}];\n" if n_hidden else "")
    clear = fill("driver_clear.c.in", COUNT=str(n_hidden)) if n_hidden else ""
    text = fill(
        "driver.c.in",
        ACTIONS=str(plan.network.n_out),
        PREVIOUS=f", v + {plan.obs.state}" if previous else "",
        TIME=f", ((uint64_t)in[{at + 1}] << 32) | in[{at}]" if has_time(plan) else "",
        MEMORY=memory,
        CLEAR=clear,
        HIDDEN=", hidden" if n_hidden else "",
    )
    return named(text, n)


def record_marks(layout: Layout) -> dict[str, str]:
    """Return the sizes of records as the marks of the programs that read and write them."""
    return {
        "IN": str(max(layout.eval_in, layout.step_in)),
        "OUT": str(max(layout.eval_out, layout.step_out)),
        "STEPIN": str(layout.step_in),
        "STEPOUT": str(layout.step_out),
        "EVALIN": str(layout.eval_in),
        "EVALOUT": str(layout.eval_out),
    }


def start_text(core: Core) -> str:
    """Return the start-up code of a core: vectors, FPU, memory, semihosting."""
    if not core.machine:
        return "#include <stdint.h>\n" + fill("riscv_start.c.in")
    return "#include <stdint.h>\n" + fill("arm_start.c.in", FPU=fill("arm_fpu.c.in") if core.has_fpu else "")


def write_link(core: Core, where: Path) -> Path:
    """Write the linker script of a core; return its path."""
    script = where / "link.ld"
    script.write_text(_LINK.format(flash=core.flash, ram=core.ram, size=core.ram_bytes))
    return script


def build_image(
    plan: Plan, source: Path, compiler: str, core: Core, where: Path, *, flags: list[str]
) -> Path:
    """Compile the export in `source` with driver and start-up code; return the path of the ELF image."""
    layout = layout_of(plan)
    text = start_text(core) + f'#include "{plan.name}.h"\n' + driver_text(plan)
    if core.machine:
        text += fill("semihost_files.c.in", **record_marks(layout))
    else:
        text += fill("riscv_main.c.in")
    return _link(text, [source / f"{plan.name}.c"], compiler, core, where, flags, source, "image")


def build_size(
    plan: Plan, source: Path, compiler: str, core: Core, where: Path, *, flags: list[str], what: str
) -> Path:
    """Link an image that only calls NAME_step and NAME_reset (what='step') or NAME_eval (what='eval')."""
    layout, n = layout_of(plan), plan.name
    previous = f", in + {plan.obs.state}" if layout.step_in > plan.obs.state + 2 else ""
    now = ", 2000u" if has_time(plan) else ""
    n_hidden = hidden_size(plan.network) if plan.integer is None else 0
    memory = {"step": f"{n}_state_t state;", "eval": f"{n}_scratch_t scratch;"}[what]
    memory += f"\nfloat hidden[{n_hidden}];" if n_hidden else ""
    body = {
        "step": f"{n}_reset(&state, {n}_HISTORY_INIT);\n  return (int){n}_step(&state, in{previous}{now}, out);",
        "eval": f"{n}_eval(&scratch{', hidden' if n_hidden else ''}, in, out);\n  return 0;",
    }[what]
    text = start_text(core) + f'#include "{n}.h"\n{memory}\n'
    text += (
        f"float in[{max(layout.eval_in, layout.step_in)}], out[{max(layout.eval_out, layout.step_out)}];\n"
    )
    text += f"int image_main(void)\n{{\n  {body}\n}}\n"
    return _link(text, [source / f"{plan.name}.c"], compiler, core, where, flags, source, f"size_{what}")


def build_empty(compiler: str, core: Core, where: Path, *, flags: list[str]) -> Path:
    """Link an image without any policy: what is subtracted from the others to get the cost of a policy."""
    text = (
        start_text(core)
        + "volatile uint32_t in[1], out[1];\nint image_main(void)\n{\n  out[0] = in[0];\n  return 0;\n}\n"
    )
    return _link(text, [], compiler, core, where, flags, where, "empty")


def _link(
    text: str,
    sources: list[Path],
    compiler: str,
    core: Core,
    where: Path,
    flags: list[str],
    include: Path,
    name: str,
) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    start = where / f"{name}_start.c"
    start.write_text(text)
    output = where / f"{name}.elf"
    script = write_link(core, where)
    compile_image(compiler, core, [start, *sources], output, script=script, flags=flags, include=[include])
    return output
