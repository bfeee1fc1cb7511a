"""Read the messages of an ONNX file without any third-party package; `onnx_fields` reads the fields of one.

Every length in the file is untrusted: sizes, counts and nesting are bounded, and whatever is malformed,
truncated or sparse raises `ExportError` with one line that names the message. Numbers in another file (external data)
come through a function of the caller, or are refused: this module opens no file. Field numbers are those of `onnx.proto`
(IR version 3 and later): see the tables beside each parser.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from flocklet.errors import ExportError
from flocklet.onnx_io.fields import (
    MAX_ELEMENTS,
    Tensor,
    array_of,
    bytes_of,
    fixed32_of,
    integers_of,
    records,
    signed,
    text_of,
)

__all__ = [
    "MAX_BYTES",
    "Attribute",
    "External",
    "Graph",
    "Model",
    "Node",
    "Tensor",
    "UnreadableTensor",
    "ValueInfo",
    "parse_model",
    "shown",
]

MAX_BYTES = 256 * 1024 * 1024

External: TypeAlias = Callable[[str, int, int | None], bytes]  # location, offset, length (None: all)

_PACKED_DTYPES = {1: (4, "<f4"), 10: (11, "<f8")}
_RAW_DTYPES = {
    1: "<f4",
    2: "|u1",
    3: "|i1",
    4: "<u2",
    5: "<i2",
    6: "<i4",
    7: "<i8",
    9: "|b1",
    10: "<f2",
    11: "<f8",
    12: "<u4",
    13: "<u8",
}
_TYPE_NAMES = {
    8: "string",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8",
    21: "uint4",
    22: "int4",
}


def shown(name: str) -> str:
    """Return a name of a file's author for a message: on one line, without control characters, not too long."""
    visible = "".join(letter if letter.isprintable() else "?" for letter in name)
    return visible if len(visible) <= 80 else f"{visible[:77]}..."


@dataclass(frozen=True)
class Attribute:
    """Hold one attribute of a node; only the field that the file set differs from its default."""

    name: str
    f: float = 0.0
    i: int = 0
    s: bytes = b""
    t: Tensor | None = None
    floats: tuple[float, ...] = ()
    ints: tuple[int, ...] = ()
    strings: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Node:
    """Hold one operator: what it reads, what it writes and its attributes."""

    op_type: str
    name: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return how messages name this node: its name, or its operator and output."""
        return f"{shown(self.op_type)} node '{shown(self.name or '/'.join(self.outputs))}'"


@dataclass(frozen=True)
class ValueInfo:
    """Hold a graph input or output; a dimension is None where the file leaves it open."""

    name: str
    elem_type: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """Hold a graph: nodes in topological order, constants by name, inputs that are not constants, outputs.

    unreadable: constants of an element type that is not read, with the reason; harmless where nothing needs them.
    """

    name: str
    nodes: tuple[Node, ...]
    initializers: dict[str, Tensor]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    unreadable: dict[str, str] = field(default_factory=dict)


class UnreadableTensor(ExportError):
    """Report a tensor of an element type that is not read; `name` is the tensor's."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Model:
    """Hold a whole file: who wrote it, for which operator sets, and its graph."""

    ir_version: int
    producer: str
    opsets: dict[str, int]
    graph: Graph


