"""Keep the rerankers that a device learns online, and how far each may move what the text says.

Two models learn from every click of the owner's by PDGD: linear (15 weights, 60 bytes) and MLP-64 (4.4 kB). One
impression in `HELD` teaches neither: it judges peers' models (`flocklet.models.search.rerank.gate`) and sets the
*strength* s of the pull to BM25,

    score = bm25 + s (model - bm25),    s in {0, .25, .5, 1}

the one that explains the clicks set aside best, their weights corrected for position (1 / propensity), and only if it does
so better than BM25 by `_MARGIN` standard errors on at least `_LEAST` of them. Else s = 0 and the order is that of the text.
So few clicks never hurt, and a model that a peer poisoned moves nothing before it has proved itself here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flocklet.models.base import Parameters, version_id
from flocklet.models.search.rerank.features import BM25
from flocklet.models.search.rerank.gate import GateSettings, ModelGate
from flocklet.models.search.rerank.pdgd import PdgdRanker

__all__ = ["HELD", "MODELS", "Impression", "OnlineRanker", "OnlineRankers"]

Floats = NDArray[np.float32]

MODELS = ("linear", "mlp")
HELD = 4
"""One impression in so many judges and never trains."""

_SEED = 7  # everybody starts from the same MLP, so that a delta from the start means the same everywhere
_STRENGTHS = (0.25, 0.5, 1.0)
_TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
_LEAST = 20
_MARGIN = 2.0
_GRID = 4096.0
_RANGE = 2048.0


@dataclass(frozen=True, slots=True, eq=False)
class Impression:
    """Hold what one list taught: features of all candidates `(n, F)`; places shown, clicks and propensities `(k,)`."""

    matrix: Floats
    shown: NDArray[np.int64]
    clicks: NDArray[np.bool_]
    looks: NDArray[np.float64]


class OnlineRanker:
    """One model with its gate; `clicks` counts the impressions that it learnt from, here."""

    def __init__(self, name: str, settings: GateSettings | None = None) -> None:
        self.name = name
        self.ranker = PdgdRanker(np.random.default_rng(_SEED), is_deep=name == "mlp")
        self.start = self.published()
        self.gate = ModelGate(self.ranker, settings or GateSettings(is_blind=False))
        self.clicks = 0
        self.strength = 0.0
        self.gain = 0.0

    def published(self) -> Parameters:
        """Return the parameters as they are given away: on a grid of 2^-12 up to 2^11, where float32 sums are exact."""
        return {
            name: (np.round(np.clip(value, -_RANGE, _RANGE) * _GRID) / _GRID + 0.0).astype(
                np.float32
            )  # no -0.0
            for name, value in self.ranker.parameters.items()
        }

    def learn(self, one: Impression, *, is_held: bool) -> None:
        """Learn from one impression, or set it aside and measure anew how far this model may go."""
        if is_held:
            self.gate.remember(one.matrix, one.shown, one.clicks, one.looks)
            self.measure()
        else:
            self.ranker.observe(one.matrix, one.shown, one.clicks)
            self.clicks += 1

    def measure(self) -> None:
        """Choose the strength by the impressions set aside."""
        self.strength, self.gain = 0.0, 0.0
        history = self.gate.history
        if len(history) < _LEAST:
            return
        text = [x[:, BM25] for x, _ in history]
        own = [self.ranker.scores(x) for x, _ in history]
        weights = [w for _, w in history]
        base = _likelihood(text, weights)
        for strength in _STRENGTHS:
            mixed = [t + np.float32(strength) * (o - t) for t, o in zip(text, own, strict=True)]
            gains = _likelihood(mixed, weights) - base
            error = max(float(gains.std(ddof=1)) / np.sqrt(len(gains)), 1e-9)
            gain = float(gains.mean())
            if gain > self.gain and gain > _MARGIN * error:
                self.strength, self.gain = strength, gain

    def scores(self, matrix: Floats) -> Floats:
        """Return the scores `(n,) float32` of candidates with features `(n, F)`, as close to BM25 as was measured."""
        text = matrix[:, BM25]
        if not self.strength:
            return text
        result: Floats = text + np.float32(self.strength) * (self.ranker.scores(matrix) - text)
        return result

    def facts(self) -> dict[str, Any]:
        """Return what an explanation tells: name, strength, clicks learnt here, merges with peers, version."""
        return {
            "model": self.name,
            "strength": self.strength,
            "clicks": self.clicks,
            "merged": self.gate.outcomes["merged"],
            "version": version_id(self.published()).hex(),
        }


class OnlineRankers:
    """All models of a device; the one with the largest proven gain decides."""

    def __init__(self, settings: GateSettings | None = None) -> None:
        self.models = {name: OnlineRanker(name, settings) for name in MODELS}

    def learn(self, one: Impression, *, is_held: bool) -> None:
        """Let every model learn from one impression of the owner's."""
        for model in self.models.values():
            model.learn(one, is_held=is_held)

    @property
    def best(self) -> OnlineRanker | None:
        """The model that may move the order, None while none has proved itself."""
        proven = [model for model in self.models.values() if model.strength]
        return max(proven, key=lambda model: model.gain, default=None)


def _likelihood(scores: list[Floats], weights: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the log-likelihood of the clicks of each list `(n,)` under softmax(t score), with the t that suits best."""
    found = []
    for temperature in _TEMPERATURES:
        rows = np.zeros(len(scores))
        for at, (values, weight) in enumerate(zip(scores, weights, strict=True)):
            scaled = temperature * values.astype(np.float64)
            scaled -= scaled.max()
            rows[at] = float(weight @ (scaled - np.log(np.exp(scaled).sum())))
        found.append(rows)
    return max(found, key=lambda rows: float(rows.mean()))
