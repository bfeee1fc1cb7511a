"""Write the parts of the C file around the network.

Guards, watchdog, action history, reset, one control step.

The text is the same for every data type; what differs (how the history is stored and how the network is
called) comes in as `Hooks`. `closed_loop.py` is the same in Python; both follow the order of operations
written in `semantics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flocklet.firmware_export.c.float import hex_float
from flocklet.firmware_export.plan.plan import Plan

__all__ = ["STATUS", "Hooks", "has_time", "step_arguments", "step_text"]

STATUS = {
    "ACTION_CLIPPED": (1, "an action was cut to its limits"),
    "OBS_CLIPPED": (2, "an observation was cut to its limit, or a denormal was taken as zero"),
    "NONFINITE": (4, "an observation was NaN or infinite; the last action is repeated"),
    "FAILSAFE": (8, "the failsafe action is returned"),
    "JITTER": (16, "this call came more than 20 % early or late"),
    "BIAS": (32, "the last 100 calls were on average more than 20 % early or late"),
    "BAD_TIME": (64, "time ran backwards"),
    "DEADLINE": (128, "the gap since the last call was too long"),
    "WEIGHTS": (256, "the weights are damaged or of another network"),
}


@dataclass(frozen=True)
class Hooks:
    """Hold the C lines that a data type supplies.

    state: members of NAME_state_t. observe: stores guarded value `v` of index `i`. network: computes `y`,
    a `const float *`. feed: updates the newest entry from `st->fed[i]` with `k` calls before it in this
    period. finish: ends the period's sums before the shift. slice: does a share of the next sums. shift:
    moves the history. reset: fills the history with `init`; rebuild: recomputes the kept sums.
    """

    state: str
    observe: str
    network: str
    feed: str = ""
    finish: str = ""
    slice: str = ""
    shift: str = ""
    reset: str = ""
    rebuild: str = ""


def has_time(plan: Plan) -> bool:
    """Return whether a step takes a timestamp."""
    return bool(plan.action.max_gap_us or plan.action.interval_us or plan.obs.native_interval_us)


def step_arguments(plan: Plan) -> str:
    """Return the arguments of NAME_step."""
    parts = [f"{plan.name}_state_t *st", f"const float obs[{plan.obs.state}]"]
    if plan.obs.history and plan.obs.feed == "previous_action":
        parts.append(f"const float previous[{plan.network.n_out}]")
    if has_time(plan):
        parts.append("uint64_t now_us")
    return ", ".join([*parts, f"float action[{plan.network.n_out}]"])


def _constants(name: str, values: np.ndarray) -> tuple[str, str]:
    """Return a declaration (empty where all values are equal) and the expression of element i."""
    if len(set(values.tolist())) == 1:
        return "", hex_float(float(values[0]))
    items = ", ".join(hex_float(float(v)) for v in values)
    return f"static const float {name}[{len(values)}] = {{{items}}};\n", f"{name}[i]"


def _limit_bits(plan: Plan) -> tuple[str, str]:
    bits = np.array(plan.obs.limits, np.float32).view(np.uint32)
    if len(set(bits.tolist())) == 1:
        return "", f"0x{bits[0]:08x}u"
    items = ", ".join(f"0x{b:08x}u" for b in bits)
    return f"static const uint32_t obs_limit[{len(bits)}] = {{{items}}};\n", "obs_limit[i]"


_GUARD = """\
/* Look at the bits of a number: NaN and infinity are refused, large values are cut, denormals become zero. */
static uint32_t guard(bits_t *v, uint32_t limit)
{
  const uint32_t size = v->u & 0x7fffffffu;
  if (size - 0x00800000u <= limit - 0x00800000u || size == 0u) {
    return 0u;
  }
  if (size >= 0x7f800000u) {
    v->u = 0u;
    return @N@_NONFINITE;
  }
  v->u = size < 0x00800000u ? 0u : ((v->u & 0x80000000u) | limit);
  return @N@_OBS_CLIPPED;
}
"""

_TIME = """\
  {
    const uint64_t gap = now_us - st->last_us;
    if (st->seen != 0u) {
      if (now_us < st->last_us) {
        status |= @N@_BAD_TIME;
      } else {
@CHECKS@
      }
    }
    st->seen = 1u;
    st->last_us = now_us;
  }
"""

_GAP = """\
        if (gap > @GAP@u) {
          status |= @N@_DEADLINE;
        }"""

_INTERVAL = """\
        if (gap < @LOW@u || gap > @HIGH@u) {
          status |= @N@_JITTER;
        }
        st->span_us += gap > 0xffffffu ? 0xffffffu : (uint32_t)gap;
        if (++st->spans == 100u) {
          st->biased = (st->span_us < 100u * @LOW@u || st->span_us > 100u * @HIGH@u) ? @N@_BIAS : 0u;
          st->spans = 0u;
          st->span_us = 0u;
        }
        status |= st->biased;"""

# One call in four parts, each with a stack frame of its own: the deepest chain of calls is what counts.
_STEP = """\
#define @N@_UNTRUSTED 0x80000000u

