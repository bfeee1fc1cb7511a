"""Keep trees beside their export as `model.npz` (arrays only, no pickles), so that it can be verified where it lies."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.trees.trees import FlatTrees, ObliviousTrees, Trees

__all__ = ["load_trees", "save_trees", "tree_name"]

_FLAT = ("root", "target", "feature", "left", "value", "base")
_OBLIVIOUS = ("feature", "threshold", "leaf", "base")


def save_trees(path: Path, trees: Trees) -> None:
    """Write the tables of trees."""
    names = list(_OBLIVIOUS if isinstance(trees, ObliviousTrees) else _FLAT)
    head: dict[str, Any] = {"kind": type(trees).__name__, "n_in": trees.n_in}
    if isinstance(trees, FlatTrees):
        head["complement"] = trees.complement
        names += ["nan_left"] if trees.nan_left is not None else []
    elif trees.equal is not None:
        names.append("equal")
    text = json.dumps(head)
    np.savez(
        path, head=np.frombuffer(text.encode(), np.uint8), **{name: getattr(trees, name) for name in names}
    )


def load_trees(path: Path) -> Trees:
    """Read the tables of trees; raise `ExportError` where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(bytes(data["head"]).decode())
            n_in = int(head["n_in"])
            if head["kind"] == "ObliviousTrees":
                equal = data["equal"] if "equal" in data.files else None
                return ObliviousTrees(**{name: data[name] for name in _OBLIVIOUS}, n_in=n_in, equal=equal)
            flags = data["nan_left"] if "nan_left" in data.files else None
            complement = None if head["complement"] is None else float(head["complement"])
            tables = {name: data[name] for name in _FLAT}
            return FlatTrees(**tables, n_in=n_in, nan_left=flags, complement=complement)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path} is no file of trees of an export: {error}", remedy="export the policy again"
        ) from error


def tree_name(directory: Path) -> str | None:
    """Return the name of an export of trees; None where the folder holds none."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        name = manifest["name"] if str(manifest.get("kind", "")).endswith("_trees") else None
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return name if isinstance(name, str) and name.isidentifier() and name.isascii() else None
