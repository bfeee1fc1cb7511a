"""Write the float32 kernels: dense layers in tiles of 8 (and 4) outputs, and activations.

Every kernel adds the products of an output in the order of its inputs, starting from the bias, with one
rounding per multiplication and one per addition. The C text and the assembler text therefore give the same
bits (and the NumPy reference too). The assembler is for Cortex-M cores with a single-precision FPU:
weights come in with VLDM of 16 words, VMUL and VADD are kept 8 instructions apart so that no result is
used by the next instruction, and VMUL + VADD (1 + 1 cycles, two roundings) is used in place of VFMA (3
cycles, one rounding).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from flocklet.firmware_export.plan.numerics import FAST_CLAMP, TANH_P, TANH_Q

__all__ = ["ASM_CONDITION", "FLOAT_GUARD", "float_kernels", "hex_float"]

ASM_CONDITION = "FLOCKLET_M4F"

FLOAT_GUARD = """\
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize ("fp-contract=off", "no-tree-loop-distribute-patterns")
#endif
#if defined(__FAST_MATH__)
#error "compile this file without -ffast-math"
#endif
"""


def hex_float(value: float | np.float32) -> str:
    """Return a float32 as an exact C99 literal, as short as it can be."""
    text = float(value).hex()
    mantissa, exponent = text.split("p")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}p{int(exponent)}f"


def _asm(lines: Iterable[str]) -> str:
    return "\n".join(f'    "{line}\\n"' for line in lines)


def _pair(x0: str, x1: str) -> list[str]:
    """Add two inputs to eight sums: one load of 16 weights, 16 products, 16 sums."""
    lines = ["vldmia %[w]!, {s8-s23}"]
    lines += [f"vmul.f32 s{8 + i}, s{8 + i}, {x0}" for i in range(8)]
    lines += [f"vmul.f32 s{16 + i}, s{16 + i}, {x1}" for i in range(8)]
    lines += [f"vadd.f32 s{i}, s{i}, s{8 + i}" for i in range(8)]
    lines += [f"vadd.f32 s{i}, s{i}, s{16 + i}" for i in range(8)]
    return lines


def _single8() -> list[str]:
    lines = ["vldmia %[p]!, {s24}", "vldmia %[w]!, {s8-s15}"]
    lines += [f"vmul.f32 s{8 + i}, s{8 + i}, s24" for i in range(8)]
    return lines + [f"vadd.f32 s{i}, s{i}, s{8 + i}" for i in range(8)]


def _dense8_asm(*, odd: bool, unroll: bool) -> str:
    body = ["1:", "vldmia %[b]!, {s0-s7}", "mov %[p], %[x]"]
    if unroll:
        body += ["lsrs %[c], %[n], #2", "beq 3f", "2:", "vldmia %[p]!, {s24-s27}", *_pair("s24", "s25")]
        body += [*_pair("s26", "s27"), "subs %[c], %[c], #1", "bne 2b", "3:", "tst %[n], #2", "beq 5f"]
        body += ["vldmia %[p]!, {s24-s25}", *_pair("s24", "s25")]
    else:
        body += ["lsrs %[c], %[n], #1"] + (["beq 5f"] if odd else [])
        body += ["4:", "vldmia %[p]!, {s24-s25}", *_pair("s24", "s25"), "subs %[c], %[c], #1", "bne 4b"]
    body += ["5:"]
    if odd:
        body += ["tst %[n], #1", "beq 6f", *_single8(), "6:"]
    body += ["vstmia %[y]!, {s0-s7}", "add %[w], %[w], %[skip]", "subs %[t], %[t], #1", "bne 1b"]
    text = [".syntax unified", "vstmia %[save], {s16-s31}", *body, "vldmia %[save], {s16-s31}"]
    return f"""\
