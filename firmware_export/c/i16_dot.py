"""The inner loop of the i16 network: a job of dot products, four rows at a time, in C and in Thumb-1 assembler."""

from __future__ import annotations

from flocklet.firmware_export.c.template import fill

__all__ = ["dot_call", "dot_code"]

# Four sums live in r8-r11, which this text keeps in the job: gcc keeps them away from assembler at -Os.
_COLUMN = [
    "ldmia r1!, {r2}",
    "ldmia r6!, {r3, r4}",
    "asrs r5, r3, #16",
    "muls r3, r2, r3",
    "add r8, r8, r3",
    "muls r5, r2, r5",
    "add r9, r9, r5",
    "asrs r5, r4, #16",
    "muls r4, r2, r4",
    "add r10, r10, r4",
    "muls r5, r2, r5",
    "add r11, r11, r5",
]
_TO_HIGH = [f"mov r{8 + i}, r{2 + i}" for i in range(4)]
_TO_LOW = [f"mov r{2 + i}, r{8 + i}" for i in range(4)]
_JOB_ASM = [
    ".syntax unified",
    *_TO_LOW,
    "adds r0, r0, #32",
    "stmia r0!, {r2-r5}",
    "subs r0, r0, #48",
    "ldr r6, [r0]",
    "ldr r2, [r0, #8]",
    "mov r12, r2",
    "1:",
    "ldr r1, [r0, #12]",
    "ldmia r1!, {r2-r5}",
    *_TO_HIGH,
    "ldr r2, [r0, #12]",
    "ldr r3, [r0, #20]",
    "adds r2, r2, r3",
    "str r2, [r0, #12]",
    "ldr r1, [r0, #4]",
    "2:",
    *_COLUMN,
    *_COLUMN,
    "cmp r1, r12",
    "bne 2b",
    *_TO_LOW,
    "ldr r1, [r0, #16]",
    "stmia r1!, {r2-r5}",
    "str r1, [r0, #16]",
    "ldr r2, [r0, #28]",
    "adds r6, r6, r2",
    "ldr r2, [r0, #24]",
    "subs r2, r2, #1",
    "str r2, [r0, #24]",
    "bne 1b",
    "adds r0, r0, #32",
    "ldmia r0!, {r2-r5}",
    *_TO_HIGH,
]


def dot_code(*, use_asm: bool) -> str:
    """Return the function that runs a job: assembler for cores with Thumb-1 only, C elsewhere; @N@ is the name."""
    if not use_asm:
        return fill("dot2.c.in")
    text = "\n".join(f'      "{line}\\n"' for line in _JOB_ASM)
    return fill("dot2_asm.c.in", ASM=text, C=fill("dot2.c.in"))


def dot_call(scratch: str, w: str, x: str, n: str, y: str, count: int, **how: str) -> str:
    """Return the statements that fill the job and run it."""
    values = {
        "w": w,
        "x": x,
        "end": f"{x} + {n}",
        "from": "zero4",
        "y": y,
        "step": "0u",
        "count": f"{count}u",
    }
    values |= {"skip": "0u"} | {key.rstrip("_"): value for key, value in how.items()}
    lines = [f"{scratch}->job.{key} = {value};" for key, value in values.items()]
    return "\n".join([*lines, f"dot2(&{scratch}->job);"])
