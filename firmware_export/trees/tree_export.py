"""Write tree ensembles as C: flat `static const` tables and a loop of a dozen lines."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.c.float import hex_float
from flocklet.firmware_export.c.template import fill, named
from flocklet.firmware_export.trees.tree_file import save_trees
from flocklet.firmware_export.trees.trees import FlatTrees, ObliviousTrees, Trees

__all__ = ["export_trees", "tree_header", "tree_source"]

_ABOVE = "      at |= (x[*f++] > *t++ ? 1u : 0u) << d;"
_ABOVE_OR_EQUAL = """      const float v = x[*f & 0x7fu]; /* a high bit: is it this code? */
      at |= ((*f++ & 0x80u ? v >= *t && v <= *t : v > *t) ? 1u : 0u) << d;
      t++;"""


def _table(kind: str, name: str, values: npt.NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    texts = (
        [hex_float(v) if v else "0.0f" for v in flat] if values.dtype.kind == "f" else [str(v) for v in flat]
    )
    lines, line = [], " "
    for text in texts:
        if len(line) + len(text) > 110:
            lines.append(line)
            line = " "
        line += f" {text},"
    body = "\n".join([*lines, line.rstrip(",")])
    return f"static const {kind} {name}[{max(len(flat), 1)}] = {{\n{body}\n}};\n"


# One step down: the right child of a split follows the left one. A comparison with NaN is false.
_STEPS = {
    "left": "      at = root[i] + left[at] + (x[feature[at]] > value[at] ? 1u : 0u);\n",
    "right": "      at = root[i] + left[at] + (x[feature[at]] <= value[at] ? 0u : 1u);\n",
    "mixed": (
        "      const float v = x[feature[at]];\n"
        "      const uint32_t is_left = v <= value[at] ? 1u : (v > value[at] ? 0u : nan_left[at]);\n"
        "      at = root[i] + left[at] + (1u - is_left);\n"
    ),
}
_MISSING = {
    "left": "A NaN goes left at every split.",
    "right": "A NaN goes right at every split.",
    "mixed": "A NaN goes where the model says, split by split.",
}


def tree_header(name: str, trees: Trees) -> str:
    """Return NAME.h."""
    text = fill(
        "trees.h.in",
        LICENCE=fill("tree_licence.h.in"),
        UPPER=name.upper(),
        INPUTS=str(trees.n_in),
        ACTIONS=str(trees.n_out),
        MISSING=_MISSING[trees.missing if isinstance(trees, FlatTrees) else "left"],
    )
    return named(text, name)


def tree_source(name: str, trees: Trees) -> str:
    """Return NAME.c."""
    if isinstance(trees, ObliviousTrees):
        n, depth = trees.feature.shape
        feature, passes = trees.feature, _ABOVE
        if trees.equal is not None:
            feature, passes = np.where(trees.equal, trees.feature | 0x80, trees.feature), _ABOVE_OR_EQUAL
        tables = [
            _table("uint8_t", "feature", feature),
            _table("float", "threshold", trees.threshold),
            _table("float", "leaf", trees.leaf),
            _table("float", "base", trees.base),
        ]
        body = fill(
            "oblivious_trees.c.in",
            DEPTH=str(depth),
            PASS=passes,
            LEAVES=str(trees.leaf.shape[1] * trees.n_out),
            IN=str(trees.n_in),
            OUT=str(trees.n_out),
            TREES=str(n),
        )
    else:
        n = len(trees.root)
        tables = [
            _table("uint32_t", "root", trees.root),
            _table("uint8_t", "target", trees.target),
            _table("uint8_t", "feature", trees.feature),
            _table("uint16_t", "left", trees.left),
            _table("float", "value", trees.value),
            _table("float", "base", trees.base),
        ]
        if trees.missing == "mixed" and trees.nan_left is not None:
            tables.append(_table("uint8_t", "nan_left", trees.nan_left))
        body = fill(
            "flat_trees.c.in",
            IN=str(trees.n_in),
            OUT=str(trees.n_out),
            TREES=str(n),
            STEP=_STEPS[trees.missing],
            LAST=""
            if trees.complement is None
            else f"  y[0] = {hex_float(trees.complement) if trees.complement else '0.0f'} - y[1];\n",
        )
    head = fill("tree_licence.h.in") + fill("float_guard.c.in") + '#include "@N@.h"\n\n'
    return named(head + "\n".join(tables) + "\n" + body, name)


def export_trees(
    trees: Trees, out_dir: Path | str, *, name: str = "policy", compared: dict[str, Any] | str = "not a file"
) -> dict[str, Any]:
    """Write NAME.h, NAME.c, model.npz and manifest.json of a tree ensemble; return the manifest.

    compared: what is known about the file that the trees were read from.
    """
    if not name.isidentifier() or not name.isascii():
        raise ExportError(f"'{name}' is no C identifier", remedy="choose another --name")
    directory = Path(out_dir).resolve()
    source = tree_source(name, trees)
    count = trees.feature.shape[0] if isinstance(trees, ObliviousTrees) else len(trees.root)
    manifest = {
        "format": 1,
        "name": name,
        "kind": "oblivious_trees" if isinstance(trees, ObliviousTrees) else "flat_trees",
        "trees": int(count),
        "inputs": trees.n_in,
        "outputs": trees.n_out,
        "table_bytes": trees.table_bytes,
        "compared": compared,
        "source_sha256": hashlib.sha256(source.encode()).hexdigest(),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.h").write_text(tree_header(name, trees))
        (directory / f"{name}.c").write_text(source)
        save_trees(directory / "model.npz", trees)
        (directory / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise ExportError(
            f"cannot write to {directory}: {error.strerror}", remedy="choose another --out"
        ) from error
    return manifest
