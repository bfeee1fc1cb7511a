"""Hold a convolutional network as a graph: values with shapes, and the steps that make one from others.

Batch is 1 throughout; a value keeps the shape of the file. Convolutions and pools in one dimension have a height of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.firmware_export.read.network import Activation

__all__ = [
    "Conv",
    "Full",
    "Graph",
    "Join",
    "Kind",
    "Pool",
    "Scale",
    "Softmax",
    "Step",
    "Window",
    "parameters",
]

F32: TypeAlias = npt.NDArray[np.float32]
Pair: TypeAlias = tuple[int, int]
IDENTITY = Activation()


@dataclass(frozen=True)
class Window:
    """Hold how a window moves: kernel, strides, dilations as (y, x); pads (top, left, bottom, right); shapes (c, y, x)."""

    kernel: Pair
    strides: Pair
    pads: tuple[int, int, int, int]
    dilations: Pair
    source: tuple[int, int, int]
    target: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Conv:
    """Hold a convolution: weight (out, in / groups, y, x), bias (out,)."""

    weight: F32
    bias: F32
    window: Window
    groups: int


@dataclass(frozen=True)
class Pool:
    """Hold a pool: the largest, or the mean over the window; `counts_pads` divides by the whole kernel."""

    is_max: bool
    window: Window
    counts_pads: bool = False


@dataclass(frozen=True, eq=False)
class Full:
    """Hold a dense layer: weight (out, in), bias (out,)."""

    weight: F32
    bias: F32


@dataclass(frozen=True, eq=False)
class Scale:
    """Hold y = x * scale + offset per channel; scale, offset (c,)."""

    scale: F32
    offset: F32


@dataclass(frozen=True)
class Join:
    """Hold a join of values: "add" or "mul" of two of one shape, "concat" one behind the other."""

    kind: str


@dataclass(frozen=True)
class Softmax:
    """Hold a softmax over the last axis of this length."""

    length: int


Kind: TypeAlias = Conv | Pool | Full | Scale | Join | Softmax | Activation


@dataclass(frozen=True, eq=False)
class Step:
    """Hold one step: what it does, the values it reads and makes, and an activation of the result."""

    kind: Kind
    inputs: tuple[int, ...]
    output: int
    label: str
    activation: Activation = IDENTITY


@dataclass(frozen=True, eq=False)
class Graph:
    """Hold a whole net: elements of each value, the steps in order; value 0 is the input, `output` the result."""

    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    sizes: tuple[int, ...]
    steps: tuple[Step, ...]
    output: int

    @property
    def macs(self) -> int:
        """Return the products of convolutions and dense layers, taps on padding included."""
        total = 0
        for step in self.steps:
            if isinstance(step.kind, Conv):
                total += step.kind.weight[0].size * math.prod(step.kind.window.target)
            elif isinstance(step.kind, Full):
                total += step.kind.weight.size
        return total

    @property
    def n_parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum(array.size for step in self.steps for array in parameters(step.kind))


def parameters(kind: Kind) -> tuple[F32, ...]:
    """Return the constant arrays of a step, in the order in which they are written."""
    if isinstance(kind, Conv | Full):
        return (kind.weight, kind.bias)
    return (kind.scale, kind.offset) if isinstance(kind, Scale) else ()
