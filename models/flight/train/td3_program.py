"""The compiled halves of the paper's trainer: collect transitions, update critics, update the actor, move the targets.

Replay: one record of 80 numbers per transition (full state before and after, disturbance, both noisy observations, reward,
how it ended, age of the episode) and one time line of actions; a history is an address in that line and an age, so a
transition costs 336 bytes instead of 1.3 KB. Sources: Fujimoto, van Hoof & Meger, ICML 2018 (TD3); Eschmann, Albani &
Loianno, Learning to Fly in Seconds, RA-L 2024, section III and public code (networks, asymmetric critics, weight decay).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.kernels.body.dsl import clip, minimum, sqrt, where
from flocklet.kernels.body.expr import Graph, trace
from flocklet.kernels.gather import gather_map, gather_window
from flocklet.kernels.kernel import Kernel
from flocklet.kernels.maps import Window, map_kernel, matrix, scalar, vector
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.noise import Draws
from flocklet.kernels.optim import adam_tick, polyak
from flocklet.kernels.program import Program, View
from flocklet.models.flight.sim.compiled import CLOCK, tick
from flocklet.models.flight.sim.dynamics import ACTIONS, STATES, Vehicle, step
from flocklet.models.flight.sim.task import (
    CORE,
    HISTORY,
    PRIVILEGED,
    SETTINGS,
    fresh,
    noisy,
    outside,
    privileged,
    reward,
)

__all__ = [
    "ACTOR",
    "AFTER",
    "AGE",
    "BEFORE",
    "CRITIC",
    "OBSERVED",
    "PUSH",
    "RECORD",
    "REWARD",
    "TERMINATED",
    "TRUNCATED",
    "actor_program",
    "collect_program",
    "critic_program",
    "decay_of",
    "settle_program",
    "target_program",
]

OBSERVED = CORE + HISTORY * ACTIONS
ACTOR = Mlp((OBSERVED, 64, 64, ACTIONS), "fast_tanh", "fast_tanh")
CRITIC = Mlp((PRIVILEGED + ACTIONS, 64, 64, 1), "fast_tanh")

# Where the fields of a record begin.
RECORD = 80
BEFORE, AFTER, PUSH, SEEN, NEXT, REWARD, TERMINATED, AGE, TRUNCATED = 0, 17, 34, 40, 58, 76, 77, 78, 79
_STEP, _RENEW, _SENSE, _EXPLORE = 1000, 0, 2000, 3000  # where the draws of each kernel begin
_PAIR = PRIVILEGED + ACTIONS


def _one(count: int, mode: str = "in") -> Window:
    """Return a window on `count` numbers in a row that one turn sees."""
    return Window(mode, planes=count, plane_stride=1)


def _into(width: int, count: int) -> Window:
    """Return a window on `count` columns of a row-major matrix of `width` columns, one row per element."""
    return Window("out", planes=count, plane_stride=1, column_stride=width)


def _store(program: Program, capacity: int) -> None:
    program.buffer("records", capacity * RECORD)
    program.buffer("log", (capacity + HISTORY) * ACTIONS)


def collect_program(capacity: int, vehicle: Vehicle, noise: float) -> Program:
    """Return the program of one transition of one environment; its axis is the number of the transition.

    Sense (fresh noise), act, explore with N(0, `noise`), step, sense again, record; a finished episode starts afresh.
    """
    p = Program("collect")
    _store(p, capacity)
    for name, size in (("actor", ACTOR.count), ("body", STATES), ("push", 6), ("age", 1), ("lane", 1)):
        p.buffer(name, size)
    p.buffer("settings", SETTINGS), p.buffer("clock", CLOCK), p.buffer("slot", HISTORY * ACTIONS)
    p.scratch("seen", OBSERVED), p.scratch("mean", ACTIONS), p.scratch("ends", 2)

    def at(field: int) -> View:
        return View("records", field, RECORD)

    tick(p)

    def sense(*lists: list[Any]) -> list[Any]:
        s, push, age, lane, settings, clock = lists
        core = noisy(s, Draws(lane[0], clock, _SENSE), settings)
        return [*s, *push, *core, age[0], *core]

    sizes: tuple[int, ...] = (STATES, 6, 1, 1, SETTINGS, CLOCK)
    windows = [_one(k) for k in sizes] + [_one(k, "out") for k in (STATES, 6, CORE, 1, CORE)]
    given = [View(name) for name in ("body", "push", "age", "lane", "settings", "clock")]
    views = [*given, at(BEFORE), at(PUSH), at(SEEN), at(AGE), View("seen")]
    p.call(map_kernel(trace(sense, *sizes), windows, 1, 1), *views)

    kept = trace(lambda h, slot, age: [where(age[0] < slot[0], 0.0, h[0])], 1, 1, 1)
    windows = [vector(), vector(), scalar(), vector("out")]
    line = View("log", 0, ACTIONS)
    p.call(map_kernel(kept, windows, 1, HISTORY * ACTIONS), line, "slot", "age", View("seen", CORE))
    mlp_forward(p, "policy", ACTOR, 1, View("actor"), View("seen"), y=View("mean"), is_training=False)

    def explore(mean: list[Any], lane: list[Any], clock: list[Any]) -> list[Any]:
        draws = Draws(lane[0], clock, _EXPLORE).normals(ACTIONS)
        return [clip(m + e * noise, -1.0, 1.0) for m, e in zip(mean, draws, strict=True)]

    windows = [_one(ACTIONS), _one(1), _one(CLOCK), _one(ACTIONS, "out")]
    action = View("log", HISTORY * ACTIONS, ACTIONS)
    p.call(
        map_kernel(trace(explore, ACTIONS, 1, CLOCK), windows, 1, 1), View("mean"), "lane", "clock", action
    )

    def move(*lists: list[Any]) -> list[Any]:
        s, age, a, push, lane, settings, clock = lists
        after = step(s, a, 0.01, vehicle, push[:3], push[3:])
        lost = outside(after, settings)
        late = where(age[0] + 1.0 > settings[8] - 0.5, 1.0 - lost, 0.0)
        core = noisy(after, Draws(lane[0], clock, _STEP), settings)
        return [*after, age[0] + 1.0, *after, *core, reward(s, a, settings, lost), lost, late, lost, late]

    sizes = (STATES, 1, ACTIONS, 6, 1, SETTINGS, CLOCK)
    windows = [_one(STATES, "inout"), _one(1, "inout"), *[_one(k) for k in sizes[2:]]]
    windows += [_one(k, "out") for k in (STATES, CORE, 2, 1, 2)]
    views = [View("body"), View("age"), action, View("push"), View("lane"), View("settings"), View("clock")]
    views += [at(AFTER), at(NEXT), at(REWARD), at(TRUNCATED), View("ends")]
    p.call(map_kernel(trace(move, *sizes), windows, 1, 1), *views)

    def renew(*lists: list[Any]) -> list[Any]:
        s, push, age, ends, lane, settings, clock = lists
        over = ends[0] + ends[1] > 0.5
        new = fresh(Draws(lane[0], clock, _RENEW), settings, vehicle)
        out = [where(over, x, y) for x, y in zip(new, [*s, *push], strict=True)]
        return [*out, where(over, 0.0, age[0])]

    sizes = (STATES, 6, 1, 2, 1, SETTINGS, CLOCK)
    windows = [_one(k, "inout") for k in sizes[:3]] + [_one(k) for k in sizes[3:]]
    views = [View(name) for name in ("body", "push", "age", "ends", "lane", "settings", "clock")]
    p.call(map_kernel(trace(renew, *sizes), windows, 1, 1), *views)
    return p


def _privileged(body: int, vehicle: Vehicle) -> tuple[Graph, list[int]]:
    graph = trace(lambda s, f, t: privileged(s, f, t, vehicle), STATES, 3, 3)
    return graph, [*range(body, body + STATES), *range(PUSH, PUSH + 6)]


def _observe(p: Program, capacity: int, rows: int, index: View, out: str, *, is_next: bool) -> None:
    """Append the actor's observations of picked transitions, (rows, 146): sensed numbers, then the history."""
    start = NEXT if is_next else SEEN
    copy = trace(lambda x: x, CORE)
    fields = list(range(start, start + CORE))
    p.call(
        gather_map(copy, capacity, RECORD, fields, [_into(OBSERVED, CORE)], rows),
        index,
        View("records"),
        View(out),
    )
    window = gather_window(
        capacity, ACTIONS, HISTORY, rows, OBSERVED, age=(capacity, RECORD, AGE), later=int(is_next)
    )
    p.call(window, index, View("log"), View("records"), View(out, CORE))


