"""Lay a model's tensors side by side in one flat float32 vector, in schema order, and take them apart again.

The bytes of the vector are the canonical bytes of `flocklet.models.base` (tensors sorted by name, little-endian), so
stacking the vectors of N peers gives an (N, P) array on which rules and trainers work without loops.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch
from flocklet.models.base import Parameters, schema_hash

__all__ = ["Layout", "Vector", "vector_id"]

Vector = NDArray[np.float32]
"""All parameters of one model, (P,) float32."""


def vector_id(vector: Vector) -> bytes:
    """Return 16 bytes that name this vector: BLAKE2b-128 of its little-endian bytes."""
    data = np.ascontiguousarray(vector, dtype="<f4").data
    return hashlib.blake2b(data, digest_size=16, person=b"flocklet-vector").digest()


class Layout:
    """Where each tensor lies in the vector: `slices` name -> slice, `shapes` name -> shape, `size` = P."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.names = sorted(shapes)
        self.shapes = {name: tuple(shapes[name]) for name in self.names}
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name in self.names:
            end = self.size + math.prod(self.shapes[name])
            self.slices[name] = slice(self.size, end)
            self.size = end
        self.schema = schema_hash({name: np.empty(shape, np.float32) for name, shape in self.shapes.items()})

    def split(self, vector: Vector) -> Parameters:
        """Return the tensors as views of `vector`."""
        return {name: vector[self.slices[name]].reshape(self.shapes[name]) for name in self.names}

    def join(self, tensors: Mapping[str, NDArray[np.floating]]) -> Vector:
        """Return the vector of `tensors`; raise SchemaMismatch when they are not exactly those of this layout."""
        self.check({name: tensor.shape for name, tensor in tensors.items()})
        vector = np.empty(self.size, np.float32)
        with np.errstate(over="ignore"):
            for name, where in self.slices.items():
                vector[where] = tensors[name].reshape(-1)
        return vector

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise SchemaMismatch unless these are exactly the names and shapes of this layout."""
        if shapes.keys() != self.shapes.keys():
            odd = sorted(shapes.keys() ^ self.shapes.keys())[0]
            raise SchemaMismatch(f"tensor {odd!r} is on one side only")
        for name, shape in self.shapes.items():
            if tuple(shapes[name]) != shape:
                raise SchemaMismatch(f"tensor {name!r} has shape {shapes[name]}, expected {shape}")