/* Guards, watchdog and (where the caller reports actions) the history; @N@_UNTRUSTED where nothing may be computed. */
FLOCKLET_PART static uint32_t @N@_observe(@OBSERVED@)
{
  uint32_t status = 0u;
  uint32_t i;
@TIME@  for (i = 0; i < @STATE@u; i++) {
    bits_t v;
    v.f = obs[i];
    status |= guard(&v, @LIMIT@);
@OBSERVE@
  }
@BEFORE@  if ((status & (@N@_NONFINITE | @N@_BAD_TIME | @N@_DEADLINE)) != 0u) {
    if ((status & @N@_NONFINITE) == 0u || ++st->bad > @BAD@u) {
      st->bad = @BAD@u;
    }
@TRUST@
  return status;
}

FLOCKLET_PART static const float *@N@_compute(@N@_state_t *st)
{
@COMPUTED@@NETWORK@
}

/* Cut the outputs to their limits. */
FLOCKLET_PART static uint32_t @N@_act(@N@_state_t *st, const float *y, float *action)
{
  uint32_t status = 0u;
  uint32_t i;
  for (i = 0; i < @ACTIONS@u; i++) {
    float a = y[i];
@RAW@    if (!(a >= @LOW@)) {
      a = @LOW@;
      status = @N@_ACTION_CLIPPED;
    } else if (a > @HIGH@) {
      a = @HIGH@;
      status = @N@_ACTION_CLIPPED;
    }
    st->last[i] = a;
    action[i] = a;
  }
  return status;
}

/* Repeat the last action, or give the failsafe. */
FLOCKLET_PART static uint32_t @N@_hold(@N@_state_t *st, float *action)
{
  uint32_t i;
  for (i = 0; i < @ACTIONS@u; i++) {
    if (st->bad == @BAD@u) {
      st->last[i] = @SAFE@;
    }
@RAWBAD@    action[i] = st->last[i];
  }
  return st->bad == @BAD@u ? @N@_FAILSAFE : 0u;
}
@ADVANCE@
uint32_t @N@_step(@ARGUMENTS@)
{
  uint32_t status = @N@_observe(@PASSED@);
  if ((status & @N@_UNTRUSTED) == 0u) {
    status |= @N@_act(st, @N@_compute(st), action);
  } else {
    status = (status & ~@N@_UNTRUSTED) | @N@_hold(st, action);
  }
@AFTER@  return status;
}
"""

_ADVANCE = """
FLOCKLET_PART static void @N@_advance(@N@_state_t *st@ADVANCETIME@)
{
@ADVANCELOCALS@@BODY@}
"""

_RECOVER = {
    "good_input": """\
    status |= @N@_UNTRUSTED;
  } else {
    st->bad = 0u;
  }""",
    "reset": """\
    status |= @N@_UNTRUSTED;
  } else if (st->bad == @BAD@u) {
    status |= @N@_UNTRUSTED;
  } else {
    st->bad = 0u;
  }""",
}

_BEFORE = """\
  for (i = 0; i < @ACTIONS@u; i++) {
    bits_t v;
    v.f = previous[i];
    if ((guard(&v, 0x4e6e6b28u) & @N@_NONFINITE) != 0u) {
      status |= @N@_NONFINITE;
      v.f = st->last[i];
    }
    st->fed[i] = v.f;
  }
  {
    const uint32_t k = st->sub;
@FEED@
  }
"""

_AFTER_PREVIOUS = """\
  st->sub = st->sub < 65535u ? st->sub + 1u : 65535u;
@NATIVE@
  if (st->native != 0u) {
@FINISH@
@SHIFT@
    st->sub = 0u;
  } else {
@SLICE@
  }
"""

_AFTER_OWN = """\
  {
    const uint32_t k = st->sub;
    st->native = k == 0u ? 1u : 0u;
    if (k == 0u) {
@FINISH@
@SHIFT@
    } else {
@SLICE@
    }
@FEED@
    st->sub = k + 1u == @PERIOD@u ? 0u : k + 1u;
  }
