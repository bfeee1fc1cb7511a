"""Measure what the learning core reaches, in CPU seconds, beside the controls that must fail.

Run: python benchmarks/policies.py [--seeds 3] [--rows cartpole,trees,pendulum,preferences,annotator] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from flocklet.models.policy.annotator import HashRewards, Queue, WordRewards, words
from flocklet.models.policy.captioned import CaptionedLearner
from flocklet.models.policy.evaluate import evaluate, iqm
from flocklet.models.policy.forest import ForestPolicy
from flocklet.models.policy.forest_learner import ForestLearner, ForestSettings
from flocklet.models.policy.learner import Learner, Settings
from flocklet.models.policy.methods import fresh_policy
from flocklet.models.policy.policy import NetPolicy
from flocklet.models.policy.preference import bradley_terry, exploitability, nash_policy, self_play
from flocklet.models.policy.soft import SoftLearner, SoftSettings
from flocklet.models.worlds.cartpole import CartPole
from flocklet.models.worlds.choose import cyclic, rater_of, transitive
from flocklet.models.worlds.dispatch import Dispatch
from flocklet.models.worlds.keyroom import KeyRoom
from flocklet.models.worlds.pendulum import Pendulum

Row = tuple[str, list[float], float]


def timed(what: Callable[[int], float], seeds: int) -> tuple[list[float], float]:
    start = time.process_time()
    found = [what(seed) for seed in range(seeds)]
    return found, (time.process_time() - start) / seeds


def on_policy(loss: str, seed: int, epochs: int = 10) -> float:
    env = CartPole()
    policy = NetPolicy(env.spec, np.random.default_rng([seed, 0]))
    learner = Learner(env, policy, loss, seed=seed, settings=Settings(rounds=98, epochs=epochs))
    for _ in range(98):
        learner.round()
    return iqm(evaluate(env, policy, [100], 40))


def forest(env: CartPole | Dispatch, seed: int, **settings: int) -> float:
    policy = ForestPolicy(env.spec)
    learner = ForestLearner(env, policy, seed=seed, settings=ForestSettings(**settings))
    for _ in range(59 if env.spec.categorical else 98):
        report = learner.round()
    return report.mean_return


def off_policy(pull: float, seed: int) -> float:
    env = Pendulum()
    policy = fresh_policy(env.spec, "soft", seed)
    learner = SoftLearner(env, policy, seed=seed, settings=SoftSettings(pull=pull))
    for _ in range(60):
        learner.round()
    return iqm(evaluate(env, policy, [100], 40))


def episodes(kind: str, seed: int) -> float:
    judge = None if kind == "none" else words(["key"])
    queue = Queue(WordRewards() if kind == "words" else HashRewards(), judge)
    learner = CaptionedLearner(KeyRoom(), queue, seed=seed)
    while learner.steps < 60_000 and learner.episodes_to(0.8) is None:
        for _ in range(500):
            learner.step()
    return float(learner.episodes_to(0.8) or np.inf)


def preferred(kind: str, wins: np.ndarray, flipped: float, seed: int) -> float:
    rng = np.random.default_rng(seed)
    rater = rater_of(wins, rng, flipped)
    if kind == "inpo":
        return exploitability(nash_policy(rater, 10, rng), wins)
    if kind == "spo":
        return exploitability(self_play(rater, 10, rng), wins)
    one, two = rng.choice(10, (2, 4000), p=rng.dirichlet(np.ones(10)))
    return exploitability(bradley_terry(one, two, rater(one, two), 10), wins)


def measure(rows: set[str], seeds: int) -> Iterator[Row]:
    if "cartpole" in rows:
        for loss in ("mdpo", "ppo", "npg", "a2c"):
            yield (
                f"cartpole, 100k steps, {loss}: return",
                *timed(lambda seed, loss=loss: on_policy(loss, seed), seeds),
            )
        yield "cartpole, mdpo with one epoch: return", *timed(lambda seed: on_policy("mdpo", seed, 1), seeds)
    if "trees" in rows:
        yield "cartpole, trees: sampled return", *timed(lambda seed: forest(CartPole(), seed), seeds)
        yield (
            "cartpole, trees, one epoch: sampled return",
            *timed(lambda s: forest(CartPole(), s, epochs=1), seeds),
        )
        yield (
            "dispatch, trees: sampled return of 20",
            *timed(lambda s: forest(Dispatch(), s, fold=256), seeds),
        )
    if "pendulum" in rows:
        for name, pull in (("soft actor-critic", 1.0), ("mdpo off-policy", 2.5)):
            yield (
                f"pendulum, 6k steps, {name}: return",
                *timed(lambda s, pull=pull: off_policy(pull, s), seeds),
            )
    if "preferences" in rows:
        for name, wins, flipped in (
            ("circle", cyclic(), 0.0),
            ("circle, 20 % flipped", cyclic(), 0.2),
            ("order", transitive(), 0.0),
        ):
            for kind in ("inpo", "spo", "reward model"):
                yield (
                    f"{name}, {kind}: exploitability",
                    *timed(lambda s, k=kind, w=wins, f=flipped: preferred(k, w, f, s), seeds),
                )
    if "annotator" in rows:
        for kind in ("none", "hash", "words"):
            yield (
                f"keyroom, labels {kind}: episodes to 80 %",
                *timed(lambda s, kind=kind: episodes(kind, s), seeds),
            )


def main() -> None:
    every = {"cartpole", "trees", "pendulum", "preferences", "annotator"}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(sorted(every)))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    out = []
    for name, found, cpu in measure(set(args.rows.split(",")) & every, args.seeds):
        print(f"| {name} | {' / '.join(f'{v:.4g}' for v in found)} | {cpu:.1f} |", flush=True)
        out.append({"row": name, "values": found, "cpu_s": cpu})
    if args.json:
        args.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
