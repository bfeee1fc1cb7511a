"""Write a convolutional ONNX file as C: read, compared with onnxruntime, one arena, manifest and README."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.c.graph import graph_header, graph_source, table_bytes
from flocklet.firmware_export.c.info import clean_name
from flocklet.firmware_export.plan.arena import plan_arena
from flocklet.firmware_export.plan.graph_reference import run_graph
from flocklet.firmware_export.plan.judge import Comparison, agreement, open_file, run_file
from flocklet.firmware_export.read.graph import Graph
from flocklet.firmware_export.read.graph_reader import is_convolutional, read_graph
from flocklet.onnx_io.external_data import parse_file
from flocklet.onnx_io.parse import parse_model

__all__ = ["compare_graph", "export_graph", "graph_inputs", "holds_graph", "load_graph", "manifest_kind"]

F32: TypeAlias = npt.NDArray[np.float32]

_README = """\
# {name}

A convolutional net as C99: `{name}_eval(arena, x, y)` with {inputs} inputs in the order of the file (channels first),
{outputs} outputs, {arena} words of arena (the caller's) and {bytes} bytes of constant tables. No heap, no static RAM, no C
library. {compared}
"""


def holds_graph(path: Path) -> bool:
    """Return whether an ONNX file is a convolutional net; raise `ExportError` where it cannot be read."""
    return is_convolutional(parse_file(path))


def graph_inputs(graph: Graph, n: int, seed: int = 0) -> F32:
    """Return synthetic inputs (n, n_in): clip(N(0, 1), -3, 3)."""
    return np.clip(np.random.default_rng(seed).normal(size=(n, graph.sizes[0])), -3, 3).astype(np.float32)


def compare_graph(path: Path, graph: Graph, x: F32) -> Comparison:
    """Compare our reading of a net with onnxruntime; raise `ExportError` where an output differs."""
    session = open_file(path, graph.output_name)
    others = {
        name: np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)
        for name, (_, shape) in session.inputs.items()
    }
    file = np.array(
        [
            run_file(session, graph.output_name, others | {graph.input_name: row.reshape(graph.input_shape)})
            for row in x
        ]
    )
    ours = run_graph(graph, x)
    if agreement(ours, file) > 1:
        raise ExportError(
            f"'{clean_name(graph.output_name)}' differs between onnxruntime and our reading of the file: it is not exported",
            remedy="please report it: the file is read wrongly",
        )
    return Comparison(session.engine, len(x), float(np.abs(ours - file).max(initial=0.0)))


def load_graph(directory: Path) -> tuple[str, Graph]:
    """Return name and graph of an export; raise `ExportError` where the folder holds none."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        name, output = manifest["name"], manifest["output"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{directory} holds no export of a net: {error}") from error
    _check_name(name)
    return name, read_graph(parse_file(directory / "model.onnx"), output=output)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,31}", name):
        raise ExportError(
            f"{name!r:.60} is no C identifier of at most 32 characters", remedy="choose another --name"
        )


def export_graph(
    path: Path,
    out_dir: Path,
    *,
    name: str = "policy",
    output: str | None = None,
    samples: F32 | None = None,
    uncompared: bool = False,
) -> dict[str, Any]:
    """Write a convolutional net as C; return the manifest. Nothing is written where onnxruntime disagrees."""
    _check_name(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error
    graph = read_graph(parse_model(data), output=output)
    x = graph_inputs(graph, 8)
    if samples is not None:
        flat = samples.reshape(len(samples), -1).astype(np.float32)
        if flat.shape[1] != graph.sizes[0] or not np.isfinite(flat).all():
            raise ExportError(f"the observations must be finite numbers, {graph.sizes[0]} each")
        x = np.concatenate([x, flat])
    compared: dict[str, Any] | str = "not compared" if uncompared else compare_graph(path, graph, x).to_json()
    arena = plan_arena(graph)
    source = graph_source(name, graph, arena)
    manifest = {
        "format": 1,
        "kind": "graph",
        "name": name,
        "output": graph.output_name,
        "inputs": [[clean_name(graph.input_name), graph.sizes[0]]],
        "shape": list(graph.input_shape),
        "outputs": graph.sizes[graph.output],
        "steps": len(graph.steps),
        "parameters": graph.n_parameters,
        "macs": graph.macs,
        "weights_bytes": table_bytes(graph),
        "arena_words": arena.words,
        "arena_bound_words": arena.bound,
        "compared": compared,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
    }
    told = compared if isinstance(compared, str) else f"{compared['with']} gives the same outputs."
    readme = _README.format(
        name=name, inputs=graph.sizes[0], outputs=graph.sizes[graph.output], arena=arena.words,
        bytes=table_bytes(graph), compared=told,
    )  # fmt: skip
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        (out_dir / f"{name}.h").write_text(graph_header(name, graph, arena))
        (out_dir / f"{name}.c").write_text(source)
        (out_dir / "README.md").write_text(readme)
        (out_dir / "model.onnx").write_bytes(data)
        (out_dir / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise ExportError(
            f"cannot write to {out_dir}: {error.strerror}", remedy="choose another --out"
        ) from error
    return manifest


def manifest_kind(directory: Path) -> str:
    """Return what an export holds besides a policy: "graph", "flat_trees" or "oblivious_trees"; else ""."""
    try:
        kind = json.loads((directory / "manifest.json").read_text()).get("kind", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return kind if kind in {"graph", "flat_trees", "oblivious_trees"} else ""
