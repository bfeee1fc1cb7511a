"""Learn a forest on-policy with PPO's gradients: one tree per minibatch, for logits and value together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.firmware_export.trees.fit import Splits, fit_oblivious, leaf_means
from flocklet.models.base import Parameters, State
from flocklet.models.policy.distribution import Categorical
from flocklet.models.policy.environment import Environment, Floats, state_arrays, state_of
from flocklet.models.policy.forest import ForestPolicy
from flocklet.models.policy.hook import Hook
from flocklet.models.policy.losses import loss
from flocklet.models.policy.report import Report, Returns, generator_state, load_generator
from flocklet.models.policy.rollout import advantages, rollout

__all__ = ["ForestLearner", "ForestSettings"]


@dataclass(frozen=True)
class ForestSettings:
    """How a forest learns. `fold` is the number of trees beyond which it is refitted by a quarter (0: never)."""

    worlds: int = 16
    steps: int = 64
    epochs: int = 4
    minibatch: int = 256
    rate: float = 0.15
    value_rate: float = 0.1
    gamma: float = 0.98
    lam: float = 0.8
    clip: float = 0.2
    bins: int = 32
    memory: int = 8
    fold: int = 0
    fold_rate: float = 0.5
    is_scaled: bool = True


class ForestLearner:
    """Rollout, gradients of PPO, trees. Folding refits the forest on the last rollouts' rows."""

    def __init__(
        self,
        env: Environment,
        policy: ForestPolicy,
        *,
        seed: int = 0,
        settings: ForestSettings | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        if len(env.spec.heads) != 1:
            raise ValueError(f"{env.spec.name}: trees learn from one reward, this task has several heads")
        self.env, self.policy, self.hooks = env, policy, list(hooks)
        self.settings = settings or ForestSettings(fold=256 if env.spec.categorical else 0)
        self.rng = np.random.default_rng([seed, 6])
        self.worlds = env.reset(self.rng, self.settings.worlds)
        self.returns = Returns(self.settings.worlds)
        self.memory: list[Floats] = []
        self.done = self.steps = 0
        self.scale = 0.0
        self.best_return = -np.inf
        self.best: Parameters = policy.tensors()

    def round(self, progress: float | None = None) -> Report:
        """Do one rollout and its trees."""
        started, s, policy = time.process_time(), self.settings, self.policy

        def value(seen: Floats) -> Floats:
            return policy.outputs(seen)[:, -1:]

        run, self.worlds = rollout(self.env, policy, value, self.worlds, s.steps, self.rng)
        self.returns.add(run.reward.sum(axis=-1).mean(axis=-1), run.ended)
        self.steps += s.steps * s.worlds
        self.scale = max(self.scale, float(np.abs(run.reward).max()))
        scaled = (run.reward.astype(np.float64) / (self.scale or 1.0)).astype(np.float32)
        advantage, target = advantages(type(run)(**{**run.__dict__, "reward": scaled}), s.gamma, s.lam)
        seen = run.seen.reshape(-1, run.seen.shape[-1])
        self.memory = [*self.memory, seen][-s.memory :]
        allowed = None if run.allowed is None else run.allowed.reshape(len(seen), -1)
        flat = advantage.reshape(-1)
        flat = (flat - flat.mean()) / (flat.std() + 1e-8)
        out = self._boost(seen, run.action.reshape(-1), flat, target.reshape(-1), run.probs, allowed)
        if s.fold and policy.count > s.fold:
            self._fold(np.concatenate(self.memory))
        self.done += 1
        new, old = Categorical(out[:, :-1], allowed), Categorical(run.probs.reshape(len(seen), -1))
        if self.returns.mean > self.best_return and len(self.returns.last) >= min(20, s.worlds):
            self.best_return, self.best = self.returns.mean, policy.tensors()
        report = Report(
            self.done,
            self.steps,
            self.returns.mean,
            float(new.kl(old).mean()),
            float(new.entropy().mean()),
            1.0 - float((target - run.value[:-1]).var()) / max(float(target.var()), 1e-12),
            time.process_time() - started,
            f"{policy.count} trees",
        )
        for hook in self.hooks:
            hook.after(report)
        return report

    def _boost(
        self, seen: Floats, action: Any, flat: Floats, target: Floats, probs: Floats, allowed: Any
    ) -> Floats:
        """Add one tree per minibatch; return the outputs of all rows after the last one."""
        s, policy = self.settings, self.policy
        splits = Splits(np.concatenate(self.memory), bins=s.bins, categorical=self.env.spec.categorical)
        passed = splits.passed(seen)
        out = policy.outputs(seen)
        old = probs.reshape(len(seen), -1)
        rates = np.array([s.rate] * (policy.width - 1) + [s.value_rate])
        weight = 1 << np.arange(policy.depth)
        for _ in range(s.epochs):
            order = self.rng.permutation(len(seen))
            for at in range(0, len(seen), s.minibatch):
                part = order[at : at + s.minibatch]
                new = Categorical(out[part, :-1], None if allowed is None else allowed[part])
                push = -loss("ppo")(new, Categorical(old[part]), action[part], flat[part], s.clip) * len(part)
                goal = np.concatenate([push, (target[part] - out[part, -1])[:, None]], axis=1)
                scaled = goal / (goal.std(axis=0) + 1e-8) if s.is_scaled else goal
                tree = splits.grow(passed[part], scaled, policy.depth)
                leaf = (leaf_means(tree.row, goal, 1 << policy.depth) * rates).astype(np.float32)
                policy.add(tree.feature, tree.threshold, tree.equal, leaf, tree.gain)
                out = out + leaf[passed[:, tree.chosen].astype(np.int64) @ weight]
        return out

    def _fold(self, seen: Floats) -> None:
        """Refit the outputs on these rows by a quarter as many trees, logits centred (a softmax ignores their sum)."""
        s, policy = self.settings, self.policy
        out = policy.outputs(seen).astype(np.float64)
        out[:, :-1] -= out[:, :-1].mean(axis=1, keepdims=True)
        made = fit_oblivious(
            seen,
            out,
            trees=s.fold // 4,
            depth=policy.depth,
            bins=s.bins,
            rate=s.fold_rate,
            categorical=self.env.spec.categorical,
        )
        equal = np.zeros(made.feature.shape, bool) if made.equal is None else made.equal
        policy.clear()
        policy.base[...] = made.base
        for row in zip(made.feature, made.threshold, equal, made.leaf, strict=True):
            policy.add(*row)

    def state(self) -> State:
        """Return everything that the next round depends on, as plain arrays."""
        out: State = {f"policy.{k}": v for k, v in self.policy.tensors().items()}
        out |= {f"best.{k}": v.copy() for k, v in self.best.items()}
        out |= {f"worlds.{k}": v.copy() for k, v in state_arrays(self.worlds).items()}
        out["memory"] = (
            np.stack(self.memory) if self.memory else np.zeros((0, 1, self.env.spec.seen), np.float32)
        )
        out["rng"], out["counts"] = generator_state(self.rng), np.array([self.done, self.steps], np.int64)
        out["running"], out["last"] = self.returns.running.copy(), self.returns.last.copy()
        out["numbers"] = np.array([self.scale, self.best_return])
        return out

    def load_state(self, state: State) -> None:
        """Go on from a state; raise ValueError for that of another learner."""
        if state.keys() != self.state().keys() or state["running"].shape != self.returns.running.shape:
            raise ValueError("this state belongs to another learner")

        def below(prefix: str) -> State:
            return {k[len(prefix) :]: v.copy() for k, v in state.items() if k.startswith(prefix)}

        self.policy.load(below("policy."))
        self.best = below("best.")
        self.worlds = state_of(self.worlds, below("worlds."))
        self.memory = list(state["memory"].copy())
        load_generator(self.rng, state["rng"])
        self.done, self.steps = (int(n) for n in state["counts"])
        self.returns.running, self.returns.last = state["running"].copy(), state["last"].copy()
        self.scale, self.best_return = (float(n) for n in state["numbers"])
