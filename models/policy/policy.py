"""A policy: observations in, a distribution over actions out, all parameters in one flat float32 vector.

Kinds: `mlp` (64-64 tanh, orthogonal), `linear`, `table` (a linear layer without bias that starts at zero: a softmax table
where the observation is one-hot). Actor and critic are separate nets; the critic has one output per reward head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError, UsageError
from flocklet.models.base import Parameters
from flocklet.models.layout import Layout
from flocklet.models.policy.distribution import Categorical, Distribution, Normal, Squashed
from flocklet.models.policy.environment import Bools, Floats, Spec
from flocklet.models.policy.net import Activation, Net
from flocklet.onnx_io import model as onnx_io

__all__ = ["HIDDEN", "Actor", "Critic", "Kind", "NetPolicy", "Tape", "act"]

Kind: TypeAlias = Literal["mlp", "linear", "table"]
HIDDEN = (64, 64)
_LOG_DEVIATION = -0.5
Tape: TypeAlias = Any
"""What `forward` keeps for `gradient`."""


class Actor(Protocol):
    """What rollouts, losses and evaluation ask of a policy; `check_policy` is the contract in executable form."""

    spec: Spec

    def tensors(self) -> Parameters:
        """Return a copy of the parameters by name."""
        ...

    def load(self, tensors: Mapping[str, Floats]) -> None:
        """Replace the parameters; raise SchemaMismatch for those of another policy."""
        ...

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution for rows (B, D); `allowed` (B, A) masks actions."""
        ...

    def to_onnx(self) -> bytes:
        """Return the greedy output (logits or mean) as an ONNX file."""
        ...


def act(
    actor: Actor,
    seen: Floats,
    rng: np.random.Generator,
    *,
    greedy: bool = False,
    allowed: Bools | None = None,
) -> tuple[NDArray[Any], Distribution]:
    """Return actions (M, N) or (M, N, K) for observations (M, N, D), and the distribution of the M N rows."""
    worlds, agents, _ = seen.shape
    mask = None if allowed is None else allowed.reshape(worlds * agents, -1)
    dist = actor.dist(seen.reshape(worlds * agents, -1), mask)
    flat = dist.mode() if greedy else dist.sample(rng)
    return flat.reshape(worlds, agents, *flat.shape[1:]), dist


