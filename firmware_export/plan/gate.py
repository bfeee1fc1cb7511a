"""Decide whether integers still mean what the network meant: one gate for w16, i16 and w8.

The error is judged by each output's own size (root mean square over the observations), because a bound in absolute
numbers says nothing about an output of 1e-3 or 1e3. A classifier must also agree about the largest output.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError

__all__ = ["AGREEMENT", "RELATIVE", "Accuracy", "accuracy", "admit"]

F64: TypeAlias = npt.NDArray[np.float64]

RELATIVE = 0.05  # largest mean error of an output, in units of its size
AGREEMENT = 0.99  # smallest share of observations with the same largest output, for classifiers
_FLOOR = 1e-2  # an output smaller than this share of the largest one is judged by that share


@dataclass(frozen=True)
class Accuracy:
    """Hold errors against float64: largest, root mean square, by the outputs' own size, and agreement (or None)."""

    max: float
    rms: float
    relative: float
    agreement: float | None

    def to_json(self) -> dict[str, float | None]:
        """Return the figures for the manifest."""
        return asdict(self)


def accuracy(ours: npt.NDArray[np.floating], exact: F64) -> Accuracy:
    """Return the errors of outputs (n, n_out) against exact ones; agreement is None for one output."""
    error = np.abs(np.asarray(ours, np.float64) - exact)
    size = np.sqrt((exact**2).mean(axis=0))
    size = np.maximum(size, max(_FLOOR * float(size.max()), 1e-12))
    same = (ours.argmax(axis=1) == exact.argmax(axis=1)).mean() if exact.shape[1] > 1 else None
    return Accuracy(
        float(error.max()),
        float(np.sqrt((error**2).mean())),
        float((error.mean(axis=0) / size).max()),
        None if same is None else float(same),
    )


def admit(found: Accuracy, dtype: str, *, classifier: bool, min_agreement: float | None = None) -> None:
    """Raise `ExportError` where a data type of integers loses too much.

    min_agreement: demanded of any network; by default of classifiers only.
    """
    remedy = (
        "use f32, or declare the true range of the observations (--range) and pass your own (--observations)"
    )
    if not found.relative <= RELATIVE:
        raise ExportError(
            f"{dtype} is off by {found.relative:.1%} of an output's own size, more than {RELATIVE:.0%}",
            remedy=remedy,
        )
    wanted = min_agreement if min_agreement is not None else AGREEMENT if classifier else None
    if wanted is not None and found.agreement is not None and found.agreement < wanted:
        raise ExportError(
            f"{dtype} agrees about the largest output in {found.agreement:.1%} of the observations, less than {wanted:.0%}",
            remedy=remedy,
        )
