"""Write the float32 network as C: the weights struct, `NAME_eval`, and the hooks of the control step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flocklet.firmware_export.c.float import float_kernels, hex_float
from flocklet.firmware_export.c.step import Hooks
from flocklet.firmware_export.c.template import fill
from flocklet.firmware_export.plan.field import rows_of, tiles
from flocklet.firmware_export.plan.plan import Plan
from flocklet.firmware_export.plan.reference import hidden_size
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Gru, LayerNorm

__all__ = ["CodeParts", "activation_call", "float_parts", "slice_columns"]

SAVE_WORDS = 16


@dataclass(frozen=True)
class CodeParts:
    """Hold what a data type contributes: kernels and functions, hooks, the scratch type, and NAME_eval."""

    kernels: str
    functions: str
    hooks: Hooks
    scratch: str
    eval_text: str


def activation_call(activation: Activation, target: str, n: int) -> str:
    """Return the C statement that applies an activation in place (empty for the identity)."""
    kind = activation.kind
    if kind == "identity":
        return ""
    name = {"tanh": "tanh78", "fast_tanh": "fast3", "sigmoid": "sigmoid78", "relu": "relu0"}.get(kind)
    if name:
        return f"{name}({target}, {n}u);"
    if kind == "leaky_relu":
        return f"relu({target}, {n}u, {hex_float(float(np.float32(activation.a)))});"
    bounds = ", ".join(hex_float(float(np.float32(v))) for v in (activation.a, activation.b))
    return f"clip({target}, {n}u, {bounds});"


def _dense_calls(prefix: str, n_in: int, n_out: int, source: str, target: str, save: str) -> list[str]:
    eights, four = tiles(n_out)
    lines = []
    if eights:
        lines.append(
            f"dense8(W->w{prefix}, W->b{prefix}, {source}, {target}, {n_in}u, {eights}u, 0u, {save});"
        )
    if four:
        at, row = 8 * eights * n_in, 8 * eights
        lines.append(
            f"dense4(W->w{prefix} + {at}, W->b{prefix} + {row}, {source}, {target} + {row}, {n_in}u);"
        )
    return lines


def _affine(i: int, layer: Affine, source: str, target: str) -> list[str]:
    n = layer.n_in
    loop = f"for (i = 0; i < {n}u; i++) {{\n  {target}[i] = {source}[i] * W->s{i}[i] + W->o{i}[i];\n}}"
    return [loop, activation_call(layer.activation, target, n)]


def _norm(i: int, layer: LayerNorm, source: str, target: str) -> list[str]:
    n = layer.n_in
    share = hex_float(float(np.float32(1.0) / np.float32(n)))
    epsilon = hex_float(float(np.float32(layer.epsilon)))
    return [
        fill(
            "layer_norm.c.in",
            COUNT=str(n),
            SOURCE=source,
            TARGET=target,
            SHARE=share,
            EPSILON=epsilon,
            LAYER=str(i),
        )
    ]


def _gru(i: int, layer: Gru, source: str, target: str, spare: str, hidden: str) -> list[str]:
    n = layer.n_out
    wide = rows_of(3 * n)
    gates = f"{spare} + {wide}"
    after = layer.reset_after
    candidate_in = hidden if after else target
    lines = _dense_calls(f"{i}x", layer.n_in, 3 * n, source, spare, "save")
    lines += _dense_calls(f"{i}g", n, 2 * n, hidden, gates, "save")
    lines += [f"for (i = 0; i < {2 * n}u; i++) {{\n  ({gates})[i] = {spare}[i] + ({gates})[i];\n}}"]
    lines += [f"sigmoid78({gates}, {2 * n}u);"]
    if not after:
        lines += [f"for (i = 0; i < {n}u; i++) {{\n  {target}[i] = ({gates})[{n}u + i] * {hidden}[i];\n}}"]
    other = f"{spare} + {wide + rows_of(2 * n)}"
    lines += _dense_calls(f"{i}n", n, n, candidate_in, other, "save")
    factor = f"({gates})[{n}u + i] * " if after else ""
    lines += [
        f"for (i = 0; i < {n}u; i++) {{\n  ({other})[i] = {spare}[{2 * n}u + i] + {factor}({other})[i];\n}}"
    ]
    lines += [f"tanh78({other}, {n}u);"]
    mix = f"(1.0f - ({gates})[i]) * ({other})[i] + ({gates})[i] * {hidden}[i]"
    lines += [f"for (i = 0; i < {n}u; i++) {{\n  {target}[i] = {mix};\n}}"]
    lines += [f"for (i = 0; i < {n}u; i++) {{\n  {hidden}[i] = {target}[i];\n}}"]
    return lines


def _spare_words(plan: Plan) -> int:
    need = 0
    for layer in plan.network.layers:
        if isinstance(layer, Gru):
            n = layer.n_out
            need = max(need, rows_of(3 * n) + rows_of(2 * n) + rows_of(n) + 1)
    return need


def _body(plan: Plan, first: int) -> tuple[list[str], str]:
    """Return the statements of layers `first`...

    And the buffer that holds the result; buffers a and b alternate.
    """
    lines: list[str] = []
    source, at = ("x" if first == 0 else "a"), 0
    for i, layer in enumerate(plan.network.layers):
        if i < first:
            continue
        target = "b" if source == "a" else "a"
        if isinstance(layer, Dense):
            lines += _dense_calls(str(i), layer.n_in, layer.n_out, source, target, "save")
            lines.append(activation_call(layer.activation, target, layer.n_out))
        elif isinstance(layer, Affine):
            lines += _affine(i, layer, source, target)
        elif isinstance(layer, LayerNorm):
            lines += _norm(i, layer, source, target)
        else:
            lines += _gru(i, layer, source, target, "spare", f"(hidden + {at})" if at else "hidden")
            at += layer.n_out
        source = target
    return [line for line in lines if line], source


def _indented(lines: list[str]) -> str:
    return "\n".join("  " + part for line in lines for part in line.splitlines())


def slice_columns(plan: Plan) -> int:
    """Return how many columns of the next sums one call adds, so that all calls of a period cost about the
    same.
    """
    if plan.obs.history is None:
        return 0
    total = plan.obs.history_width - plan.obs.history[1]
    per_call = -(-total // plan.obs.period)
    return min(per_call + per_call % 2, total - plan.obs.history[1])


def float_parts(plan: Plan, *, use_asm: bool = True, unroll: bool = True) -> CodeParts:
    """Return the float32 code of a plan."""
    network, obs = plan.network, plan.obs
    kinds = {layer.activation.kind for layer in network.layers if isinstance(layer, Dense | Affine)}
    grus = [layer for layer in network.layers if isinstance(layer, Gru)]
    kinds |= {"sigmoid"} if grus else set()
    shapes = [(layer.n_in, layer.n_out) for layer in network.layers if isinstance(layer, Dense)]
    for layer in grus:
        n = layer.n_out
        shapes += [(layer.n_in, 3 * n), (n, 2 * n), (n, n)]
    entry = obs.history[1] if obs.history else 0
    odd = any(n_in % 2 for n_in, n_out in shapes if tiles(n_out)[0]) or (
        plan.cached and (entry + obs.state) % 2 == 1
    )
    odd = odd or (plan.cached and entry % 2 == 1)
    kernels = float_kernels(
        kinds,
        dense8=any(tiles(n_out)[0] for _, n_out in shapes),
        dense4=any(tiles(n_out)[1] for _, n_out in shapes),
        odd=odd,
        rest=any(n_in % 4 for n_in, n_out in shapes if tiles(n_out)[1]),
        use_asm=use_asm,
        unroll=unroll,
        norm=any(isinstance(layer, LayerNorm) for layer in network.layers),
    )
    width = max(rows_of(n) for n in network.dims[1:]) + 1
    n_hidden, spare = hidden_size(network), _spare_words(plan)
    words = SAVE_WORDS + 2 * width + spare + (network.n_in if obs.history else 0)
    layout = [f"float *const save = s;\nfloat *const a = s + {SAVE_WORDS};\nfloat *const b = a + {width};"]
    layout += [f"float *const spare = b + {width};"] if spare else []
    loops = any(not isinstance(layer, Dense) for layer in network.layers)
    hidden_argument = ", float *hidden" if n_hidden else ""
    functions, eval_text = "", ""
    split = plan.cached
    lines, result = _body(plan, 1 if split else 0)
    prologue = [*layout[0].splitlines(), *layout[1:], *(["uint32_t i;"] if loops else [])]
    source_argument = "" if split else ", const float *x"
    used = " ".join(lines)
    prologue += [
        f"(void){name};" for name in ("save", "b") if f"{name}" not in used.replace("b0", "").split()
    ]
    prologue = [line for line in prologue if not line.startswith("(void)")] + ["(void)save;", "(void)b;"]
    functions += (
        f"/* Layers {1 if split else 0} to {len(network.layers) - 1}; the result lies in the scratch memory. */\n"
        f"FLOCKLET_NOINLINE static const float *network(const @N@_weights_t *W, float *s{source_argument}"
        f"{hidden_argument})\n{{\n{_indented(prologue)}\n{_indented(lines)}\n  return {result};\n}}\n"
    )
    eval_text = _eval_text(plan, words, width, split=split, n_hidden=n_hidden)
    scratch = f"typedef struct {{\n  float words[{words}];\n}} @N@_scratch_t;\n"
    return CodeParts(kernels, functions, _hooks(plan, words, width, n_hidden=n_hidden), scratch, eval_text)


def _eval_text(plan: Plan, words: int, width: int, *, split: bool, n_hidden: int) -> str:
    network, obs = plan.network, plan.obs
    hidden = f", float hidden[{n_hidden}]" if n_hidden else ""
    lines = [
        f"void @N@_eval(@N@_scratch_t *s{hidden}, const float x[{network.n_in}], "
        f"float y[{network.n_out}])\n{{",
        "  const @N@_weights_t *const W = &@N@_weights;",
        "  float *const scratch = s->words;",
        "  const float *result;",
        "  uint32_t i;",
    ]
    source = "x"
    if obs.history:
        source = "in"
        entries, entry = obs.history
        inside = words - network.n_in
        lines += [f"  float *const in = scratch + {inside};"]
        if obs.order == "oldest_first":
            lines += [
                f"  for (i = 0; i < {entries * entry}u; i++) {{\n    in[i] = x[{obs.state}u + i];\n  }}"
            ]
        else:
            last = obs.state + (entries - 1) * entry
            lines += [
                f"  for (i = 0; i < {entries * entry}u; i++) {{\n"
                f"    in[i] = x[{last}u - {entry}u * (i / {entry}u) + i % {entry}u];\n  }}"
            ]
        lines += [f"  for (i = 0; i < {obs.state}u; i++) {{\n    in[{entries * entry}u + i] = x[i];\n  }}"]
    if split:
        first = network.dense[0]
        a = f"scratch + {SAVE_WORDS}"
        lines += ["  " + call for call in _dense_calls("0", first.n_in, first.n_out, "in", a, "scratch")]
        lines += ["  " + activation_call(first.activation, a, first.n_out)]
        lines += ["  result = network(W, scratch);"]
    else:
        lines += [f"  result = network(W, scratch, {source}{', hidden' if n_hidden else ''});"]
    lines += [f"  for (i = 0; i < {network.n_out}u; i++) {{\n    y[i] = result[i];\n  }}\n}}\n"]
    return "\n".join(line for line in lines if line.strip())


def _hooks(plan: Plan, words: int, width: int, *, n_hidden: int) -> Hooks:
    obs, network = plan.obs, plan.network
    n_in = network.n_in
    past = obs.history_width
    scratch = words - (n_in if obs.history else 0)
    state = f"float x[{n_in}]; /* {'past actions, oldest first, then ' if past else ''}the guarded observation */\n"
    state += f"float scratch[{scratch}];\n" + (f"float hidden[{n_hidden}];\n" if n_hidden else "")
    observe = f"st->x[{past}u + i] = v.f;" if past else "st->x[i] = v.f;"
    clear = f"for (i = 0; i < {n_hidden}u; i++) {{\n  st->hidden[i] = 0.0f;\n}}\n" if n_hidden else ""
    weights = "const @N@_weights_t *const W = WEIGHTS(st);\n"
    call = f"{weights}y = network(W, st->scratch, st->x{', st->hidden' if n_hidden else ''});"
    if not past or obs.history is None:
        return Hooks(state, observe, call, reset=clear)
    entry = obs.history[1]
    newest = past - entry
    mean = f"(st->x[{newest}u + i] * (float)k + st->fed[i]) / (float)(k + 1u)"
    if obs.feed == "previous_action":
        mean = f"k == 0u ? st->fed[i] : {mean}"
    feed = f"for (i = 0; i < {entry}u; i++) {{\n  st->x[{newest}u + i] = {mean};\n}}"
    shift = "shift_history(st->x);"
    reset = f"for (i = 0; i < {n_in}u; i++) {{\n  st->x[i] = i < {past}u ? v.f : 0.0f;\n}}"
    if not plan.cached:
        return Hooks(state, observe, call, feed=feed, shift=shift, reset=reset)
    first = network.dense[0]
    h = first.n_out
    eights = h // 8
    state += (
        f"float sums[{2 * h}]; /* first layer over all but the newest entry: of this period, of the next */\n"
    )
    state += "uint32_t current;\nuint32_t columns;\n"
    recent = n_in - newest
    a = f"st->scratch + {SAVE_WORDS}"
    network_lines = (
        f"{weights}dense8(W->w0 + {newest * 8}, st->sums + st->current, st->x + {newest}, {a}, {recent}u, {eights}u, "
        f"{newest * 32}u, st->scratch);\n{activation_call(first.activation, a, h)}\ny = network(W, st->scratch);"
    )
    share = slice_columns(plan)
    stop = newest - entry
    slice_text = (
        f"if (st->columns < {stop}u) {{\n  const uint32_t left = {stop}u - st->columns;\n"
        f"  next_sums(st, left < {share}u ? left : {share}u);\n}}"
    )
    finish = f"next_sums(st, {newest}u - st->columns);\nst->current = {h}u - st->current;\nst->columns = 0u;"
    rebuild = (
        f"{weights}dense8(W->w0, W->b0, st->x, st->sums, {newest}u, {eights}u, {(n_in - newest) * 32}u, st->scratch);\n"
        f"st->current = 0u;\nst->columns = 0u;\nnext_sums(st, {stop}u);"
    )
    return Hooks(state, observe, network_lines, feed, finish, slice_text, shift, reset, rebuild)


def history_functions(plan: Plan) -> str:
    """Return the helpers of a float history: the shift, and a share of the next period's sums."""
    if plan.obs.history is None:
        return ""
    past, entry = plan.obs.history_width, plan.obs.history[1]
    text = fill("shift_history.c.in", ENTRY=str(entry), REACH=str(past - entry))
    if plan.cached:
        h = plan.network.dense[0].n_out
        text += fill(
            "next_sums.c.in", ENTRY=str(entry), ROWS=str(h), TILES=str(h // 8), INPUTS=str(plan.network.n_in)
        )
    return text