def critic_program(
    capacity: int, vehicle: Vehicle, *, batch: int, discount: float, smooth: tuple[float, float]
) -> Program:
    """Return the update of one critic; the axis is which critic (0, 1), each with its own batch and target noise.

    Buffers: `index` (2, batch), `dice` (2, 4: two keys, the round, the critic), `critics`, `critic_targets`, `m`, `v`
    (2, parameters), `ticks` (2, 2), `actor_target`. Results: `td` (2, batch), errors of the value before the update.
    """
    p, n = Program("critic"), CRITIC.count
    _store(p, capacity)
    p.buffer("index", 2 * batch), p.buffer("dice", 8), p.buffer("rows", batch), p.buffer("ticks", 4)
    p.buffer("actor_target", ACTOR.count), p.buffer("decay", n), p.buffer("td", 2 * batch)
    for name in ("critics", "critic_targets", "m", "v", "grads"):
        p.buffer(name, 2 * n)
    index = View("index", 0, batch)
    p.scratch("seen", batch * OBSERVED), p.scratch("now", batch * _PAIR), p.scratch("then", batch * _PAIR)
    p.scratch("outcome", batch * 2), p.scratch("q", 2 * batch)
    p.scratch("goal", batch), p.scratch("slope", batch)
    _observe(p, capacity, batch, index, "seen", is_next=True)
    for start, out in ((BEFORE, "now"), (AFTER, "then")):
        graph, fields = _privileged(start, vehicle)
        kernel = gather_map(graph, capacity, RECORD, fields, [_into(_PAIR, PRIVILEGED)], batch)
        p.call(kernel, index, View("records"), View(out))
    took = gather_map(
        trace(lambda a: a, ACTIONS),
        capacity,
        ACTIONS,
        list(range(ACTIONS)),
        [_into(_PAIR, ACTIONS)],
        batch,
    )
    p.call(took, index, View("log", HISTORY * ACTIONS), View("now", PRIVILEGED))
    ended = trace(lambda x: [x[0], 1.0 - x[1]], 2)
    kernel = gather_map(ended, capacity, RECORD, [REWARD, TERMINATED], [_into(2, 2)], batch)
    p.call(kernel, index, View("records"), View("outcome"))

    a2 = mlp_forward(p, "a2", ACTOR, batch, View("actor_target"), View("seen"), is_training=False)
    spread, limit = smooth

    def smoothed(a: list[Any], row: list[Any], keys: list[Any]) -> list[Any]:
        draws = Draws(row[0], keys).normals(ACTIONS)
        pushed = [clip(e * spread, -limit, limit) for e in draws]
        return [clip(x + e, -1.0, 1.0) for x, e in zip(a, pushed, strict=True)]

    four = Window(planes=ACTIONS, plane_stride=1, column_stride=ACTIONS)
    keys = Window(planes=4, plane_stride=1, column_stride=0)
    windows = [four, vector(), keys, _into(_PAIR, ACTIONS)]
    kernel = map_kernel(trace(smoothed, ACTIONS, 1, 4), windows, 1, batch)
    p.call(kernel, a2, View("rows"), View("dice", 0, 4), View("then", PRIVILEGED))
    for i in range(2):
        target, y = View("critic_targets", i * n), View("q", i * batch)
        mlp_forward(p, "t", CRITIC, batch, target, View("then"), y=y, is_training=False)

    def bellman(r: list[Any], q: list[Any]) -> list[Any]:
        return [r[0] + r[1] * discount * minimum(q[0], q[1])]

    windows = [
        Window(planes=2, plane_stride=1, column_stride=2),
        Window(planes=2, plane_stride=batch),
        vector("out"),
    ]
    p.call(map_kernel(trace(bellman, 2, 2), windows, 1, batch), "outcome", "q", "goal")
    critic = View("critics", 0, n)
    y = mlp_forward(p, "c", CRITIC, batch, critic, View("now"))

    def error(y: list[Any], t: list[Any]) -> list[Any]:
        return [y[0] - t[0], (y[0] - t[0]) * (2.0 / batch)]

    windows = [vector(), vector(), vector("out"), vector("out")]
    kernel = map_kernel(trace(error, 1, 1), windows, 1, batch)
    p.call(kernel, y, View("goal"), View("td", 0, batch), View("slope"))
    grads = View("grads", 0, n)
    mlp_backward(p, "c", CRITIC, batch, critic, View("now"), View("slope"), grads=grads)
    p.call(adam_tick(), View("ticks", 0, 2))
    p.call(_adam(n, 1), critic, View("m", 0, n), View("v", 0, n), grads, View("decay"), View("ticks", 0, 2))
    return p


