"""Write the i16 network as C: integers throughout, for cores without FPU (see `quantise.py` for the numbers)."""

from __future__ import annotations

import numpy as np

from flocklet.firmware_export.c_float import hex_float
from flocklet.firmware_export.c_network import CodeParts
from flocklet.firmware_export.c_step import Hooks
from flocklet.firmware_export.plan import Plan
from flocklet.firmware_export.quantise import FULL

__all__ = ["i16_parts"]

# Four sums live in r8-r11, which this text saves by itself: gcc keeps them away from assembler at -Os.
_COLUMN = [
    "ldmia %[x]!, {r2}",
    "ldmia %[w]!, {r3, r4}",
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
_TILE_ASM = [
    ".syntax unified",
    "ldr r2, [%[f], #16]",
    "mov r12, r2",
    *_TO_LOW,
    "push {r2-r5}",
    "ldmia %[f]!, {r2-r5}",
    *_TO_HIGH,
    "1:",
    *_COLUMN,
    *_COLUMN,
    "cmp %[x], r12",
    "bne 1b",
    *_TO_LOW,
    "subs %[f], %[f], #16",
    "stmia %[f]!, {r2-r5}",
    "pop {r2-r5}",
    *_TO_HIGH,
]

_KERNELS = """\
/* Sums of four rows at a time; a word of weights serves two rows (see the head of the generator). */
FLOCKLET_NOINLINE static void dot2(const uint32_t *w, const int32_t *x, const uint32_t *from, uint32_t step, uint32_t *y,
                                   uint32_t n, uint32_t count, uint32_t skip)
{
  for (; count != 0u; count--) {
    const int32_t *p = x;
    const int32_t *const end = x + n;
@INNER@
    from += step / 4u;
    w += skip / 4u;
  }
}

static uint32_t total_of(const int32_t *x, uint32_t n)
{
  uint32_t total = 0u;
  for (; n != 0u; n--) {
    total += (uint32_t)*x++;
  }
  return total;
}

static int32_t scaled(int32_t a, int32_t factor)
{
  return (int32_t)(((int64_t)a * factor) >> 20);
}

/* Add the sums of a part to z in Q16: shift 0 for the high half of an observation, 12 for the low half, 4 else. */
FLOCKLET_NOINLINE static void add_part(int32_t *z, const uint32_t *sum, uint32_t total, const int32_t *factor,
                                       uint32_t n, uint32_t shift)
{
  uint32_t i;
  total <<= 15;
  for (i = 0; i < n; i += 2u) {
    z[i] += scaled((int32_t)(sum[i] - (sum[i + 1u] << 16) - total), factor[i]) >> shift;
    z[i + 1u] += scaled((int32_t)sum[i + 1u], factor[i + 1u]) >> shift;
  }
}

static int32_t curve(int32_t z, const int16_t *table)
{
  int32_t size = z < 0 ? -z : z;
  int32_t y, next;
  if (size > 524287) {
    size = 524287;
  }
  y = table[size >> 10];
  next = table[(size >> 10) + 1];
  y += ((next - y) * (size & 1023)) >> 10;
  return z < 0 ? -y : y;
}

static int32_t full_counts(float v)
{
  bits_t b;
  b.f = clamp_bits(v, 0x3f800000u) * @FULL@ + 12582912.0f;
  return (int32_t)((b.u & 0xffffu) ^ 0x8000u) - 0x8000;
}

static const uint32_t zero4[4] = {0u, 0u, 0u, 0u};
"""

_CLAMP = """\
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

_INNER_C = """\
    uint32_t s0 = from[0], h0 = from[1], s1 = from[2], h1 = from[3];
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
    y[0] = s0;
    y[1] = h0;
    y[2] = s1;
    y[3] = h1;
    y += 4;"""


def _inner(*, use_asm: bool) -> str:
    if not use_asm:
        return _INNER_C
    text = "\n".join(f'        "{line}\\n"' for line in _TILE_ASM)
    return f"""\
#if defined(__GNUC__) && defined(__thumb__) && !defined(__thumb2__) && !defined(FLOCKLET_NO_ASM)
    /* Four sums and the end of the inputs: all that the assembler is told, in three registers. */
    uint32_t frame[5];
    uint32_t *f = frame;
    frame[0] = from[0];
    frame[1] = from[1];
    frame[2] = from[2];
    frame[3] = from[3];
    frame[4] = (uint32_t)end;
    __asm__ volatile(
{text}
        : [w] "+l"(w), [x] "+l"(p), [f] "+l"(f)
        :
        : "r2", "r3", "r4", "r5", "r12", "cc", "memory");
    y[0] = frame[0];
    y[1] = frame[1];
    y[2] = frame[2];
    y[3] = frame[3];
    y += 4;
#else
{_INNER_C}
#endif"""


def _even(n: int) -> int:
    return n + n % 2


def _activate(kind: str, n: int) -> str:
    """Return the statement that turns z (Q16) into counts, and into full-scale values in z."""
    if kind == "identity":
        return ""
    value = f"curve(s->z[i], W->t_{kind})"
    if kind == "sigmoid":
        value = f"(curve(s->z[i] >> 1, W->t_tanh) + {FULL}) >> 1"
    return (
        f"for (i = 0; i < {n}u; i++) {{\n  const int32_t t = {value};\n  s->z[i] = t;\n  s->counts[i] = (t + 4) >> 3;\n}}"
        + (f"\ns->counts[{n}] = 0;" if n % 2 else "")
    )


def i16_parts(plan: Plan, *, use_asm: bool = True) -> CodeParts:
    """Return the code of an i16 plan."""
    net, obs = plan.network, plan.obs
    width = max(-(-n // 4) * 4 for n in net.dims[1:])
    kernels = _CLAMP + _KERNELS.replace("@INNER@", _inner(use_asm=use_asm)).replace("@FULL@", hex_float(FULL))
    entry = _even(obs.history[1]) if obs.history else 0
    past = entry * obs.history[0] if obs.history else 0
    lines = ["uint32_t i;", _activate(net.dense[0].activation.kind, net.dims[1])]
    for i, layer in enumerate(net.dense):
        if i == 0:
            continue
        n_in, rows = _even(layer.n_in), -(-layer.n_out // 4)
        lines += [
            f"dot2(W->q{i}, s->counts, zero4, 0u, s->sum, {n_in}u, {rows}u, 0u);",
            f"for (i = 0; i < {4 * rows}u; i++) {{\n  s->z[i] = W->b{i}[i];\n}}",
            f"add_part(s->z, s->sum, total_of(s->counts, {n_in}u), W->mq{i}, {4 * rows}u, 4u);",
            _activate(layer.activation.kind, layer.n_out),
        ]
    unit = 1 / 65536 if net.dense[-1].activation.kind == "identity" else 1 / FULL
    unit_text = hex_float(float(np.float32(unit)))
    lines += [
        f"for (i = 0; i < {net.n_out}u; i++) {{\n  s->y[i] = (float)s->z[i] * {unit_text};\n}}",
        "return s->y;",
    ]
    functions = (
        "/* Activation of layer 0, and all further layers. */\n"
        "FLOCKLET_NOINLINE static const float *network(const @N@_weights_t *W, @N@_scratch_t *s)\n{\n"
        + _block(lines, 2)
        + "\n}\n"
    )
    rows0 = -(-net.dims[1] // 4)
    n_state = _even(obs.state)
    state_lines = [
        "uint32_t i;",
        f"for (i = 0; i < {obs.state}u; i++) {{\n"
        "  const int32_t u = (int32_t)clamp_bits(x[i] * W->gain[i], 0x4afffffeu);\n"
        "  s->high[i] = u >> 12;\n  s->low[i] = u & 4095;\n}",
        f"s->high[{obs.state}] = 0;\ns->low[{obs.state}] = 0;" if obs.state % 2 else "",
        f"for (i = 0; i < {4 * rows0}u; i++) {{\n  s->z[i] = W->b0[i];\n}}",
        f"dot2(W->u0, s->high, zero4, 0u, s->sum, {n_state}u, {rows0}u, 0u);",
        f"add_part(s->z, s->sum, total_of(s->high, {n_state}u), W->mu0, {4 * rows0}u, 0u);",
        f"dot2(W->u0, s->low, zero4, 0u, s->sum, {n_state}u, {rows0}u, 0u);",
        f"add_part(s->z, s->sum, total_of(s->low, {n_state}u), W->mu0, {4 * rows0}u, 12u);",
    ]
    functions += (
        "\n/* What the observed values give to layer 0, with the bias, in Q16. */\n"
        "FLOCKLET_NOINLINE static void state_part(const @N@_weights_t *W, @N@_scratch_t *s, const float *x)\n{\n"
        + _block(state_lines, 2)
        + "\n}\n"
    )
    scratch = (
        f"typedef struct {{\n  int32_t z[{width}];\n  uint32_t sum[{width}];\n  int32_t counts[{_even(width)}];\n"
        f"  int32_t high[{n_state}];\n  int32_t low[{n_state}];\n  float y[{net.n_out}];\n"
        + (f"  int32_t past[{past}];\n" if past else "")
        + "} @N@_scratch_t;\n"
    )
    if plan.cached:
        functions += _next_sums(plan, entry, past)
    return CodeParts(kernels, functions, _hooks(plan, entry, past), scratch, _eval(plan, entry, past))


def _block(lines: list[str], by: int) -> str:
    return "\n".join(" " * by + part for line in lines if line for part in line.splitlines())


def _past_call(rows: int, past: int, source: str) -> str:
    return (
        f"dot2(W->q0, {source}, zero4, 0u, s->sum, {past}u, {rows}u, 0u);\n"
        f"add_part(s->z, s->sum, total_of({source}, {past}u), W->mq0, {4 * rows}u, 4u);"
    )


def _eval(plan: Plan, entry: int, past: int) -> str:
    net, obs = plan.network, plan.obs
    lines = ["const @N@_weights_t *const W = &@N@_weights;", "const float *result;", "uint32_t i;"]
    if obs.history:
        entries, own = obs.history
        place = "i" if obs.order == "oldest_first" else f"({entries - 1}u - i)"
        pad = f"\n  s->past[{entry}u * i + {own}u] = 0;" if own % 2 else ""
        lines += [
            f"for (i = 0; i < {entries}u; i++) {{\n  uint32_t j;\n  for (j = 0; j < {own}u; j++) {{\n"
            f"    s->past[{entry}u * i + j] = (full_counts(x[{obs.state}u + {own}u * {place} + j]) + 4) >> 3;\n  }}{pad}\n}}"
        ]
    lines += ["state_part(W, s, x);"]
    lines += [_past_call(-(-net.dims[1] // 4), past, "s->past")] if past else []
    lines += ["result = network(W, s);", f"for (i = 0; i < {net.n_out}u; i++) {{\n  y[i] = result[i];\n}}"]
    head = f"void @N@_eval(@N@_scratch_t *s, const float x[{net.n_in}], float y[{net.n_out}])\n{{\n"
    return head + _block(lines, 2) + "\n}\n"


def _hooks(plan: Plan, entry: int, past: int) -> Hooks:
    obs, net = plan.obs, plan.network
    h, rows = net.dims[1], -(-net.dims[1] // 4)
    weights = "const @N@_weights_t *const W = WEIGHTS(st);\n@N@_scratch_t *const s = &st->scratch;\n"
    state = f"float x[{obs.state}]; /* the guarded observation */\n@N@_scratch_t scratch;\n"
    observe = "st->x[i] = v.f;"
    if obs.history is None:
        return Hooks(state, observe, f"{weights}state_part(W, s, st->x);\ny = network(W, s);")
    own = obs.history[1]
    newest = past - entry
    state += f"int32_t newest[{own}]; /* running mean of the actions of this period, full scale {FULL} */\n"
    state += f"int32_t past[{past}]; /* past actions in counts, oldest first */\n"
    feed = (
        f"for (i = 0; i < {own}u; i++) {{\n"
        "  const int32_t sum = st->newest[i] * (int32_t)k + full_counts(st->fed[i]);\n"
        "  st->newest[i] = sum / (int32_t)(k + 1u);\n"
        f"  st->past[{newest}u + i] = (st->newest[i] + 4) >> 3;\n}}"
    )
    shift = f"for (i = 0; i < {newest}u; i++) {{\n  st->past[i] = st->past[i + {entry}u];\n  FLOCKLET_BARRIER;\n}}"
    reset = (
        f"for (i = 0; i < {past}u; i++) {{\n  st->past[i] = i % {entry}u < {own}u ? (full_counts(v.f) + 4) >> 3 : 0;\n}}\n"
        f"for (i = 0; i < {own}u; i++) {{\n  st->newest[i] = full_counts(v.f);\n}}\n"
        f"for (i = 0; i < {obs.state}u; i++) {{\n  st->x[i] = 0.0f;\n}}"
    )
    if not plan.cached:
        call = f"{weights}state_part(W, s, st->x);\n{_past_call(rows, past, 'st->past')}\ny = network(W, s);"
        return Hooks(state, observe, call, feed=feed, shift=shift, reset=reset)
    state += f"uint32_t sums[{2 * h}]; /* first layer over all but the newest entry: of this period, of the next */\n"
    state += "uint32_t totals[2]; /* sums of the counts that went into them */\nuint32_t current;\nuint32_t columns;\n"
    call = (
        f"{weights}state_part(W, s, st->x);\n"
        f"dot2(W->q0 + {2 * newest}, st->past + {newest}, st->sums + {h}u * st->current, 16u, s->sum, {entry}u, {rows}u, "
        f"{8 * newest}u);\nadd_part(s->z, s->sum, st->totals[st->current] + total_of(st->past + {newest}, {entry}u), "
        f"W->mq0, {4 * rows}u, 4u);\ny = network(W, s);"
    )
    stop = newest - entry
    share = min(_even(-(-newest // obs.period)), stop)
    slice_text = (
        f"if (st->columns < {stop}u) {{\n  const uint32_t left = {stop}u - st->columns;\n"
        f"  next_sums(st, left < {share}u ? left : {share}u);\n}}"
    )
    finish = f"next_sums(st, {newest}u - st->columns);\nst->current = 1u - st->current;\nst->columns = 0u;"
    rebuild = (
        "const @N@_weights_t *const W = WEIGHTS(st);\n"
        f"dot2(W->q0, st->past, zero4, 0u, st->sums, {newest}u, {rows}u, {8 * entry}u);\n"
        f"st->totals[0] = total_of(st->past, {newest}u);\n"
        f"st->current = 0u;\nst->columns = 0u;\nnext_sums(st, {stop}u);"
    )
    return Hooks(state, observe, call, feed, finish, slice_text, shift, reset, rebuild)


def _next_sums(plan: Plan, entry: int, past: int) -> str:
    h = plan.network.dims[1]
    return f"""
/* Add `count` more columns to the sums of the next period: entry j of it is entry j + 1 of this one. */
FLOCKLET_NOINLINE static void next_sums(@N@_state_t *st, uint32_t count)
{{
  const @N@_weights_t *const W = WEIGHTS(st);
  const uint32_t next = 1u - st->current;
  uint32_t *const sums = st->sums + {h}u * next;
  const uint32_t at = st->columns;
  const int32_t *const x = st->past + {entry}u + at;
  if (count != 0u) {{
    dot2(W->q0 + 2u * at, x, at != 0u ? sums : zero4, at != 0u ? 16u : 0u, sums, count, {h // 4}u,
         8u * ({past}u - count));
    st->totals[next] = (at != 0u ? st->totals[next] : 0u) + total_of(x, count);
    st->columns = at + count;
  }}
}}
"""
