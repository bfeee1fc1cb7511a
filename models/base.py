"""Hold parameters, their versions and the difference between two of them.

`Parameters` is a flat map name -> float32 array of any shape. Its *schema* is the set of (name, shape); its
*version* is the hash of its canonical bytes: tensors in schema order (names sorted by code point),
little-endian, C-contiguous. A `Delta` leads from one version to the next and applies only to the version it
was made from.

Hashes are BLAKE2b-128 (16 bytes), the one hash family of the protocol (PROTOCOL.md, section 1).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError

__all__ = [
    "Delta",
    "Model",
    "Parameters",
    "State",
    "add",
    "apply_delta",
    "difference",
    "scale",
    "schema_hash",
    "version_id",
]

Parameters: TypeAlias = dict[str, NDArray[np.float32]]
"""A model's parameters: name -> float32 array."""

State: TypeAlias = dict[str, NDArray[Any]]
"""Everything a model needs to go on: name -> array of a plain dtype (no objects), safe for `numpy.savez`."""

Event_contra = TypeVar("Event_contra", contravariant=True)
Query_contra = TypeVar("Query_contra", contravariant=True)

_ID_SIZE = 16
_UNNAMED = b""


class Model(Protocol[Event_contra, Query_contra]):
    """Learn from events, one at a time, and predict; nothing but arrays goes in or out.

    `flocklet.models.check.check_model` is the contract in executable form. A model whose state does not
    depend on the order of its events says so with a true class attribute `is_order_free`.
    """

    name: str

    def learn(self, event: Event_contra) -> None:
        """Take in one event; an event that makes no sense raises ValueError and changes nothing."""
        ...

    def predict(self, query: Query_contra) -> NDArray[np.float32]:
        """Return finite scores, one per candidate of the query, as (n,) float32; changes nothing."""
        ...

    def state(self) -> State:
        """Return a copy of everything learnt."""
        ...

    def load_state(self, state: State) -> None:
        """Replace everything learnt by a copy of `state`."""
        ...


@dataclass(frozen=True, slots=True)
class Delta:
    """Lead from version `base` to version `version` by adding `values`.

    `version` is empty for a delta that was scaled or summed: such a delta names no version that anybody has.
    """

    base: bytes
    version: bytes
    values: Parameters


def schema_hash(params: Mapping[str, NDArray[Any]]) -> bytes:
    """Return 16 bytes that depend on the names and shapes of `params` and on nothing else."""
    digest = hashlib.blake2b(digest_size=_ID_SIZE, person=b"flocklet-schema")
    for name in sorted(params):
        _put_header(digest, name, params[name].shape)
    return digest.digest()


def version_id(params: Mapping[str, NDArray[Any]]) -> bytes:
    """Return 16 bytes that name exactly these parameters, the same on every machine.

    The schema is hashed along with the values, so that two tensors cannot trade bytes; -0.0 and 0.0 differ.
    """
    digest = hashlib.blake2b(digest_size=_ID_SIZE, person=b"flocklet-version")
    for name in sorted(params):
        _put_header(digest, name, params[name].shape)
        digest.update(np.ascontiguousarray(params[name], dtype="<f4").tobytes())
    return digest.digest()


def difference(new: Parameters, old: Parameters) -> Delta:
    """Return the delta from `old` to `new`.

    float32 subtraction rounds, so `old + (new - old)` may miss `new` in the last bit. `version` names what
    a receiver gets, not `new`: a sender that goes on from the same version takes `apply_delta(old, delta)`
    for its own.

    Raises SchemaMismatch when the schemas differ and WireError when a value is not finite.
    """
    _same_schema(new, old)
    values = {name: np.subtract(new[name], old[name], dtype=np.float32) for name in new}
    _finite(values)
    return Delta(version_id(old), version_id(_sum(old, values)), values)


def apply_delta(params: Parameters, delta: Delta) -> Parameters:
    """Return `params + delta` as new arrays.

    Raises SchemaMismatch when the delta was made for other tensors or from another version, WireError when
    a value is not finite or when the result is not the version that the delta names.
    """
    _same_schema(delta.values, params)
    _finite(delta.values)
    if version_id(params) != delta.base:
        raise SchemaMismatch(
            f"the delta starts from version {delta.base.hex() or 'none'}, we hold {version_id(params).hex()}",
            remedy="ask the peer for the full model or for the deltas in between",
        )
    result = _sum(params, delta.values)
    _finite(result)
    if delta.version and version_id(result) != delta.version:
        raise WireError(
            f"the delta does not lead to the version {delta.version.hex()} that it names", reason="version"
        )
    return result


def scale(delta: Delta, factor: float) -> Delta:
    """Return `delta` with every value multiplied by `factor`; the result names no version."""
    values = {name: (value * np.float32(factor)).astype(np.float32) for name, value in delta.values.items()}
    _finite(values)
    return Delta(delta.base, _UNNAMED, values)


def add(first: Delta, second: Delta) -> Delta:
    """Return the sum of two deltas from the same base; the result names no version.

    Raises SchemaMismatch when they start from different versions or change different tensors.
    """
    if first.base != second.base:
        raise SchemaMismatch("two deltas with different bases cannot be added")
    _same_schema(first.values, second.values)
    values = _sum(first.values, second.values)
    _finite(values)
    return Delta(first.base, _UNNAMED, values)


def _put_header(digest: Any, name: str, shape: tuple[int, ...]) -> None:
    raw = name.encode()
    digest.update(struct.pack(f"<I{len(raw)}sI{len(shape)}Q", len(raw), raw, len(shape), *shape))


def _sum(left: Parameters, right: Parameters) -> Parameters:
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is refused by name
        return {name: np.add(left[name], right[name], dtype=np.float32) for name in left}


def _same_schema(left: Parameters, right: Parameters) -> None:
    if left.keys() != right.keys():
        odd = sorted(left.keys() ^ right.keys())[0]
        raise SchemaMismatch(f"tensor {odd!r} is on one side only")
    for name in left:
        if left[name].shape != right[name].shape:
            raise SchemaMismatch(
                f"tensor {name!r} has shape {left[name].shape}, expected {right[name].shape}"
            )
        if left[name].dtype != np.float32 or right[name].dtype != np.float32:
            raise SchemaMismatch(f"tensor {name!r} is not float32")


def _finite(values: Parameters) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise WireError(f"tensor {name!r} holds a value that is not finite", reason="not-finite")