def _tensor(data: memoryview, what: str, external: External | None = None) -> tuple[str, Tensor]:
    """Parse TensorProto.

    Dims 1, data_type 2, float 4, int32 5, int64 7, name 8, raw 9, double 10, external 13/14.
    """
    dims: list[int] = []
    kind = 0
    name = ""
    raw: memoryview | None = None
    parts: list[Tensor] = []
    where: dict[str, str] = {}
    elsewhere = False
    for number, wire, value in records(data, what):
        if number == 1:
            dims += integers_of(value, what)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number in {4, 10}:
            parts.append(array_of(value, "<f4" if number == 4 else "<f8", what))
        elif number in {5, 7, 11}:
            parts.append(np.array(integers_of(value, what), dtype=np.int64))
        elif number == 8:
            name = text_of(value, what)
        elif number == 9 and wire == 2:
            raw = bytes_of(value, what)
        elif number == 13:
            fields = {part: text_of(item, what) for part, _, item in records(bytes_of(value, what), what)}
            where[fields.get(1, "")] = fields.get(2, "")
        elif number == 14:
            elsewhere = value == 1
    label = f"tensor '{shown(name)}'"
    if elsewhere or where:
        raw = memoryview(_elsewhere(label, where, external))
    count = 1
    for dim in dims:
        if dim < 0:
            raise ExportError(f"{label} has the negative dimension {dim}")
        count *= dim
        if count > MAX_ELEMENTS:
            raise ExportError(f"{label} has more than {MAX_ELEMENTS} elements")
    if kind not in _RAW_DTYPES:
        raise UnreadableTensor(
            name, f"{label} has element type {_TYPE_NAMES.get(kind, kind)}, which cannot be read"
        )
    dtype = _RAW_DTYPES[kind]
    if raw is not None:
        array = array_of(raw, dtype, label)
    else:
        array = np.concatenate(parts) if parts else np.zeros(0)
        if kind == 10:
            array = array.astype(np.uint16).view(np.float16)
        with np.errstate(over="ignore", invalid="ignore"):
            array = array.astype(dtype)
    if array.size != count:
        raise ExportError(f"{label} has {array.size} elements but its shape {tuple(dims)} needs {count}")
    return name, array.reshape(dims)


def _elsewhere(label: str, where: dict[str, str], external: External | None) -> bytes:
    """Return the bytes of a tensor that lie in another file: location, offset and length as text."""
    if external is None or not where.get("location"):
        raise ExportError(
            f"{label} keeps its data in another file (external data), which is not at hand",
            remedy="pass the path of the model with its data file beside it, or save both in one file",
        )
    try:
        offset, length = int(where.get("offset", "0")), int(where.get("length", "-1"))
    except ValueError as error:
        raise ExportError(f"{label} has an offset or length in another file that is no number") from error
    if offset < 0 or length < -1:
        raise ExportError(f"{label} has a negative offset or length in another file")
    return external(where["location"], offset, None if length < 0 else length)


def _attribute(data: memoryview, what: str) -> Attribute:
    """Parse AttributeProto: name 1, f 2, i 3, s 4, t 5, floats 7, ints 8, strings 9.

    Graphs (6, 11) are refused.
    """
    got: dict[str, Any] = {"name": ""}
    floats: list[float] = []
    ints: list[int] = []
    strings: list[bytes] = []
    for number, _, value in records(data, what):
        if number == 1:
            got["name"] = text_of(value, what)
        elif number == 2:
            got["f"] = struct.unpack("<f", fixed32_of(value, what))[0]
        elif number == 3 and isinstance(value, int):
            got["i"] = signed(value)
        elif number == 4:
            got["s"] = bytes(bytes_of(value, what))
        elif number == 5:
            with contextlib.suppress(UnreadableTensor):  # refused by whoever reads it
                got["t"] = _tensor(bytes_of(value, what), what)[1]
        elif number == 7:
            floats += array_of(value, "<f4", what).tolist()
        elif number == 8:
            ints += integers_of(value, what)
        elif number == 9:
            strings.append(bytes(bytes_of(value, what)))
        elif number in {6, 11}:
            raise ExportError(f"{what} holds a graph of its own (If, Loop or Scan), which cannot be exported")
    return Attribute(**got, floats=tuple(floats), ints=tuple(ints), strings=tuple(strings))


def _node(data: memoryview) -> Node:
    """Parse NodeProto: input 1, output 2, name 3, op_type 4, attribute 5, domain 7."""
    inputs: list[str] = []
    outputs: list[str] = []
    name = op_type = domain = ""
    attributes: list[memoryview] = []
    for number, _, value in records(data, "a node"):
        if number == 1:
            inputs.append(text_of(value, "a node"))
        elif number == 2:
            outputs.append(text_of(value, "a node"))
        elif number == 3:
            name = text_of(value, "a node")
        elif number == 4:
            op_type = text_of(value, "a node")
        elif number == 5:
            attributes.append(bytes_of(value, "a node"))
        elif number == 7:
            domain = text_of(value, "a node")
    what = f"{shown(op_type)} node '{shown(name or '/'.join(outputs))}'"
    parsed = [_attribute(item, what) for item in attributes]
    return Node(op_type, name, domain, tuple(inputs), tuple(outputs), {item.name: item for item in parsed})


