"""Read back the oblivious trees that we wrote as ONNX: small tables instead of one general tree per output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flocklet.firmware_export.trees.onnx_trees import TreeReading
from flocklet.firmware_export.trees.trees import ObliviousTrees
from flocklet.onnx_io.external_data import parse_file
from flocklet.onnx_io.oblivious import encode_oblivious
from flocklet.onnx_io.parse import Model, Node, parse_model

__all__ = ["interpret_oblivious", "read_oblivious"]


def read_oblivious(path: Path | str) -> ObliviousTrees | None:
    """Return the oblivious trees of an ONNX file; None for any other file."""
    return lower_oblivious(parse_file(path))


def interpret_oblivious(model: Model, *, output: str | None = None) -> TreeReading | None:
    """Return a file's reading if it holds nothing but oblivious trees of ours, and `output` is theirs."""
    trees = lower_oblivious(model)
    if trees is None:
        return None
    node = model.graph.nodes[0]
    if output not in (None, node.outputs[0]):
        return None
    return TreeReading(trees, node.outputs[0], node.inputs[0])


def _ints(node: Node, key: str) -> tuple[int, ...]:
    return node.attributes[key].ints if key in node.attributes else ()


def _floats(node: Node, key: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(node.attributes[key].floats if key in node.attributes else (), np.float64)


def lower_oblivious(model: Model) -> ObliviousTrees | None:
    """Return the tables of an ensemble that `flocklet.onnx_io.oblivious` wrote; None for any other."""
    found = [node for node in model.graph.nodes if node.op_type == "TreeEnsembleRegressor"]
    if len(found) != 1 or len(model.graph.nodes) != 1:
        return None
    node = found[0]
    modes = node.attributes["nodes_modes"].strings if "nodes_modes" in node.attributes else ()
    if not modes or not set(modes) <= {b"BRANCH_GT", b"BRANCH_EQ", b"LEAF"} or b"LEAF" in modes[:1]:
        return None
    trees = max(_ints(node, "nodes_treeids"), default=0) + 1
    depth = (len(modes) // trees + 1).bit_length() - 2
    inner = (1 << depth) - 1
    base = _floats(node, "base_values").astype(np.float32)
    width, leaves = len(base), 1 << depth
    weights = _floats(node, "target_weights")
    if len(modes) != trees * (2 * inner + 1) or len(weights) != trees * leaves * width or depth > 12:
        return None
    feature = np.array(_ints(node, "nodes_featureids")).reshape(trees, -1)
    threshold = _floats(node, "nodes_values").astype(np.float32).reshape(trees, -1)
    at = [(1 << level) - 1 for level in range(depth)]  # the first node of every level
    order = [int(f"{path:0{depth}b}"[::-1], 2) for path in range(leaves)]
    leaf = np.zeros((trees, leaves, width), np.float32)
    leaf[:, order] = weights.astype(np.float32).reshape(trees, leaves, width)
    known = model.graph.inputs[0].shape
    n_in = int(known[-1]) if known and known[-1] else int(feature.max()) + 1
    if feature.min() < 0 or feature.max() >= min(n_in, 256):
        return None
    equal = np.array([mode == b"BRANCH_EQ" for mode in modes]).reshape(trees, -1)[:, at]
    made = ObliviousTrees(
        feature[:, at].astype(np.uint8),
        threshold[:, at],
        leaf,
        base,
        n_in,
        equal if equal.any() else None,
    )
    # Only what we would write again to the byte is ours: any other tree goes the general way.
    again = encode_oblivious(
        made.feature, made.threshold, leaf, base, n_in, made.equal, name=model.graph.name
    )
    same = parse_model(again).graph.nodes[0].attributes
    return made if all(_same(same[key], node.attributes.get(key)) for key in same) else None


def _same(one: Any, other: Any) -> bool:
    return other is not None and all(
        getattr(one, key) == getattr(other, key) for key in ("ints", "floats", "strings", "i")
    )