def actor_program(capacity: int, vehicle: Vehicle, *, batch: int, parts: int = 2) -> Program:
    """Return the gradient of the mean of Q1 for the actor; the axis is the part of the batch, `grads` (parts, n) receives
    each part's share.
    """
    p, n, rows = Program("actor_gradient"), ACTOR.count, batch // parts
    _store(p, capacity)
    p.buffer("index", batch), p.buffer("actor", n), p.buffer("critics", 2 * CRITIC.count)
    p.buffer("grads", parts * n)
    p.scratch("seen", rows * OBSERVED), p.scratch("now", rows * _PAIR)
    p.scratch("slope", rows), p.scratch("push_back", rows * ACTIONS)
    index = View("index", 0, rows)
    _observe(p, capacity, rows, index, "seen", is_next=False)
    graph, fields = _privileged(BEFORE, vehicle)
    kernel = gather_map(graph, capacity, RECORD, fields, [_into(_PAIR, PRIVILEGED)], rows)
    p.call(kernel, index, View("records"), View("now"))
    move = mlp_forward(p, "a", ACTOR, rows, View("actor"), View("seen"))
    copy = trace(lambda x: [x[0]], 1)
    p.call(
        map_kernel(copy, [matrix(ACTIONS), matrix(_PAIR, "out")], rows, ACTIONS),
        move,
        View("now", PRIVILEGED),
    )
    mlp_forward(p, "q", CRITIC, rows, View("critics"), View("now"))
    p.call(map_kernel(trace(lambda: [-1.0 / batch]), [vector("out")], 1, rows), "slope")
    back = View("push_back")
    mlp_backward(
        p, "q", CRITIC, rows, View("critics"), View("now"), View("slope"), dx=back, dx_first=PRIVILEGED
    )
    mlp_backward(p, "a", ACTOR, rows, View("actor"), View("seen"), back, grads=View("grads", 0, n))
    return p


