"""Write the integer networks as C.

W16 and w8 (integer weights, float observations) and i16 (integers throughout).

Kernels: `dot4` adds four rows at a time, two inputs per word, with SMLAD where the core has it. `dot2` is
for cores without FPU and DSP: a word holds the weights a + 32768 (low half) and b (high half) of two rows;
with v the input, S += word * v and H += (word >> 16) * v, all modulo 2^32, and the sum of row a is S - (H
<< 16) - 32768 * sum(v). That is two multiplications and one shift for two products. Integer sums are
exact, so every core gives the same bits.
"""

from __future__ import annotations

import numpy as np

from flocklet.firmware_export.c.dot import is_bounded, weight_kernels
from flocklet.firmware_export.c.float import hex_float
from flocklet.firmware_export.c.i16 import i16_parts
from flocklet.firmware_export.c.network import CodeParts, activation_call
from flocklet.firmware_export.c.step import Hooks
from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.field import tiles
from flocklet.firmware_export.plan.numerics import M
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["integer_parts", "past_words", "slice_units"]


# What observed values are multiplied with: see `split_halves`.
_GAIN = f"(i & 1u) != 0u ? {hex_float(M / 65536)} : {hex_float(M)}"


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


def _weight_parts(plan: Plan, *, use_asm: bool) -> CodeParts:
    network, obs, model = plan.network, plan.obs, plan.integer
    width = max(-(-n // 8) * 8 for n in network.dims[1:])
    per_entry, past = past_words(plan)
    unit = 16 if plan.dtype == "w16" else 8  # bytes of one pair of four rows
    kernels = weight_kernels(plan, use_asm=use_asm)
    lines = []
    for i, layer in enumerate(network.dense):
        if i == 0:
            continue
        bound = model.layers[i].bound
        gain = hex_float(bound32(M / bound))
        call = "to_counts" if is_bounded(model, i) else "to_limited"
        limit = "" if is_bounded(model, i) else f", {hex_float(bound32(bound))}"
        rows = -(-layer.n_out // 4)
        lines += [
            f"{call}(s->z, s->counts, {layer.n_in}u, {gain}{limit});",
            f"FLOCKLET_FORGET(s);\n  dot4(W->q{i}, s->counts, zero4, 0u, s->sum, {-(-layer.n_in // 2)}u, {rows}u, 0u);",
            "FLOCKLET_FORGET(s);",
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
        lines += [f"  for (i = 0; i < {obs.state}u; i++) {{\n    s->x[i] = x[i] * ({_GAIN});\n  }}"]
        lines += [f"  s->x[{obs.state}] = 0.0f;"] if obs.state % 2 else []
    lines += [f"  first_layer(W, s, {source}{', s->past' if past else ''});", "  (void)network(W, s);"]
    lines += [f"  for (i = 0; i < {net.n_out}u; i++) {{\n    y[i] = s->z[i];\n  }}\n}}\n"]
    return "\n".join(lines)


def _weight_hooks(plan: Plan, per_entry: int, past: int, unit: int, state_call: str, act0: str) -> Hooks:
    obs, net = plan.obs, plan.network
    first = net.dense[0]
    weights = "const @N@_weights_t *const W = WEIGHTS(st);\n"
    half = _is_half(plan)
    observe = f"st->x[i] = v.f * ({_GAIN});" if half else "st->x[i] = v.f;"
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
    return fill(
        "next_sums_words.c.in",
        ROWS=str(h),
        TILES=str(h // 4),
        PERWORD=str(per_word),
        ENTRY=str(per_entry),
        UNIT=str(unit),
        PAST=str(past),
    )
