"""Check any model against the contract of `flocklet.models.base.Model`: one suite for all of them.

`check_model(make, events, queries)` runs every rule below on fresh models and raises AssertionError whose
message starts with the name of the broken rule, e.g. `determinism: ...`. The idea is river's
`check_estimator`.

| rule | holds when |
|---|---|
| `name` | the model has a non-empty text name |
| `scores` | predictions are (n,) float32 and finite, before and after learning |
| `unseen` | a model that learnt nothing answers every query |
| `length` | a query's number of scores does not depend on what was learnt |
| `determinism` | two models with the same events have the same state and the same scores, bit for bit |
| `purity` | predicting changes neither the model nor the query |
| `input` | learning leaves the event as it was |
| `plain-state` | the state is a map of arrays without objects and survives `numpy.savez` without pickle |
| `copy` | writing to a returned or loaded state does not reach into the model |
| `round-trip` | a loaded state gives the same scores and the same state |
| `resume` | a model loaded half-way ends where an uninterrupted one ends |
| `learning` | the events change the state at all |
| `order` | with `is_order_free`, another order of events gives the same scores |
| `hostile` | a senseless event raises ValueError and leaves the state unchanged |
"""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.base import Model, State

__all__ = ["HOSTILE_EVENTS", "check_model"]

HOSTILE_EVENTS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**70,
    float("nan"),
    "",
    "\x00",
    b"",
    b"\x91\x01garbage",
    [],
    (1, 2, 3),
    {},
    {"query": None},
    object(),
)
"""Events that no model may take: every one must raise ValueError."""

AnyModel = Model[Any, Any]


def check_model(
    make: Callable[[], AnyModel],
    events: Sequence[Any],
    queries: Sequence[Any],
    *,
    hostile: Sequence[Any] = (),
    seed: int = 0,
) -> None:
    """Raise AssertionError naming the first broken rule; `make` returns a fresh model on each call.

    `hostile` adds events that this model in particular must refuse. Events and queries are compared, before
    and after, with a deep copy of themselves.
    """
    _require(len(events) >= 2, "check: give at least two events")
    _require(len(queries) > 0, "check: give at least one query")
    _require(_is_text(make().name), "name: the model needs a non-empty text name")
    lengths = _check_unseen(make, queries)
    trained = _check_learning(make, events)
    _check_plain(trained.state())
    _check_purity(trained, queries)
    for query, length in zip(queries, lengths, strict=True):
        scores = _scores(trained, query)
        _require(len(scores) == length, f"length: {length} scores before learning, {len(scores)} after")
    _check_determinism(make, trained, events, queries)
    _check_state(make, trained, queries)
    _check_resume(make, trained, events, queries)
    if getattr(trained, "is_order_free", False):
        _check_order(make, trained, events, queries, seed)
    _check_hostile(trained, (*HOSTILE_EVENTS, *hostile))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)