def settle_program(parts: int = 2) -> Program:
    """Return the step of the actor along the summed gradients: buffers `actor`, `m`, `v`, `grads`, `decay`, `ticks`."""
    p, n = Program("actor_step"), ACTOR.count
    for name, size in (("actor", n), ("m", n), ("v", n), ("grads", parts * n), ("decay", n), ("ticks", 2)):
        p.buffer(name, size)
    p.call(adam_tick(), "ticks")
    p.call(_adam(n, parts), "actor", "m", "v", "grads", "decay", "ticks")
    return p


def target_program(count: int, tau: float) -> Program:
    """Return the move of targets towards their models: buffers `targets`, `params`."""
    p = Program("targets")
    targets, params = p.buffer("targets", count), p.buffer("params", count)
    p.call(polyak(count, tau), targets, params)
    return p


def _adam(count: int, parts: int) -> Kernel:
    """Adam (lr 1e-3, 0.9, 0.999, 1e-8) on the sum of `parts` gradients, less `decay` (per parameter) times the weight."""

    def body(*lists: list[Any]) -> list[Any]:
        (p,), (m,), (v,), gs, (decay,), c = lists
        g = gs[0]
        for more in gs[1:]:
            g = g + more
        first = m * 0.9 + g * (1.0 - 0.9)
        second = v * 0.999 + g * g * (1.0 - 0.999)
        move = first * (1e-3 / c[0]) / (sqrt(second * (1.0 / c[1])) + 1e-8)
        return [p - p * decay - move, first, second]

    windows = [vector("inout"), vector("inout"), vector("inout"), Window(planes=parts, plane_stride=count)]
    windows += [vector(), Window(planes=2, plane_stride=1, column_stride=0)]
    return map_kernel(trace(body, 1, 1, 1, parts, 1, 2), windows, 1, count)


def decay_of(net: Mlp, amount: float) -> NDArray[np.float32]:
    """Return `amount` for every weight of a net and 0 for every bias."""
    out = np.zeros(net.count, np.float32)
    for layer in net.layers:
        out[layer.weights : layer.bias] = amount
    return out
