"""Bristle (arXiv 2110.11006): choose whom to look at, judge them class by class, take what they are better at.

Only the output layer is learnt, one column per class: freeze the others (`sgd(output_only=true)`). The prioritiser keeps
the nearest models and a few random others. The integrator asks each peer for as many classes as it announced, those at
which it is best on a small shared probe set. A lie about that number gains little: every weight is measured there.
Departures: models much farther than the near half are dropped before anything else; a peer's classes are those whose
recall stands out from the others' (every model that has merged recalls easy classes, so the plain order lets hard
ones starve); recall scores, as in the authors' code, and F1 gives the certainty; no sequence penalty; weight 0 where
both scores are 0; scores capped at 1e4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import UsageError
from flocklet.models.layout import Vector
from flocklet.swarm.protocols import Context, Update
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
    """The prioritiser (the `nearest` models and `explore` random others, none beyond `reach`) and the integrator.

    `reach` is in units of the median distance of the nearer half of the received models, or of two local updates if
    that is more: peers that echo our own model cannot push the others out.
    """

    nearest: int = 20
    explore: int = 5
    reach: float = 3.0
    name = "bristle"
    needs = frozenset(("probe",))

    def merge(self, own: Vector | None, updates: Sequence[Update], context: Context) -> Vector:
        """Return our output layer with each class mixed by who is better at it."""
        task = context.task
        if own is None or task is None or task.probe is None:
            raise UsageError(
                "Bristle needs an own model and a probe set", remedy="use gossip and a task with a probe"
            )
        if not updates:
            return own
        heads = [replace(update, vector=self._head(own, update.vector, task.model)) for update in updates]
        chosen = self._prioritise(own, heads, context)
        classes = int(task.labels.max()) + 1
        f1, recall = self._scores([own, *(update.vector for update in chosen)], task, classes)
        stands_out = recall - recall.mean(axis=0)
        held = np.arange(classes) if context.classes is None else context.classes
        mine = np.isin(np.arange(classes), held)
        weights = np.zeros((len(chosen), classes))
        for row, update in enumerate(chosen, start=1):
            announced = min(update.classes or classes, classes)
            selected = np.zeros(classes, bool)
            selected[np.lexsort((-f1[row], -stands_out[row]))[:announced]] = True
            certainty = max(0.0, float(f1[row][selected].mean() - f1[row][selected].std()))
            weights[row - 1] = _weights(recall[0], recall[row], mine, selected) * certainty
        return self._mix(own, chosen, weights, task.model)

    @staticmethod
    def _head(own: Vector, theirs: Vector, model: Learner) -> Vector:
        """Return our model with their output layer: what is judged is what would be mixed."""
        joined = own.copy()
        for name in model.output:
            joined[model.layout.slices[name]] = theirs[model.layout.slices[name]]
        return joined

    def _prioritise(self, own: Vector, updates: Sequence[Update], context: Context) -> list[Update]:
        away = np.array([float(np.linalg.norm(update.vector - own)) for update in updates])
        order = np.argsort(away, kind="stable")
        step = float(np.linalg.norm(own - context.start))
        near = max(float(np.median(away[order[: (len(away) + 1) // 2]])), 2.0 * step)
        order = order[away[order] <= self.reach * near]
        extra = context.rng.permutation(order[self.nearest :])[: self.explore]
        return [updates[int(i)] for i in np.sort(np.concatenate([order[: self.nearest], extra]))]

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
