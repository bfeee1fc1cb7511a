"""Policies and learners in files: read any ONNX policy to act with, read one to go on from, keep a learner's state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flocklet.errors import ConfigError, ExportError, UsageError
from flocklet.models.policy.distribution import Categorical, Distribution, Squashed
from flocklet.models.policy.environment import Bools, Floats, Spec
from flocklet.onnx_io.model import OnnxSession, save

if TYPE_CHECKING:
    from flocklet.models.policy.policy import NetPolicy

__all__ = ["FilePolicy", "load_learner", "read_net", "save_learner", "state_path"]

_KINDS = {"identity": "none", "tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "fast_tanh": "fast_tanh"}


class FilePolicy:
    """Any ONNX file that takes (n, D) numbers and gives (n, A) scores or (n, K) controls, run by onnxruntime."""

    def __init__(self, path: Path, spec: Spec) -> None:
        if not path.is_file():
            raise UsageError(f"there is no policy {path}")
        self.spec, self.path = spec, path
        self._session = OnnxSession(path)
        self._input = next(iter(self._session.inputs))
        shape = self._session.inputs[self._input][1]
        self._is_single = len(shape) == 2 and shape[0] == 1
        wanted = int(spec.actions or spec.controls or 0)
        out = None
        if len(shape) == 2 and (not isinstance(shape[1], int) or shape[1] == spec.seen):
            out = self(np.zeros((1, spec.seen), np.float32))
        if out is None or out.shape != (1, wanted):
            gives = "" if out is None else f" and gives {out.shape[-1] if out.ndim else 1}"
            raise UsageError(
                f"{path} takes {'x'.join(str(n) for n in shape)} numbers{gives}; {spec.name} shows {spec.seen} and "
                f"wants {wanted}",
                remedy="the policy belongs to another task: 'flocklet learn tasks' lists what each needs",
            )

    @property
    def is_trees(self) -> bool:
        """Return whether the file is one tree ensemble."""
        from flocklet.onnx_io.external_data import parse_file

        return any(node.op_type.startswith("TreeEnsemble") for node in parse_file(self.path).graph.nodes)

    def __call__(self, seen: Floats) -> Floats:
        """Return the file's output for rows (B, D)."""
        rows = [seen[i : i + 1] for i in range(len(seen))] if self._is_single else [seen]
        parts = [next(iter(self._session.run({self._input: row}).values())) for row in rows]
        return np.concatenate(parts)

    def dist(self, seen: Floats, allowed: Bools | None = None) -> Distribution:
        """Return the distribution whose mode is the file's output."""
        out = self(np.ascontiguousarray(seen, np.float32))
        if self.spec.actions is not None:
            return Categorical(out, allowed)
        raw = np.arctanh(np.clip(out, -0.999999, 0.999999))
        return Squashed(np.concatenate([raw, np.full_like(raw, -5.0)], axis=1))

    def tensors(self) -> dict[str, Any]:
        """Return nothing: a file's parameters are its own."""
        return {}

    def load(self, tensors: Mapping[str, Floats]) -> None:
        """Refuse: a file does not learn."""
        raise ExportError(f"{self.path} does not learn")

    def to_onnx(self) -> bytes:
        """Return the file's bytes."""
        return self.path.read_bytes()


def read_net(path: Path, spec: Spec) -> NetPolicy:
    """Return the dense net of an ONNX file, to go on learning from; its log-deviation is the usual start's.

    Raise UsageError for a policy of another task and ExportError for one that is no dense net.
    """
    from flocklet.firmware_export.read.network import Dense
    from flocklet.firmware_export.read.onnx_reader import read
    from flocklet.models.policy.policy import NetPolicy

    if not path.is_file():
        raise UsageError(f"there is no policy {path}")
    layers = []
    for i, layer in enumerate(read(path, activation="tanh").layers):
        if not isinstance(layer, Dense):
            raise ExportError(
                f"layer {i} of {path} is no dense layer", remedy="only dense nets can go on learning"
            )
        kind = _KINDS.get(layer.activation.kind, layer.activation.kind)
        layers.append((layer.weight, layer.bias, kind))
    return NetPolicy.from_layers(spec, layers)


def state_path(policy: Path) -> Path:
    """Return where the learner of a policy is kept: beside it."""
    return policy.with_suffix(".learner.npz")


def save_learner(policy: Path, state: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Write a learner's state beside its policy, in one step, without pickle."""
    import io

    buffer = io.BytesIO()
    marks = {f"about.{key}": np.array(value) for key, value in about.items()}
    np.savez_compressed(buffer, **state, **marks)  # type: ignore[arg-type]  # the stub takes an array for allow_pickle
    save(state_path(policy), buffer.getvalue())


def load_learner(policy: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the state beside a policy and what it says about itself; raise ConfigError for a damaged file."""
    path = state_path(policy)
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except FileNotFoundError as error:
        raise UsageError(f"there is no learner {path}", remedy="train without --resume first") from error
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} is damaged: {error}", remedy="train without --resume") from error
    about = {name[6:]: str(arrays.pop(name)) for name in list(arrays) if name.startswith("about.")}
    return arrays, about
