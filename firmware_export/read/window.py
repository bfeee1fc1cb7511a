"""Read how the window of a convolution or a pool moves: kernel, strides, dilations, pads, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence

from flocklet.errors import ExportError
from flocklet.firmware_export.read.graph import Window
from flocklet.firmware_export.read.onnx_values import int_of
from flocklet.onnx_io.parse import Node

__all__ = ["window_of"]


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return sizes of one or two axes as (y, x)."""
    return (1, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])


def window_of(
    node: Node, shape: tuple[int, ...], kernel: tuple[int, ...], channels: int
) -> tuple[Window, tuple[int, ...]]:
    """Return how the window of a node moves over values (1, channels, places) and the shape of its result."""
    axes = len(shape) - 2
    if axes not in {1, 2} or len(kernel) != axes:
        raise ExportError(
            f"{node.label} has {axes} spatial axes and a kernel of {len(kernel)}; 1 or 2 can be exported"
        )

    def ints(key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        found = node.attributes[key].ints if key in node.attributes else default
        if len(found) != len(default) or min(found) < 0 or max(found) > 1024:
            raise ExportError(f"{node.label} has {key} of {found}, which cannot be exported")
        return tuple(found)

    strides, dilations = ints("strides", (1,) * axes), ints("dilations", (1,) * axes)
    if min(strides) < 1 or min(dilations) < 1 or min(kernel) < 1 or int_of(node, "ceil_mode", 0):
        raise ExportError(f"{node.label} rounds up its output (ceil_mode) or has a step of zero")
    pads = ints("pads", (0,) * (2 * axes))
    auto = node.attributes["auto_pad"].s if "auto_pad" in node.attributes else b"NOTSET"
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if auto in {b"SAME_UPPER", b"SAME_LOWER"}:
        total = [
            max((-(-n // s) - 1) * s + span - n, 0)
            for n, s, span in zip(shape[2:], strides, spans, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = tuple(small + large if auto == b"SAME_UPPER" else large + small)
    target = [(n + pads[i] + pads[axes + i] - spans[i]) // strides[i] + 1 for i, n in enumerate(shape[2:])]
    if min(target) < 1 or any(p >= span for p, span in zip(pads, spans * 2, strict=True)):
        raise ExportError(f"{node.label} has no output, or pads as wide as its kernel")
    edges = (0, pads[0], 0, pads[1]) if axes == 1 else (pads[0], pads[1], pads[2], pads[3])
    window = Window(
        _pair(kernel), _pair(strides), edges, _pair(dilations),
        (shape[1], *_pair(shape[2:])), (channels, *_pair(target)),
    )  # fmt: skip
    return window, (1, channels, *target)
