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

from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.numerics import FAST_CLAMP, TANH_P, TANH_Q

__all__ = ["ASM_CONDITION", "float_kernels", "hex_float"]

ASM_CONDITION = "FLOCKLET_M4F"


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
    return fill("dense8_asm.c.in", ASM=_asm(text))


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
    return fill("dense4_asm.c.in", ASM=_asm(lines))


def _dense_c(rows: int) -> str:
    loop = fill(
        "dense_loop.c.in",
        SUMS="\n".join(f"    float a{i} = b[{i}];" for i in range(rows)),
        ADDS="\n".join(f"      a{i} = a{i} + w[{i}] * v;" for i in range(rows)),
        STORES="\n".join(f"    y[{i}] = a{i};" for i in range(rows)),
        ROWS=str(rows),
    )
    return fill(f"dense{rows}.c.in", LOOP=loop)


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
    return fill("tanh78_asm.c.in", ASM=_asm(lines))


def _fast_asm() -> str:
    lines = [".syntax unified", "ldr %[v], [%[y]]", "vldmia %[k], {s0-s1}", *_NEXT, "1:"]
    lines += ["vmov s2, %[v]", "ldr %[v], [%[y], #4]", "vmul.f32 s3, s2, s2", _NEXT[0]]
    lines += ["vmul.f32 s4, s3, s1", "vadd.f32 s3, s3, s0", _NEXT[1], "vadd.f32 s4, s4, s0"]
    lines += ["vmul.f32 s3, s3, s2", *_NEXT[2:], "subs %[n], %[n], #1", "vdiv.f32 s3, s3, s4"]
    lines += ["vstmia %[y]!, {s3}", "bne 1b"]
    return fill("fast3_asm.c.in", ASM=_asm(lines))


def _tanh_c() -> str:
    m = len(TANH_P)
    return fill(
        "tanh78.c.in",
        M=str(m),
        NEXT=str(m + 1),
        P="\n".join(f"    p = p * s + tanh78_k[{i}];" for i in range(1, m)),
        Q="\n".join(f"    q = q * s + tanh78_k[{m + i}];" for i in range(2, len(TANH_Q))),
    )


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
        parts.append(
            _either(table + _fast_asm(), f"{fill('clamp_bits.c.in')}\n{fill('fast3.c.in')}", use_asm=use_asm)
        )
    extra = {"sigmoid": "sigmoid78", "leaky_relu": "relu", "relu": "relu0", "clip": "clip"}
    parts += [fill(f"{file}.c.in") for kind, file in extra.items() if kind in kinds]
    return "\n".join(parts + ([fill("reciprocal_sqrt.c.in")] if norm else []))
