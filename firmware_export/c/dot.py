"""Write the kernels of the integer networks: sums of products, counts from floats, and the way back.

`dot4` adds four rows at a time, two inputs per word, with SMLAD where the core has it; `dense8h` multiplies floats by
16-bit weights. Integer sums are exact, so every core gives the same bits.
"""

from __future__ import annotations

from typing import Any

from flocklet.firmware_export.c.float import float_kernels
from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.field import tiles
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["is_bounded", "weight_kernels"]


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
    return fill("dot4_asm.c.in", ASM=text)


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
    return fill("dense8h_asm.c.in", ASM=text)


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
    return fill("combine_asm.c.in", ASM=text)


_ZERO = "static const int32_t zero4[4] = {0, 0, 0, 0};\n"


def weight_kernels(plan: Plan, *, use_asm: bool) -> str:
    """Return the text of the kernels of a w16 or w8 plan."""
    model: Any = plan.integer
    wide = plan.dtype == "w16"
    half = wide and plan.obs.history is not None
    plain = fill(
        "dot4.c.in",
        T="uint32_t" if wide else "int8_t",
        ADD=fill("dot4_add16.c.in" if wide else "dot4_add8.c.in"),
        UNIT=" / 4u" if wide else "",
    )
    plain = "\n".join(
        [fill("halves.c.in"), *([fill("whole.c.in"), fill("dense8h.c.in")] if half else []), plain]
    )
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
    plain_counts = fill("to_counts.c.in", NAME="to_counts", BOUND="", FIRST="v[0]", SECOND="v[1]")
    limited = fill(
        "to_counts.c.in",
        NAME="to_limited",
        BOUND=", float bound",
        FIRST="limited(v[0], bound)",
        SECOND="limited(v[1], bound)",
    )
    limited = fill("limited.c.in") + "\n" + limited
    counts = [plain_counts] if any(is_bounded(model, i) for i in range(1, len(model.layers))) else []
    counts += (
        [limited]
        if plan.obs.history or not all(is_bounded(model, i) for i in range(1, len(model.layers)))
        else []
    )
    combine = fill("combine.c.in")
    if use_asm:
        combine = f"#if defined(FLOCKLET_M4F)\n{_combine_asm()}#else\n{combine}#endif\n"
    return "\n".join([floats, dot, _ZERO, *counts, combine])


def is_bounded(model: Any, i: int) -> bool:
    """Return whether the inputs of layer i cannot leave [-1, 1]."""
    return bool(model.network.dense[i - 1].activation.bounded)
