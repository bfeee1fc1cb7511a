"""Bristle (arXiv 2110.11006): choose whom to look at, judge them class by class, take what they are better at.

Only the output layer is learnt, one column per class. The prioritiser keeps the nearest models and a few random
others. The integrator asks each peer for the classes that it recalls best on a small shared probe set. The announced
number of classes may be a lie: it is bounded by the number of classes on which the model shows any skill.
Departures: recall chooses and scores classes (as in the authors' code), F1 is the certainty, no sequence penalty,
weight 0 where both scores are 0, scores capped at 1e4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Vector
from flocklet.swarm.interface import Context, Update
from flocklet.swarm.task import Learner, Task

__all__ = ["Bristle", "class_scores"]

Scores = NDArray[np.float64]


def class_scores(
    predicted: NDArray[np.intp], labels: NDArray[np.int64], classes: int
) -> tuple[Scores, Scores]:
    """Return F1 and recall per model and class, (N, C) each, from predictions (N, T)."""
    onehot = labels[:, None] == np.arange(classes)
    guessed = predicted[:, :, None] == np.arange(classes)
    right, there = (guessed & onehot).sum(axis=1), onehot.sum(axis=0)
    f1 = 2.0 * right / np.maximum(guessed.sum(axis=1) + there, 1)
    return f1, right / np.maximum(there, 1)


@dataclass(frozen=True)
class Bristle:
    """The prioritiser (`nearest` share of models, `explore` share of the rest) and the integrator."""

    nearest: float = 0.6
    explore: float = 0.4
    name = "bristle"
    needs = frozenset(("probe",))

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return our output layer with each class mixed by who is better at it."""
        task = context.task
        if own is None or task is None or task.probe is None:
            raise UsageError(
                "Bristle needs an own model and a probe set", remedy="use gossip and a task with a probe"
            )
        chosen = self._prioritise(own, updates, context.rng)
        if not chosen:
            return own
        classes = int(task.labels.max()) + 1
        f1, recall = self._scores([own, *(update.vector for update in chosen)], task, classes)
        mine = np.isin(np.arange(classes), context.memory.get("classes", np.arange(classes)))
        weights = np.zeros((len(chosen), classes))
        for row, update in enumerate(chosen):
            selected = _selected(recall[row + 1], f1[row + 1], update.classes or classes)
            weights[row] = _weights(recall[0], recall[row + 1], mine, selected) * _certainty(
                f1[row + 1], selected
            )
        return self._mix(own, chosen, weights, task.model)

    def _prioritise(self, own: Vector, updates: Sequence[Update], rng: np.random.Generator) -> list[Update]:
        order = np.argsort([float(np.linalg.norm(update.vector - own)) for update in updates], kind="stable")
        count = round(self.nearest * len(updates))
        near, rest = order[:count], order[count:]
        extra = rng.permutation(rest)[: round(self.explore * len(rest))]
        return [updates[int(i)] for i in np.sort(np.concatenate([near, extra]))]

    def _scores(self, vectors: list[Vector], task: Task, classes: int) -> tuple[Scores, Scores]:
        predicted = task.model.predict(np.stack(vectors), task.features[task.probe])
        return class_scores(predicted, task.labels[task.probe], classes)

    def _mix(self, own: Vector, chosen: Sequence[Update], weights: Scores, model: Learner) -> Vector:
        mixed = own.copy()
        total = 1.0 + weights.sum(axis=0)
        for name in model.output:
            where, shape = model.layout.slices[name], model.layout.shapes[name]
            columns = own[where].reshape(shape).astype(np.float64)
            for update, weight in zip(chosen, weights, strict=True):
                columns = columns + weight * update.vector[where].reshape(shape)
            mixed[where] = (columns / total).astype(np.float32).reshape(-1)
        return mixed


def _selected(recall: Scores, f1: Scores, announced: int) -> NDArray[np.bool_]:
    """Return the classes that a peer is asked for: its best by recall (its own data's), at most those it announced."""
    skilled = int((f1 > 0).sum())
    selected = np.zeros(len(recall), bool)
    selected[np.lexsort((-f1, -recall))[: min(announced, skilled)]] = True
    return selected


def _certainty(f1: Scores, selected: NDArray[np.bool_]) -> float:
    """Return how evenly good a peer is: a model that says one class for everything has a low F1 there."""
    return max(0.0, float(f1[selected].mean() - f1[selected].std())) if selected.any() else 0.0


def _weights(own: Scores, theirs: Scores, mine: NDArray[np.bool_], selected: NDArray[np.bool_]) -> Scores:
    """Return one weight per class for one peer, from recalls."""
    away = 10.0 * np.abs(theirs - own)
    score = np.where(theirs > own, np.minimum(away ** (3 + own), 1e4), -(away ** (4 + own)))
    weights = np.where(selected & mine, _squash(np.maximum(score, -100.0)), 0.0)
    foreign = selected & ~mine
    if foreign.any():
        weights[foreign] = _squash(np.array(score[foreign].sum()))
    weights[(theirs == 0) & (own == 0)] = 0.0
    return weights


def _squash(score: Scores) -> Scores:
    return np.maximum(0.0, 10.0 / (1.0 + np.exp(-np.clip(score, -2000.0, 2000.0) / 100.0)) - 4.0)
