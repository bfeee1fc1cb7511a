"""Write the test image around an export: start-up code, linker script, and a driver for an emulator.

The image uses no C library. `drive_step` and `drive_eval` are what the emulator calls by symbol; from
reset the image reads `in.bin` through semihosting, runs, writes `out.bin` and `ticks.bin` and exits
(QEMU). A fault prints FAULT and exits with 70.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flocklet.firmware_export.c.step import has_time
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

_ARM_START = """\
extern uint32_t _stack_top, _data_load, _data, _data_end, _bss, _bss_end;
void reset_handler(void);
void fault_handler(void);
int image_main(void);
static uint32_t semihost(uint32_t op, const void *arg)
{
  register uint32_t r0 __asm__("r0") = op;
  register const void *r1 __asm__("r1") = arg;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
static void leave(uint32_t code)
{
  const uint32_t arg[2] = {0x20026u, code};
  (void)semihost(0x20u, arg);
  for (;;) {
  }
}
void fault_handler(void)
{
  (void)semihost(4u, "FAULT\\n");
  leave(70u);
}
__attribute__((section(".isr_vector"), used)) const void *const vectors[16] = {
    &_stack_top, (const void *)reset_handler, (const void *)fault_handler, (const void *)fault_handler,
    (const void *)fault_handler, (const void *)fault_handler, (const void *)fault_handler, 0, 0, 0, 0,
    (const void *)fault_handler, 0, 0, (const void *)fault_handler, (const void *)fault_handler};
__attribute__((used)) void reset_handler(void)
{
  volatile uint32_t *to = &_data;
  uint32_t *end = &_data_end;
  const uint32_t *from = &_data_load;
@FPU@
  /* Two symbols may share an address, which the compiler must not assume away. */
  __asm__ volatile("" : "+r"(to), "+r"(end));
  while (to != end) {
    *to++ = *from++;
  }
  to = &_bss;
  end = &_bss_end;
  __asm__ volatile("" : "+r"(to), "+r"(end));
  while (to != end) {
    *to++ = 0u;
  }
  leave((uint32_t)image_main());
}
"""

_FPU = """\
  *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20;
  __asm__ volatile("dsb\\nisb" ::: "memory");"""

_RISCV_START = """\
int image_main(void);
void reset_handler(void);
__attribute__((used)) void reset_handler(void)
{
  (void)image_main();
  for (;;) {
  }
}
"""

_FILES = """\
static uint32_t file_open(const char *name, uint32_t mode, uint32_t length)
{
  const uint32_t arg[3] = {(uint32_t)name, mode, length};
  return semihost(1u, arg);
}
static uint32_t file_move(uint32_t op, uint32_t fd, const void *data, uint32_t bytes)
{
  const uint32_t arg[3] = {fd, (uint32_t)data, bytes};
  return semihost(op, arg);
}
static uint32_t in[@IN@], out[@OUT@];
int image_main(void)
{
  uint32_t head[2], ticks, i;
  const uint32_t source = file_open("in.bin", 1u, 6u);
  const uint32_t sink = file_open("out.bin", 5u, 7u);
  const uint32_t clock = file_open("ticks.bin", 5u, 9u);
  if (source == 0xffffffffu || file_move(6u, source, head, 8u) != 0u) {
    return 71;
  }
  *(volatile uint32_t *)0xe000e014u = 0xffffffu;
  *(volatile uint32_t *)0xe000e018u = 0u;
  *(volatile uint32_t *)0xe000e010u = 5u;
  drive_reset();
  for (i = 0; i < head[1]; i++) {
    const uint32_t words = head[0] != 0u ? @STEPIN@u : @EVALIN@u;
    if (file_move(6u, source, in, 4u * words) != 0u) {
      return 72;
    }
    ticks = *(volatile uint32_t *)0xe000e018u;
    if (head[0] != 0u) {
      drive_step(in, out);
    } else {
      drive_eval(in, out);
    }
    ticks = (ticks - *(volatile uint32_t *)0xe000e018u) & 0xffffffu;
    (void)file_move(5u, sink, out, 4u * (head[0] != 0u ? @STEPOUT@u : @EVALOUT@u));
    (void)file_move(5u, clock, &ticks, 4u);
  }
  return (int)drive_selftest();
}
"""

_DRIVER = """\
static @N@_state_t state;
@MEMORY@
__attribute__((used, noinline)) void drive_reset(void)
{
  @N@_reset(&state, @N@_HISTORY_INIT);
}
__attribute__((used, noinline)) void drive_step(const uint32_t *in, uint32_t *out)
{
  const float *v = (const float *)(const void *)in;
  out[@ACTIONS@] = @N@_step(&state, v@PREVIOUS@@TIME@, (float *)(void *)out);
}
__attribute__((used, noinline)) void drive_eval(const uint32_t *in, uint32_t *out)
{
@CLEAR@  @N@_eval(&scratch@HIDDEN@, (const float *)(const void *)in, (float *)(void *)out);
}
__attribute__((used, noinline)) uint32_t drive_selftest(void)
{
  return @N@_selftest(&state);
}
"""


def driver_text(plan: Plan) -> str:
    """Return drive_reset, drive_step, drive_eval and drive_selftest, which take records of `layout_of`."""
    n, layout = plan.name, layout_of(plan)
    previous = layout.step_in - plan.obs.state - 2
    at = plan.obs.state + previous
    n_hidden = hidden_size(plan.network) if plan.integer is None else 0
    memory = f"static {n}_scratch_t scratch;\n" + (f"static float hidden[{n_hidden}];\n" if n_hidden else "")
    clear = (
        f"  uint32_t i;\n  for (i = 0; i < {n_hidden}u; i++) {{\n    hidden[i] = 0.0f;\n  }}\n"
        if n_hidden
        else ""
    )
    return (
        _DRIVER.replace("@N@", n)
        .replace("@ACTIONS@", str(plan.network.n_out))
        .replace("@PREVIOUS@", f", v + {plan.obs.state}" if previous else "")
        .replace("@TIME@", f", ((uint64_t)in[{at + 1}] << 32) | in[{at}]" if has_time(plan) else "")
        .replace("@MEMORY@", memory)
        .replace("@CLEAR@", clear)
        .replace("@HIDDEN@", ", hidden" if n_hidden else "")
    )


def start_text(core: Core) -> str:
    """Return the start-up code of a core: vectors, FPU, memory, semihosting."""
    if not core.machine:
        return "#include <stdint.h>\n" + _RISCV_START
    return "#include <stdint.h>\n" + _ARM_START.replace("@FPU@", _FPU if core.has_fpu else "")


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
        files = _FILES.replace("@IN@", str(max(layout.eval_in, layout.step_in)))
        files = files.replace("@OUT@", str(max(layout.eval_out, layout.step_out)))
        for key in ("step_in", "step_out", "eval_in", "eval_out"):
            files = files.replace(f"@{key.replace('_', '').upper()}@", str(getattr(layout, key)))
        text += files
    else:
        text += (
            "static volatile uint32_t which;\nstatic uint32_t in[1], out[1];\nint image_main(void)\n{\n"
            "  drive_reset();\n  if (which == 1u) {\n    drive_step(in, out);\n  } else if (which == 2u) {\n"
            "    drive_eval(in, out);\n  }\n  return (int)drive_selftest();\n}\n"
        )
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
