"""Tasks of `flocklet learn` in a swarm: each peer acts in worlds of its own, what is merged are actor and critic.

"Accuracy" is the share of a good score that the greedy policy reaches in fixed worlds, from 0 to 1. The rows that peers
hold are observations of a random policy: rules that look at a probe see what a policy does there; the trainer takes
only its randomness from them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Layout, Vector
from flocklet.models.policy.environment import Environment
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.policy import Critic, NetPolicy, act
from flocklet.models.worlds.catalogue import TASKS
from flocklet.swarm.task import Floats, Rows, Task

__all__ = ["PolicyModel", "cartpole_task", "dispatch_task", "pendulum_task"]

_ROWS, _TEST_SEED, _TEST_EPISODES = 64, 4096, 10


class PolicyModel:
    """Actor and critic of one task as one vector; a return counts from 0 at `bad` to 1 at `good`."""

    is_labelled = False

    def __init__(self, env: Environment, bad: float, good: float) -> None:
        self.env, self.bad, self.good = env, bad, good
        self.actor, self.critic = self.parts(np.random.default_rng(0))
        self.layout = Layout({**self.actor.layout.shapes, **self.critic.layout.shapes})

    def parts(self, rng: np.random.Generator) -> tuple[NetPolicy, Critic]:
        """Return a fresh actor and critic."""
        spec = self.env.spec
        return NetPolicy(spec, rng), Critic(spec.privileged or spec.seen, len(spec.heads), rng)

    def split(self, vector: Floats) -> tuple[NetPolicy, Critic]:
        """Return the actor and the critic of a vector (P,), as copies."""
        actor, critic = self.parts(np.random.default_rng(0))
        tensors = self.layout.split(np.asarray(vector, np.float32))
        actor.load({name: tensors[name] for name in actor.layout.names})
        critic.vector[...] = critic.layout.join({name: tensors[name] for name in critic.layout.names})
        return actor, critic

    def join(self, actor: NetPolicy, critic: Critic) -> Vector:
        """Return the vector (P,) of an actor and a critic."""
        return self.layout.join({**actor.layout.split(actor.vector), **critic.layout.split(critic.vector)})

    @property
    def output(self) -> tuple[str, ...]:
        """The actor's last layer."""
        last = self.actor.net.depth - 1
        return (f"w{last}", f"b{last}")

    def init(self, rng: np.random.Generator) -> Vector:
        """Return fresh parameters, (P,)."""
        return self.join(*self.parts(rng))

    def gradient(
        self, params: Floats, features: Floats, labels: NDArray[np.integer]
    ) -> tuple[Floats, Floats]:
        """Refuse: a policy learns from what it does, not from labelled rows."""
        raise UsageError(
            f"{self.env.spec.name} is learnt by acting, not from labelled rows",
            remedy="leave the trainer out of the strategy, or name policy(...)",
        )

    def predict(self, params: Floats, features: Floats) -> NDArray[np.intp]:
        """Return the greedy choices (N, T) for observations (T, D); for controls, whether the first is positive."""
        return np.stack([self._choices(vector, features) for vector in params])

    def _choices(self, vector: Floats, features: Floats) -> NDArray[np.intp]:
        found = self.split(vector)[0].dist(np.ascontiguousarray(features)).mode()
        return np.asarray(found if found.ndim == 1 else found[:, 0] > 0.0, np.intp)

    def accuracy(self, params: Floats, features: Floats, labels: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the share of a good score of each of N parameter vectors, (N,), in the same worlds."""
        found = [
            iqm(evaluate(self.env, self.split(vector)[0], [_TEST_SEED], _TEST_EPISODES)) for vector in params
        ]
        return np.clip((np.array(found) - self.bad) / (self.good - self.bad), 0.0, 1.0)


def _policy_task(name: str, peers: int, seed: int, bad: float, good: float) -> Task:
    model = PolicyModel(TASKS[name].make(), bad, good)
    rng = np.random.default_rng([seed, 11])
    rows, count = _observations(model.env, rng, 512), peers * _ROWS
    features = rows[rng.integers(len(rows), size=count)]
    labels: Rows = np.arange(count, dtype=np.int64) % 2  # nobody learns from them; two classes, evenly held
    shares = tuple(np.arange(i * _ROWS, (i + 1) * _ROWS) for i in range(peers))
    return Task(model, features, labels, rows[:64], labels[:64] * 0, shares)


def _observations(env: Environment, rng: np.random.Generator, count: int) -> Floats:
    """Return what a fresh policy sees, (count, D)."""
    policy = NetPolicy(env.spec, rng)
    state = env.reset(rng, 16)
    rows: list[Floats] = []
    while 16 * len(rows) < count:
        seen = env.observe(state, rng)
        rows.append(seen.reshape(-1, env.spec.seen))
        turn = env.step(state, act(policy, seen, rng)[0], rng)
        ended = turn.terminated | turn.truncated
        state = env.replace(turn.state, ended, env.reset(rng, 16)) if ended.any() else turn.state
    return np.concatenate(rows)[:count]


def cartpole_task(peers: int, seed: int) -> Task:
    """Return the pole: 1 is 500 steps."""
    return _policy_task("cartpole", peers, seed, 0.0, 500.0)


def pendulum_task(peers: int, seed: int) -> Task:
    """Return the pendulum: 0 is -1,600, 1 is -150."""
    return _policy_task("pendulum", peers, seed, -1600.0, -150.0)


def dispatch_task(peers: int, seed: int) -> Task:
    """Return the jobs: 1 is 20 right of 20."""
    return _policy_task("dispatch", peers, seed, 0.0, 20.0)
