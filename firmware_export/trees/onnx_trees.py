"""Read `ai.onnx.ml` TreeEnsembleRegressor and TreeEnsembleClassifier nodes as flat tables.

Splits by <=, <, >= and > become "x <= t" of float32 numbers; a NaN goes where the node's flag says. A classifier gives
its scores; of two classes with one column of weights, the first score is that of the other class (as onnxruntime
computes it). What follows the ensemble must leave the numbers as they are, else it is refused by name.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.trees import FlatTrees, Trees, round_down, round_up
from flocklet.onnx_io.external_data import parse_file
from flocklet.onnx_io.parse import Model, Node, shown

__all__ = ["TreeReading", "ensembles", "interpret_trees", "lower_trees", "read_trees"]

_MODES = {b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT", b"LEAF"}
_KINDS = {"TreeEnsembleRegressor": "target", "TreeEnsembleClassifier": "class"}
_ENSEMBLES = {*_KINDS, "TreeEnsemble"}


def _ints(node: Node, key: str) -> tuple[int, ...]:
    return node.attributes[key].ints if key in node.attributes else ()


def _floats(node: Node, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if f"{key}_as_tensor" in node.attributes:
        tensor = node.attributes[f"{key}_as_tensor"].t
        return np.zeros(0) if tensor is None else np.asarray(tensor, np.float64)
    return np.array(node.attributes[key].floats if key in node.attributes else (), np.float64)


@dataclass(frozen=True, eq=False)
class TreeReading:
    """Hold what a file says: its trees, the tensor that they give and the input they read."""

    trees: Trees
    output: str
    source: str


def ensembles(model: Model) -> list[Node]:
    """Return the nodes of a graph that are tree ensembles."""
    return [node for node in model.graph.nodes if node.op_type in _ENSEMBLES]


def lower_trees(model: Model) -> FlatTrees:
    """Return the tree ensemble of a parsed model; raise `ExportError` for unknown forms."""
    found = interpret_trees(model).trees
    assert isinstance(found, FlatTrees)  # noqa: S101  (the general way gives no other)
    return found


def interpret_trees(model: Model, *, output: str | None = None) -> TreeReading:
    """Return the trees between the input and one output of a parsed model; by default the scores or the targets."""
    found = ensembles(model)
    if len(found) != 1:
        raise ExportError(f"the graph has {len(found)} tree ensembles, not one")
    node = found[0]
    if node.op_type not in _KINDS:
        raise ExportError(f"{node.label} is of the new operator set of trees, which cannot be exported")
    maker = {name: item for item in model.graph.nodes for name in item.outputs if name}
    wanted = node.outputs[-1] if _KINDS[node.op_type] == "class" else node.outputs[0]
    names = [item.name for item in model.graph.outputs]
    if output is not None and output not in maker:
        raise ExportError(
            f"the graph has no output '{shown(output)}'", remedy=f"choose one of: {shown(', '.join(names))}"
        )
    tensor, refused = "", None
    for name in [output] if output is not None else names:
        try:
            tensor = _traced(name, node, wanted, maker)
            break
        except ExportError as error:
            refused = error
    if not tensor:
        raise refused or ExportError("the graph has no output")
    source = _source(model, node, maker)
    return TreeReading(_tables(model, node, source), tensor, source)


def _traced(name: str, node: Node, wanted: str, maker: dict[str, Node]) -> str:
    """Return the tensor to compare with, where an output is the ensemble's own result; else refuse by name."""
    tensor = name
    for _ in range(len(maker) + 1):
        if name == wanted:
            return tensor
        if name not in maker or maker[name] is node:
            break
        step = maker[name]
        if not (_is_cast(step, {1, 11}) or step.op_type in {"Identity", "ZipMap"}) or not step.inputs:
            raise ExportError(
                f"{step.label} works on the result of the trees, which cannot be exported",
                remedy=f"export what the trees give, --output {shown(wanted)}, and do the rest in your own code",
            )
        name = step.inputs[0]
        tensor = name if step.op_type == "ZipMap" else tensor
    raise ExportError(
        f"output '{shown(tensor)}' is not what the trees sum up",
        remedy=f"export the scores: --output {shown(wanted)}",
    )


def _is_cast(node: Node, kinds: set[int]) -> bool:
    return node.op_type == "Cast" and "to" in node.attributes and node.attributes["to"].i in kinds


def _source(model: Model, node: Node, maker: dict[str, Node]) -> str:
    """Return the input that an ensemble reads, through nothing but casts to float."""
    kinds = {item.name: item.elem_type for item in model.graph.inputs}
    name = node.inputs[0] if node.inputs else ""
    for _ in range(len(maker) + 1):
        if name not in maker:
            break
        step = maker[name]
        if not (step.op_type == "Identity" or _is_cast(step, {1})) or not step.inputs:
            raise ExportError(f"{step.label} computes what the trees read; only inputs can be exported")
        name = step.inputs[0]
    if kinds.get(name) not in {1, 11}:
        raise ExportError(f"{node.label} reads '{shown(name)}', which is no input of floats")
    return name


