"""Write a sum of oblivious trees with many outputs as one TreeEnsembleRegressor.

Every tree becomes a perfect binary tree: nodes of a level share their split, BRANCH_GT for x > t, BRANCH_EQ for codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import ExportError
from flocklet.onnx_io.model import TREE_KEYS, regressor

__all__ = ["encode_oblivious"]


def encode_oblivious(
    feature: NDArray[Any],
    threshold: NDArray[np.float32],
    leaf: NDArray[np.float32],
    base: NDArray[np.float32],
    features: int,
    equal: NDArray[np.bool_] | None = None,
    *,
    name: str = "trees",
) -> bytes:
    """Return an ONNX file: `x` (batch, features) -> `y` (batch, n_out), the sum of the trees and `base` (n_out,).

    Bit d of a leaf's number (leaf is (trees, 2^depth, n_out)) is the outcome of level d. Raise ExportError for no trees.
    """
    trees, depth = feature.shape
    if not trees:
        raise ExportError("an ensemble without trees cannot be written as ONNX", remedy="train it first")
    codes = np.zeros(feature.shape, bool) if equal is None else equal
    columns: dict[str, list[Any]] = {key: [] for key in TREE_KEYS}
    inner = (1 << depth) - 1
    for t in range(trees):
        for i in range(2 * inner + 1):
            level = (i + 1).bit_length() - 1
            is_leaf = i >= inner
            d = 0 if is_leaf else level
            mode = "LEAF" if is_leaf else "BRANCH_EQ" if codes[t, d] else "BRANCH_GT"
            row: tuple[Any, ...] = (
                t,
                i,
                0 if is_leaf else int(feature[t, d]),
                0.0 if is_leaf else float(threshold[t, d]),
                mode,
            )
            row += (0, 0) if is_leaf else (2 * i + 2, 2 * i + 1)  # true goes right: its bit is 1
            for key, value in zip(TREE_KEYS[:7], row, strict=True):
                columns[key].append(value)
            if is_leaf:
                path = i - inner  # the first level is the highest bit here, the lowest in a leaf's number
                number = int(f"{path:0{depth}b}"[::-1], 2)
                for k in range(leaf.shape[2]):
                    for key, value in zip(TREE_KEYS[7:], (t, i, k, float(leaf[t, number, k])), strict=True):
                        columns[key].append(value)
    return regressor(columns, features, [float(value) for value in base], name)
