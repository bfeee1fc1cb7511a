"""Rewards from an annotator that looks at captions of the learner's own experience, at its own pace.

New captions go on a bounded stack, newest first; the annotator takes a few at a time; a caption without a label is worth
0. `HashRewards` remembers each label, `WordRewards` generalises over words and pairs of words by logistic regression
(the two of the three reward models of ONI, Klissarov et al. 2024, that beat learning without; the ranking one did not).
Worth is divided by the root of how often the caption came: without that the learner farms a labelled caption.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Annotator", "HashRewards", "Labels", "Queue", "WordRewards", "words"]

Annotator: TypeAlias = Callable[[Sequence[str]], Sequence[float | None]]
"""Captions -> 1 (good), 0 (not) or None ("not now")."""

_BUCKETS = 1024


def words(good: Sequence[str]) -> Annotator:
    """Return an annotator that likes captions with one of these words."""
    wanted = {word.casefold() for word in good}

    def judge(captions: Sequence[str]) -> list[float | None]:
        return [
            float(bool(wanted & set(caption.casefold().replace(",", " ").split()))) for caption in captions
        ]

    return judge


class Labels(Protocol):
    """What labels make of captions."""

    def learn(self, caption: str, label: float) -> None:
        """Take in a label."""
        ...

    def worth(self, caption: str) -> float:
        """Return 0 or 1."""
        ...


class HashRewards:
    """Exactly what was said, nothing for any other caption."""

    def __init__(self) -> None:
        self.known: dict[str, float] = {}

    def learn(self, caption: str, label: float) -> None:
        """Remember a label."""
        self.known[caption] = label

    def worth(self, caption: str) -> float:
        """Return the label, 0 without one."""
        return float(self.known.get(caption, 0.0) > 0.5)


class WordRewards:
    """Logistic regression on hashed words and pairs of neighbours, refitted per label, the rarer class re-weighted."""

    def __init__(self) -> None:
        self.known: dict[str, float] = {}
        self.weights = np.zeros(_BUCKETS)
        self._seen: dict[str, float] = {}

    def learn(self, caption: str, label: float) -> None:
        """Take in a label and fit again."""
        self.known[caption] = label
        rows = [features(one) for one in self.known]
        goal = np.array(list(self.known.values()))
        share = float(np.clip(goal.mean(), 0.05, 0.95))
        balance = np.where(goal > 0.5, 0.5 / share, 0.5 / (1.0 - share))
        for _ in range(30):
            for row, wanted, weight in zip(rows, goal, balance, strict=True):
                guess = 1.0 / (1.0 + np.exp(-self.weights[row].sum()))
                self.weights[row] += 0.3 * weight * (wanted - guess) / len(row)
        self._seen.clear()

    def worth(self, caption: str) -> float:
        """Return 1 where the chance of a good label is above a half; 0 before there is a label of each kind."""
        if len(set(self.known.values())) < 2:
            return 0.0
        found = self._seen.get(caption)
        if found is None:
            found = self._seen[caption] = float(self.weights[features(caption)].sum() > 0.0)
        return found


def features(caption: str) -> NDArray[np.int64]:
    """Return the buckets of words and pairs of neighbours; digits are taken out, so that a clock is no new word."""
    plain = "".join(c for c in caption.casefold() if not c.isdigit()).replace(",", " ").split()
    found = [*plain, *(" ".join(pair) for pair in pairwise(plain))] or [""]
    return np.unique([zlib.crc32(one.encode()) % _BUCKETS for one in found])


class Queue:
    """Captions that wait for a label, newest first, and how often each came."""

    def __init__(
        self, labels: Labels, annotator: Annotator | None, *, size: int = 200, batch: int = 1
    ) -> None:
        self.labels, self.annotator, self.size, self.batch = labels, annotator, size, batch
        self.waiting: list[str] = []
        self.asked: set[str] = set()
        self.count: dict[str, int] = {}
        self.calls = 0

    def reward(self, caption: str) -> float:
        """Count a caption, queue it if it is new, and return what it is worth this time."""
        times = self.count.get(caption, 0) + 1
        self.count[caption] = times
        if times == 1:
            self.waiting.append(caption)
            del self.waiting[: -self.size]
        return float(self.labels.worth(caption) / times**0.5)

    def ask(self) -> None:
        """Let the annotator judge the newest captions; those it does not judge now go back to the end."""
        if self.annotator is None or not self.waiting:
            return
        batch = [self.waiting.pop() for _ in range(min(self.batch, len(self.waiting)))]
        self.calls += len(batch)
        for caption, label in zip(batch, self.annotator(batch), strict=True):
            if label is None:
                self.waiting.insert(0, caption)
            else:
                self.labels.learn(caption, float(label))
                self.asked.add(caption)
