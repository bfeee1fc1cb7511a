"""Simulate people who look at ten results and click: the click models of the field, vectorised and seeded.

Probabilities are given for the gains 0, 1, 2, 3, 4; a larger gain counts as 4, and binary judgements should be mapped
to the grade that stands for "relevant" with `graded` (the default maps the largest gain of a collection to 4). Values:
Hofmann, Whiteson & de Rijke (2013) for perfect, navigational and informational; PBM: Craswell et al. (WSDM 2008); DBN:
Chapelle & Zhang (WWW 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CLICK_MODELS",
    "CascadeClicks",
    "ClickModel",
    "DbnClicks",
    "PositionClicks",
    "click_model",
    "graded",
]

_GRADES = 5
Chances = tuple[float, float, float, float, float]


class ClickModel(Protocol):
    """Decide which shown results are clicked."""

    @property
    def name(self) -> str:
        """What the people are called."""
        ...

    def sample(self, gains: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the clicks `(n, k) bool` on n lists of k results with `gains` `(n, k)`, best rank first."""
        ...


@dataclass(frozen=True)
class CascadeClicks:
    """Look from the top, click with `click[gain]`, stop after a click with `stop[gain]`."""

    name: str
    click: Chances
    stop: Chances

    def sample(self, gains: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the clicks."""
        grades = _grades(gains)
        wanted = rng.random(grades.shape) < np.array(self.click)[grades]
        ends = wanted & (rng.random(grades.shape) < np.array(self.stop)[grades])
        stopped = np.cumsum(ends, axis=1) > ends.astype(np.int64)
        clicks: NDArray[np.bool_] = np.logical_and(wanted, ~stopped)
        return clicks


@dataclass(frozen=True)
class PositionClicks:
    """Look at rank r with probability r^-eta, then click with `click[gain]` (PBM)."""

    name: str
    click: Chances
    eta: float = 1.0

    def sample(self, gains: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the clicks."""
        grades = _grades(gains)
        looked = rng.random(grades.shape) < np.arange(1, grades.shape[1] + 1) ** -self.eta
        return looked & (rng.random(grades.shape) < np.array(self.click)[grades])


@dataclass(frozen=True)
class DbnClicks:
    """Look from the top; attracted -> click; satisfied -> stop; else go on with `persistence` after every result."""

    name: str
    attraction: Chances
    satisfaction: Chances
    persistence: float = 0.9

    def sample(self, gains: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
        """Return the clicks."""
        grades = _grades(gains)
        wanted = rng.random(grades.shape) < np.array(self.attraction)[grades]
        ends = wanted & (rng.random(grades.shape) < np.array(self.satisfaction)[grades])
        ends |= rng.random(grades.shape) >= self.persistence
        stopped = np.cumsum(ends, axis=1) > ends.astype(np.int64)
        clicks: NDArray[np.bool_] = np.logical_and(wanted, ~stopped)
        return clicks


_ATTRACTION: Chances = (0.1, 0.3, 0.5, 0.7, 0.95)

CLICK_MODELS: Mapping[str, ClickModel] = {
    "perfect": CascadeClicks("perfect", (0.0, 0.2, 0.4, 0.8, 1.0), (0.0,) * 5),
    "nav": CascadeClicks("nav", (0.05, 0.3, 0.5, 0.7, 0.95), (0.2, 0.3, 0.5, 0.7, 0.9)),
    "info": CascadeClicks("info", (0.4, 0.6, 0.7, 0.8, 0.9), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pbm": PositionClicks("pbm", _ATTRACTION, 1.0),
    "pbm_half": PositionClicks("pbm_half", _ATTRACTION, 0.5),
    "pbm_two": PositionClicks("pbm_two", _ATTRACTION, 2.0),
    "dbn": DbnClicks("dbn", _ATTRACTION, (0.1, 0.3, 0.5, 0.7, 0.9)),
}


def click_model(name: str) -> ClickModel:
    """Return a click model by its name in `CLICK_MODELS`; raises KeyError."""
    return CLICK_MODELS[name]


def graded(gains: NDArray[np.int64], largest: int) -> NDArray[np.int64]:
    """Return gains stretched to 0..4: `largest`, the collection's strongest, becomes 4; nothing relevant becomes 0."""
    if largest <= 0:
        return np.zeros_like(gains)
    stretched = np.ceil(np.clip(gains, 0, largest) * (_GRADES - 1) / largest)
    return stretched.astype(np.int64)


def _grades(gains: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.clip(gains, 0, _GRADES - 1)
