"""Start a policy from yesterday's log, beside a neighbour's log that praises every mistake.

Run: python examples/start_from_logs.py
Writes yesterday.csv and neighbour.csv into the current folder and prints what each log was worth.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np

from flocklet.models.policy.distribution import Categorical
from flocklet.models.policy.episodes import Episodes, play
from flocklet.models.policy.race import Log, Race
from flocklet.models.worlds.lock import Lock


class Careless:
    """Whoever wrote the log: right, but for one action in twenty."""

    def __init__(self, lock: Lock) -> None:
        self.spec, self.right = lock.spec, lock.right(np.zeros(1))

    def dist(self, seen, allowed=None):
        """Return what they do."""
        time = np.minimum(np.rint(seen[:, 3] * self.spec.steps).astype(int), self.spec.steps - 1)
        probs = np.full((len(seen), 10), 0.005)
        probs[np.arange(len(seen)), self.right[time, np.minimum(seen[:, :3].argmax(axis=1), 1)]] += 0.95
        return Categorical(np.log(probs))


def write(path: str, log: Episodes) -> None:
    with Path(path).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "good0", "good1", "bad", "progress", "action", "reward", "end"])
        for t, seen, action, reward, end in zip(
            log.time(), log.seen, log.action, log.reward, log.end, strict=True
        ):
            rows.writerow([t, *(f"{v:.9g}" for v in seen), action, f"{reward:.9g}", int(end)])


def main() -> None:
    lock = Lock(20)
    mine = play(lock, Careless(lock), 500, np.random.default_rng(0))
    place = np.minimum(mine.seen[:, :3].argmax(axis=1), 1)
    is_wrong = mine.action != lock.right(np.zeros(1))[mine.time(), place]
    theirs = replace(mine, reward=is_wrong.astype(float))
    write("yesterday.csv", mine)
    write("neighbour.csv", theirs)
    race = Race(lock, [Log("yesterday.csv", mine), Log("neighbour.csv", theirs)])
    for _ in range(40):
        race.round()
    reached = play(lock, race.winner.policy, 200, np.random.default_rng(1)).mean_return
    print(f"whoever wrote the log returned {mine.mean_return:.2f}, the policy returns {reached:.2f}")
    print(race.verdict())


if __name__ == "__main__":
    main()