def _value_info(data: memoryview) -> ValueInfo:
    """Parse ValueInfoProto: name 1, type 2 {tensor_type 1 {elem_type 1, shape 2 {dim 1 {dim_value 1}}}}."""
    name = ""
    elem_type = 0
    shape: list[int | None] | None = None
    for number, _, value in records(data, "a value"):
        if number == 1:
            name = text_of(value, "a value")
        elif number == 2:
            for kind, _, tensor in records(bytes_of(value, "a type"), "a type"):
                if kind != 1:
                    continue
                for part, _, item in records(bytes_of(tensor, "a tensor type"), "a tensor type"):
                    if part == 1 and isinstance(item, int):
                        elem_type = item
                    elif part == 2:
                        shape = _dims(bytes_of(item, "a shape"))
    return ValueInfo(name, elem_type, tuple(shape) if shape is not None else None)


def _dims(data: memoryview) -> list[int | None]:
    out: list[int | None] = []
    for number, _, value in records(data, "a shape"):
        if number != 1:
            continue
        known: int | None = None
        for part, _, item in records(bytes_of(value, "a dimension"), "a dimension"):
            if part == 1 and isinstance(item, int):
                known = signed(item)
        out.append(known)
    return out


def _graph(data: memoryview, external: External | None) -> Graph:
    """Parse GraphProto: node 1, name 2, initializer 5, input 11, output 12, sparse_initializer 15."""
    name = ""
    nodes: list[Node] = []
    tensors: dict[str, Tensor] = {}
    inputs: list[ValueInfo] = []
    outputs: list[ValueInfo] = []
    unreadable: dict[str, str] = {}
    for number, _, value in records(data, "the graph"):
        if number == 1:
            nodes.append(_node(bytes_of(value, "the graph")))
        elif number == 2:
            name = text_of(value, "the graph")
        elif number == 5:
            try:
                key, tensor = _tensor(bytes_of(value, "the graph"), "an initialiser", external)
                tensors[key] = tensor
            except UnreadableTensor as error:
                unreadable[error.name] = str(error)
        elif number == 11:
            inputs.append(_value_info(bytes_of(value, "the graph")))
        elif number == 12:
            outputs.append(_value_info(bytes_of(value, "the graph")))
        elif number == 15:
            raise ExportError("the graph holds a sparse initialiser, which cannot be exported")
    free = tuple(item for item in inputs if item.name not in tensors and item.name not in unreadable)
    return Graph(name, tuple(nodes), tensors, free, tuple(outputs), unreadable)


def parse_model(data: bytes, external: External | None = None) -> Model:
    """Parse the bytes of an ONNX file (ModelProto.

    Ir 1, producer 2, graph 7, opset_import 8 {domain 1, version 2}).

    external: gives the bytes of a tensor that lies in another file. Raises `ExportError` for anything
    malformed, never anything else.
    """
    if len(data) > MAX_BYTES:
        raise ExportError(f"the ONNX file has {len(data)} bytes, more than {MAX_BYTES}")
    ir_version = 0
    producer = ""
    opsets: dict[str, int] = {}
    graph: Graph | None = None
    for number, _, value in records(memoryview(data), "the model"):
        if number == 1 and isinstance(value, int):
            ir_version = value
        elif number == 2:
            producer = text_of(value, "the model")
        elif number == 7:
            graph = _graph(bytes_of(value, "the model"), external)
        elif number == 8:
            domain, version = "", 0
            for part, _, item in records(bytes_of(value, "an operator set"), "an operator set"):
                if part == 1:
                    domain = text_of(item, "an operator set")
                elif part == 2 and isinstance(item, int):
                    version = signed(item)
            opsets["" if domain == "ai.onnx" else domain] = version
    if graph is None or not graph.nodes:
        raise ExportError(
            "the file holds no ONNX graph", remedy="pass a file that onnx.save or torch.onnx wrote"
        )
    return Model(ir_version, producer, opsets, graph)