def _tables(model: Model, node: Node, source: str) -> FlatTrees:
    prefix = _KINDS[node.op_type]
    modes = node.attributes["nodes_modes"].strings if "nodes_modes" in node.attributes else ()
    trees, ids = _ints(node, "nodes_treeids"), _ints(node, "nodes_nodeids")
    features, yes, no = (_ints(node, f"nodes_{key}") for key in ("featureids", "truenodeids", "falsenodeids"))
    limits = _floats(node, "nodes_values")
    sizes = {len(part) for part in (modes, trees, ids, features, yes, no, limits)}
    if len(sizes) != 1 or not modes or not set(modes) <= _MODES:
        raise ExportError(f"{node.label} has splits other than by order, or lists of different lengths")
    flags = _ints(node, "nodes_missing_value_tracks_true") or (0,) * len(modes)
    if len(flags) != len(modes):
        raise ExportError(f"{node.label} has {len(flags)} flags for missing values, not {len(modes)}")
    after = node.attributes["post_transform"].s if "post_transform" in node.attributes else b"NONE"
    if after not in {b"NONE", b""}:
        raise ExportError(
            f"{node.label} transforms its sums ({after.decode(errors='replace')}), which cannot be exported",
            remedy="convert the model with raw scores (no post-transform) and do the rest in your own code",
        )
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
    complement: float | None = None
    n_out = node.attributes["n_targets"].i if "n_targets" in node.attributes else max(columns, default=0) + 1
    if prefix == "class":
        labels = len(_ints(node, "classlabels_int64s")) or len(
            node.attributes["classlabels_strings"].strings if "classlabels_strings" in node.attributes else ()
        )
        if labels == 2 and len(set(columns)) == 1:
            if set(columns) != {0} or _floats(node, "base_values").size:
                raise ExportError(
                    f"{node.label} is a two-class ensemble of an unusual form",
                    remedy="convert the model again with ZipMap off, or as a regressor",
                )
            weight = _floats(node, f"{prefix}_weights")
            complement = 1.0 if (weight >= 0).all() else 0.0
            columns, n_out = (1,) * len(columns), 2
            weights = {pair: [(1, value) for _, value in found] for pair, found in weights.items()}
        elif labels == 2 and _floats(node, "base_values").size:
            raise ExportError(
                f"{node.label} has base values for two classes, which onnxruntime adds in a way of its own",
                remedy="convert the model again without base values, or as a regressor",
            )
        elif labels > 1 and set(columns) != set(range(labels)):
            raise ExportError(f"{node.label} gives weights for {len(set(columns))} of {labels} classes")
    used = sorted(set(columns)) or [0]
    base = np.zeros(n_out)
    given = _floats(node, "base_values")
    if given.size not in {0, n_out}:
        raise ExportError(f"{node.label} has {given.size} base values for {n_out} outputs")
    base[: given.size] = given
    if node.attributes.get("aggregate_function") and node.attributes["aggregate_function"].s not in {
        b"SUM",
        b"",
    }:
        raise ExportError(f"{node.label} aggregates otherwise than by sum")
    parts: dict[str, list[Any]] = {
        key: [] for key in ("root", "target", "feature", "left", "value", "nan_left")
    }
    for tree in sorted(set(trees)):
        for column in used:
            _append(parts, tree, column, place, modes, features, yes, no, limits, weights, flags, node)
    n_in = max(features) + 1
    known = next((item.shape for item in model.graph.inputs if item.name == source), None)
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
        np.array(parts["nan_left"], np.uint8),
        complement,
    )


def _append(
    parts: dict[str, list[Any]], tree: int, column: int, place: dict[tuple[int, int], int], modes: Any,
    features: Any,
    yes: Any, no: Any, limits: Any, weights: dict[tuple[int, int], list[tuple[int, float]]], flags: Any, node: Node,
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
            parts["nan_left"].append(0)
            parts["value"].append(sum(value for at, value in weights.get(pair, []) if at == column))
            continue
        if not 0 <= features[i] < 255:
            raise ExportError(
                f"{node.label} splits on input {features[i]}; at most 255 inputs can be exported"
            )
        parts["feature"].append(features[i])
        parts["left"].append(free)
        limit = round_down(limits[i : i + 1])[0]
        if modes[i] in {b"BRANCH_LT", b"BRANCH_GTE"}:  # x < t is x <= the number below t
            limit = np.nextafter(round_up(limits[i : i + 1])[0], np.float32(-np.inf))
        parts["value"].append(limit)
        below = modes[i] in {b"BRANCH_LEQ", b"BRANCH_LT"}
        parts["nan_left"].append(int(bool(flags[i]) == below))
        waiting += [(tree, yes[i]), (tree, no[i])] if below else [(tree, no[i]), (tree, yes[i])]
        free += 2


def read_trees(path: Path | str) -> FlatTrees:
    """Read the tree ensemble of an ONNX file."""
    return lower_trees(parse_file(path))
