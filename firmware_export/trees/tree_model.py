"""Export the trees of an ONNX file: read, compared with onnxruntime, written as C."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.plan.judge import Comparison, agreement, open_file, run_file
from flocklet.firmware_export.trees.oblivious_onnx import interpret_oblivious
from flocklet.firmware_export.trees.onnx_trees import TreeReading, ensembles, interpret_trees
from flocklet.firmware_export.trees.tree_export import export_trees
from flocklet.firmware_export.trees.trees import FlatTrees, Trees
from flocklet.onnx_io.external_data import parse_file

__all__ = ["compare_trees", "export_tree_model", "has_trees", "probes"]

F32: TypeAlias = npt.NDArray[np.float32]


def has_trees(path: Path) -> bool:
    """Return whether an ONNX file holds a tree ensemble; raise `ExportError` where it cannot be read."""
    return bool(ensembles(parse_file(path)))


def probes(trees: Trees, n: int = 256) -> F32:
    """Return inputs (n, n_in) that meet the splits: random, on thresholds and beside them, some not numbers."""
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(size=(n, trees.n_in)), -3, 3).astype(np.float32)
    if isinstance(trees, FlatTrees):
        split = trees.feature != 255
        features, limits = trees.feature[split], trees.value[split]
    else:
        features, limits = trees.feature.reshape(-1), trees.threshold.reshape(-1)
    for j in range(trees.n_in):
        own = limits[(features == j) & np.isfinite(limits)]
        if not len(own):
            continue
        drawn = rng.choice(own, n)
        kind = rng.integers(0, 5, n)
        x[:, j] = np.select(
            [kind == 0, kind == 1, kind == 2, kind == 3],
            [
                drawn,
                np.nextafter(drawn, np.float32(np.inf)),
                drawn + rng.normal(size=n) * np.ptp(own),
                drawn - 1,
            ],
            x[:, j],
        )
        x[rng.random(n) < 0.05, j] = np.nan
    return x


def compare_trees(path: Path, reading: TreeReading, x: F32) -> Comparison:
    """Compare trees with their file on inputs x (n, n_in); raise `ExportError` where one output differs."""
    session = open_file(path, reading.output)
    others = [name for name in session.inputs if name != reading.source]
    if others:
        raise ExportError(f"the file has further inputs ({', '.join(others)}), which trees do not read")
    file = np.array([run_file(session, reading.output, {reading.source: row[None]}) for row in x])
    ours = reading.trees.predict(x)
    if agreement(ours, file) > 1:
        where = (
            ""
            if ours.shape != file.shape
            else f", first at {x[np.abs(ours - file).max(axis=1).argmax()].tolist()}"
        )
        raise ExportError(
            f"'{reading.output}' differs between onnxruntime and our reading of the trees{where[:200]}: it is not exported",
            remedy="convert the model again (ZipMap off, raw scores), or report it",
        )
    return Comparison(session.engine, len(x), float(np.nanmax(np.abs(ours - file), initial=0.0)))


def export_tree_model(
    path: Path,
    out_dir: Path,
    *,
    name: str = "policy",
    output: str | None = None,
    samples: F32 | None = None,
    uncompared: bool = False,
) -> dict[str, Any]:
    """Write the trees of an ONNX file as C and return the manifest; nothing is written where the file disagrees."""
    model = parse_file(path)
    reading = interpret_oblivious(model, output=output) or interpret_trees(model, output=output)
    x = probes(reading.trees)
    if samples is not None:
        if samples.ndim != 2 or samples.shape[1] != reading.trees.n_in:
            raise ExportError(f"the observations must be of shape (n, {reading.trees.n_in})")
        x = np.concatenate([x, samples.astype(np.float32)])
    compared: dict[str, Any] | str = "not compared"
    if not uncompared:
        compared = compare_trees(path, reading, x).to_json()
    return export_trees(reading.trees, out_dir, name=name, compared=compared)
