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
from flocklet.firmware_export.c.template import fill
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


# One call in four parts, each with a stack frame of its own: the deepest chain of calls is what counts.


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
        checks.append(fill("time_gap.c.in", GAP=str(action.max_gap_us)))
    if action.interval_us:
        early, late = action.interval_us * 4 // 5, action.interval_us * 6 // 5
        checks.append(fill("time_interval.c.in", LOW=str(early), HIGH=str(late)))
    native = f"  st->native = st->sub == {obs.period}u ? 1u : 0u;"
    if obs.native_interval_us:
        native = (
            f"  st->native = (st->started == 0u || now_us - st->native_us >= {obs.native_interval_us}u) ? 1u : 0u;\n"
            "  if (st->native != 0u) {\n    st->native_us = now_us;\n    st->started = 1u;\n  }"
        )
    after, advance = "  st->native = 1u;\n", ""
    timed = has_time(plan)
    if history:
        depth = 4 if previous else 6
        parts = {
            "FINISH": _indent(hooks.finish, depth),
            "SHIFT": _indent(hooks.shift, depth),
            "SLICE": _indent(hooks.slice, depth) or "      ;"[6 - depth :],
        }
        if previous:
            body = fill("advance_previous.c.in", NATIVE=native, **parts)
        else:
            body = fill("advance_own.c.in", PERIOD=str(obs.period), FEED=_indent(hooks.feed, 4), **parts)
        clock = bool(obs.native_interval_us)
        after = f"  @N@_advance(st{', now_us' if clock else ''});\n"
        advance = fill(
            "advance.c.in",
            ADVANCETIME=", uint64_t now_us" if clock else "",
            ADVANCELOCALS="  uint32_t i;\n" if "(i = 0;" in body else "",
            BODY=body,
        )
    reset = hooks.reset
    if timed:
        reset = "st->last_us = 0u;\nst->seen = 0u;\n" + reset
        reset += "\nst->span_us = 0u;\nst->spans = 0u;\nst->biased = 0u;" if action.interval_us else ""
        reset += "\nst->native_us = 0u;\nst->started = 0u;" if obs.native_interval_us else ""
    rebuild = ""
    if hooks.rebuild:
        rebuild = "@N@_rebuild(st);"
    n = str(plan.network.n_out)
    text = fill("guard.c.in") + "\n" + limit_table + "".join(table for table, _ in tables)
    if hooks.rebuild:
        text += f"\nstatic void @N@_rebuild(@N@_state_t *st)\n{{\n{_indent(hooks.rebuild, 2)}\n}}\n"
    text += "\n" + fill(
        "reset.c.in",
        RESET=_indent(reset + ("\n" + rebuild if rebuild else ""), 2) + "\n",
        WEIGHTS="  st->weights = &@N@_weights;\n" if loadable else "",
        ACTIONS=n,
        SAFE=tables[2][1],
    )
    extra = [("const float *previous", "previous")] if previous else []
    extra += [("uint64_t now_us", "now_us")] if timed else []
    bad = str(action.bad_limit)
    return (
        text
        + "\n"
        + fill(
            "step.c.in",
            TIME=fill("time.c.in", CHECKS="\n".join(checks) or "        (void)gap;") if timed else "",
            BEFORE=fill("feed_before.c.in", FEED=_indent(hooks.feed, 4), ACTIONS=n) if previous else "",
            ADVANCE=advance,
            AFTER=after,
            OBSERVED=", ".join(["@N@_state_t *st", "const float *obs", *(item for item, _ in extra)]),
            PASSED=", ".join(["st", "obs", *(item for _, item in extra)]),
            TRUST=fill("recover_reset.c.in", BAD=bad)
            if action.recovery == "reset"
            else fill("recover_good_input.c.in"),
            RAW="    st->fed[i] = a;\n" if history and not previous else "",
            RAWBAD="    st->fed[i] = st->last[i];\n" if history and not previous else "",
            NETWORK=_indent(hooks.network + "\nreturn y;", 2),
            OBSERVE=_indent(hooks.observe, 4),
            ARGUMENTS=step_arguments(plan),
            STATE=str(obs.state),
            ACTIONS=n,
            LIMIT=limit,
            BAD=bad,
            LOW=tables[0][1],
            HIGH=tables[1][1],
            SAFE=tables[2][1],
        )
    )
