"""Let any scorer learn from single opinions: the `Model` protocol over `flocklet.models.recommend.linear.Scorer`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.models.base import State
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Scorer

__all__ = ["Opinion", "Recommender", "Taste"]

LIKED_FROM = 0.5
_MAX_ITEM = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Opinion:
    """Say that `person` (any text) gave `item` (u64) a weight of 0..1 at time `ts` in seconds."""

    person: str
    item: int
    weight: float
    ts: int


@dataclass(frozen=True, slots=True)
class Taste:
    """Ask for scores of `candidates` for somebody who likes `liked`."""

    liked: tuple[int, ...]
    candidates: tuple[int, ...]


class Recommender:
    """Keep the newest opinion of everybody on everything; fit the scorer when asked after a change.

    An opinion of half or more is a like. Of two opinions of one person on one item the newer holds, on a tie the
    higher one, so the order of arrival does not matter.
    """

    is_order_free = True

    def __init__(self, make: Callable[[], Scorer]) -> None:
        self._make = make
        self._scorer = make()
        self.name = self._scorer.name
        self._opinions: dict[tuple[str, int], tuple[int, float]] = {}
        self._fitted: Likes | None = None
        self._columns: dict[int, int] = {}

    def learn(self, event: Opinion) -> None:
        """Take one opinion in; raise ValueError, changing nothing, for one that makes no sense."""
        if not isinstance(event, Opinion) or type(event.person) is not str or not event.person:
            raise ValueError("this is not the opinion of a person")
        if len(event.person) > 64 or "\0" in event.person:
            raise ValueError("the name of a person has 1 to 64 characters, none of them NUL")
        if type(event.item) is not int or not 0 <= event.item <= _MAX_ITEM:
            raise ValueError("an opinion is about an item that is not a 64-bit number")
        if type(event.weight) not in (int, float) or not math.isfinite(event.weight):
            raise ValueError("the weight of an opinion is not a number")
        if not 0 <= event.weight <= 1 or type(event.ts) is not int or not 0 <= event.ts < 2**32:
            raise ValueError("the weight or the time of an opinion is out of range")
        key = (event.person, event.item)
        held = self._opinions.get(key)
        new = (event.ts, float(event.weight))
        if held is None or new > held:
            self._opinions[key] = new
            self._fitted = None

    def predict(self, query: Taste) -> NDArray[np.float32]:
        """Return the scores of the candidates, (n,) float32; items that nobody spoke of get the lowest score."""
        if self._fitted is None:
            self._fit()
        assert self._fitted is not None
        known = np.array([self._columns.get(item, -1) for item in query.candidates], np.int64)
        if not self._columns:
            return np.zeros(len(known), np.float32)
        liked = sorted({self._columns[item] for item in query.liked if item in self._columns})
        scores = self._scorer.score(Profile(np.array(liked, np.int64)))
        lowest = np.float32(scores.min()) if len(scores) else np.float32(0)
        return np.where(known >= 0, scores[np.maximum(known, 0)], lowest).astype(np.float32)

    def _fit(self) -> None:
        liked = sorted(key for key, (_, weight) in self._opinions.items() if weight >= LIKED_FROM)
        people = {name: row for row, name in enumerate(sorted({person for person, _ in liked}))}
        self._columns = {item: column for column, item in enumerate(sorted({item for _, item in liked}))}
        rows = np.array([people[person] for person, _ in liked], np.int64)
        columns = np.array([self._columns[item] for _, item in liked], np.int64)
        self._fitted = Likes.of(rows, columns, (len(people), len(self._columns)))
        self._scorer = self._make()
        if self._columns:
            self._scorer.fit(self._fitted)

    def state(self) -> State:
        """Return every opinion, sorted."""
        rows = sorted(self._opinions.items())
        return {
            "person": np.array([person for (person, _), _ in rows], dtype="U64"),
            "item": np.array([item for (_, item), _ in rows], np.uint64),
            "ts": np.array([ts for _, (ts, _) in rows], np.uint32),
            "weight": np.array([weight for _, (_, weight) in rows], np.float64),
        }

    def load_state(self, state: State) -> None:
        """Replace every opinion."""
        self._opinions = {
            (str(person), int(item)): (int(ts), float(weight))
            for person, item, ts, weight in zip(
                *(state[k].tolist() for k in ("person", "item", "ts", "weight")), strict=True
            )
        }
        self._fitted = None
