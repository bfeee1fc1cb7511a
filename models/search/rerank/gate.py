"""Take in peers' models without letting a few of them ruin ours: check, clip, gate, and the median of several.

1. `check_parameters`: other tensors, NaN and infinity are refused before any use.
2. Clip: a received model may move ours by at most max(.5, .5 |ours|) per merge (the rest of the step is cut off).
3. Gate (after RankGuard, arXiv 2606.12246): on clicks that we did *not* train on, corrected for position, the received
   model must not explain what we clicked worse than ours: t of the differences in log-likelihood above `threshold`.
   The likelihood is the softmax over the shown list of t s / |w|, with the t that suits *our* model best for both, so
   scaling a model cannot help it.
4. Median: what passed waits until `quorum` peers are heard, then the coordinate-wise median of them and of ours is
   taken half-way (Yin et al., ICML 2018). So a model that hides among the honest (LIE) is outvoted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.errors import SchemaMismatch, WireError
from flocklet.models.base import Parameters
from flocklet.models.search.rerank.pdgd import PdgdRanker, check_parameters

__all__ = ["GateSettings", "ModelGate"]

Floats = NDArray[np.float64]

_LEAST_HISTORY = 10
_TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, slots=True)
class GateSettings:
    """Switch each defence on its own; `quorum` 1 merges every model at once, `trust_least` refuses strangers.

    `is_blind`: take models while there are fewer than 10 impressions to judge them by (else `unjudged`).
    """

    is_clipped: bool = True
    is_gated: bool = True
    threshold: float = -1.5
    quorum: int = 5
    step: float = 0.5
    history: int = 200
    trust_least: float = 0.0
    is_blind: bool = True


class ModelGate:
    """Guard one ranker; `remember` the impressions set aside for judging, `receive` peers' parameters."""

    def __init__(self, ranker: PdgdRanker, settings: GateSettings | None = None) -> None:
        self.settings = settings or GateSettings()
        self.outcomes: Counter[str] = Counter()
        self._ranker = ranker
        self._history: deque[tuple[NDArray[np.float32], Floats]] = deque(maxlen=self.settings.history)
        self._waiting: dict[bytes, Parameters] = {}

    def remember(
        self, matrix: NDArray[np.float32], shown: NDArray[np.int64], clicks: NDArray[np.bool_], gamma: Floats
    ) -> None:
        """Set one impression aside: it judges models and must not train ours. `gamma` `(k,)` are the propensities."""
        if clicks.any():
            weights = np.where(clicks, 1 / np.maximum(gamma[: len(shown)], 0.05), 0.0)
            self._history.append((matrix[shown], weights / weights.sum()))

    @property
    def history(self) -> Sequence[tuple[NDArray[np.float32], Floats]]:
        """The impressions set aside: features of what was shown `(k, F)` and weights of the clicks `(k,)`."""
        return self._history

    def receive(
        self, sender: bytes, parameters: Parameters, *, trust: float = 1.0, quorum: int | None = None
    ) -> str:
        """Take in or refuse a peer's model; return what became of it. `quorum` overrides the one of the settings.

        `malformed`, `stranger`, `unjudged`, `gate` (refused), `waiting` (for the quorum) or `merged`.
        """
        outcome = self._judge(sender, parameters, trust, quorum or self.settings.quorum)
        self.outcomes[outcome] += 1
        return outcome

    def _judge(self, sender: bytes, parameters: Parameters, trust: float, quorum: int) -> str:
        try:
            check_parameters(parameters, self._ranker.parameters)
        except (SchemaMismatch, WireError):
            return "malformed"
        if trust < self.settings.trust_least:
            return "stranger"
        if self.settings.is_gated and not self.settings.is_blind and len(self._history) < _LEAST_HISTORY:
            return "unjudged"
        if self.settings.is_gated and not self.explains(parameters):
            return "gate"
        self._waiting[sender] = parameters
        if len(self._waiting) < quorum:
            return "waiting"
        self._merge()
        return "merged"

    def explains(self, parameters: Parameters) -> bool:
        """Tell whether a model explains our held-out clicks no worse than ours; without history everything does."""
        if len(self._history) < _LEAST_HISTORY:
            return True
        other = PdgdRanker(np.random.default_rng(0), is_deep="hidden" in parameters)
        other.parameters = parameters
        own = [_sized(self._ranker, x) for x, _ in self._history]
        weights = [w for _, w in self._history]
        temperature = max(_TEMPERATURES, key=lambda t: float(_likelihoods(own, weights, t).mean()))
        theirs = [_sized(other, x) for x, _ in self._history]
        gains = _likelihoods(theirs, weights, temperature) - _likelihoods(own, weights, temperature)
        spread = float(gains.std(ddof=1))
        if spread < 1e-9:
            return bool(gains.mean() >= -1e-9)
        return bool(gains.mean() / (spread / np.sqrt(len(gains))) > self.settings.threshold)

    def _merge(self) -> None:
        own = self._ranker.parameters
        others = list(self._waiting.values())
        self._waiting.clear()
        if len(others) > 1:
            others.append(own)
        target = {name: np.median([other[name] for other in others], axis=0) for name in own}
        change = {name: self.settings.step * (target[name] - own[name]) for name in own}
        if self.settings.is_clipped:
            size = float(np.sqrt(sum(float((value**2).sum()) for value in change.values())))
            norm = float(np.sqrt(sum(float((value**2).sum()) for value in own.values())))
            allowed = max(0.5, 0.5 * norm) * self.settings.step
            change = {name: value * min(1.0, allowed / max(size, 1e-12)) for name, value in change.items()}
        self._ranker.load({name: (own[name] + change[name]).astype(np.float32) for name in own})


def _sized(ranker: PdgdRanker, matrix: NDArray[np.float32]) -> Floats:
    """Return the scores of a model of size 1."""
    norm = float(np.sqrt(sum(float((value**2).sum()) for value in ranker.parameters.values())))
    result: Floats = ranker.scores(matrix).astype(np.float64) / max(norm, 1e-9)
    return result


def _likelihoods(scores: list[Floats], weights: list[Floats], temperature: float) -> Floats:
    """Return the log-likelihood of the clicks of each list `(n,)` under softmax(temperature * score)."""
    rows = np.zeros(len(scores))
    for at, (values, weight) in enumerate(zip(scores, weights, strict=True)):
        scaled = temperature * (values - values.max())
        rows[at] = float(weight @ (scaled - np.log(np.exp(scaled).sum())))
    return rows
