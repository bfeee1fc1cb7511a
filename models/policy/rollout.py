"""Let a policy act for some steps in every world and keep what learning needs; advantages per reward head.

A time limit is not an end: where an episode is truncated, the value of its last observation, taken before the world is
replaced, stands for what would have come; where it terminated, nothing does (Pardo et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Bools, Environment, Floats, heads_of
from flocklet.models.policy.policy import Actor, act

__all__ = ["Combine", "Rollout", "Value", "advantages", "combine", "critic_input", "rollout", "values"]

Combine: TypeAlias = Literal["normalised", "sum"]
Value: TypeAlias = Callable[[Floats], Floats]
"""What a critic is: rows (B, D) -> values (B, H)."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """T steps of M worlds with N agents each.

    `seen` (T, M, N, D), `action` (T, M, N) or (T, M, N, K), `log_prob` (T, M, N) under the policy that acted, `probs`
    (T, M, N, P) its whole distribution, `reward` (T, M, N, H), `value` (T + 1, M, N, H), `terminated` and `truncated`
    (T, M), `final_value` (T, M, N, H): the value of the last observation where truncated, else 0. `info` holds the
    environment's arrays, (T, ...).
    """

    seen: Floats
    action: NDArray[Any]
    log_prob: Floats
    probs: Floats
    reward: Floats
    value: Floats
    terminated: Bools
    truncated: Bools
    final_value: Floats
    level: NDArray[Any]
    allowed: Bools | None
    privileged: Floats | None
    next_seen: Floats
    info: dict[str, NDArray[Any]]
    source: str = "own"

    @property
    def ended(self) -> Bools:
        """Return where an episode ended, either way, (T, M)."""
        return self.terminated | self.truncated


def critic_input(env: Environment, state: Any, seen: Floats) -> Floats:
    """Return what the critic sees, (M, N, ...): the privileged observation where there is one."""
    if not env.spec.privileged:
        return seen
    wide = env.observe_privileged(state).astype(np.float32, copy=False)
    worlds, agents, _ = seen.shape
    return np.broadcast_to(wide.reshape(worlds, -1, wide.shape[-1]), (worlds, agents, wide.shape[-1]))


def values(critic: Value, seen: Floats) -> Floats:
    """Return the values (..., H) of what the critic sees (..., D)."""
    flat = critic(np.ascontiguousarray(seen.reshape(-1, seen.shape[-1])))
    return flat.reshape(*seen.shape[:-1], -1)


def rollout(
    env: Environment,
    actor: Actor,
    critic: Value,
    state: Any,
    steps: int,
    rng: np.random.Generator,
    *,
    levels: Floats | None = None,
) -> tuple[Rollout, Any]:
    """Return `steps` steps of every world and the state after them; finished worlds start anew.

    `levels` (M, L) gives the levels of the fresh worlds (drawn from the environment otherwise). Raise ValueError
    for rewards or observations that are not finite numbers.
    """
    spec = env.spec
    rows: dict[str, list[Any]] = {name: [] for name in Rollout.__dataclass_fields__}
    infos: list[Any] = []
    seen = _observe(env, state, rng)
    for _ in range(steps):
        allowed = env.allowed(state)
        inside = critic_input(env, state, seen)
        action, dist = act(actor, seen, rng, allowed=allowed)
        log_prob = dist.log_prob(action.reshape(dist.params.shape[0], *action.shape[2:]))
        turn = env.step(state, action, rng)
        reward = heads_of(turn.reward, spec)
        last_seen = _observe(env, turn.state, rng)
        final = np.zeros_like(reward, np.float32)
        if turn.truncated.any():
            last = values(critic, critic_input(env, turn.state, last_seen))
            final[turn.truncated] = last[turn.truncated]
        ended = turn.terminated | turn.truncated
        for name, value in (
            ("seen", seen),
            ("action", action),
            ("log_prob", log_prob.reshape(action.shape[:2])),
            ("probs", dist.params.reshape(*action.shape[:2], -1)),
            ("reward", reward),
            ("value", values(critic, inside)),
            ("terminated", turn.terminated),
            ("truncated", turn.truncated),
            ("final_value", final),
            ("allowed", allowed),
            ("privileged", inside if spec.privileged else None),
            ("next_seen", last_seen),
        ):
            rows[name].append(value)
        infos.append(turn.info)
        state, seen = turn.state, last_seen
        if ended.any():
            state = env.replace(state, ended, env.reset(rng, len(ended), levels))
            fresh = _observe(env, state, rng)
            seen = np.where(ended[:, None, None], fresh, last_seen)
    rows["value"].append(values(critic, critic_input(env, state, seen)))
    whole = {
        name: None if not rows[name] or rows[name][0] is None else np.stack(rows[name])
        for name in rows
        if name not in ("level", "info", "source")
    }
    info = {name: np.stack([one[name] for one in infos]) for name in infos[0]} if infos else {}
    level = getattr(state, "level", np.zeros((len(ended), 0), np.float32))
    made = Rollout(**whole, level=level, info=info)  # type: ignore[arg-type]
    return made, state


def _observe(env: Environment, state: Any, rng: np.random.Generator) -> Floats:
    seen = env.observe(state, rng)
    if not np.isfinite(seen).all():
        raise ValueError(f"{env.spec.name}: an observation is not a finite number")
    return seen


def advantages(run: Rollout, gamma: float, lam: float) -> tuple[Floats, Floats]:
    """Return GAE advantages and value targets, (T, M, N, H) each (Schulman et al. 2016).

    d_t = r_t + gamma V_{t+1} (1 - e_t) - V_t with e an end of either kind; truncation adds gamma V(last observation)
    to the reward, and A_t = d_t + gamma lam (1 - e_t) A_{t+1}.
    """
    goes_on = (~run.ended)[:, :, None, None].astype(np.float32)
    reward = run.reward + gamma * run.final_value
    out = np.zeros_like(run.value[:-1])
    later = np.zeros_like(out[0])
    for t in reversed(range(len(out))):
        step = reward[t] + gamma * run.value[t + 1] * goes_on[t] - run.value[t]
        later = step + gamma * lam * goes_on[t] * later
        out[t] = later
    return out, out + run.value[:-1]


def combine(advantage: Floats, weights: Floats, mode: Combine = "normalised") -> Floats:
    """Return one advantage per row from those of H heads (B, H): sum_h w_h (A_h - mean)/std, or the plain sum.

    Normalised, the scale of a head's reward does not matter; in the plain sum the largest decides.
    """
    if mode == "sum":
        return np.asarray((advantage * weights).sum(axis=-1))
    deep = advantage.astype(np.float64)
    scaled = (deep - deep.mean(axis=0)) / (deep.std(axis=0) + 1e-8)
    return np.asarray((scaled * weights).sum(axis=-1), advantage.dtype)
