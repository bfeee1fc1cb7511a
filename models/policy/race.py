"""Learn from logs without trusting them: a race between learners with and without each log.

A learner fits Q on its own episodes (returns) and, if it has a log, on the log's steps (r + E Q at the next state), half
the say each: pooled, the larger set would decide. It takes natural-gradient steps for softmax tables, theta += eta (Q -
V), in the states of both (HNPG, Zhou et al. 2023). Rewards in a log that praise wrong actions ruin such a learner; so
runners with each log and one without share the rollouts of a round, every five rounds the winner by return is copied to
all, and a log that lost three races in a row is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flocklet.models.policy.environment import Environment, Floats
from flocklet.models.policy.episodes import Episodes, States, TablePolicy, play
from flocklet.models.policy.report import Report

__all__ = ["Log", "Race", "Runner"]

_MOST_LOGS = 3
_MOST_LOGIT = 8.0  # a table that is sure of itself for ever could not learn from its last mistake
_RACE_EVERY, _JUDGED, _LOSSES = 5, 2, 3


@dataclass
class Log:
    """A log by name and how it did: races `won` of `run`; `is_dropped` once it lost three in a row."""

    name: str
    episodes: Episodes
    won: int = 0
    run: int = 0
    lost_in_a_row: int = 0
    is_dropped: bool = False


@dataclass
class Runner:
    """One way of fitting, with its own policy; `log` None is the learner without."""

    policy: TablePolicy
    log: Log | None
    returns: list[Floats] = field(default_factory=list)

    def learn(self, own: Episodes, eta: float) -> None:
        """Fit Q backwards in time and move the logits."""
        states, actions = self.policy.states, self.policy.logits.shape[1]
        data = [(own, states.of(own.seen), own.returns())]
        if self.log is not None:
            log = self.log.episodes
            data.append((log, states.of(log.seen), log.returns()))
        self.policy.grow()
        value = _fit(data, self.policy.logits, actions)
        probs = _softmax(self.policy.logits)
        known = ~np.isnan(value)
        filled = np.where(known, value, 0.0)
        weight = probs * known
        mean = (weight * filled).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
        step = np.where(known, filled - mean[:, None], 0.0)
        self.policy.logits = np.clip(self.policy.logits + eta * step, -_MOST_LOGIT, _MOST_LOGIT)


def _fit(data: Sequence[tuple[Episodes, NDArray[np.int64], Floats]], logits: Floats, actions: int) -> Floats:
    """Return Q (S, A), NaN where nothing was seen; the first set has returns, the second the values behind it."""
    count, probs = len(logits), _softmax(logits)
    value = np.full((count, actions), np.nan)
    horizon = max(int(one.time().max()) for one, _, _ in data) + 1
    steps = [one.time() for one, _, _ in data]
    for t in range(horizon - 1, -1, -1):
        total, share = np.zeros(count * actions), np.zeros(count * actions)
        for i, (one, at, returns) in enumerate(data):
            rows = np.flatnonzero(steps[i] == t)
            if not len(rows):
                continue
            if i == 0:
                target = returns[rows]
            else:
                after = at[np.minimum(rows + 1, len(at) - 1)]
                ahead = value[after]
                weight = probs[after] * ~np.isnan(ahead)
                mean = (weight * np.nan_to_num(ahead)).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
                target = one.reward[rows] + np.where(one.end[rows], 0.0, mean)
            key = at[rows] * actions + one.action[rows]
            n = np.bincount(key, minlength=len(total))
            found = np.bincount(key, target, minlength=len(total)) / np.maximum(n, 1)
            total += found * (n > 0)
            share += n > 0
        new = (share > 0).reshape(count, actions)
        mean = (total / np.maximum(share, 1)).reshape(count, actions)
        value = np.where(new, mean, value)
    return value


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _is_better(one: Floats, two: Floats) -> bool:
    """Return whether the mean of `one` is above that of `two` by more than two standard errors."""
    error = np.sqrt(one.var() / len(one) + two.var() / len(two))
    return bool(one.mean() - two.mean() > 2.0 * error)


class Race:
    """Runners without and with each log share `episodes` rollouts a round; the winner's policy is what is kept."""

    def __init__(
        self,
        env: Environment,
        logs: Sequence[Log],
        *,
        seed: int = 0,
        episodes: int = 100,
        eta: float = 8.0,
        is_raced: bool = True,
    ) -> None:
        if len(logs) > _MOST_LOGS:
            raise ValueError(f"{len(logs)} logs; at most {_MOST_LOGS} race at once")
        for log in logs:
            if log.episodes.seen.shape[1] != env.spec.seen:
                raise ValueError(
                    f"{log.name} shows {log.episodes.seen.shape[1]} numbers, {env.spec.name} {env.spec.seen}"
                )
            if not (log.episodes.action.min() >= 0 and log.episodes.action.max() < (env.spec.actions or 0)):
                raise ValueError(f"{log.name} holds an action that {env.spec.name} does not have")
        self.env, self.eta, self.episodes = env, eta, episodes
        self.rng = np.random.default_rng([seed, 7])
        start = TablePolicy(env.spec, States())
        self.runners = [Runner(start.copy(), log) for log in logs]
        if is_raced or not logs:
            self.runners.insert(0, Runner(start.copy(), None))
        self.logs, self.done, self.steps = list(logs), 0, 0
        self.winner = self.runners[0]

    def round(self) -> Report:
        """Play and fit every runner on its part of the rollouts; race every fifth round."""
        started = time.process_time()
        part = max(self.episodes // len(self.runners), 2)
        for runner in self.runners:
            own = play(self.env, runner.policy, part, self.rng)
            runner.returns.append(own.totals())
            runner.learn(own, self.eta)
            self.steps += len(own.reward)
        self.done += 1
        if len(self.runners) > 1 and self.done % _RACE_EVERY == 0:
            self._race()
        elif len(self.runners) == 1:
            self.winner = self.runners[0]
        spent = time.process_time() - started
        mean = float(self.winner.returns[-1].mean())
        return Report(self.done, self.steps, mean, 0.0, 0.0, 0.0, spent, self.verdict())

    def _race(self) -> None:
        """Copy the winner to whoever lost to it by more than chance; who leads goes on leading until beaten so."""
        played = [np.concatenate(runner.returns[-_JUDGED:]) for runner in self.runners]
        best = next((i for i, one in enumerate(self.runners) if one is self.winner), 0)
        for i in range(len(played)):
            if i != best and _is_better(played[i], played[best]):
                best = i
        self.winner = self.runners[best]
        for i, runner in enumerate(self.runners):
            log = runner.log
            is_worse = i != best and _is_better(played[best], played[i])
            if log is not None:
                log.run += 1
                log.won += i == best
                log.lost_in_a_row = log.lost_in_a_row + 1 if is_worse else 0
                log.is_dropped = log.lost_in_a_row >= _LOSSES
            if is_worse:
                runner.policy = self.winner.policy.copy()
        self.runners = [one for one in self.runners if one.log is None or not one.log.is_dropped]

    def verdict(self) -> str:
        """Say which logs helped."""
        said = [
            f"{log.name} helped in {log.won} of {log.run} races"
            + (" and was dropped" if log.is_dropped else "")
            for log in self.logs
        ]
        return "; ".join(said)
