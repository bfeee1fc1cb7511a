"""Learn on-policy: one object, any environment, any loss of the switch (a2c, ppo, mdpo, npg).

A round is a rollout in all worlds and its updates. A head's reward is divided by the largest size seen of it, in
float64, so that a reward in other units gives the same bytes (`mode="sum"`, the control, leaves it). Defaults: ten
epochs of minibatches of 256 rows, Adam at 1e-3 falling to 0, gamma .98, lambda .9 (specs of MDPO, section 4.1).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.models.base import Parameters, State
from flocklet.models.policy.environment import Environment, Floats, state_arrays, state_of
from flocklet.models.policy.hook import Hook
from flocklet.models.policy.losses import LOSSES, anchor_error
from flocklet.models.policy.natural import natural_step
from flocklet.models.policy.optimiser import Adam, clip_norm
from flocklet.models.policy.policy import Actor, Critic, NetPolicy
from flocklet.models.policy.report import Report, Returns, generator_state, load_generator
from flocklet.models.policy.rollout import Combine, Rollout, advantages, combine, rollout

__all__ = ["Learner", "Settings"]


@dataclass(frozen=True)
class Settings:
    """How a learner learns. `rounds` is what the annealing of the rate and of MDPO's step runs over."""

    worlds: int = 16
    steps: int = 64
    epochs: int = 10
    minibatch: int = 256
    rate: float = 1e-3
    gamma: float = 0.98
    lam: float = 0.9
    rounds: int = 100
    clip: float = 0.2
    entropy: float = 0.0
    delta: float = 0.01
    most_norm: float = 0.5
    weights: tuple[float, ...] = ()
    mode: Combine = "normalised"


