"""Convolutional nets of published shapes with seeded weights, as ONNX files.

DS-CNN for keyword spotting after the layer table of MLPerf Tiny's reference (Banbury et al. 2021): 22,604 parameters
after folding, 2,656,768 products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from kit.made_graphs import model

node = helper.make_node


class Builder:
    """Collect nodes and constants; `value` is the name of the latest result."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.value = "x"

    def add(self, op: str, inputs: list[str] | None = None, **attributes: Any) -> str:
        """Append a node that reads the latest value, or the given ones."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(
            node(op, inputs or [self.value], [name], name=f"{op.lower()}{len(self.nodes)}", **attributes)
        )
        self.value = name
        return name

    def constant(self, array: Any) -> str:
        """Return the name of a new constant."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def conv(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, ...],
        *,
        groups: int = 1,
        bias: bool = True,
        **how: Any,
    ) -> str:
        """Append a convolution with weights N(0, 2 / fan in)."""
        inner = c_in // groups
        fan = inner * int(np.prod(kernel))
        weight = self.rng.normal(0, np.sqrt(2 / fan), (c_out, inner, *kernel))
        inputs = [self.value, self.constant(weight)]
        inputs += [self.constant(self.rng.normal(0, 0.1, c_out))] if bias else []
        return self.add("Conv", inputs, kernel_shape=list(kernel), group=groups, **how)

    def norm(self, channels: int) -> str:
        """Append a batch normalisation."""
        draw = self.rng.uniform
        parts = (
            draw(0.5, 1.5, channels),
            draw(-0.2, 0.2, channels),
            draw(-0.2, 0.2, channels),
            draw(0.5, 2, channels),
        )
        return self.add("BatchNormalization", [self.value, *(self.constant(part) for part in parts)])

    def dense(self, n_in: int, n_out: int) -> str:
        """Append a dense layer."""
        weight = self.rng.normal(0, 1 / np.sqrt(n_in), (n_out, n_in))
        return self.add(
            "Gemm",
            [self.value, self.constant(weight), self.constant(self.rng.normal(0, 0.1, n_out))],
            transB=1,
        )

    def build(self, shape: list[int]) -> bytes:
        """Return the bytes of the file."""
        return model(self.nodes, self.constants, [("x", shape)], self.value)


def ds_cnn(seed: int = 0) -> bytes:
    """Return DS-CNN: 49 x 10 features, 12 words; batch normalisations are there to be folded."""
    net = Builder(seed)
    net.conv(1, 64, (10, 4), bias=False, strides=[2, 2], pads=[4, 1, 5, 1])
    net.norm(64)
    net.add("Relu")
    for _ in range(4):
        net.conv(64, 64, (3, 3), groups=64, bias=False, pads=[1, 1, 1, 1])
        net.norm(64)
        net.add("Relu")
        net.conv(64, 64, (1, 1), bias=False)
        net.norm(64)
        net.add("Relu")
    net.add("AveragePool", kernel_shape=[24, 5], strides=[24, 5])
    net.add("Flatten")
    net.dense(64, 12)
    net.add("Softmax")
    return net.build([1, 1, 49, 10])
