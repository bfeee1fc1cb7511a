"""One TD3 update as one program (Fujimoto, van Hoof & Meger, ICML 2018, algorithm 1).

Twin critics with clipped double-Q targets and target smoothing, Adam on all nets, the actor through the
first critic, Polyak averaging. The caller draws the batch and the (clipped) smoothing noise; everything
else is one C call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flocklet.kernels.body.dsl import clip, minimum
from flocklet.kernels.body.expr import trace
from flocklet.kernels.maps import Window, map_kernel, matrix, vector
from flocklet.kernels.nets import Mlp, mlp_backward, mlp_forward
from flocklet.kernels.optim import adam, adam_tick, polyak
from flocklet.kernels.program import Program, View

__all__ = ["Td3Shape", "actor_program", "td3_program"]


@dataclass(frozen=True)
class Td3Shape:
    """The sizes and rates of a TD3 update."""

    observation: int = 18
    action: int = 4
    width: int = 64
    batch: int = 256
    discount: float = 0.99
    tau: float = 0.005
    rate: float = 1e-3
    hidden: str = "relu"
    squash: str = "tanh"

    @property
    def actor(self) -> Mlp:
        """Return the policy net."""
        return Mlp((self.observation, self.width, self.width, self.action), self.hidden, self.squash)

    @property
    def critic(self) -> Mlp:
        """Return the value net; its input is observation then action."""
        return Mlp((self.observation + self.action, self.width, self.width, 1), self.hidden)

    @property
    def count(self) -> int:
        """Return the number of parameters of actor and both critics."""
        return self.actor.count + 2 * self.critic.count


def _join(
    program: Program, shape: Td3Shape, left: View, right: View, out: View, *, noise: View | None = None
) -> None:
    """Append out = [left, right (+ noise, held in [-1, 1])], row by row."""
    b, n, k = shape.batch, shape.observation, shape.action
    copy = trace(lambda x: [x[0]], 1)
    program.call(map_kernel(copy, [matrix(n), matrix(n + k, "out")], b, n), left, out)
    behind = View(out.buffer, out.offset + n)
    if noise is None:
        program.call(map_kernel(copy, [matrix(k), matrix(n + k, "out")], b, k), right, behind)
    else:
        noisy = trace(lambda x, e: [clip(x[0] + e[0], -1.0, 1.0)], 1, 1)
        windows = [matrix(k), matrix(k), matrix(n + k, "out")]
        program.call(map_kernel(noisy, windows, b, k), right, noise, behind)


def td3_program(shape: Td3Shape = Td3Shape()) -> Program:
    """Return the program of one update.

    Buffers: `obs`, `next_obs` (batch, observation), `act`, `noise` (batch, action), `reward`, `alive`
    (batch; 0 where the episode terminated), and the state `params`, `targets`, `m`, `v` (actor, critic 1,
    critic 2) and `ticks` (corrections of actor and critics, 4 numbers). Results: `td` (2, batch), the
    errors of both critics.
    """
    p = Program("td3")
    b, n, k = shape.batch, shape.observation, shape.action
    actor, critic, total = shape.actor, shape.critic, shape.count
    obs, after = p.buffer("obs", b * n), p.buffer("next_obs", b * n)
    act, noise = p.buffer("act", b * k), p.buffer("noise", b * k)
    reward, alive = p.buffer("reward", b), p.buffer("alive", b)
    params, targets, grads = p.buffer("params", total), p.buffer("targets", total), p.buffer("grads", total)
    p.buffer("m", total), p.buffer("v", total), p.buffer("ticks", 4), p.buffer("td", 2 * b)
    starts = (actor.count, actor.count + critic.count)

    pair = p.scratch("pair", b * (n + k))
    a2 = mlp_forward(p, "a2", actor, b, targets, after, is_training=False)
    _join(p, shape, after, a2, pair, noise=noise)
    q = p.scratch("q", 2 * b)
    for i, start in enumerate(starts):
        mlp_forward(p, f"t{i}", critic, b, View("targets", start), pair, y=View("q", i * b))
    goal = p.scratch("goal", b)

    def target(r: list[Any], d: list[Any], values: list[Any]) -> list[Any]:
        return [r[0] + d[0] * shape.discount * minimum(values[0], values[1])]

    twins = Window(planes=2, plane_stride=b)
    p.call(
        map_kernel(trace(target, 1, 1, 2), [vector(), vector(), twins, vector("out")], 1, b),
        reward,
        alive,
        q,
        goal,
    )

    _join(p, shape, obs, act, pair)
    slope = p.scratch("slope", b)

    def error(y: list[Any], t: list[Any]) -> list[Any]:
        return [y[0] - t[0], (y[0] - t[0]) * (2.0 / b)]

    for i, start in enumerate(starts):
        y = mlp_forward(p, "c", critic, b, View("params", start), pair)
        windows = [vector(), vector(), vector("out"), vector("out")]
        p.call(map_kernel(trace(error, 1, 1), windows, 1, b), y, goal, View("td", i * b), slope)
        mlp_backward(p, "c", critic, b, View("params", start), pair, slope, grads=View("grads", start))
    p.call(adam_tick(), View("ticks", 2))
    _step(p, 2 * critic.count, starts[0], shape.rate, 2)

    move = mlp_forward(p, "a", actor, b, params, obs)
    _join(p, shape, obs, move, pair)
    mlp_forward(p, "p", critic, b, View("params", starts[0]), pair)
    p.call(map_kernel(trace(lambda: [-1.0 / b]), [vector("out")], 1, b), slope)
    dmove = p.scratch("dmove", b * k)
    mlp_backward(p, "p", critic, b, View("params", starts[0]), pair, slope, dx=dmove, dx_first=n)
    mlp_backward(p, "a", actor, b, params, obs, dmove, grads=grads)
    p.call(adam_tick(), View("ticks", 0))
    _step(p, actor.count, 0, shape.rate, 0)
    p.call(polyak(total, shape.tau), targets, params)
    return p


def _step(program: Program, count: int, start: int, rate: float, tick: int) -> None:
    views = [View(name, start) for name in ("params", "m", "v", "grads")]
    program.call(adam(count, rate=rate), *views, View("ticks", tick))


def actor_program(net: Mlp, rows: int = 1) -> Program:
    """Return the program of one forward pass: buffers `params`, `x` (rows, inputs), `y` (rows, outputs)."""
    p = Program("actor")
    params, x = p.buffer("params", net.count), p.buffer("x", rows * net.sizes[0])
    y = p.buffer("y", rows * net.sizes[-1])
    mlp_forward(p, "a", net, rows, params, x, y=y, is_training=False)
    return p
