"""Write the kernels of the integer networks: sums of products, counts from floats, and the way back.

`dot4` adds four rows at a time, two inputs per word, with SMLAD where the core has it; `dense8h` multiplies floats by
16-bit weights. Integer sums are exact, so every core gives the same bits.
"""

from __future__ import annotations

from typing import Any

from flocklet.firmware_export.c.float import float_kernels
from flocklet.firmware_export.plan.field import tiles
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["is_bounded", "weight_kernels"]

_DOT_ARGUMENTS = """\
const @T@ *w, const uint32_t *x, const int32_t *from, uint32_t step,
                                   int32_t *y, uint32_t pairs, uint32_t count, uint32_t skip"""

_DOT_C = """\
FLOCKLET_NOINLINE static void dot4(@ARGUMENTS@)
{
  for (; count != 0u; count--) {
    int32_t a0 = from[0], a1 = from[1], a2 = from[2], a3 = from[3];
    uint32_t k;
    for (k = 0; k < pairs; k++) {
      const int32_t u = low_half(x[k]), v = high_half(x[k]);
@ADD@
    }
    y[0] = a0;
    y[1] = a1;
    y[2] = a2;
    y[3] = a3;
    y += 4;
    from += step / 4u;
    w += skip@UNIT@;
  }
}
"""

_ADD16 = """\
      a0 += low_half(w[0]) * u + high_half(w[0]) * v;
      a1 += low_half(w[1]) * u + high_half(w[1]) * v;
      a2 += low_half(w[2]) * u + high_half(w[2]) * v;
      a3 += low_half(w[3]) * u + high_half(w[3]) * v;
      w += 4;"""
_ADD8 = """\
      a0 += w[0] * u + w[1] * v;
      a1 += w[2] * u + w[3] * v;
      a2 += w[4] * u + w[5] * v;
      a3 += w[6] * u + w[7] * v;
      w += 8;"""

_HALVES = """\
static int32_t low_half(uint32_t v)
{
  return (int32_t)((v & 0xffffu) ^ 0x8000u) - 0x8000;
}

static int32_t high_half(uint32_t v)
{
  return (int32_t)((v >> 16) ^ 0x8000u) - 0x8000;
}
"""

_WHOLE = """\
static int32_t whole(uint32_t v)
{
  return high_half(v) * 65536 + (int32_t)(v & 0xffffu);
}
"""


def _dot_asm() -> str:
    def pair(x: str) -> list[str]:
        sums = ("r10", "r11", "r12", "lr")
        lines = ["ldmia r0!, {r3-r6}"]
        return lines + [
            f"smlad {a}, {w}, {x}, {a}" for a, w in zip(sums, ("r3", "r4", "r5", "r6"), strict=True)
        ]

    lines = [
        ".syntax unified",
        "vmov s0, %[count]",
        "vmov s1, %[skip]",
        "vmov s2, %[from]",
        "vmov s3, %[step]",
    ]
    lines += ["vmov s4, %[x]", "vmov s15, %[pairs]", "vmov s5, s6, r4, r5", "vmov s7, s8, r6, r7"]
    lines += [
        "vmov s9, s10, r8, r9",
        "vmov s11, s12, r10, r11",
        "vmov s13, s14, r12, lr",
        "1:",
        "vmov r3, s2",
    ]
    lines += [
        "ldmia r3, {r10, r11, r12, lr}",
        "vmov r1, s4",
        "vmov r7, s15",
        "subs r7, r7, #4",
        "blt 3f",
        "2:",
    ]
    for _ in range(2):
        lines += ["ldmia r1!, {r8, r9}", *pair("r8"), *pair("r9")]
    lines += [
        "subs r7, r7, #4",
        "bge 2b",
        "3:",
        "tst r7, #2",
        "beq 4f",
        "ldmia r1!, {r8, r9}",
        *pair("r8"),
        *pair("r9"),
        "4:",
        "tst r7, #1",
        "beq 5f",
        "ldr r8, [r1], #4",
        *pair("r8"),
        "5:",
    ]
    lines += [
        "stmia r2!, {r10, r11, r12, lr}",
        "vmov r3, s1",
        "add r0, r0, r3",
    ]
    lines += [
        "vmov r3, r4, s2, s3",
        "add r3, r3, r4",
        "vmov s2, r3",
        "vmov r3, s0",
        "subs r3, r3, #1",
        "vmov s0, r3",
    ]
    lines += ["bne 1b", "vmov r4, r5, s5, s6", "vmov r6, r7, s7, s8", "vmov r8, r9, s9, s10"]
    lines += ["vmov r10, r11, s11, s12", "vmov r12, lr, s13, s14"]
    text = "\n".join(f'    "{line}\\n"' for line in lines)
    return f"""\
FLOCKLET_NOINLINE static void dot4({_DOT_ARGUMENTS.replace("@T@", "uint32_t")})
{{
  register const uint32_t *p __asm__("r0") = w;
  register uint32_t *q __asm__("r2") = (uint32_t *)(void *)y;
  __asm__ volatile(
{text}
    : "+r"(p), "+r"(q)
    : [x] "r"(x), [from] "r"(from), [step] "r"(step), [pairs] "r"(pairs), [count] "r"(count), [skip] "r"(skip)
    : "r1", "r3", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14",
      "s15", "cc", "memory");
}}
"""


