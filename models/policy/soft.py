"""Learn off-policy from a replay: mirror descent in the form that contains soft actor-critic.

L(pi) = E[c log pi + (lam - c) log pi_k - min(Q1, Q2)], y = r + gamma (1 - terminated)(min Q' - lam log pi) (Tomar et al.
2020, section 4.2; c = lam is Haarnoja et al. 2018). The actor acts by sampling: a greedy one would not explore. One
generator serves everything, so a loaded state goes on bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from flocklet.models.base import Parameters, State
from flocklet.models.layout import Layout
from flocklet.models.policy.environment import Environment, Floats, heads_of, state_arrays, state_of
from flocklet.models.policy.losses import soft_error
from flocklet.models.policy.net import Net
from flocklet.models.policy.optimiser import Adam
from flocklet.models.policy.policy import NetPolicy
from flocklet.models.policy.replay import Batch, Replay
from flocklet.models.policy.report import Report, Returns, generator_state, load_generator

__all__ = ["SoftLearner", "SoftSettings"]


@dataclass(frozen=True)
class SoftSettings:
    """How to learn off-policy; `pull` is c over lam (1: soft actor-critic), `scale` divides rewards (0: by itself)."""

    worlds: int = 4
    steps: int = 25
    batch: int = 128
    rate: float = 1e-3
    gamma: float = 0.99
    polyak: float = 0.01
    entropy: float = 0.2
    pull: float = 2.5
    refresh: int = 200
    warm: int = 500
    size: int = 100_000
    scale: float = 0.0


class SoftLearner:
    """Act, remember, update once per transition. The policy's output is squashed by tanh when it acts."""

    def __init__(
        self, env: Environment, policy: NetPolicy, *, seed: int = 0, settings: SoftSettings | None = None
    ) -> None:
        spec = env.spec
        if spec.controls is None or spec.agents != 1:
            raise ValueError(f"{spec.name}: off-policy learning is for one agent with continuous controls")
        self.env, self.policy, self.settings = env, policy, settings or SoftSettings()
        self.rng = np.random.default_rng([seed, 4])
        if not policy.is_squashed:
            raise ValueError("off-policy learning needs a policy whose actions are squashed by tanh")
        self.controls = spec.controls
        self.net = Net((spec.seen + spec.controls, 64, 64, 1), "relu")
        self.layout = Layout(self.net.shapes)
        start = np.random.default_rng([seed, 5])
        self.critics = [self.layout.join(self.net.init(start, 1.0)) for _ in range(2)]
        self.targets = [vector.copy() for vector in self.critics]
        self.adams = [Adam(self.layout.size) for _ in range(2)]
        self.adam = Adam(policy.layout.size)
        self.old = policy.copy()
        self.replay = Replay(self.settings.size, spec.seen, spec.controls)
        self.worlds = env.reset(self.rng, self.settings.worlds)
        self.returns = Returns(self.settings.worlds)
        self.done = self.steps = self.updates = 0
        self.scale = self.settings.scale
        self.best_return = -np.inf
        self.best: Parameters = policy.tensors()

    def round(self, progress: float | None = None) -> Report:
        """Do `steps` steps in every world, each followed by one update per transition."""
        started, s = time.process_time(), self.settings
        kl = 0.0
        for _ in range(s.steps):
            self._step()
            if self.steps >= s.warm:
                for _ in range(s.worlds):
                    kl = self._update()
        self.done += 1
        if not np.isfinite(self.policy.vector).all():
            self.policy.load(self.best)
            raise FloatingPointError(f"learning {self.env.spec.name} diverged in round {self.done}")
        if len(self.returns.last) and self.returns.mean > self.best_return:
            self.best_return, self.best = self.returns.mean, self.policy.tensors()
        spread = float(np.mean(self.policy.tensors()["log_deviation"]))
        spent = time.process_time() - started
        return Report(self.done, self.steps, self.returns.mean, kl, spread, 0.0, spent)

    def _parts(self, policy: NetPolicy, seen: Floats) -> tuple[Floats, Floats, Any]:
        dist, tape = policy.forward(seen)
        return dist.params[:, : self.controls], dist.params[:, self.controls :], tape

    def _step(self) -> None:
        s, spec = self.settings, self.env.spec
        seen = self.env.observe(self.worlds, self.rng)
        if self.steps < s.warm:
            action = self.rng.uniform(-1, 1, (s.worlds, 1, self.controls)).astype(np.float32)
        else:
            mean, log, _ = self._parts(self.policy, seen[:, 0])
            noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
            action = np.tanh(mean + np.exp(log) * noise)[:, None]
        turn = self.env.step(self.worlds, action, self.rng)
        reward = heads_of(turn.reward, spec).sum(axis=-1)[:, 0]
        after = self.env.observe(turn.state, self.rng)
        if not np.isfinite(after).all():
            raise ValueError(f"{spec.name}: an observation is not a finite number")
        if not s.scale:
            self.scale = max(self.scale, float(np.abs(reward).max()))
        self.replay.push(Batch(seen[:, 0], action[:, 0], reward, after[:, 0], turn.terminated))
        ended = turn.terminated | turn.truncated
        self.returns.add(reward[None], ended[None])
        self.worlds = turn.state
        if ended.any():
            self.worlds = self.env.replace(turn.state, ended, self.env.reset(self.rng, s.worlds))
        self.steps += s.worlds

    def _value(self, vector: Floats, seen: Floats, action: Floats) -> tuple[Floats, list[Floats], Any]:
        layers = self.net.bind(vector, self.layout)
        outs = self.net.forward(layers, np.concatenate([seen, action], axis=1))
        return outs[-1][:, 0], outs, layers

    def _update(self) -> float:
        """Update critics, actor and targets once; return the actor's mean KL from the last refresh."""
        s, rng = self.settings, self.rng
        rows = self.replay.sample(s.batch, rng)
        mean, log, _ = self._parts(self.policy, rows.after)
        noise = rng.standard_normal(mean.shape, dtype=np.float32)
        raw = mean + np.exp(log) * noise
        later = np.tanh(raw)
        log_prob = (-0.5 * noise * noise - log - 0.919 - np.log(1.0 - later * later + 1e-6)).sum(axis=1)
        best = np.minimum(*(self._value(v, rows.after, later)[0] for v in self.targets))
        goal = rows.reward / (self.scale or 1.0)
        goal = goal + s.gamma * ~rows.terminated * (best - s.entropy * log_prob)
        for vector, adam in zip(self.critics, self.adams, strict=True):
            value, outs, layers = self._value(vector, rows.seen, rows.action)
            flat = np.zeros(self.layout.size, np.float32)
            error = ((value - goal) / s.batch)[:, None].astype(np.float32)
            self.net.backward(layers, outs, error, self.net.bind(flat, self.layout))
            adam.step(vector, flat, s.rate)
        kl = self._update_actor(rows.seen)
        for target, vector in zip(self.targets, self.critics, strict=True):
            target += np.float32(s.polyak) * (vector - target)
        self.updates += 1
        if self.updates % s.refresh == 0:
            self.old.vector[...] = self.policy.vector
        return kl

    def _update_actor(self, seen: Floats) -> float:
        s = self.settings
        mean, log, tape = self._parts(self.policy, seen)
        noise = self.rng.standard_normal(mean.shape, dtype=np.float32)
        action = np.tanh(mean + np.exp(log) * noise)
        found = [self._value(v, seen, action) for v in self.critics]
        lower = (found[1][0] < found[0][0]).astype(np.float32)
        slope = np.zeros_like(action)
        unused = self.net.bind(np.zeros(self.layout.size, np.float32), self.layout)
        for chosen, (_, outs, layers) in zip((1.0 - lower, lower), found, strict=True):
            back = self.net.backward(layers, outs, chosen[:, None], unused, to_input=True)
            assert back is not None  # noqa: S101  (asked for)
            slope += back[:, -self.controls :]
        old_mean, old_log, _ = self._parts(self.old, seen)
        error = soft_error(mean, log, noise, slope, (old_mean, old_log), s.entropy, s.entropy * s.pull)
        gradient = self.policy.gradient(tape, error.astype(np.float32))
        self.adam.step(self.policy.vector, gradient, s.rate)
        gap = (mean - old_mean) * np.exp(-old_log)
        ratio = np.exp(2.0 * (log - old_log))
        return float((old_log - log + 0.5 * (ratio + gap * gap - 1.0)).sum(axis=1).mean())

    def state(self) -> State:
        """Return everything that the next round depends on, as plain arrays."""
        out: State = {"policy": self.policy.vector.copy(), "old": self.old.vector.copy()}
        for i in range(2):
            out |= {f"critic{i}": self.critics[i].copy(), f"target{i}": self.targets[i].copy()}
            out |= {f"adam{i}.{k}": v for k, v in self.adams[i].state().items()}
        for prefix, held in (
            ("adam.", self.adam.state()),
            ("replay.", self.replay.state()),
            ("best.", self.best),
        ):
            out |= {prefix + k: v.copy() for k, v in held.items()}
        out |= {f"worlds.{k}": v.copy() for k, v in state_arrays(self.worlds).items()}
        out["rng"], out["scale"] = generator_state(self.rng), np.array([self.scale])
        out["counts"] = np.array([self.done, self.steps, self.updates], np.int64)
        out["running"], out["last"] = self.returns.running.copy(), self.returns.last.copy()
        out["best_return"] = np.array([self.best_return])
        return out

    def load_state(self, state: State) -> None:
        """Go on from a state; raise ValueError for that of another learner."""
        if state.keys() != self.state().keys() or state["policy"].shape != self.policy.vector.shape:
            raise ValueError("this state belongs to another learner")

        def below(prefix: str) -> State:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}

        self.policy.vector[...], self.old.vector[...] = state["policy"], state["old"]
        for i in range(2):
            self.critics[i], self.targets[i] = state[f"critic{i}"].copy(), state[f"target{i}"].copy()
            self.adams[i].load_state(below(f"adam{i}."))
        self.adam.load_state(below("adam."))
        self.replay.load_state(below("replay."))
        self.best = below("best.")
        self.worlds = state_of(self.worlds, below("worlds."))
        load_generator(self.rng, state["rng"])
        self.scale, self.best_return = float(state["scale"][0]), float(state["best_return"][0])
        self.done, self.steps, self.updates = (int(n) for n in state["counts"])
        self.returns.running, self.returns.last = state["running"].copy(), state["last"].copy()
