"""Rules that compare directions: FoolsGold, FLTrust and the Flag aggregator.

FoolsGold (Fung et al. 2020): sybils resemble each other more than honest peers do. SybilWall (arXiv 2306.15044)
applies the same weights to neighbours and second-hand models; the centred form subtracts the mean of all models
first, so that what every model shares no longer makes honest peers look alike. FLTrust: Cao et al. 2021. Flag:
"Flag Aggregator" (ICLR 2024), iteratively reweighted least squares on the p x p Gram matrix only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["flag", "fltrust", "foolsgold_weights"]

Floats = NDArray[np.float32]


def foolsgold_weights(stack: Floats) -> NDArray[np.float64]:
    """Return one weight in [0, 1] per row: near 0 for rows that resemble another one too much."""
    rows = stack.astype(np.float64)
    gram = rows @ rows.T
    norms = np.maximum(np.sqrt(np.diag(gram)), 1e-12)
    cosine = gram / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    most = cosine.max(axis=1) + 1e-5
    pardon = np.divide(most[:, None], most[None], out=np.ones_like(cosine), where=np.abs(most[None]) > 1e-12)
    cosine = np.where(most[:, None] < most[None], cosine * pardon, cosine)
    weights = np.clip(1.0 - cosine.max(axis=1), 0.0, 1.0)
    if weights.max() <= 0.0:
        return np.zeros(len(stack))
    weights /= weights.max()
    weights[weights == 1.0] = 0.99
    with np.errstate(divide="ignore"):
        logits = np.log(weights / (1.0 - weights)) + 0.5
    return np.asarray(np.clip(logits, 0.0, 1.0))


def fltrust(stack: Floats, root: Floats) -> Floats:
    """Return the mean of deltas weighted by ReLU(cosine to the root delta), each scaled to its norm."""
    size = float(np.linalg.norm(root))
    norms = np.maximum(np.linalg.norm(stack, axis=1), 1e-12)
    trust = np.maximum((stack @ root) / (norms * max(size, 1e-12)), 0.0)
    if trust.sum() <= 0.0:
        return root.copy()
    weights = trust * size / norms / trust.sum()
    return np.asarray(weights.astype(np.float32) @ stack)


def flag(stack: Floats, *, dimensions: int = 0, steps: int = 5) -> Floats:
    """Return the Flag aggregate of deltas: their unit vectors projected on the subspace that explains most of them.

    `dimensions` m defaults to (p + 1) // 2. The published d = (1/m) sum_i Y Y^T g_i is scaled by (m/p) times the
    median norm of the rows (ours; the source leaves the scale to the learning rate).
    """
    p = len(stack)
    m = dimensions or (p + 1) // 2
    norms = np.maximum(np.linalg.norm(stack, axis=1), 1e-12)
    unit = stack.astype(np.float64) / norms[:, None]
    gram = unit @ unit.T
    weights = np.ones(p)
    coefficients = np.zeros((p, m))
    for _ in range(steps):
        values, vectors = np.linalg.eigh(gram * np.outer(weights, weights))
        top = np.maximum(values[::-1][:m], 1e-12)
        # Column k of Y = sum_i unit_i w_i vectors_ik / sqrt(value_k); its inner products with the rows follow.
        coefficients = weights[:, None] * vectors[:, ::-1][:, :m] / np.sqrt(top)
        explained = np.minimum(((gram @ coefficients) ** 2).sum(axis=1), 1.0)
        weights = (1.0 - explained + 1e-7) ** -0.25
    inner = gram @ coefficients  # (p, m): Y^T unit_i
    direction = (coefficients @ inner.sum(axis=0)) @ unit
    return np.asarray(direction * (float(np.median(norms)) / p), np.float32)
