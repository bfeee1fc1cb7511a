"""Keep a network beside its export as `model.npz`, so that an export can be verified where it lies.

Arrays only, no pickles: the file may come from a stranger.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.errors import ExportError
from flocklet.firmware_export.read.network import Activation, Affine, Dense, Gru, Layer, LayerNorm, Network

__all__ = ["load_network", "save_network"]


def save_network(path: Path, network: Network) -> None:
    """Write the layers of a network."""
    arrays: dict[str, Any] = {}
    heads: list[dict[str, Any]] = []
    for i, layer in enumerate(network.layers):
        head: dict[str, Any] = {"kind": type(layer).__name__}
        names = ("w", "r", "wb", "rb") if isinstance(layer, Gru) else ("scale", "offset")
        if isinstance(layer, Dense):
            names = ("weight", "bias")
        if isinstance(layer, Dense | Affine):
            head["activation"] = [layer.activation.kind, layer.activation.a, layer.activation.b]
        elif isinstance(layer, LayerNorm):
            head["epsilon"] = layer.epsilon
        else:
            head["reset_after"] = layer.reset_after
        arrays |= {f"{name}{i}": getattr(layer, name) for name in names}
        heads.append(head | {"arrays": list(names)})
    text = json.dumps({"layers": heads, "inputs": network.inputs})
    np.savez(path, head=np.frombuffer(text.encode(), np.uint8), **arrays)


def load_network(path: Path) -> Network:
    """Read the layers of a network; raise `ExportError` where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(bytes(data["head"]).decode())
            layers: list[Layer] = []
            for i, item in enumerate(head["layers"]):
                arrays = {
                    name: np.ascontiguousarray(data[f"{name}{i}"], np.float32) for name in item["arrays"]
                }
                kind = {"Dense": Dense, "Affine": Affine, "LayerNorm": LayerNorm, "Gru": Gru}[item["kind"]]
                extra: dict[str, Any] = {k: item[k] for k in ("epsilon", "reset_after") if k in item}
                if "activation" in item:
                    extra["activation"] = Activation(*item["activation"])
                layers.append(kind(**arrays, **extra))
            return Network(tuple(layers), tuple((name, int(width)) for name, width in head["inputs"]))
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ExportError(
            f"{path} is no model file of an export: {error}", remedy="export the policy again"
        ) from error