def _equal(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and bool(np.array_equal(left, right))
    if dataclasses.is_dataclass(left):
        return all(_equal(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _taught(make: Callable[[], AnyModel], events: Sequence[Any]) -> AnyModel:
    model = make()
    for event in events:
        model.learn(event)
    return model


def _scores(model: AnyModel, query: Any) -> NDArray[np.float32]:
    scores = model.predict(query)
    _require(isinstance(scores, np.ndarray), "scores: predict must return an array")
    _require(
        scores.dtype == np.float32 and scores.ndim == 1, f"scores: got {scores.dtype} with {scores.ndim} axes"
    )
    _require(bool(np.isfinite(scores).all()), "scores: a score is not finite")
    return scores


def _same_state(left: State, right: State) -> bool:
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype
        and left[key].shape == right[key].shape
        and left[key].tobytes() == right[key].tobytes()
        for key in left
    )


def _snapshot(state: State) -> State:
    return {key: np.array(value, copy=True) for key, value in state.items()}


def _check_unseen(make: Callable[[], AnyModel], queries: Sequence[Any]) -> list[int]:
    lengths = []
    for query in queries:
        model = make()
        try:
            scores = _scores(model, query)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"unseen: a fresh model cannot answer: {error!r}") from error
        lengths.append(len(scores))
    return lengths


def _check_learning(make: Callable[[], AnyModel], events: Sequence[Any]) -> AnyModel:
    model = make()
    before = _snapshot(model.state())
    for event in events:
        frozen = copy.deepcopy(event)
        model.learn(event)
        _require(_equal(event, frozen), "input: learning changed the event")
    _require(not _same_state(before, model.state()), "learning: the events left no trace in the state")
    return model


def _check_determinism(
    make: Callable[[], AnyModel], trained: AnyModel, events: Sequence[Any], queries: Sequence[Any]
) -> None:
    twin = _taught(make, events)
    _require(_same_state(trained.state(), twin.state()), "determinism: same events, different states")
    for query in queries:
        _require(
            np.array_equal(_scores(trained, query), _scores(twin, query)),
            "determinism: same events, different scores",
        )


def _check_purity(trained: AnyModel, queries: Sequence[Any]) -> None:
    before = _snapshot(trained.state())
    for query in queries:
        frozen = copy.deepcopy(query)
        first = _scores(trained, query).copy()
        _require(np.array_equal(first, _scores(trained, query)), "purity: asking twice gives two answers")
        _require(_equal(query, frozen), "purity: predicting changed the query")
    _require(_same_state(before, trained.state()), "purity: predicting changed the state")


def _check_plain(state: State) -> None:
    _require(isinstance(state, dict), "plain-state: state must be a dict")
    for key, value in state.items():
        _require(isinstance(key, str) and isinstance(value, np.ndarray), "plain-state: text -> array only")
        _require(value.dtype.kind in "biufSU", f"plain-state: {key!r} has dtype {value.dtype}")


def _check_state(make: Callable[[], AnyModel], trained: AnyModel, queries: Sequence[Any]) -> None:
    state = trained.state()
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"k{number}": value for number, value in enumerate(state.values())}
    np.savez(buffer, **arrays)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as stored:
        restored: State = {key: stored[f"k{number}"] for number, key in enumerate(state)}

    reference = _snapshot(state)
    for value in state.values():
        _scribble(value)
    _require(_same_state(reference, trained.state()), "copy: writing to state() reached into the model")

    loaded = make()
    loaded.load_state(restored)
    _require(_same_state(reference, loaded.state()), "round-trip: the loaded state differs")
    for query in queries:
        _require(
            np.array_equal(_scores(trained, query), _scores(loaded, query)),
            "round-trip: the loaded model gives other scores",
        )
    for value in restored.values():
        _scribble(value)
    _require(_same_state(reference, loaded.state()), "copy: writing to a loaded state reached into the model")


def _scribble(value: NDArray[Any]) -> None:
    if value.flags.writeable:
        value[...] = np.logical_not(value) if value.dtype.kind in "biuf" else ""


def _check_resume(
    make: Callable[[], AnyModel], trained: AnyModel, events: Sequence[Any], queries: Sequence[Any]
) -> None:
    half = len(events) // 2
    resumed = make()
    resumed.load_state(_snapshot(_taught(make, events[:half]).state()))
    for event in events[half:]:
        resumed.learn(event)
    for query in queries:
        _require(
            np.allclose(_scores(trained, query), _scores(resumed, query), rtol=1e-5, atol=1e-6),
            "resume: a model loaded half-way ends elsewhere",
        )


def _check_order(
    make: Callable[[], AnyModel], trained: AnyModel, events: Sequence[Any], queries: Sequence[Any], seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(events))
    for shuffled in ([events[i] for i in order], list(reversed(events))):
        other = _taught(make, shuffled)
        for query in queries:
            _require(
                np.allclose(_scores(trained, query), _scores(other, query), rtol=1e-6, atol=1e-6),
                "order: the model says is_order_free, but another order gives other scores",
            )


def _check_hostile(trained: AnyModel, hostile: Sequence[Any]) -> None:
    before = _snapshot(trained.state())
    for event in hostile:
        shown = repr(event)[:40]
        try:
            trained.learn(copy.copy(event))
        except ValueError:
            pass
        except Exception as error:
            raise AssertionError(f"hostile: {shown} raised {error!r} instead of ValueError") from error
        else:
            raise AssertionError(f"hostile: {shown} was taken as an event")
        _require(_same_state(before, trained.state()), f"hostile: {shown} changed the state")