_COUNTS = """\
/* Turn pairs of floats into counts: adding 1.5 * 2^23 leaves the nearest integer in the low bits. */
FLOCKLET_NOINLINE static void @NAME@(const float *v, uint32_t *out, uint32_t n, float gain@BOUND@)
{
  for (; n > 1u; n -= 2u, v += 2) {
    bits_t a, b;
    a.f = @FIRST@ * gain + 12582912.0f;
    b.f = @SECOND@ * gain + 12582912.0f;
    *out++ = (a.u & 0xffffu) | (b.u << 16);
  }
  if (n != 0u) {
    bits_t a;
    a.f = @FIRST@ * gain + 12582912.0f;
    *out = a.u & 0xffffu;
  }
}
"""

_LIMITED = """\
static float limited(float v, float bound)
{
  return v > bound ? bound : v < -bound ? -bound : v;
}
"""

_COMBINE_C = """\
FLOCKLET_NOINLINE static void combine(float *z, const float *from, const int32_t *sum, const float *scale, uint32_t n)
{
  for (; n != 0u; n -= 4u) {
    z[0] = (from[0] + (float)sum[0]) * scale[0];
    z[1] = (from[1] + (float)sum[1]) * scale[1];
    z[2] = (from[2] + (float)sum[2]) * scale[2];
    z[3] = (from[3] + (float)sum[3]) * scale[3];
    z += 4;
    from += 4;
    sum += 4;
    scale += 4;
  }
}
"""


_HALF_C = """\
FLOCKLET_NOINLINE static void dense8h(const uint32_t *w, const float *b, const float *x, float *y, uint32_t pairs,
                                      uint32_t count, float *save)
{
  (void)save;
  for (; count != 0u; count--) {
    uint32_t i, k;
    for (i = 0; i < 8u; i++) {
      y[i] = b[i];
    }
    for (k = 0; k < pairs; k++) {
      for (i = 0; i < 8u; i++) {
        y[i] = y[i] + (float)low_half(w[i]) * x[2u * k];
        y[i] = y[i] + (float)whole(w[i]) * x[2u * k + 1u];
      }
      w += 8;
    }
    y += 8;
    b += 8;
  }
}
"""


def _half_asm() -> str:
    lines = [".syntax unified", "vstmia %[save], {s16-s31}", "1:", "vldmia %[b]!, {s0-s7}", "mov %[p], %[x]"]
    lines += ["mov %[c], %[n]", "2:", "vldmia %[p]!, {s24-s25}", "vldmia %[w]!, {s8-s15}"]
    lines += [f"vcvt.f32.s32 s{16 + i}, s{8 + i}" for i in range(8)]
    lines += [f"vcvt.f32.s16 s{8 + i}, s{8 + i}, #0" for i in range(8)]
    lines += [f"vmul.f32 s{8 + i}, s{8 + i}, s24" for i in range(8)]
    lines += [f"vmul.f32 s{16 + i}, s{16 + i}, s25" for i in range(8)]
    lines += [f"vadd.f32 s{i}, s{i}, s{8 + i}" for i in range(8)]
    lines += [f"vadd.f32 s{i}, s{i}, s{16 + i}" for i in range(8)]
    lines += ["subs %[c], %[c], #1", "bne 2b", "vstmia %[y]!, {s0-s7}", "subs %[t], %[t], #1", "bne 1b"]
    lines += ["vldmia %[save], {s16-s31}"]
    text = "\n".join(f'    "{line}\\n"' for line in lines)
    return f"""\
FLOCKLET_NOINLINE static void dense8h(const uint32_t *w, const float *b, const float *x, float *y, uint32_t pairs,
                                      uint32_t count, float *save)
{{
  const float *p;
  uint32_t c;
  __asm__ volatile(
{text}
    : [w] "+r"(w), [b] "+r"(b), [y] "+r"(y), [t] "+r"(count), [p] "=&r"(p), [c] "=&r"(c)
    : [x] "r"(x), [n] "r"(pairs), [save] "r"(save)
    : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "cc",
      "memory");
}}
"""


