"""Read `ai.onnx.ml` TreeEnsembleRegressor and TreeEnsembleClassifier nodes as flat tables.

A classifier gives the sums of its class weights before any post-transform: the largest one is the class.
Only BRANCH_LEQ splits are read (scikit-learn writes no others); a binary classifier with one weight column
is refused by name.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.trees import FlatTrees, round_down
from flocklet.onnx_io.external_data import parse_file
from flocklet.onnx_io.parse import Model, Node

__all__ = ["lower_trees", "read_trees"]

_KINDS = {"TreeEnsembleRegressor": "target", "TreeEnsembleClassifier": "class"}


def _ints(node: Node, key: str) -> tuple[int, ...]:
    return node.attributes[key].ints if key in node.attributes else ()


def _floats(node: Node, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if f"{key}_as_tensor" in node.attributes:
        tensor = node.attributes[f"{key}_as_tensor"].t
        return np.zeros(0) if tensor is None else np.asarray(tensor, np.float64)
    return np.array(node.attributes[key].floats if key in node.attributes else (), np.float64)


def lower_trees(model: Model) -> FlatTrees:
    """Return the tree ensemble of a parsed model; raise `ExportError` for unknown forms."""
    found = [node for node in model.graph.nodes if node.op_type in _KINDS]
    if len(found) != 1:
        raise ExportError(f"the graph has {len(found)} tree ensembles, not one")
    node = found[0]
    prefix = _KINDS[node.op_type]
    if node.inputs[0] not in {item.name for item in model.graph.inputs}:
        raise ExportError(f"{node.label} reads a computed value; only inputs can be exported")
    modes = node.attributes["nodes_modes"].strings if "nodes_modes" in node.attributes else ()
    trees, ids = _ints(node, "nodes_treeids"), _ints(node, "nodes_nodeids")
    features, yes, no = (_ints(node, f"nodes_{key}") for key in ("featureids", "truenodeids", "falsenodeids"))
    limits = _floats(node, "nodes_values")
    sizes = {len(part) for part in (modes, trees, ids, features, yes, no, limits)}
    if len(sizes) != 1 or not modes or not set(modes) <= {b"BRANCH_LEQ", b"LEAF"}:
        raise ExportError(f"{node.label} has splits other than BRANCH_LEQ, or lists of different lengths")
    place = {pair: i for i, pair in enumerate(zip(trees, ids, strict=True))}
    weights: dict[tuple[int, int], list[tuple[int, float]]] = {}
    columns = _ints(node, f"{prefix}_ids")
    for tree, leaf, column, value in zip(
        _ints(node, f"{prefix}_treeids"),
        _ints(node, f"{prefix}_nodeids"),
        columns,
        _floats(node, f"{prefix}_weights"),
        strict=True,
    ):
        weights.setdefault((tree, leaf), []).append((column, float(value)))
    n_out = node.attributes["n_targets"].i if "n_targets" in node.attributes else max(columns, default=0) + 1
    if prefix == "class":
        labels = len(_ints(node, "classlabels_int64s")) or len(
            node.attributes["classlabels_strings"].strings if "classlabels_strings" in node.attributes else ()
        )
        if labels > 1 and set(columns) != set(range(labels)):
            raise ExportError(f"{node.label} gives one weight for two classes; export the regressor instead")
    used = sorted(set(columns)) or [0]
    base = np.zeros(n_out)
    given = _floats(node, "base_values")
    base[: given.size] = given
    if node.attributes.get("aggregate_function") and node.attributes["aggregate_function"].s not in {
        b"SUM",
        b"",
    }:
        raise ExportError(f"{node.label} aggregates otherwise than by sum")
    parts: dict[str, list[Any]] = {key: [] for key in ("root", "target", "feature", "left", "value")}
    for tree in sorted(set(trees)):
        for column in used:
            _append(parts, tree, column, place, modes, features, yes, no, limits, weights, node)
    n_in = max(features) + 1
    known = model.graph.inputs[0].shape
    if known and known[-1]:
        n_in = max(n_in, int(known[-1]))
    return FlatTrees(
        np.array(parts["root"], np.uint32),
        np.array(parts["target"], np.uint8),
        np.array(parts["feature"], np.uint8),
        np.array(parts["left"], np.uint16),
        np.array(parts["value"], np.float32),
        base.astype(np.float32),
        n_in,
    )


def _append(
    parts: dict[str, list[Any]], tree: int, column: int, place: dict[tuple[int, int], int], modes: Any,
    features: Any,
    yes: Any, no: Any, limits: Any, weights: dict[tuple[int, int], list[tuple[int, float]]], node: Node,
) -> None:  # fmt: skip
    """Append one tree in breadth order for one output column."""
    root = len(parts["value"])
    parts["root"].append(root)
    parts["target"].append(column)
    waiting = deque([(tree, 0)])
    free = 1
    while waiting:
        pair = waiting.popleft()
        if pair not in place or free > 60_000:
            raise ExportError(f"{node.label} has a tree whose nodes do not fit together")
        i = place[pair]
        if modes[i] == b"LEAF":
            parts["feature"].append(255)
            parts["left"].append(0)
            parts["value"].append(sum(value for at, value in weights.get(pair, []) if at == column))
            continue
        if not 0 <= features[i] < 255:
            raise ExportError(
                f"{node.label} splits on input {features[i]}; at most 255 inputs can be exported"
            )
        parts["feature"].append(features[i])
        parts["left"].append(free)
        parts["value"].append(round_down(limits[i : i + 1])[0])
        waiting += [(tree, yes[i]), (tree, no[i])]
        free += 2


def read_trees(path: Path | str) -> FlatTrees:
    """Read the tree ensemble of an ONNX file."""
    return lower_trees(parse_file(path))
