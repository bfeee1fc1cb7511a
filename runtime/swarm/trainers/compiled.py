"""Trainers through tinygrad: the same rules on the same plans, compiled to C here or captured on a GPU.

A model takes part by declaring `loss(tensors, features, labels)`, the loss of every row in tinygrad tensors; tinygrad
differentiates it, and the trainer's rule (momentum, SAM, frozen tensors) becomes part of the same function. On the
processor `flocklet.kernels.descent` makes one C function of it, in which every peer takes all its steps before the next
one: the bits of a peer do not depend on the others. On a GPU the peers are stacked, padded to a power of two, and step
together; there bits may depend on the company. NumPy and tinygrad agree within rounding, not bit for bit, so all peers
of a run must compute in the same way when their hashes are compared.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.errors import ConfigError, UsageError
from flocklet.kernels.descent import Descent, Rule, Steps, apply, padded_batch
from flocklet.models.layout import Layout
from flocklet.swarm.protocols import Trainer
from flocklet.swarm.task import Floats, Learner, Rows, Task
from flocklet.swarm.trainers import numpy as trainers
from flocklet.swarm.trainers.numpy import Sgd

__all__ = ["WAYS", "Compiled", "through"]

WAYS = ("numpy", "tinygrad", "gpu")
_log = logging.getLogger("flocklet.swarm")


def through(trainer: Trainer, way: str) -> Trainer:
    """Return the trainer that computes in this way: "numpy", "tinygrad" (compiled C) or "gpu" (tinygrad's device)."""
    if way == "numpy":
        return trainer
    if way not in WAYS:
        raise UsageError(f"trainers do not compute with {way!r}", remedy=f"one of {', '.join(WAYS)}")
    if not isinstance(trainer, Sgd):
        raise UsageError(f"{type(trainer).__name__} has no form in tinygrad", remedy="compute with numpy")
    if way == "gpu":
        from flocklet.kernels.compile.gpu import open_device

        return Compiled(trainer, open_device())
    return Compiled(trainer)


class Compiled:
    """Train by the rule of `inner`, an Sgd or one of its kin, with compiled kernels or on `device`.

    Where nothing compiles it trains with NumPy; one warning says so and `reason` why. `way` is "native", the name of the
    device or "numpy"; before the first training it is what is hoped for.
    """

    def __init__(self, inner: Sgd, device: str = "") -> None:
        self.inner, self.way, self.reason = inner, device or "native", ""
        self.chunk = 1024 if device else 128
        self._device = device
        self._steps: dict[tuple[int, int, int], Any] = {}  # (model, batch, stack) -> what runs it
        self._models: dict[int, Learner] = {}  # keeps the ids above from being used again

    def plan(self, n: int, rng: np.random.Generator, round: int) -> Rows:
        """Return positions (K, B) into a share of `n` rows, as the inner trainer plans."""
        return self.inner.plan(n, rng, round)

    def prepare(self, task: Task, rows: int) -> None:
        """Compile what peers that hold `rows` rows will need; never raises for want of a compiler."""
        if not self._device and self.way != "numpy":
            self._ready(task, padded_batch(min(self.inner.batch, rows), self.inner.batch))

    def train(self, task: Task, start: Floats, rows: Sequence[Rows], round: int) -> Floats:
        """Return the trained models (N, P); raise UsageError for a model without a loss in tinygrad."""
        if self.way == "numpy" or not len(rows):
            return self.inner.train(task, start, rows, round)
        rate = self.inner.lr * self.inner.decay**round
        batch = padded_batch(max(plan.shape[1] for plan in rows), self.inner.batch)
        if self._device:
            return self._train_on_device(task, start, rows, rate, batch)
        steps = self._ready(task, batch)
        if steps is None:
            return self.inner.train(task, start, rows, round)
        trained = np.array(start, np.float32, order="C")
        steps.run(trained, task.features, task.labels, rows, rate)
        return trained

    def _ready(self, task: Task, batch: int) -> Steps | None:
        """Return what trains natively, or None after saying once that NumPy does it."""
        place = self._place(task.model, batch, 1)
        if place not in self._steps:
            try:
                self._steps[place] = Descent(rule_of(self.inner, task), batch).compile()
            except ConfigError as error:
                self.way, self.reason = "numpy", str(error)
                _log.warning("trainers compute with NumPy: %s", error)
                return None
        steps: Steps = self._steps[place]
        return steps

    def _place(self, model: Learner, batch: int, stack: int) -> tuple[int, int, int]:
        self._models[id(model)] = model
        return id(model), batch, stack

    def _train_on_device(
        self, task: Task, start: Floats, rows: Sequence[Rows], rate: float, batch: int
    ) -> Floats:
        count = len(rows)
        stack = 1 << (count - 1).bit_length()
        rule = rule_of(self.inner, task)
        place = self._place(task.model, batch, stack)
        if place not in self._steps:
            self._steps[place] = _on_device(rule, batch, stack, self._device)
        run = self._steps[place]
        layout = task.model.layout
        padded = np.concatenate([start, np.repeat(start[:1], stack - count, axis=0)])
        given = {}
        for name, where in layout.slices.items():
            given[f"x/{name}"] = run.tensor(padded[:, where].reshape(stack, *layout.shapes[name]))
            if rule.has_momentum and name in rule.trained:
                given[f"v/{name}"] = run.tensor(np.zeros((stack, *layout.shapes[name]), np.float32))
        for step in range(max(map(len, rows))):
            chosen = np.zeros((stack, batch), np.int64)
            weights, rates = np.zeros((stack, batch), np.float32), np.zeros((stack, 1), np.float32)
            for i, plan in enumerate(rows):
                width = plan.shape[1]
                if step < len(plan):
                    chosen[i, :width], chosen[i, width:] = plan[step], plan[step, 0]
                    weights[i, :width], rates[i] = 1.0 / width, rate
            batches = {"features": task.features[chosen], "labels": task.labels[chosen].astype(np.int32)}
            batches |= {"weights": weights, "rate": rates}
            given |= {name: run.tensor(values) for name, values in batches.items()}
            given |= {name: tensor.clone().realize() for name, tensor in run(given).items()}
        trained = np.empty_like(start)
        for name, where in layout.slices.items():
            trained[:, where] = given[f"x/{name}"].numpy()[:count].reshape(count, -1)
        return trained


def rule_of(trainer: Sgd, task: Task) -> Rule:
    """Return one step of `trainer` on the model of `task`; raise UsageError where the model has no loss in tinygrad."""
    model, layout = task.model, task.model.layout
    loss = getattr(model, "loss", None)
    if loss is None:
        raise UsageError(
            f"the model {type(model).__name__} declares no loss in tinygrad", remedy="compute with numpy"
        )
    names, momentum = trainer.trained(layout, model.output), trainer.momentum

    def step(
        tensors: dict[str, Any], velocities: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        from flocklet.kernels.render.tensor_adapter import gradients

        def gradient(at: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
            fresh = {name: tensor.detach() for name, tensor in at.items()}
            value = loss(fresh, batch["features"], batch["labels"]) * batch["weights"]
            return gradients(value, {name: fresh[name] for name in wanted})

        slopes = trainer.slopes(gradient, tensors, names)
        speeds: dict[str, Any] = {}
        moved: dict[str, Any] = {}
        for name in names:
            tensor, slope = tensors[name], slopes[name]
            if momentum:
                slope = speeds[name] = velocities[name] * momentum + slope
            rate = batch["rate"].reshape(-1, *[1] * (tensor.ndim - 1))
            moved[name] = (rate > 0.0).where(tensor - rate * slope, tensor)
        return moved, speeds

    return Rule(
        step=step,
        shapes=layout.shapes,
        trained=names,
        features=task.features.shape[1],
        has_momentum=momentum != 0.0,
        key=_key(trainer, model),
    )


def _key(trainer: Sgd, model: Learner) -> str:
    """Return what names this rule in every process: settings and the files behind them; "" if something is unknown.

    A loss that calls code in other files must change with it in name or in an attribute.
    """
    settings = {
        name: value for name, value in vars(trainer).items() if name not in ("lr", "decay", "steps", "epochs")
    }
    facts = [type(trainer).__qualname__, repr(sorted(settings.items())), type(model).__qualname__]
    for name, value in sorted(vars(model).items()):
        if isinstance(value, Layout):
            value = sorted(value.shapes.items())
        items = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(item, str | int | float | tuple | np.number) for item in items):
            return ""
        facts.append(f"{name}={value!r}")
    files = [Path(__file__), Path(trainers.__file__)]
    try:
        files += [
            Path(inspect.getfile(kind)) for kind in (*type(model).__mro__[:-1], *type(trainer).__mro__[:-1])
        ]
        facts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    except (OSError, TypeError):
        return ""
    return "\n".join(facts)


def _on_device(rule: Rule, batch: int, stack: int, device: str) -> Any:
    from flocklet.kernels.render.tensor_adapter import Argument, DeviceFunction

    arguments = [Argument(f"x/{name}", (stack, *shape)) for name, shape in rule.shapes.items()]
    if rule.has_momentum:
        arguments += [Argument(f"v/{name}", (stack, *rule.shapes[name])) for name in rule.trained]
    arguments += [Argument("features", (stack, batch, rule.features))]
    arguments += [Argument("labels", (stack, batch), is_whole=True)]
    arguments += [Argument("weights", (stack, batch)), Argument("rate", (stack, 1))]
    return DeviceFunction(lambda given: apply(rule, given), arguments, device)
