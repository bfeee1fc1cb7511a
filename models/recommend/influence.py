"""Say how much each person counts in what one device learns: trust, bounded, and cut behind single persons.

A person reached from the ego by trust counts fully once the probability to hit them passes `full_at`, and in
proportion below. All people behind one *cut person* (through whom at least `cut_from` of the walks to them pass;
MeritRank's connectivity decay) count together for `cut_voice` people, none by default. So whoever makes up identities
behind one attacker gains nothing, however many they are and however they trust each other. Behind somebody whom the
ego trusts directly (a friend's device and the people on it) all together count as `friend_voice` people. Whoever
trusts only people whom nobody else vouches for loses their own voice in that proportion, unless they are a direct
friend: this is what a person does whose trusted account was taken over to bring in sybils.

People whom nobody in reach trusts share a *fringe* of at most `fringe` times the mass of the trusted, however many
they are: honest newcomers are heard faintly, a crowd no louder than a few. Without any trust edge from the ego all
people count alike: nothing is known that could tell them apart, and `flocklet recommend` says so.

These are the threats that the design answers; docs/recommendation.md states those that it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.models.recommend.meritrank import TrustEdges, bottleneck, forward_push

__all__ = ["InfluenceSettings", "influence"]


@dataclass(frozen=True, slots=True)
class InfluenceSettings:
    """Walks stop rarely (`alpha`), because reach matters more here than rank."""

    alpha: float = 0.05
    full_at: float = 1e-4
    cut_from: float = 0.95
    cut_voice: float = 0.0
    friend_voice: float = 1.0
    fringe: float = 0.0
    most: int = 1_500


def influence(edges: TrustEdges, ego: int, settings: InfluenceSettings | None = None) -> NDArray[np.float32]:
    """Return the weight in 0..1 of each person in what `ego` learns, (n,) float32.

    Of more than `most` people only those whom the walks visit most are looked at closely, people known through one
    person last; the others count nothing.
    """
    settings = settings or InfluenceSettings()
    if not ((edges.src == ego) & (edges.weight > 0)).any():
        return np.ones(edges.n, np.float32)
    near = np.arange(edges.n)
    if edges.n > settings.most:
        visits = forward_push(edges, ego, settings.alpha, tolerance=1e-3)
        visits[_known_through_one(edges, ego)] = 0.0
        visits[ego] = np.inf
        near = np.sort(np.argpartition(-visits, settings.most - 1)[: settings.most])
    src, dst, share = _shares(edges)
    step = (1.0 - settings.alpha) * _among(src, dst, share, near)
    green = np.asarray(np.linalg.inv(np.eye(len(near)) - step), np.float64)
    me = int(np.searchsorted(near, ego))
    hits = green[me] / np.diag(green)
    heard = np.minimum(1.0, hits / settings.full_at)
    cuts = bottleneck(green, me) >= settings.cut_from
    is_friend = np.isin(near, edges.dst[(edges.src == ego) & (edges.weight > 0)])
    away = ~np.isin(dst, near) & _known_through_one(edges, ego)[dst]
    lost = np.bincount(src[away], share[away], edges.n)[
        near
    ]  # trust in people known through this person alone
    lost = np.minimum(1.0, lost + (step * cuts).sum(axis=1) / (1.0 - settings.alpha))
    heard = np.where(is_friend, heard, heard * (1.0 - lost))
    heard = _behind_cuts(heard, hits, cuts, np.where(is_friend, settings.friend_voice, settings.cut_voice))
    voice = np.zeros(edges.n)
    voice[near] = heard
    voice[edges.dst[(edges.src == ego) & (edges.weight < 0)]] = 0.0
    voice[ego] = 1.0
    strangers = np.ones(edges.n, bool)
    strangers[near] = hits <= 0
    if strangers.any() and settings.fringe > 0:
        voice[strangers] = min(1.0, settings.fringe * float(voice.sum()) / int(strangers.sum()))
    return voice.astype(np.float32)


def _known_through_one(edges: TrustEdges, ego: int) -> NDArray[np.bool_]:
    """Return who is trusted by a single person that the ego does not trust directly: behind a cut for certain.

    They have no influence anyway; left in, a crowd of them would crowd the honest out of those looked at closely.
    """
    positive = edges.weight > 0
    pairs = np.unique(edges.dst[positive] * edges.n + edges.src[positive])
    target, source = pairs // edges.n, pairs % edges.n
    near = np.zeros(edges.n, bool)
    near[edges.dst[positive & (edges.src == ego)]] = True
    near[ego] = True
    voices = np.bincount(target, 1.0 + near[source], edges.n)  # one near voice is enough
    return np.asarray(voices < 2)


def _behind_cuts(
    heard: NDArray[np.float64],
    hits: NDArray[np.float64],
    cuts: NDArray[np.bool_],
    most: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return `heard` with everybody behind the same first cut person p scaled to most[p] voices together."""
    is_cut = cuts.any(axis=0)
    first = np.where(cuts, hits[:, None], -1.0).argmax(axis=0)  # the cut person nearest to the ego
    together = np.bincount(first[is_cut], heard[is_cut], len(heard))
    scaled = heard.copy()
    scaled[is_cut] *= np.minimum(1.0, most[first[is_cut]] / np.maximum(together[first[is_cut]], 1e-12))
    return scaled


def _shares(edges: TrustEdges) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return source, target and share of the source's trust of every positive edge."""
    positive = edges.weight > 0
    src, dst, weight = edges.src[positive], edges.dst[positive], edges.weight[positive]
    return src, dst, weight / np.bincount(src, weight, edges.n)[src]


def _among(
    src: NDArray[np.int64], dst: NDArray[np.int64], share: NDArray[np.float64], near: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the shares between the people `near` as a matrix; whoever steps out of it does not come back."""
    inside = np.isin(src, near) & np.isin(dst, near)
    matrix = np.zeros((len(near), len(near)))
    np.add.at(matrix, (np.searchsorted(near, src[inside]), np.searchsorted(near, dst[inside])), share[inside])
    return matrix
