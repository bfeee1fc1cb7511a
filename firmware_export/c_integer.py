"""Write the integer networks as C.

W16 and w8 (integer weights, float observations) and i16 (integers throughout).

Kernels: `dot4` adds four rows at a time, two inputs per word, with SMLAD where the core has it. `dot2` is
for cores without FPU and DSP: a word holds the weights a + 32768 (low half) and b (high half) of two rows;
with v the input, S += word * v and H += (word >> 16) * v, all modulo 2^32, and the sum of row a is S - (H
<< 16) - 32768 * sum(v). That is two multiplications and one shift for two products. Integer sums are
exact, so every core gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flocklet.firmware_export.c_float import float_kernels, hex_float
from flocklet.firmware_export.c_i16 import i16_parts
from flocklet.firmware_export.c_network import CodeParts, activation_call
from flocklet.firmware_export.c_step import Hooks
from flocklet.firmware_export.plan import Plan, tiles
from flocklet.firmware_export.quantise import M

__all__ = ["integer_parts", "past_words", "slice_units"]

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
        "adds r7, r7, #4",
        "beq 5f",
        "4:",
        "ldr r8, [r1], #4",
        *pair("r8"),
    ]
    lines += [
        "subs r7, r7, #1",
        "bne 4b",
        "5:",
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
        y[i] = y[i] + ((float)whole(w[i]) * 0x1p-16f) * x[2u * k + 1u];
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
    lines += [f"vmov.f32 s{16 + i}, s{8 + i}" for i in range(8)]
    lines += [f"vcvt.f32.s16 s{8 + i}, s{8 + i}, #0" for i in range(8)]
    lines += [f"vcvt.f32.s32 s{16 + i}, s{16 + i}, #16" for i in range(8)]
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


def past_words(plan: Plan) -> tuple[int, int]:
    """Return (pairs per entry, pairs in the whole history) of the stored past actions."""
    if plan.obs.history is None:
        return 0, 0
    pairs = (plan.obs.history[1] + 1) // 2
    return pairs, pairs * plan.obs.history[0]


def _even(n: int) -> int:
    return n + n % 2


def slice_units(total: int, newest: int, period: int) -> int:
    """Return how many units (pairs or columns) of the next sums one call adds."""
    return min(-(-total // period), total - newest)


def integer_parts(plan: Plan, *, use_asm: bool = True) -> CodeParts:
    """Return the code of a w16, w8 or i16 plan."""
    if plan.dtype == "i16":
        return i16_parts(plan, use_asm=use_asm)
    return _weight_parts(plan, use_asm=use_asm)


def _kernels(plan: Plan, *, use_asm: bool) -> str:
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
    counts = [plain_counts] if any(_is_bounded(model, i) for i in range(1, len(model.layers))) else []
    counts += (
        [limited]
        if plan.obs.history or not all(_is_bounded(model, i) for i in range(1, len(model.layers)))
        else []
    )
    combine = _COMBINE_C
    if use_asm:
        combine = f"#if defined(FLOCKLET_M4F)\n{_combine_asm()}#else\n{_COMBINE_C}#endif\n"
    return "\n".join([floats, dot, _ZERO, *counts, combine])


def _is_bounded(model: Any, i: int) -> bool:
    """Return whether the inputs of layer i cannot leave [-1, 1]."""
    return bool(model.network.dense[i - 1].activation.bounded)


def _weight_parts(plan: Plan, *, use_asm: bool) -> CodeParts:
    network, obs, model = plan.network, plan.obs, plan.integer
    width = max(-(-n // 8) * 8 for n in network.dims[1:])
    per_entry, past = past_words(plan)
    unit = 16 if plan.dtype == "w16" else 8  # bytes of one pair of four rows
    kernels = _kernels(plan, use_asm=use_asm)
    lines = []
    for i, layer in enumerate(network.dense):
        if i == 0:
            continue
        bound = model.layers[i].bound
        gain = hex_float(bound32(M / bound))
        call = "to_counts" if _is_bounded(model, i) else "to_limited"
        limit = "" if _is_bounded(model, i) else f", {hex_float(bound32(bound))}"
        rows = -(-layer.n_out // 4)
        lines += [
            f"{call}(s->z, s->counts, {layer.n_in}u, {gain}{limit});",
            f"dot4(W->q{i}, s->counts, zero4, 0u, s->sum, {-(-layer.n_in // 2)}u, {rows}u, 0u);",
            f"combine(s->z, W->b{i}, s->sum, W->s{i}, {4 * rows}u);",
            activation_call(layer.activation, "s->z", layer.n_out),
        ]
    body = "\n".join("  " + line for line in lines if line)
    functions = (
        "/* Layers 1 and up: from the values in s->z to those in s->z. */\n"
        "FLOCKLET_NOINLINE static const float *network(const @N@_weights_t *W, @N@_scratch_t *s)\n{\n"
        f"{body or '  (void)W;'}\n  return s->z;\n}}\n"
    )
    first = network.dense[0]
    state_call = _state_call(plan)
    act0 = activation_call(first.activation, "s->z", first.n_out)
    rows0 = -(-first.n_out // 4)
    full = [
        f"dot4(W->q0, past, zero4, 0u, s->sum, {past}u, {rows0}u, 0u);",
        f"combine(s->z, s->z, s->sum, W->s0, {4 * rows0}u);",
    ]
    start = [state_call, *(full if past else []), act0]
    functions += (
        "\n/* Layer 0 from all past actions. */\n"
        f"FLOCKLET_NOINLINE static void first_layer(const @N@_weights_t *W, @N@_scratch_t *s, const float *x"
        f"{', const uint32_t *past' if past else ''})\n{{\n"
        + "\n".join("  " + line for line in start if line)
        + "\n}\n"
    )
    scratch = (
        "typedef struct {\n  float save[16];\n"
        f"  float z[{width + 1}];\n  int32_t sum[{width}];\n  uint32_t counts[{-(-width // 2)}];\n"
        + (f"  uint32_t past[{past}];\n" if past else "")
        + (f"  float x[{_even(obs.state)}];\n" if _is_half(plan) else "")
        + "} @N@_scratch_t;\n"
    )
    hooks = _weight_hooks(plan, per_entry, past, unit, state_call, act0)
    functions += _next_sums(plan, per_entry, past, unit) if plan.cached else ""
    return CodeParts(kernels, functions, hooks, scratch, _weight_eval(plan, per_entry, past))


def bound32(value: float) -> float:
    """Return the float32 nearest to a number."""
    return float(np.float32(value))


def _is_half(plan: Plan) -> bool:
    """Return whether the weights of the observed values are stored in 16 bits."""
    return plan.dtype == "w16" and plan.obs.history is not None


def _state_call(plan: Plan) -> str:
    n_out, n_in = plan.network.dense[0].n_out, plan.obs.state
    if _is_half(plan):
        return f"dense8h(W->p0, W->b0, x, s->z, {-(-n_in // 2)}u, {-(-n_out // 8)}u, s->save);"
    eights, four = tiles(n_out)
    calls = [f"dense8(W->w0, W->b0, x, s->z, {n_in}u, {eights}u, 0u, s->save);"] if eights else []
    if four:
        at, row = 8 * eights * n_in, 8 * eights
        calls.append(f"dense4(W->w0 + {at}, W->b0 + {row}, x, s->z + {row}, {n_in}u);")
    return "\n  ".join(calls)


def _weight_eval(plan: Plan, per_entry: int, past: int) -> str:
    net, obs = plan.network, plan.obs
    lines = [
        f"void @N@_eval(@N@_scratch_t *s, const float x[{net.n_in}], float y[{net.n_out}])\n{{",
        "  const @N@_weights_t *const W = &@N@_weights;",
        "  uint32_t i;",
    ]
    if obs.history:
        entries, entry = obs.history
        place = "i" if obs.order == "oldest_first" else f"{entries - 1}u - i"
        lines += [
            f"  for (i = 0; i < {entries}u; i++) {{\n"
            f"    to_limited(x + {obs.state} + {entry}u * ({place}), s->past + {per_entry}u * i, {entry}u, "
            f"{hex_float(M)}, 1.0f);\n  }}"
        ]
    source = "x"
    if _is_half(plan):
        source = "s->x"
        lines += [f"  for (i = 0; i < {obs.state}u; i++) {{\n    s->x[i] = x[i] * {hex_float(M)};\n  }}"]
        lines += [f"  s->x[{obs.state}] = 0.0f;"] if obs.state % 2 else []
    lines += [f"  first_layer(W, s, {source}{', s->past' if past else ''});", "  (void)network(W, s);"]
    lines += [f"  for (i = 0; i < {net.n_out}u; i++) {{\n    y[i] = s->z[i];\n  }}\n}}\n"]
    return "\n".join(lines)


def _weight_hooks(plan: Plan, per_entry: int, past: int, unit: int, state_call: str, act0: str) -> Hooks:  # noqa: PLR0917
    obs, net = plan.obs, plan.network
    first = net.dense[0]
    weights = "const @N@_weights_t *const W = WEIGHTS(st);\n"
    half = _is_half(plan)
    observe = f"st->x[i] = v.f * {hex_float(M)};" if half else "st->x[i] = v.f;"
    state = f"float x[{_even(obs.state) if half else obs.state}]; /* the guarded observation */\n@N@_scratch_t scratch;\n"
    if obs.history is None:
        return Hooks(
            state, observe, f"{weights}first_layer(W, &st->scratch, st->x);\ny = network(W, &st->scratch);"
        )
    entries, entry = obs.history
    at = (entries - 1) * per_entry
    state += f"float newest[{entry}]; /* running mean of the actions of this period */\n"
    state += f"uint32_t past[{past}]; /* past actions in counts, oldest first */\n"
    mean = "(st->newest[i] * (float)k + st->fed[i]) / (float)(k + 1u)"
    if obs.feed == "previous_action":
        mean = f"k == 0u ? st->fed[i] : {mean}"
    count = f"to_limited(st->newest, st->past + {at}, {entry}u, {hex_float(M)}, 1.0f);"
    feed = f"for (i = 0; i < {entry}u; i++) {{\n  st->newest[i] = {mean};\n}}\n{count}"
    shift = f"for (i = 0; i < {at}u; i++) {{\n  st->past[i] = st->past[i + {per_entry}u];\n  FLOCKLET_BARRIER;\n}}"
    reset = (
        f"for (i = 0; i < {entry}u; i++) {{\n  st->newest[i] = v.f;\n}}\n"
        f"for (i = 0; i < {entries}u; i++) {{\n"
        f"  to_limited(st->newest, st->past + {per_entry}u * i, {entry}u, {hex_float(M)}, 1.0f);\n}}\n"
        f"for (i = 0; i < {_even(obs.state) if half else obs.state}u; i++) {{\n  st->x[i] = 0.0f;\n}}"
    )
    if not plan.cached:
        call = f"{weights}first_layer(W, &st->scratch, st->x, st->past);\ny = network(W, &st->scratch);"
        return Hooks(state, observe, call, feed=feed, shift=shift, reset=reset)
    h = first.n_out
    state += f"int32_t sums[{2 * h}]; /* first layer over all but the newest entry: of this period, of the next */\n"
    state += "uint32_t current;\nuint32_t columns;\n"
    per_word = 4 if unit == 16 else 8
    call = (
        f"{weights}const float *const x = st->x;\n@N@_scratch_t *const s = &st->scratch;\n{state_call}\n"
        f"dot4(W->q0 + {at * per_word}, st->past + {at}, st->sums + st->current, 16u, s->sum, {per_entry}u, {h // 4}u, "
        f"{at * unit}u);\ncombine(s->z, s->z, s->sum, W->s0, {h}u);\n{act0}\ny = network(W, s);"
    )
    stop = at - per_entry
    share = slice_units(at, per_entry, obs.period)
    slice_text = (
        f"if (st->columns < {stop}u) {{\n  const uint32_t left = {stop}u - st->columns;\n"
        f"  next_sums(st, left < {share}u ? left : {share}u);\n}}"
    )
    finish = f"next_sums(st, {at}u - st->columns);\nst->current = {h}u - st->current;\nst->columns = 0u;"
    rebuild = (
        f"{weights}dot4(W->q0, st->past, zero4, 0u, st->sums, {at}u, {h // 4}u, {per_entry * unit}u);\n"
        f"st->current = 0u;\nst->columns = 0u;\nnext_sums(st, {stop}u);"
    )
    return Hooks(state, observe, call, feed, finish, slice_text, shift, reset, rebuild)


def _next_sums(plan: Plan, per_entry: int, past: int, unit: int) -> str:
    h = plan.network.dense[0].n_out
    per_word = 4 if unit == 16 else 8
    return f"""
/* Add `count` more pairs of columns to the sums of the next period: entry j of it is entry j + 1 of this one. */
FLOCKLET_NOINLINE static void next_sums(@N@_state_t *st, uint32_t count)
{{
  const @N@_weights_t *const W = WEIGHTS(st);
  int32_t *const sums = st->sums + ({h}u - st->current);
  const uint32_t at = st->columns;
  if (count != 0u) {{
    dot4(W->q0 + {per_word}u * at, st->past + {per_entry}u + at, at != 0u ? sums : zero4, at != 0u ? 16u : 0u, sums,
         count, {h // 4}u, {unit}u * ({past}u - count));
    st->columns = at + count;
  }}
}}
"""