FLOCKLET_NOINLINE static void dense8(const float *w, const float *b, const float *x, float *y, uint32_t n,
                                     uint32_t tiles, uint32_t skip, float *save)
{{
  const float *p;
  uint32_t c;
  __asm__ volatile(
{_asm(text)}
    : [w] "+r"(w), [b] "+r"(b), [y] "+r"(y), [t] "+r"(tiles), [p] "=&r"(p), [c] "=&r"(c)
    : [x] "r"(x), [n] "r"(n), [skip] "r"(skip), [save] "r"(save)
    : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "cc",
      "memory");
}}
"""


def _dense4_asm(*, rest: bool) -> str:
    lines = [".syntax unified", "vldmia %[b], {s0-s3}", "lsrs %[c], %[n], #2", "beq 3f", "2:"]
    lines += ["vldmia %[x]!, {s4-s7}"]
    for first in (4, 6):
        lines += ["vldmia %[w]!, {s8-s15}"]
        lines += [f"vmul.f32 s{8 + i}, s{8 + i}, s{first + i // 4}" for i in range(8)]
        lines += [f"vadd.f32 s{i % 4}, s{i % 4}, s{8 + i}" for i in range(8)]
    lines += ["subs %[c], %[c], #1", "bne 2b", "3:"]
    if rest:
        lines += ["ands %[c], %[n], #3", "beq 5f", "4:", "vldmia %[x]!, {s4}", "vldmia %[w]!, {s8-s11}"]
        lines += [f"vmul.f32 s{8 + i}, s{8 + i}, s4" for i in range(4)]
        lines += [f"vadd.f32 s{i}, s{i}, s{8 + i}" for i in range(4)]
        lines += ["subs %[c], %[c], #1", "bne 4b", "5:"]
    lines += ["vstmia %[y], {s0-s3}"]
    return f"""\
FLOCKLET_NOINLINE static void dense4(const float *w, const float *b, const float *x, float *y, uint32_t n)
{{
  uint32_t c;
  __asm__ volatile(
{_asm(lines)}
    : [w] "+r"(w), [x] "+r"(x), [c] "=&r"(c)
    : [b] "r"(b), [y] "r"(y), [n] "r"(n)
    : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "cc",
      "memory");
}}
"""


def _dense_c(rows: int) -> str:
    sums = "\n".join(f"    float a{i} = b[{i}];" for i in range(rows))
    adds = "\n".join(f"      a{i} = a{i} + w[{i}] * v;" for i in range(rows))
    stores = "\n".join(f"    y[{i}] = a{i};" for i in range(rows))
    loop = f"""\
    uint32_t k;
{sums}
    for (k = 0; k < n; k++) {{
      const float v = x[k];
{adds}
      w += {rows};
    }}
{stores}
"""
    if rows == 4:
        return f"""\
FLOCKLET_NOINLINE static void dense4(const float *w, const float *b, const float *x, float *y, uint32_t n)
{{
  {{
{loop}  }}
}}
"""
    return f"""\
FLOCKLET_NOINLINE static void dense8(const float *w, const float *b, const float *x, float *y, uint32_t n,
                                     uint32_t tiles, uint32_t skip, float *save)
{{
  (void)save;
  for (; tiles != 0u; tiles--) {{
{loop}    w += skip / 4u;
    b += 8;
    y += 8;
  }}
}}
"""


# One element behind the present one is read ahead (never used): buffers have a spare word at their end.
_NEXT = ["bic %[a], %[v], #0x80000000", "subs %[a], %[a], %[limit]", "it gt", "subgt %[v], %[v], %[a]"]


def _tanh_asm() -> str:
    """Return the tanh loop: 22 instructions per value, no result used by the next instruction.

    The conversion to a fixed-point number saturates, which is the clamp; the next value is fetched and
    converted while the present one is in work.
    """
    fetch = ["vldr s8, [%[y]]", "vcvt.s32.f32 s8, s8, #28", "vcvt.f32.s32 s8, s8, #28"]
    square = "vmul.f32 s9, s8, s8"
    lines = [".syntax unified", "vldmia %[k], {s0-s7}", *fetch, square, "1:"]
    lines += ["vadd.f32 s10, s9, s0", "vmul.f32 s11, s9, s3"]
    for i in (1, 2):
        lines += ["vmul.f32 s10, s10, s9", f"vadd.f32 s11, s11, s{3 + i}"]
        lines += [f"vadd.f32 s10, s10, s{i}", "vmul.f32 s11, s11, s9"]
    lines += ["vmul.f32 s10, s10, s8", "vadd.f32 s11, s11, s6", "vldr s8, [%[y], #4]"]
    lines += ["vmul.f32 s11, s11, s9", fetch[1], "vadd.f32 s11, s11, s7", fetch[2], "vdiv.f32 s10, s10, s11"]
    lines += [square, "subs %[n], %[n], #1", "vstmia %[y]!, {s10}", "bne 1b"]
    return f"""\
