"""What a swarm can learn, by name: the one list, for the command line, simulations and real swarms. Light to import.

The digits are scikit-learn's; the others are made from the seed (`flocklet.swarm.tasks.synthetic`,
`flocklet.swarm.tasks.policies`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from flocklet.errors import UsageError

if TYPE_CHECKING:
    from flocklet.swarm.task import Task

__all__ = ["CATALOGUE", "Learnable", "check_numbers", "make_task", "with_trainer"]

MOST_PEERS = 1 << 16
MOST_SEED = 1 << 63


@dataclass(frozen=True)
class Learnable:
    """One task: the trainer that a strategy gets when it names none, the accuracy that ends a run, and its maker."""

    trainer: str
    maker: str  # module:function of `flocklet.swarm.tasks`, called with peers, seed and `arguments`
    stop_at: float = 0.0
    arguments: tuple[tuple[str, int], ...] = ()


CATALOGUE: Mapping[str, Learnable] = {
    "digits": Learnable("sgd(lr=0.3,epochs=2,batch=16)", "digits:digits_task", 0.95),
    "reranker": Learnable("sgd(lr=0.03,epochs=2,batch=8)", "synthetic:reranker_task"),
    "reranker-mlp": Learnable(
        "sgd(lr=0.03,epochs=2,batch=8)", "synthetic:reranker_task", arguments=(("hidden", 64),)
    ),
    "recommender": Learnable("sgd(lr=0.1,epochs=4,batch=8)", "synthetic:recommender_task"),
    "cartpole": Learnable("policy(rounds=4)", "policies:cartpole_task", 0.95),
    "pendulum": Learnable("policy(rounds=4)", "policies:pendulum_task", 0.95),
    "dispatch": Learnable("policy(rounds=4)", "policies:dispatch_task", 0.9),
}
_TRAINERS = ("sgd", "sam", "gradient", "policy")


def check_numbers(peers: int, seed: int, rounds: int = 1) -> None:
    """Raise UsageError for a number of peers or rounds or a seed that no swarm can have."""
    if not 2 <= peers <= MOST_PEERS:
        raise UsageError(f"--peers {peers} is no swarm", remedy=f"2 to {MOST_PEERS:,} peers")
    if not 0 <= seed < MOST_SEED:
        raise UsageError(f"--seed {seed} is no seed", remedy="a number from 0 to 2^63 - 1")
    if not 1 <= rounds < 1 << 31:
        raise UsageError(f"--rounds {rounds} is no number of rounds", remedy="--rounds 1, or more")


def make_task(name: str, peers: int, seed: int) -> Task:
    """Return the task of that name shared out among peers; raise UsageError for another name or impossible numbers."""
    if name not in CATALOGUE:
        raise UsageError(f"no model {name!r} for a swarm", remedy=", ".join(CATALOGUE))
    check_numbers(peers, seed)
    entry = CATALOGUE[name]
    module, _, function = entry.maker.partition(":")
    task: Task = getattr(import_module(f"flocklet.swarm.tasks.{module}"), function)(
        peers, seed, **dict(entry.arguments)
    )
    return task


def with_trainer(text: str, name: str) -> str:
    """Return a strategy's text with the task's own trainer, unless it names one."""
    parts = [part.strip() for part in text.split("|") if part.strip()]
    if name in CATALOGUE and not any(part.split("(")[0] in _TRAINERS for part in parts):
        parts.append(CATALOGUE[name].trainer)
    return "|".join(parts)
