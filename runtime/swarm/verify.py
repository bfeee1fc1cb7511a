"""Compare outputs of models that others claim to have run: batch SimHash and a majority of three (arXiv 2307.01898).

Honest outputs differ in their last bits (another order of sums, another back end), so exact hashes are useless. The
fingerprint of a batch is the signs of its outputs on fixed Gaussian hyperplanes (Charikar 2002); two agree if at most a
small share of the bits differs. Verify batches, not single outputs: one output of a stale model looks like the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.swarm.protocols import Floats

__all__ = ["SimHash", "majority"]

_POPULATION = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class SimHash:
    """A `Verifier`: `bits` per output, hyperplanes from `seed`, which all verifiers share."""

    bits: int = 128
    seed: int = 0

    def fingerprint(self, outputs: Floats) -> bytes:
        """Return bits/8 bytes per row of outputs (n, C), one after the other."""
        planes = np.random.default_rng(self.seed).standard_normal((outputs.shape[1], self.bits))
        return np.packbits(np.asarray(outputs, np.float64) @ planes > 0).tobytes()

    def agree(self, a: bytes, b: bytes, tolerance: float = 0.02) -> bool:
        """Return whether two fingerprints are of equal length and differ in at most that share of bits."""
        if len(a) != len(b) or not a:
            return False
        differing: NDArray[np.uint8] = np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)
        return int(_POPULATION[differing].sum()) <= tolerance * 8 * len(a)


def majority(votes: Sequence[bool]) -> bool:
    """Return whether more than half of the verifiers agree; nobody asked is no agreement."""
    return 2 * sum(votes) > len(votes)