FLOCKLET_NOINLINE static void tanh78(float *y, uint32_t n)
{{
  __asm__ volatile(
{_asm(lines)}
    : [y] "+r"(y), [n] "+r"(n)
    : [k] "r"(tanh78_k)
    : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "cc", "memory");
}}
"""


def _fast_asm() -> str:
    lines = [".syntax unified", "ldr %[v], [%[y]]", "vldmia %[k], {s0-s1}", *_NEXT, "1:"]
    lines += ["vmov s2, %[v]", "ldr %[v], [%[y], #4]", "vmul.f32 s3, s2, s2", _NEXT[0]]
    lines += ["vmul.f32 s4, s3, s1", "vadd.f32 s3, s3, s0", _NEXT[1], "vadd.f32 s4, s4, s0"]
    lines += ["vmul.f32 s3, s3, s2", *_NEXT[2:], "subs %[n], %[n], #1", "vdiv.f32 s3, s3, s4"]
    lines += ["vstmia %[y]!, {s3}", "bne 1b"]
    return f"""\
FLOCKLET_NOINLINE static void fast3(float *y, uint32_t n)
{{
  uint32_t v, a;
  const uint32_t limit = FAST3_LIMIT;
  __asm__ volatile(
{_asm(lines)}
    : [y] "+r"(y), [n] "+r"(n), [v] "=&r"(v), [a] "=&r"(a)
    : [k] "r"(fast3_k), [limit] "r"(limit)
    : "s0", "s1", "s2", "s3", "s4", "cc", "memory");
}}
"""


_CLAMP_C = """\
static float clamp_bits(float x, uint32_t limit)
{
  bits_t v;
  v.f = x;
  if ((v.u & 0x7fffffffu) > limit) {
    v.u = (v.u & 0x80000000u) | limit;
  }
  return v.f;
}
"""


_FIXED_C = """\
/* Limit to [-8, 8] on a grid of 2^-28, as a conversion to fixed point and back does. */
static float fixed8(float x)
{
  bits_t v;
  v.f = x;
  if ((v.u & 0x7fffffffu) < 0x41000000u) {
    return (float)(int32_t)(x * 0x1p28f) * 0x1p-28f;
  }
  v.u = (v.u & 0x7fffffffu) > 0x7f800000u ? 0u : (v.u & 0x80000000u) | 0x41000000u;
  return v.f;
}
"""


def _tanh_c() -> str:
    m = len(TANH_P)
    p = "\n".join(f"    p = p * s + tanh78_k[{i}];" for i in range(1, m))
    q = "\n".join(f"    q = q * s + tanh78_k[{m + i}];" for i in range(2, len(TANH_Q)))
    return f"""\
{_FIXED_C}
FLOCKLET_NOINLINE static void tanh78(float *y, uint32_t n)
{{
  for (; n != 0u; n--) {{
    const float x = fixed8(*y);
    const float s = x * x;
    float p = s + tanh78_k[0];
    float q = s * tanh78_k[{m}] + tanh78_k[{m + 1}];
{p}
{q}
    *y++ = (x * p) / q;
  }}
}}
"""


_FAST_C = """\
FLOCKLET_NOINLINE static void fast3(float *y, uint32_t n)
{
  for (; n != 0u; n--) {
    const float x = clamp_bits(*y, FAST3_LIMIT);
    const float s = x * x;
    *y++ = (x * (27.0f + s)) / (27.0f + 9.0f * s);
  }
}
"""

_SIGMOID = """\
static void sigmoid78(float *y, uint32_t n)
{
  uint32_t i;
  for (i = 0; i < n; i++) {
    y[i] = 0.5f * y[i];
  }
  tanh78(y, n);
  for (i = 0; i < n; i++) {
    y[i] = 0.5f * y[i] + 0.5f;
  }
}
"""

_RELU = """\
static void relu(float *y, uint32_t n, float slope)
{
  for (; n != 0u; n--, y++) {
    *y = *y > 0.0f ? *y : slope * *y;
  }
}
"""

_RELU0 = """\
static void relu0(float *y, uint32_t n)
{
  for (; n != 0u; n--, y++) {
    *y = *y > 0.0f ? *y : 0.0f;
  }
}
"""

_CLIP = """\
static void clip(float *y, uint32_t n, float low, float high)
{
  for (; n != 0u; n--, y++) {
    float v = *y > low ? *y : low;
    *y = v < high ? v : high;
  }
}
"""

_RSQRT = """\
static float reciprocal_sqrt(float x)
{
  const float half = 0.5f * x;
  bits_t y;
  int i;
  y.f = x;
  y.u = 0x5f3759dfu - (y.u >> 1);
  for (i = 0; i < 4; i++) {
    y.f = y.f * (1.5f - (half * y.f) * y.f);
  }
  return y.f;
}
"""


def _either(asm: str, plain: str, *, use_asm: bool) -> str:
    return f"#if defined({ASM_CONDITION})\n{asm}#else\n{plain}#endif\n" if use_asm else plain


def float_kernels(
    kinds: set[str],
    *,
    dense8: bool,
    dense4: bool,
    odd: bool,
    rest: bool,
    use_asm: bool,
    unroll: bool = True,
    norm: bool = False,
) -> str:
    """Return the text of the kernels that a network needs, in the order in which they depend on each other.

    kinds: activations used; odd: some layer has an odd number of inputs; rest: some layer with a tile of 4
    outputs has a number of inputs that is no multiple of 4; use_asm: write the assembler beside the C; unroll: four inputs per turn in place of two (faster, 140 bytes more).
    """
    parts: list[str] = []
    if dense8:
        parts.append(_either(_dense8_asm(odd=odd, unroll=unroll), _dense_c(8), use_asm=use_asm))
    if dense4:
        parts.append(_either(_dense4_asm(rest=rest), _dense_c(4), use_asm=use_asm))
    if kinds & {"tanh", "sigmoid"}:
        table = ", ".join(hex_float(c) for c in (*TANH_P, *TANH_Q))
        parts.append(f"static const float tanh78_k[{len(TANH_P) + len(TANH_Q)}] = {{{table}}};\n")
        parts.append(_either(_tanh_asm(), _tanh_c(), use_asm=use_asm))
    if "fast_tanh" in kinds:
        parts.append(f"#define FAST3_LIMIT 0x{FAST_CLAMP.view('u4'):08x}u\n")
        table = "static const float fast3_k[2] = {27.0f, 9.0f};\n"
        parts.append(_either(table + _fast_asm(), _CLAMP_C + "\n" + _FAST_C, use_asm=use_asm))
    extra = {"sigmoid": _SIGMOID, "leaky_relu": _RELU, "relu": _RELU0, "clip": _CLIP}
    parts += [text for kind, text in extra.items() if kind in kinds]
    return "\n".join(parts + ([_RSQRT] if norm else []))