class Learner:
    """Rollout, advantages, minibatches, Adam; the same seed gives the same bytes, a loaded state goes on bit for bit.

    `anchors` are (policy, weight): each adds weight times KL(pi, anchor) to the loss.
    """

    def __init__(
        self,
        env: Environment,
        policy: NetPolicy,
        loss: str = "mdpo",
        *,
        seed: int = 0,
        settings: Settings | None = None,
        anchors: Sequence[tuple[Actor, float]] = (),
        hooks: Sequence[Hook] = (),
    ) -> None:
        if loss not in (*LOSSES, "npg"):
            raise ValueError(f"there is no on-policy loss {loss!r}: {', '.join([*LOSSES, 'npg'])}")
        self.env, self.policy, self.loss = env, policy, loss
        self.settings = settings or Settings()
        self.anchors, self.hooks = list(anchors), list(hooks)
        spec = env.spec
        self.rng = np.random.default_rng([seed, 1])
        self.critic = Critic(spec.privileged or spec.seen, len(spec.heads), np.random.default_rng([seed, 2]))
        self.weights = np.array(self.settings.weights or (1.0,) * len(spec.heads), np.float32)
        if self.weights.shape != (len(spec.heads),):
            raise ValueError(f"{spec.name} has the reward heads {', '.join(spec.heads)}: one weight each")
        self.adam, self.critic_adam = Adam(policy.layout.size), Adam(self.critic.layout.size)
        self.scale = np.zeros(len(spec.heads))
        self.worlds = env.reset(self.rng, self.settings.worlds, self._levels(self.settings.worlds))
        self.returns = Returns(self.settings.worlds)
        self.done = self.steps = 0
        self.best_return = -np.inf
        self.best: Parameters = policy.tensors()

    def round(self, progress: float | None = None) -> Report:
        """Do one rollout and its updates; `progress` in [0, 1] anneals (the share of `rounds` unless given).

        Raise ValueError where the environment gives something that is not a finite number, and FloatingPointError
        where the parameters stop being finite; the policy is then the best so far.
        """
        started, s = time.process_time(), self.settings
        share = min(self.done / max(s.rounds, 1) if progress is None else progress, 1.0)
        run, self.worlds = rollout(
            self.env, self.policy, self.critic, self.worlds, s.steps, self.rng, levels=self._levels(s.worlds)
        )
        self.returns.add(run.reward.sum(axis=-1).mean(axis=-1), run.ended)
        self.steps += s.steps * s.worlds
        advantage, target = advantages(self._scaled(run), s.gamma, s.lam)
        for hook in self.hooks:
            hook.advantages(run, advantage)
        flat = _rows(advantage)
        self._update(run, combine(flat, self.weights, s.mode), _rows(target), share)
        if not (np.isfinite(self.policy.vector).all() and np.isfinite(self.critic.vector).all()):
            self.policy.load(self.best)
            raise FloatingPointError(f"learning {self.env.spec.name} diverged in round {self.done + 1}")
        self.done += 1
        new = self.policy.dist(_rows(run.seen), None if run.allowed is None else _rows(run.allowed))
        old = self.policy.recorded(_rows(run.probs))
        spread = float(_rows(target).var())
        left = float((_rows(target) - _rows(run.value[:-1])).var())
        report = Report(
            self.done,
            self.steps,
            self.returns.mean,
            float(new.kl(old).mean()),
            float(new.entropy().mean()),
            1.0 - left / spread if spread > 0.0 else 0.0,
            time.process_time() - started,
        )
        if self.returns.mean > self.best_return and len(self.returns.last) >= min(20, s.worlds):
            self.best_return, self.best = self.returns.mean, self.policy.tensors()
        for hook in self.hooks:
            hook.after(report)
        return report

    def _levels(self, n: int) -> Floats | None:
        for hook in self.hooks:
            found = hook.levels(self.rng, n)
            if found is not None:
                return found
        return None

    def _scaled(self, run: Rollout) -> Rollout:
        """Return the rollout with each head's reward over the largest size seen of it.

        In float64 (c r) / (c s) rounds exactly as r / s does, so a reward in other units changes nothing.
        """
        reward = run.reward
        for hook in self.hooks:
            other = hook.reward(run)
            reward = reward if other is None else other
        if self.settings.mode == "normalised":
            wide = reward.astype(np.float64)
            self.scale = np.maximum(self.scale, np.abs(wide).max(axis=(0, 1, 2)))
            reward = wide / np.where(self.scale > 0.0, self.scale, 1.0)
        fields = {**run.__dict__, "reward": reward.astype(np.float32)}
        return Rollout(**fields)

    def _update(self, run: Rollout, advantage: Floats, target: Floats, share: float) -> None:
        s, policy = self.settings, self.policy
        seen, action = _rows(run.seen), run.action.reshape(-1, *run.action.shape[3:])
        allowed = None if run.allowed is None else _rows(run.allowed)
        inside = seen if run.privileged is None else _rows(run.privileged)
        probs, rate = _rows(run.probs), s.rate * (1.0 - share)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)  # once, over the whole batch
        if self.loss == "npg":
            natural_step(policy, seen, allowed, action, advantage, s.delta)
        parameter = s.clip if self.loss == "ppo" else 1.0 / max(1.0 - share, 0.02)
        rows = len(seen)
        for _ in range(1 if self.loss == "a2c" else s.epochs):
            order = self.rng.permutation(rows)
            for at in range(0, rows, s.minibatch):
                part = order[at : at + s.minibatch]
                mask = None if allowed is None else allowed[part]
                if self.loss != "npg":
                    new, tape = policy.forward(seen[part], mask)
                    old = policy.recorded(probs[part])
                    error = LOSSES[self.loss](new, old, action[part], advantage[part], parameter)
                    if s.entropy:
                        error = error - new.entropy_gradient() * np.float32(s.entropy / len(part))
                    if self.anchors:
                        there = [(actor.dist(seen[part], mask), weight) for actor, weight in self.anchors]
                        error = error + anchor_error(new, there)
                    gradient = policy.gradient(tape, error.astype(np.float32, copy=False))
                    clip_norm(gradient, s.most_norm)
                    self.adam.step(policy.vector, gradient, rate)
                gradient, _ = self.critic.gradient(inside[part], target[part])
                clip_norm(gradient, s.most_norm)
                self.critic_adam.step(self.critic.vector, gradient, rate)

    def state(self) -> State:
        """Return everything that the next round depends on, as plain arrays."""
        out: State = {"policy": self.policy.vector.copy(), "critic": self.critic.vector.copy()}
        out |= {f"adam.{k}": v for k, v in self.adam.state().items()}
        out |= {f"critic_adam.{k}": v for k, v in self.critic_adam.state().items()}
        out |= {f"worlds.{k}": v.copy() for k, v in state_arrays(self.worlds).items()}
        out |= {f"best.{k}": v.copy() for k, v in self.best.items()}
        out["rng"] = generator_state(self.rng)
        out["running"], out["last"] = self.returns.running.copy(), self.returns.last.copy()
        out["scale"] = self.scale.copy()
        out["counts"] = np.array([self.done, self.steps], np.int64)
        out["best_return"] = np.array([self.best_return])
        for i, hook in enumerate(self.hooks):
            out |= {f"hook{i}.{k}": np.asarray(v) for k, v in hook.state().items()}
        return out

    def load_state(self, state: State) -> None:
        """Go on from a state of a learner of the same environment, policy and settings; raise ValueError otherwise."""
        if (
            state.keys() != self.state().keys()
            or state["policy"].shape != self.policy.vector.shape
            or state["running"].shape != self.returns.running.shape
        ):
            raise ValueError("this state belongs to another learner")
        self.policy.vector[...] = state["policy"]
        self.critic.vector[...] = state["critic"]
        self.adam.load_state(_below(state, "adam."))
        self.critic_adam.load_state(_below(state, "critic_adam."))
        self.worlds = state_of(self.worlds, {k: v.copy() for k, v in _below(state, "worlds.").items()})
        self.best = {k: v.copy() for k, v in _below(state, "best.").items()}
        load_generator(self.rng, state["rng"])
        self.returns.running, self.returns.last = state["running"].copy(), state["last"].copy()
        self.scale = state["scale"].copy()
        self.done, self.steps = (int(n) for n in state["counts"])
        self.best_return = float(state["best_return"][0])
        for i, hook in enumerate(self.hooks):
            hook.load_state(_below(state, f"hook{i}."))


def _rows(array: Any) -> Any:
    """Return (T, M, N, W) as (T M N, W)."""
    return array.reshape(-1, array.shape[-1])


def _below(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