class NetPolicy:
    """A dense net that gives logits, or means beside log-deviations that do not depend on the state.

    `is_squashed` presses continuous actions into (-1, 1) by tanh, as off-policy learning needs.
    """

    def __init__(
        self,
        spec: Spec,
        rng: np.random.Generator,
        *,
        kind: Kind = "mlp",
        hidden: Sequence[int] = HIDDEN,
        activation: Activation = "tanh",
        is_squashed: bool = False,
    ) -> None:
        self.spec, self.kind = spec, kind
        self.is_squashed = is_squashed and spec.controls is not None
        self.outputs = int(spec.actions or spec.controls or 0)
        layers = tuple(hidden) if kind == "mlp" else ()
        self.net = Net((spec.seen, *layers, self.outputs), activation)
        shapes = dict(self.net.shapes)
        if spec.controls is not None:
            shapes["log_deviation"] = (self.outputs,)
        self.layout = Layout(shapes)
        self.vector = np.zeros(self.layout.size, np.float32)
        self._bind()
        if kind != "table":
            for name, tensor in self.net.init(rng, 0.01).items():
                self._parts[name][...] = tensor
        if spec.controls is not None:
            self._parts["log_deviation"][...] = _LOG_DEVIATION

    def _bind(self) -> None:
        self._parts = self.layout.split(self.vector)
        self.layers = self.net.bind(self.vector, self.layout)

    def tensors(self) -> Parameters:
        """Return a copy of the parameters by name."""
        return {name: value.copy() for name, value in self._parts.items()}

    def load(self, tensors: Mapping[str, Floats]) -> None:
        """Replace the parameters; raise SchemaMismatch for those of another policy."""
        self.vector[...] = self.layout.join(tensors)

    def copy(self) -> NetPolicy:
        """Return another policy with the same parameters."""
        twin = NetPolicy(
            self.spec,
            np.random.default_rng(0),
            kind=self.kind,
            hidden=self.net.sizes[1:-1],
            activation=self.net.activation,
            is_squashed=self.is_squashed,
        )
        twin.vector[...] = self.vector
        return twin

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution for rows (B, D)."""
        return self.forward(seen, allowed)[0]

    def forward(self, seen: Floats, allowed: Bools | None = None) -> tuple[Distribution, Tape]:
        """Return the distribution for rows (B, D) and what `gradient` needs."""
        outs = self.net.forward(self.layers, seen)
        if self.spec.actions is not None:
            return Categorical(outs[-1], allowed), outs
        spread = np.broadcast_to(self._parts["log_deviation"], outs[-1].shape)
        params = np.concatenate([outs[-1], spread], axis=1)
        return (Squashed if self.is_squashed else Normal)(params), outs

    def recorded(self, params: Floats) -> Distribution:
        """Return the distribution that a rollout recorded as `params` (B, P)."""
        if self.spec.actions is not None:
            return Categorical(params)
        return (Squashed if self.is_squashed else Normal)(params)

    def gradient(self, tape: Tape, error: Floats) -> Floats:
        """Return d loss / d vector (P,) for d loss / d parameters of the distribution, (B, width)."""
        flat = np.zeros(self.layout.size, self.vector.dtype)
        into = self.net.bind(flat, self.layout)
        if self.spec.controls is not None:
            self.layout.split(flat)["log_deviation"][...] = error[:, self.outputs :].sum(axis=0)
            error = np.ascontiguousarray(error[:, : self.outputs])
        self.net.backward(self.layers, tape, error, into)
        if self.kind == "table":
            into[-1][1][...] = 0.0
        return flat

    def to_onnx(self) -> bytes:
        """Return logits or means as an ONNX file; the log-deviation stays in the learner's own file."""
        last, output = self.net.depth - 1, "tanh" if self.is_squashed else "none"
        return onnx_io.encode_mlp(
            [
                (np.ascontiguousarray(w.T), b.copy(), self.net.activation if i < last else output)
                for i, (w, b) in enumerate(self.layers)
            ],
            name="policy",
        )

    @classmethod
    def from_layers(cls, spec: Spec, layers: Sequence[tuple[Floats, Floats, str]]) -> NetPolicy:
        """Return the policy of dense layers (weights (outputs, inputs), bias, activation).

        Raise UsageError for a policy of another task, ExportError for activations that cannot go on learning.
        """
        kinds = {kind for _, _, kind in layers[:-1]} or {"tanh"}
        if len(kinds) > 1 or not kinds <= {"tanh", "relu"} or layers[-1][2] not in ("none", "tanh"):
            raise ExportError(
                f"the policy has activations {', '.join(kind for *_, kind in layers)}",
                remedy="to go on learning: tanh or ReLU in all hidden layers, none or tanh in the last",
            )
        wanted, given = int(spec.actions or spec.controls or 0), layers[-1][0].shape[0]
        if layers[0][0].shape[1] != spec.seen or given != wanted:
            raise UsageError(
                f"this policy takes {layers[0][0].shape[1]} numbers and gives {given}; {spec.name} shows "
                f"{spec.seen} and wants {wanted}",
                remedy="the policy belongs to another task: 'flocklet learn tasks' lists what each needs",
            )
        hidden = [weights.shape[0] for weights, _, _ in layers[:-1]]
        activation: Activation = "relu" if "relu" in kinds else "tanh"
        made = cls(
            spec,
            np.random.default_rng(0),
            kind="mlp" if hidden else "linear",
            hidden=hidden,
            activation=activation,
            is_squashed=layers[-1][2] == "tanh",
        )
        for (into, bias), (weights, given_bias, _) in zip(made.layers, layers, strict=True):
            into[...] = weights.T
            bias[...] = given_bias
        return made


class Critic:
    """A dense net that says what return to expect, one output per reward head: rows (B, D) -> (B, H)."""

    def __init__(
        self,
        width: int,
        heads: int,
        rng: np.random.Generator,
        *,
        hidden: Sequence[int] = HIDDEN,
        activation: Activation = "tanh",
    ) -> None:
        self.net = Net((width, *hidden, heads), activation, prefix="v_")
        self.layout = Layout(self.net.shapes)
        self.vector = self.layout.join(self.net.init(rng, 1.0))
        self.layers = self.net.bind(self.vector, self.layout)

    def __call__(self, seen: Floats) -> Floats:
        """Return the values (B, H) of rows (B, D)."""
        return self.net.forward(self.layers, seen)[-1]

    def gradient(self, seen: Floats, target: Floats) -> tuple[Floats, float]:
        """Return the gradient of half the mean squared error against `target` (B, H), and the mean squared error."""
        outs = self.net.forward(self.layers, seen)
        error = outs[-1] - target
        loss = float(np.mean(error * error))
        flat = np.zeros(self.layout.size, self.vector.dtype)
        self.net.backward(self.layers, outs, error / np.float32(len(error)), self.net.bind(flat, self.layout))
        return flat, loss
