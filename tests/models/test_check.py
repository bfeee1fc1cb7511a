"""The conformance suite accepts a sound model and names the rule that a broken one breaks."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flocklet.models.check import check_model

EVENTS: list[dict[str, Any]] = [{"item": n % 3, "weight": [1.0 + n % 2]} for n in range(8)]
QUERIES: list[list[int]] = [[0, 1, 2], [2, 7], []]


class Counting:
    """A sound model: adds weights by item."""

    name = "counting"
    is_order_free = True

    def __init__(self) -> None:
        self.totals = np.zeros(4)

    def learn(self, event: Any) -> None:
        if not isinstance(event, dict) or not isinstance(event.get("item"), int):
            raise ValueError("not an event")
        self.totals[event["item"]] += event["weight"][0]

    def predict(self, query: Any) -> NDArray[np.float32]:
        return np.array([self.totals[i] if i < 4 else 0 for i in query], dtype=np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        return {"totals": self.totals.copy()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        self.totals = state["totals"].copy()


def test_a_sound_model_passes() -> None:
    check_model(Counting, EVENTS, QUERIES)


class Nameless(Counting):
    name = ""


class Infinite(Counting):
    def predict(self, query: Any) -> NDArray[np.float32]:
        scores = super().predict(query)
        return scores / np.float32(0) if self.totals.any() and len(scores) else scores


class DoublePrecision(Counting):
    def predict(self, query: Any) -> NDArray[Any]:
        return super().predict(query).astype(np.float64)


class NeedsTraining(Counting):
    def predict(self, query: Any) -> NDArray[np.float32]:
        if not self.totals.any():
            raise KeyError("nothing learnt")
        return super().predict(query)


class Grows(Counting):
    def predict(self, query: Any) -> NDArray[np.float32]:
        scores = super().predict(query)
        return np.append(scores, np.float32(1)) if self.totals.any() else scores


class Random(Counting):
    def learn(self, event: Any) -> None:
        super().learn(event)
        self.totals += np.random.default_rng().random()


class Curious(Counting):
    def predict(self, query: Any) -> NDArray[np.float32]:
        scores = super().predict(query)
        self.totals[3] += 1
        return scores


class Greedy(Counting):
    def predict(self, query: Any) -> NDArray[np.float32]:
        scores = super().predict(query)
        if query and len(query) < 4 and self.totals.any():
            query.append(1)
        return scores


class Vandal(Counting):
    def learn(self, event: Any) -> None:
        super().learn(event)
        event["weight"][0] = 0.0


class Objects(Counting):
    def state(self) -> dict[str, NDArray[Any]]:
        return {"totals": self.totals.astype(object)}


class Aliased(Counting):
    def state(self) -> dict[str, NDArray[Any]]:
        return {"totals": self.totals}


class AliasedLoad(Counting):
    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        self.totals = state["totals"]


class Forgetful(Counting):
    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        self.totals = np.zeros(4)


class Amnesiac(Counting):
    """Keeps something that decides later but is not in the state."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def learn(self, event: Any) -> None:
        super().learn(event)
        self.seen += 1
        self.totals[0] += self.seen


class Deaf(Counting):
    def learn(self, event: Any) -> None:
        if not isinstance(event, dict) or "item" not in event:
            raise ValueError("not an event")


class LastWins(Counting):
    def learn(self, event: Any) -> None:
        super().learn(event)
        self.totals[:] = 0
        self.totals[event["item"]] = 1


class Credulous(Counting):
    def learn(self, event: Any) -> None:
        if isinstance(event, dict) and "item" in event:
            super().learn(event)


class Crashing(Counting):
    def learn(self, event: Any) -> None:
        super().learn({"item": event["item"], "weight": event["weight"]})


class Stained(Counting):
    def learn(self, event: Any) -> None:
        try:
            super().learn(event)
        except ValueError:
            self.totals[3] += 1
            raise


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Nameless, "name"),
        (Infinite, "scores"),
        (DoublePrecision, "scores"),
        (NeedsTraining, "unseen"),
        (Grows, "length"),
        (Random, "determinism"),
        (Curious, "purity"),
        (Greedy, "purity"),
        (Vandal, "input"),
        (Objects, "plain-state"),
        (Aliased, "copy"),
        (AliasedLoad, "copy"),
        (Forgetful, "round-trip"),
        (Amnesiac, "resume"),
        (Deaf, "learning"),
        (LastWins, "order"),
        (Credulous, "hostile"),
        (Crashing, "hostile"),
        (Stained, "hostile"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_broken_model_fails_the_rule_it_breaks(broken: type[Counting], rule: str) -> None:
    events = [{"item": e["item"], "weight": list(e["weight"])} for e in EVENTS]
    with pytest.raises(AssertionError, match=f"^{rule}: "):
        check_model(broken, events, [list(query) for query in QUERIES])


def test_own_hostile_events_count_too() -> None:
    with pytest.raises(AssertionError, match=r"^hostile: "):
        check_model(Counting, EVENTS, QUERIES, hostile=[{"item": 1, "weight": [float("nan")]}])
