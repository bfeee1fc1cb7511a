"""The inner loop of the i16 network: a job of dot products, four rows at a time, in C and in Thumb-1 assembler."""

from __future__ import annotations

__all__ = ["JOB", "dot_call", "dot_code"]

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

# What dot2 works on lies in the memory of the caller, not on the stack: NAME_job_t in the header.
JOB = """\
/* One call of the integer kernel. */
typedef struct {
  const uint32_t *w;    /* weights; a word serves two rows */
  const int32_t *x;     /* inputs, an even number */
  const int32_t *end;   /* behind the inputs */
  const uint32_t *from; /* where the sums of a tile start */
  uint32_t *y;
  uint32_t step;        /* bytes from one start to the next */
  uint32_t count;       /* tiles of four rows */
  uint32_t skip;        /* bytes between the weights of two tiles */
  uint32_t kept[4];     /* registers of the caller */
} @N@_job_t;
"""

_INNER_C = """\
FLOCKLET_NOINLINE static void dot2(@N@_job_t *job)
{
  const uint32_t *w = job->w;
  for (; job->count != 0u; job->count--) {
    const int32_t *p = job->x;
    const int32_t *const end = job->end;
    uint32_t s0 = job->from[0], h0 = job->from[1], s1 = job->from[2], h1 = job->from[3];
    while (p != end) {
      const uint32_t v = (uint32_t)*p++;
      const uint32_t a = w[0];
      const uint32_t b = w[1];
      s0 += a * v;
      h0 += (uint32_t)((int32_t)a >> 16) * v;
      s1 += b * v;
      h1 += (uint32_t)((int32_t)b >> 16) * v;
      w += 2;
    }
    job->y[0] = s0;
    job->y[1] = h0;
    job->y[2] = s1;
    job->y[3] = h1;
    job->y += 4;
    job->from += job->step / 4u;
    w += job->skip / 4u;
  }
}
"""


def dot_code(*, use_asm: bool) -> str:
    """Return the function that runs a job: assembler for cores with Thumb-1 only, C elsewhere; @N@ is the name."""
    if not use_asm:
        return _INNER_C
    text = "\n".join(f'      "{line}\\n"' for line in _JOB_ASM)
    return f"""\
#if defined(__GNUC__) && defined(__thumb__) && !defined(__thumb2__) && !defined(FLOCKLET_NO_ASM)
FLOCKLET_NOINLINE static void dot2(@N@_job_t *job)
{{
  register @N@_job_t *j __asm__("r0") = job;
  __asm__ volatile(
{text}
      : "+r"(j)
      :
      : "r1", "r2", "r3", "r4", "r5", "r6", "r12", "cc", "memory");
}}
#else
{_INNER_C}#endif
"""


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