"""

_RESET = """\
void @N@_reset(@N@_state_t *st, float init)
{
  uint32_t i;
  bits_t v;
  v.f = init;
  if (guard(&v, 0x447a0000u) != 0u) {
    v.f = 0.0f;
  }
@WEIGHTS@  for (i = 0; i < @ACTIONS@u; i++) {
    st->last[i] = @SAFE@;
  }
  st->bad = 0u;
  st->sub = 0u;
  st->native = 0u;
@RESET@  (void)v;
}
"""


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line if line else "" for line in text.splitlines())


def step_text(plan: Plan, hooks: Hooks, *, loadable: bool) -> str:
    """Return guard, NAME_reset and NAME_step."""
    obs, action = plan.obs, plan.action
    low, high, safe = action.bounds(plan.network.n_out)
    tables = [
        _constants(key, values) for key, values in (("act_low", low), ("act_high", high), ("act_safe", safe))
    ]
    limit_table, limit = _limit_bits(plan)
    history = obs.history is not None
    previous = history and obs.feed == "previous_action"
    checks = []
    if action.max_gap_us:
        checks.append(_GAP.replace("@GAP@", str(action.max_gap_us)))
    if action.interval_us:
        early, late = action.interval_us * 4 // 5, action.interval_us * 6 // 5
        checks.append(_INTERVAL.replace("@LOW@", str(early)).replace("@HIGH@", str(late)))
    native = f"  st->native = st->sub == {obs.period}u ? 1u : 0u;"
    if obs.native_interval_us:
        native = (
            f"  st->native = (st->started == 0u || now_us - st->native_us >= {obs.native_interval_us}u) ? 1u : 0u;\n"
            "  if (st->native != 0u) {\n    st->native_us = now_us;\n    st->started = 1u;\n  }"
        )
    after, advance = "  st->native = 1u;\n", ""
    timed = has_time(plan)
    if history:
        body = _AFTER_PREVIOUS.replace("@NATIVE@", native) if previous else _AFTER_OWN
        depth = 4 if previous else 6
        body = body.replace("@FINISH@", _indent(hooks.finish, depth)).replace(
            "@SHIFT@", _indent(hooks.shift, depth)
        )
        body = body.replace("@SLICE@", _indent(hooks.slice, depth) or "      ;"[6 - depth :])
        body = body.replace("@FEED@", _indent(hooks.feed, 4))
        clock = bool(obs.native_interval_us)
        after = f"  @N@_advance(st{', now_us' if clock else ''});\n"
        local = "  uint32_t i;\n" if "(i = 0;" in body else ""
        advance = _ADVANCE.replace("@ADVANCETIME@", ", uint64_t now_us" if clock else "")
        advance = advance.replace("@ADVANCELOCALS@", local).replace("@BODY@", body)
    reset = hooks.reset
    if timed:
        reset = "st->last_us = 0u;\nst->seen = 0u;\n" + reset
        reset += "\nst->span_us = 0u;\nst->spans = 0u;\nst->biased = 0u;" if action.interval_us else ""
        reset += "\nst->native_us = 0u;\nst->started = 0u;" if obs.native_interval_us else ""
    rebuild = ""
    if hooks.rebuild:
        rebuild = "@N@_rebuild(st);"
    n = str(plan.network.n_out)
    text = _GUARD + "\n" + limit_table + "".join(table for table, _ in tables)
    if hooks.rebuild:
        text += f"\nstatic void @N@_rebuild(@N@_state_t *st)\n{{\n{_indent(hooks.rebuild, 2)}\n}}\n"
    text += "\n" + _RESET + "\n" + _STEP
    extra = [("const float *previous", "previous")] if previous else []
    extra += [("uint64_t now_us", "now_us")] if timed else []
    replacements = {
        "@TIME@": _TIME.replace("@CHECKS@", "\n".join(checks) or "        (void)gap;") if timed else "",
        "@BEFORE@": _BEFORE.replace("@FEED@", _indent(hooks.feed, 4)) if previous else "",
        "@ADVANCE@": advance,
        "@AFTER@": after,
        "@OBSERVED@": ", ".join(["@N@_state_t *st", "const float *obs", *(item for item, _ in extra)]),
        "@PASSED@": ", ".join(["st", "obs", *(item for _, item in extra)]),
        "@TRUST@": _RECOVER[action.recovery],
        "@COMPUTED@": "  const float *y;\n",
        "@RAW@": "    st->fed[i] = a;\n" if history and not previous else "",
        "@RAWBAD@": "    st->fed[i] = st->last[i];\n" if history and not previous else "",
        "@NETWORK@": _indent(hooks.network + "\nreturn y;", 2),
        "@OBSERVE@": _indent(hooks.observe, 4),
        "@RESET@": _indent(reset + ("\n" + rebuild if rebuild else ""), 2) + "\n",
        "@WEIGHTS@": "  st->weights = &@N@_weights;\n" if loadable else "",
        "@PERIOD@": str(obs.period),
        "@ARGUMENTS@": step_arguments(plan),
        "@STATE@": str(obs.state),
        "@ACTIONS@": n,
        "@LIMIT@": limit,
        "@BAD@": str(action.bad_limit),
        "@LOW@": tables[0][1],
        "@HIGH@": tables[1][1],
        "@SAFE@": tables[2][1],
    }
    for key, value in replacements.items():
        text = text.replace(key, value)
    return text