def _combine_asm() -> str:
    lines = [
        ".syntax unified",
        "1:",
        "vldmia %[s]!, {s4-s7}",
        "vldmia %[k]!, {s8-s11}",
        "vldmia %[f]!, {s0-s3}",
    ]
    lines += [f"vcvt.f32.s32 s{i}, s{i}" for i in range(4, 8)]
    lines += [f"vadd.f32 s{i}, s{i}, s{4 + i}" for i in range(4)]
    lines += [f"vmul.f32 s{i}, s{i}, s{8 + i}" for i in range(4)]
    lines += ["subs %[n], %[n], #4", "vstmia %[z]!, {s0-s3}", "bne 1b"]
    text = "\n".join(f'    "{line}\\n"' for line in lines)
    return f"""\
FLOCKLET_NOINLINE static void combine(float *z, const float *from, const int32_t *sum, const float *scale, uint32_t n)
{{
  __asm__ volatile(
{text}
    : [z] "+r"(z), [f] "+r"(from), [s] "+r"(sum), [k] "+r"(scale), [n] "+r"(n)
    :
    : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "cc", "memory");
}}
"""


_ZERO = "static const int32_t zero4[4] = {0, 0, 0, 0};\n"


def weight_kernels(plan: Plan, *, use_asm: bool) -> str:
    """Return the text of the kernels of a w16 or w8 plan."""
    model: Any = plan.integer
    wide = plan.dtype == "w16"
    half = wide and plan.obs.history is not None
    plain = _DOT_C.replace("@ARGUMENTS@", _DOT_ARGUMENTS).replace("@T@", "uint32_t" if wide else "int8_t")
    plain = plain.replace("@ADD@", _ADD16 if wide else _ADD8).replace("@UNIT@", " / 4u" if wide else "")
    plain = "\n".join([_HALVES, *([_WHOLE, _HALF_C] if half else []), plain])
    dot = plain
    if use_asm and wide:
        test = "defined(FLOCKLET_M4F) && defined(__ARM_FEATURE_SIMD32)"
        dot = f"#if {test}\n{_half_asm() if half else ''}{_dot_asm()}#else\n{plain}#endif\n"
    kinds = {layer.activation.kind for layer in plan.network.dense}
    h = plan.network.dense[0].n_out
    floats = float_kernels(
        kinds,
        dense8=tiles(h)[0] > 0 and not half,
        dense4=tiles(h)[1] and not half,
        odd=plan.obs.state % 2 == 1,
        rest=plan.obs.state % 4 != 0,
        use_asm=use_asm,
        unroll=False,
    )
    plain_counts = _COUNTS.replace("@NAME@", "to_counts").replace("@BOUND@", "")
    plain_counts = plain_counts.replace("@FIRST@", "v[0]").replace("@SECOND@", "v[1]")
    limited = _COUNTS.replace("@NAME@", "to_limited").replace("@BOUND@", ", float bound")
    limited = (
        _LIMITED
        + "\n"
        + limited.replace("@FIRST@", "limited(v[0], bound)").replace("@SECOND@", "limited(v[1], bound)")
    )
    counts = [plain_counts] if any(is_bounded(model, i) for i in range(1, len(model.layers))) else []
    counts += (
        [limited]
        if plan.obs.history or not all(is_bounded(model, i) for i in range(1, len(model.layers)))
        else []
    )
    combine = _COMBINE_C
    if use_asm:
        combine = f"#if defined(FLOCKLET_M4F)\n{_combine_asm()}#else\n{_COMBINE_C}#endif\n"
    return "\n".join([floats, dot, _ZERO, *counts, combine])


def is_bounded(model: Any, i: int) -> bool:
    """Return whether the inputs of layer i cannot leave [-1, 1]."""
    return bool(model.network.dense[i - 1].activation.bounded)
