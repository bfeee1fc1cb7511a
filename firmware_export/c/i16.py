"""Write the i16 network as C: integers throughout, for cores without FPU (see `quantise.py` for the numbers)."""

from __future__ import annotations

import numpy as np

from flocklet.firmware_export.c.float import hex_float
from flocklet.firmware_export.c.i16_dot import dot_call, dot_code
from flocklet.firmware_export.c.network import CodeParts
from flocklet.firmware_export.c.step import Hooks
from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.numerics import FULL
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["i16_parts"]


def _add(total: str, factor: str, n: int, shift: int) -> str:
    return f"s->total = {total};\ns->shift = {shift}u;\nadd_part(s, {factor}, {n}u);"


def _even(n: int) -> int:
    return n + n % 2


def _activate(kind: str, n: int) -> str:
    """Return the statements that turn z (Q16) into counts, and into full-scale values in z."""
    if kind == "identity":
        return ""
    text = f"activate(s, W->t_{kind}, {n}u);"
    if kind == "sigmoid":
        loop = (
            f"for (i = 0; i < {n}u; i++) {{\n  s->z[i] = (curve(s->z[i] >> 1, W->t_tanh) + {FULL}) >> 1;\n"
            "  s->counts[i] = (s->z[i] + 4) >> 3;\n}"
        )
        text = loop
    return text + (f"\ns->counts[{n}] = 0;" if n % 2 else "")


def i16_parts(plan: Plan, *, use_asm: bool = True) -> CodeParts:
    """Return the code of an i16 plan."""
    net, obs = plan.network, plan.obs
    width = max(-(-n // 4) * 4 for n in net.dims[1:])
    kernels = fill("clamp_bits.c.in") + "\n"
    kernels += fill("i16_kernels.c.in", INNER=dot_code(use_asm=use_asm), FULL=hex_float(FULL))
    entry = _even(obs.history[1]) if obs.history else 0
    past = entry * obs.history[0] if obs.history else 0
    lines = ["uint32_t i;", _activate(net.dense[0].activation.kind, net.dims[1])]
    for i, layer in enumerate(net.dense):
        if i == 0:
            continue
        n_in, rows = _even(layer.n_in), -(-layer.n_out // 4)
        lines += [
            dot_call("s", f"W->q{i}", "s->counts", f"{n_in}", "s->sum", rows),
            f"for (i = 0; i < {4 * rows}u; i++) {{\n  s->z[i] = W->b{i}[i];\n}}",
            _add(f"total_of(s->counts, {n_in}u)", f"W->mq{i}", 4 * rows, 4),
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
        dot_call("s", "W->u0", "s->high", f"{n_state}", "s->sum", rows0),
        _add(f"total_of(s->high, {n_state}u)", "W->mu0", 4 * rows0, 0),
        dot_call("s", "W->u0", "s->low", f"{n_state}", "s->sum", rows0),
        _add(f"total_of(s->low, {n_state}u)", "W->mu0", 4 * rows0, 12),
    ]
    functions += (
        "\n/* What the observed values give to layer 0, with the bias, in Q16. */\n"
        "FLOCKLET_NOINLINE static void state_part(const @N@_weights_t *W, @N@_scratch_t *s, const float *x)\n{\n"
        + _block(state_lines, 2)
        + "\n}\n"
    )
    scratch = (
        fill("job.h.in")
        + f"typedef struct {{\n  @N@_job_t job;\n  uint32_t total;\n  uint32_t shift;\n  int32_t z[{width}];\n  uint32_t sum[{width}];\n  int32_t counts[{_even(width)}];\n"
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
    call = dot_call("s", "W->q0", source, f"{past}", "s->sum", rows)
    return f"{call}\n{_add(f'total_of({source}, {past}u)', 'W->mq0', 4 * rows, 4)}"


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
    start = {"from_": f"st->sums + {h}u * st->current", "step": "16u", "skip": f"{8 * newest}u"}
    dot = dot_call("s", f"W->q0 + {2 * newest}", f"st->past + {newest}", f"{entry}", "s->sum", rows, **start)
    total = f"st->totals[st->current] + total_of(st->past + {newest}, {entry}u)"
    call = (
        f"{weights}state_part(W, s, st->x);\n{dot}\n{_add(total, 'W->mq0', 4 * rows, 4)}\ny = network(W, s);"
    )
    stop = newest - entry
    share = min(_even(-(-newest // obs.period)), stop)
    slice_text = (
        f"if (st->columns < {stop}u) {{\n  const uint32_t left = {stop}u - st->columns;\n"
        f"  next_sums(st, left < {share}u ? left : {share}u);\n}}"
    )
    finish = f"next_sums(st, {newest}u - st->columns);\nst->current = 1u - st->current;\nst->columns = 0u;"
    rebuild = (
        f"{weights}{dot_call('s', 'W->q0', 'st->past', f'{newest}', 'st->sums', rows, skip=f'{8 * entry}u')}\n"
        f"st->totals[0] = total_of(st->past, {newest}u);\n"
        f"st->current = 0u;\nst->columns = 0u;\nnext_sums(st, {stop}u);"
    )
    return Hooks(state, observe, call, feed, finish, slice_text, shift, reset, rebuild)


def _next_sums(plan: Plan, entry: int, past: int) -> str:
    h = plan.network.dims[1]
    start = {"from_": "at != 0u ? sums : zero4", "step": "at != 0u ? 16u : 0u"}
    dot = dot_call(
        "s", "W->q0 + 2u * at", "x", "count", "sums", h // 4, skip=f"8u * ({past}u - count)", **start
    )
    return fill("next_sums_i16.c.in", ROWS=str(h), ENTRY=str(entry), DOT=_block([dot], 4))
