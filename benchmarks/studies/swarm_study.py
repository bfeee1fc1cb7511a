"""Simulate peers that rank, learn from their owners' clicks and pass models on, some of them hostile.

The study of specs: queries are cut once into three quarters that train and one that tests; every peer asks training
queries at random, learns by PDGD and, after every `every` impressions, takes one random peer's model in through its
gate. Hostile peers never learn; what they send is one of `ATTACKS`. The figure is nDCG@10 on the test quarter, per
honest peer.

With `queries` and `index` the peers also pull each other's clicks, as devices do: every `refresh` impressions the
features `neighbours` and `popularity` are made anew from the common log (of the own one, when nobody gossips).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flocklet.events.click import normalise_query
from flocklet.models.base import Parameters
from flocklet.models.search.evaluation.click_models import ClickModel, graded
from flocklet.models.search.evaluation.evaluate import JudgedQuery
from flocklet.models.search.index.index import Index
from flocklet.models.search.ranking.posterior import Posterior
from flocklet.models.search.rerank.features import put_evidence
from flocklet.models.search.rerank.gate import GateSettings, ModelGate
from flocklet.models.search.rerank.listwise import JudgedList, Lists
from flocklet.models.search.rerank.neighbours import Neighbours
from flocklet.models.search.rerank.pdgd import PdgdRanker, draw_list

__all__ = ["ATTACKS", "StudyResult", "StudySettings", "run_study"]

ATTACKS = ("flip", "scale", "noise", "nan", "lie", "ipm", "backdoor", "adaptive")
_CASCADE = np.ones(10)


@dataclass(frozen=True, slots=True)
class StudySettings:
    """`byzantine` of the `peers` are hostile; `gossips` off: everybody alone; one impression in `held` only judges."""

    peers: int = 20
    impressions: int = 200
    every: int = 5
    refresh: int = 50
    gossips: bool = True
    byzantine: int = 0
    attack: str = ""
    is_deep: bool = False
    rate: float = 0.03
    pull: float = 0.002
    held: int = 4
    gate: GateSettings = field(default_factory=GateSettings)


@dataclass(frozen=True, slots=True, eq=False)
class StudyResult:
    """Hold nDCG@10 per honest peer, what became of honest and hostile models, and the bytes of one model."""

    ndcg: NDArray[np.float64]
    honest: Counter[str]
    hostile: Counter[str]
    model_bytes: int


def run_study(
    lists: Sequence[JudgedList],
    train: NDArray[np.int64],
    test: NDArray[np.int64],
    people: ClickModel,
    rng: np.random.Generator,
    settings: StudySettings,
    *,
    queries: Sequence[JudgedQuery] = (),
    index: Index | None = None,
) -> StudyResult:
    """Run the study on `lists`, split into `train` and `test`; hostile peers are the last ones."""
    shared = _Clicks(lists, queries, index, settings)
    strongest = max(int(one.gains.max(initial=0)) for one in lists)
    rankers = [
        PdgdRanker(np.random.default_rng(7), is_deep=settings.is_deep, rate=settings.rate, pull=settings.pull)
        for _ in range(settings.peers)
    ]
    gates = [ModelGate(ranker, settings.gate) for ranker in rankers]
    honest = settings.peers - settings.byzantine
    told: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for step in range(1, settings.impressions + 1):
        for peer in range(honest):
            at = int(rng.choice(train))
            one = shared.lists_of(peer)[at]
            if not len(one.gains):
                continue
            shown = draw_list(rankers[peer].scores(one.matrix), rng)
            clicks = people.sample(graded(one.gains[shown], strongest)[None], rng)[0]
            shared.note(peer, at, shown, clicks)
            if settings.gossips and settings.gate.is_gated and step % settings.held == 0:
                gates[peer].remember(one.matrix, shown, clicks, _CASCADE)
            else:
                rankers[peer].observe(one.matrix, shown, clicks)
        if step % settings.refresh == 0:
            shared.refresh()
        if settings.gossips and step % settings.every == 0:
            for peer in range(honest):
                other = int(rng.integers(settings.peers - 1))
                other += other >= peer
                is_hostile = other >= honest
                sent = rankers[other].parameters
                if is_hostile:
                    sent = _forged(
                        settings.attack, [r.parameters for r in rankers[:honest]], rng, gates[peer]
                    )
                outcome = gates[peer].receive(other.to_bytes(2, "big"), sent)
                told[is_hostile][outcome] += 1
    tested = Lists([lists[at] for at in test.tolist()])
    figures = np.array(
        [_mean_ndcg(tested, shared.lists_of(peer), test, rankers[peer]) for peer in range(honest)]
    )
    size = sum(value.nbytes for value in rankers[0].parameters.values())
    return StudyResult(figures, told[0], told[1], size)


class _Clicks:
    """Keep the clicks of the study and the features made from them: one log for all, or one for each."""

    def __init__(
        self,
        lists: Sequence[JudgedList],
        queries: Sequence[JudgedQuery],
        index: Index | None,
        settings: StudySettings,
    ) -> None:
        self._queries, self._index = queries, index
        self._gossips = settings.gossips
        self._names = [normalise_query(one.text) for one in queries]
        groups = 1 if settings.gossips or index is None else settings.peers
        self._logs = [Posterior() for _ in range(groups)]
        self._lists = [list(lists) for _ in range(groups)]

    def lists_of(self, peer: int) -> Sequence[JudgedList]:
        """Return the lists with the features as this peer has them."""
        return self._lists[peer % len(self._lists)]

    def note(self, peer: int, at: int, shown: NDArray[np.int64], clicks: NDArray[np.bool_]) -> None:
        """Keep one impression."""
        if self._index is not None:
            items = self._queries[at].ids[shown].tolist()
            self._logs[peer % len(self._logs)].observe(
                peer.to_bytes(16, "big"), self._names[at], items, clicks
            )

    def refresh(self) -> None:
        """Make the features of clicks anew."""
        if self._index is None:
            return
        for group, log in enumerate(self._logs):
            log.fit_propensities()
            known = Neighbours(self._index)
            for name, one in zip(self._names, self._queries, strict=True):
                known.put(one.text, log.rates(name))
            for at, (one, held) in enumerate(zip(self._queries, self._lists[group], strict=True)):
                matrix = held.matrix.copy()
                put_evidence(matrix, *known.evidence(one.text, one.ids))
                self._lists[group][at] = JudgedList(matrix, held.gains, held.ideal)


def _mean_ndcg(
    tested: Lists, lists: Sequence[JudgedList], test: NDArray[np.int64], ranker: PdgdRanker
) -> float:
    total = 0.0
    for row, at in enumerate(test.tolist()):
        order = np.argsort(-ranker.scores(lists[at].matrix), kind="stable")[:10]
        gained = tested.mass[row, order]
        total += float(gained @ (1 / np.log2(np.arange(2, len(order) + 2)))) / max(
            float(tested.ideal[row]), 1e-9
        )
    return total / max(len(test), 1)


def _forged(
    attack: str, honest: Sequence[Parameters], rng: np.random.Generator, victim: ModelGate
) -> Parameters:
    """Return what a hostile peer sends: it knows every honest model, and (adaptive) the victim's gate."""
    names = list(honest[0])
    mean = {name: np.mean([model[name] for model in honest], axis=0) for name in names}
    spread = {name: np.std([model[name] for model in honest], axis=0) for name in names}

    def cast(values: dict[str, NDArray[np.floating]]) -> Parameters:
        return {name: np.asarray(value, np.float32) for name, value in values.items()}

    if attack == "flip":
        return cast({name: -3 * mean[name] for name in names})
    if attack == "scale":
        return cast({name: -10 * mean[name] for name in names})
    if attack == "noise":
        return cast({name: mean[name] + rng.normal(0, 1, mean[name].shape) for name in names})
    if attack == "nan":
        return cast({name: np.full_like(mean[name], np.nan) for name in names})
    if attack == "lie":
        return cast({name: mean[name] - 1.5 * spread[name] for name in names})
    if attack == "ipm":
        return cast({name: -0.5 * mean[name] for name in names})
    if attack == "backdoor":
        planted = {name: value.copy() for name, value in mean.items()}
        planted["weights"][8] += 3.0  # long documents to the top
        return cast(planted)
    for strength in (8.0, 4.0, 2.0, 1.0, 0.5, 0.25):  # adaptive: the worst that the gate lets through
        sent = cast({name: mean[name] * (1 - strength) for name in names})
        if victim.explains(sent):
            return sent
    return cast({name: mean[name] - 1.5 * spread[name] for name in names})
