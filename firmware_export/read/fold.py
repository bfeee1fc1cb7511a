"""Compute ONNX nodes on arrays: constants are folded, and element-moving nodes are tried on element numbers.

`compute` knows the operators that exporters write around weights and shapes. Semantics are those of the ONNX operator
documentation (default domain). Integer division cuts towards zero, as in C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.onnx_io.fields import MAX_ELEMENTS
from flocklet.onnx_io.parse import Node

__all__ = ["MOVES", "NUMPY_TYPES", "compute"]

Array: TypeAlias = npt.NDArray[Any]

# Nodes that only move, drop or repeat elements.
MOVES = {
    "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"
}  # fmt: skip

# TensorProto.DataType -> NumPy.
NUMPY_TYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64,
}  # fmt: skip


def _int(node: Node, key: str, default: int) -> int:
    return node.attributes[key].i if key in node.attributes else default


def _ints(node: Node, key: str, given: Sequence[Array], index: int) -> tuple[int, ...] | None:
    """Return integers that are an attribute in old operator sets and an input in new ones."""
    if len(given) > index:
        return tuple(int(v) for v in given[index].reshape(-1))
    return node.attributes[key].ints if key in node.attributes else None


def _reshape(node: Node, given: Sequence[Array]) -> Array:
    wanted = list(_ints(node, "shape", given, 1) or ())
    if not _int(node, "allowzero", 0):
        wanted = [given[0].shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return given[0].reshape(wanted)


def _squeeze(node: Node, given: Sequence[Array]) -> Array:
    axes = _ints(node, "axes", given, 1)
    return np.squeeze(given[0], axes if axes is None else tuple(axes))


def _slice(node: Node, given: Sequence[Array]) -> Array:
    x = given[0]
    starts, ends = _ints(node, "starts", given, 1) or (), _ints(node, "ends", given, 2) or ()
    axes = _ints(node, "axes", given, 3) or tuple(range(len(starts)))
    steps = _ints(node, "steps", given, 4) or (1,) * len(starts)
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = x.shape[axis]
        if step < 0 and end < -n:
            index[axis] = slice(start, None, step)
        else:
            index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _gather(node: Node, given: Sequence[Array]) -> Array:
    return np.take(given[0], given[1].astype(np.int64), axis=_int(node, "axis", 0))


def _cast(node: Node, given: Sequence[Array]) -> Array:
    kind = NUMPY_TYPES.get(_int(node, "to", 0))
    if kind is None:
        raise ExportError(f"{node.label} casts to a type that cannot be exported")
    return given[0].astype(kind)


def _filled(node: Node, given: Sequence[Array]) -> Array:
    value = node.attributes["value"].t if "value" in node.attributes else None
    item = np.zeros(1, np.float32) if value is None else value.reshape(-1)
    shape = tuple(int(v) for v in given[0].reshape(-1))
    _bounded(node, shape)
    return np.full(shape, item[0], item.dtype)


def _bounded(node: Node, shape: Sequence[int]) -> None:
    count = 1
    for size in shape:
        count *= max(int(size), 1)
        if count > MAX_ELEMENTS:
            raise ExportError(f"{node.label} makes more than {MAX_ELEMENTS} elements")


def _expand(node: Node, given: Sequence[Array]) -> Array:
    shape = np.broadcast_shapes(given[0].shape, tuple(int(v) for v in given[1].reshape(-1)))
    _bounded(node, shape)
    return np.broadcast_to(given[0], shape)


def _tile(node: Node, given: Sequence[Array]) -> Array:
    repeats = tuple(int(v) for v in given[1].reshape(-1))
    _bounded(node, [a * b for a, b in zip(given[0].shape, repeats, strict=True)])
    return np.tile(given[0], repeats)


def _range(node: Node, given: Sequence[Array]) -> Array:
    start, stop, step = (v.reshape(-1)[0] for v in given[:3])
    _bounded(node, [int((stop - start) / step) + 1 if step else 0])
    return np.arange(start, stop, step, dtype=given[0].dtype)


def _divide(_: Node, given: Sequence[Array]) -> Array:
    a, b = given[0], given[1]
    if a.dtype.kind == "f":
        return np.asarray(a / b)
    quotient = np.floor_divide(np.abs(a), np.abs(b))
    return np.asarray(np.where((a < 0) == (b < 0), quotient, -quotient)).astype(a.dtype)


def _modulo(node: Node, given: Sequence[Array]) -> Array:
    return np.asarray((np.fmod if _int(node, "fmod", 0) else np.mod)(given[0], given[1]))


def _reduced(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array]], Array]:
    def run(node: Node, given: Sequence[Array]) -> Array:
        axes = _ints(node, "axes", given, 1)
        if not axes and _int(node, "noop_with_empty_axes", 0):
            return given[0]
        kept = bool(_int(node, "keepdims", 1))
        return np.asarray(function(given[0], axis=axes or None, keepdims=kept)).astype(given[0].dtype)

    return run


def _dequantised(node: Node, given: Sequence[Array]) -> Array:
    x, scale = given[0], given[1]
    zero = given[2] if len(given) > 2 else np.zeros(scale.shape, x.dtype)
    if scale.size > 1:
        shape = [1] * x.ndim
        shape[_int(node, "axis", 1)] = scale.size
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return np.asarray((x.astype(np.int64) - zero.astype(np.int64)).astype(scale.dtype) * scale)


def _clip(_: Node, given: Sequence[Array]) -> Array:
    low = given[1] if len(given) > 1 else None
    high = given[2] if len(given) > 2 else None
    return np.asarray(np.clip(given[0], low, high))


def _shape(node: Node, given: Sequence[Array]) -> Array:
    shape = given[0].shape
    end = _int(node, "end", len(shape))
    return np.array(shape[_int(node, "start", 0) : end], np.int64)


def _elementwise(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array]], Array]:
    return lambda _, given: np.asarray(function(*given))


def _folded(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array]], Array]:
    def run(_: Node, given: Sequence[Array]) -> Array:
        result = given[0]
        for other in given[1:]:
            result = np.asarray(function(result, other))
        return result

    return run


_TABLE: dict[str, Callable[[Node, Sequence[Array]], Array]] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "And": _elementwise(np.logical_and),
    "Cast": _cast,
    "Ceil": _elementwise(np.ceil),
    "Clip": _clip,
    "Concat": lambda node, given: np.concatenate(list(given), axis=_int(node, "axis", 1)),
    "ConstantOfShape": _filled,
    "DequantizeLinear": _dequantised,
    "Div": _divide,
    "Equal": _elementwise(np.equal),
    "Exp": _elementwise(np.exp),
    "Expand": _expand,
    "Flatten": lambda node, given: given[0].reshape(
        int(np.prod(given[0].shape[: _int(node, "axis", 1)])) if _int(node, "axis", 1) else 1, -1
    ),
    "Floor": _elementwise(np.floor),
    "Gather": _gather,
    "Greater": _elementwise(np.greater),
    "Identity": lambda _, given: given[0],
    "Less": _elementwise(np.less),
    "Log": _elementwise(np.log),
    "MatMul": _elementwise(np.matmul),
    "Max": _folded(np.maximum),
    "Min": _folded(np.minimum),
    "Mod": _modulo,
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Not": _elementwise(np.logical_not),
    "Or": _elementwise(np.logical_or),
    "Pow": lambda _, given: np.power(given[0], given[1]).astype(given[0].dtype),
    "Range": _range,
    "Reciprocal": _elementwise(np.reciprocal),
    "ReduceMax": _reduced(np.max),
    "ReduceMean": _reduced(np.mean),
    "ReduceMin": _reduced(np.min),
    "ReduceProd": _reduced(np.prod),
    "ReduceSum": _reduced(np.sum),
    "Relu": _elementwise(lambda x: np.maximum(x, x.dtype.type(0))),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda _, given: np.array(given[0].size, np.int64),
    "Slice": _slice,
    "Sqrt": _elementwise(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(np.subtract),
    "Tanh": _elementwise(np.tanh),
    "Tile": _tile,
    "Transpose": lambda node, given: np.transpose(
        given[0], node.attributes["perm"].ints if "perm" in node.attributes else None
    ),
    "Unsqueeze": lambda node, given: np.expand_dims(given[0], _ints(node, "axes", given, 1) or ()),
    "Where": _elementwise(np.where),
}


def compute(node: Node, given: Sequence[Array]) -> Array:
    """Return the first output of a node for arrays as inputs; raise `ExportError` where it is not known how."""
    function = _TABLE.get(node.op_type)
    if function is None:
        raise ExportError(
            f"{node.label} works on constants only and is not known here", remedy="fold it before the export"
        )
    if max((array.size for array in given), default=0) > MAX_ELEMENTS:
        raise ExportError(f"{node.label} works on more than {MAX_ELEMENTS} elements")
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(function(node, given))
    except ExportError:
        raise
    except (ValueError, TypeError, IndexError, ArithmeticError, AttributeError, MemoryError) as error:
        why = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ExportError(f"{node.label} cannot be computed: {why}") from error
    _bounded(node, result.shape)
    return result
