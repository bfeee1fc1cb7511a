"""Read an ONNX file as a `Network`: the layers between its inputs and one output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.read.lowering import Lowering
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Network
from flocklet.firmware_export.read.onnx_values import settle
from flocklet.onnx_io.external_data import parse_file
from flocklet.onnx_io.parse import Model, shown

__all__ = ["Reading", "interpret", "lower", "read"]


_LARGEST = {"ArgMax", "LogSoftmax", "Softmax", "TopK"}


@dataclass(frozen=True, eq=False)
class Reading:
    """Hold what a file says: its network, the tensor that is exported and where the hidden values come in.

    network: with the declared activation. as_written: with the file's own, which is what onnxruntime computes. shapes:
    of the inputs, open sizes as 1. is_classifier: what the file does with the tensor is to look for the largest.
    """

    network: Network
    as_written: Network
    output: str
    states: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    is_classifier: bool


def interpret(model: Model, *, output: str | None = None, activation: str | None = None) -> Reading:
    """Return what a parsed model says between its inputs and one output (the first unless named).

    `activation="fast_tanh"` declares that the policy was trained with FAST_TANH where the file says Tanh.
    """
    graph = model.graph
    names = [item.name for item in graph.outputs]
    if not names or (
        output is not None and output not in {name for node in graph.nodes for name in node.outputs}
    ):
        raise ExportError(
            f"the graph has no output '{shown(output or '')}'",
            remedy=f"choose one of: {shown(', '.join(names))}",
        )
    lowering = Lowering(model)
    wanted = output or names[0]
    node = lowering.maker.get(wanted)
    if node is None:
        raise ExportError(f"output '{shown(wanted)}' is an input or a constant, not a policy")
    value = lowering.value(wanted, None)
    if isinstance(value, np.ndarray):
        raise ExportError(f"output '{shown(wanted)}' is a constant, not a policy")
    flow = settle(value, node)
    layers = flow.layers
    if activation is not None:
        if activation not in {"tanh", "fast_tanh"}:
            raise ExportError(
                f"activation '{activation}' cannot stand for Tanh", remedy="use tanh or fast_tanh"
            )
        layers = tuple(
            replace(layer, activation=Activation(activation))
            if isinstance(layer, Dense | Affine) and layer.activation.kind == "tanh"
            else layer
            for layer in layers
        )
    shapes = {name: shape for name, shape in lowering.shapes.items() if shape is not None}
    return Reading(
        Network(layers, flow.inputs),
        Network(flow.layers, flow.inputs),
        wanted,
        flow.states,
        shapes,
        any(item.op_type in _LARGEST and wanted in item.inputs for item in graph.nodes),
    )


def lower(model: Model, *, output: str | None = None, activation: str | None = None) -> Network:
    """Return the layers between the inputs and one output of a parsed model; see `interpret`."""
    return interpret(model, output=output, activation=activation).network


def read(path: Path | str, *, output: str | None = None, activation: str | None = None) -> Network:
    """Read an ONNX file and return its network; raise `ExportError` naming what cannot be exported."""
    return lower(parse_file(path), output=output, activation=activation)
