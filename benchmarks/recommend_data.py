"""MovieLens 100K for benchmarks/recommend.py: splits, trust, poison, figures. Dense arrays: 943 people, 1,682 films."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flocklet.datasets.installed import MovieLens
from flocklet.models.recommend.blend import top_unseen
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Scorer
from flocklet.models.recommend.meritrank import TrustEdges
from flocklet.models.recommend.tags import tags_of

TARGETS = 3
DISCOUNT = 1 / np.log2(np.arange(2, 12))


@dataclass(frozen=True)
class Split:
    """Who liked what in the past (people, items), and later; tags of the items."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    tags: NDArray[np.float32]
    times: (
        NDArray[np.int64] | None
    )  # (people, items), of the temporal split only: the other one knows no order

    def likes(self, rows: NDArray[np.int64] | None = None) -> Likes:
        train = self.train if rows is None else self.train[rows]
        times = self.times[train] if self.times is not None and rows is None else None
        return Likes.of(*np.nonzero(train), train.shape, tags=self.tags, times=times)

    def profile(self, person: int, row: int = -1) -> Profile:
        return Profile(np.flatnonzero(self.train[person]), row)


def split(data: MovieLens, kind: str, seed: int) -> Split:
    """Per person 80/20: `random` among ratings >= 4, `temporal` by time among all ratings."""
    rng = np.random.default_rng(seed)
    keep = data.ratings >= 4 if kind == "random" else np.ones(len(data.ratings), bool)
    films, columns = np.unique(data.films[keep], return_inverse=True)
    people, rows = np.unique(data.users[keep], return_inverse=True)
    train = np.zeros((len(people), len(films)), bool)
    test = np.zeros_like(train)
    for person in range(len(people)):
        mine = columns[rows == person]  # in the order of time
        if kind == "random":
            mine = rng.permutation(mine)
        cut = len(mine) if len(mine) < 5 else int(0.8 * len(mine))
        train[person, mine[:cut]] = True
        test[person, mine[cut:]] = True
    words = [[*data.film[int(f)].genres, data.film[int(f)].year[:3]] for f in films]
    times = np.zeros(train.shape, np.int64)
    times[rows, columns] = data.times[keep]
    return Split(train, test, tags_of(words), times if kind == "temporal" else None)


def gain(
    scores: NDArray[np.floating], profile: Profile, right: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Return nDCG@10, recall@20 and hit@10 of one ranking."""
    top = top_unseen(np.asarray(scores, np.float32), profile, 20)
    hits = right[top]
    count = int(right.sum())
    return (
        float((DISCOUNT * hits[:10]).sum() / DISCOUNT[: min(count, 10)].sum()),
        float(hits.sum() / count),
        float(hits[:10].any()),
    )


def figures(scorer: Scorer, part: Split, people: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Return nDCG@10, recall@20, hit@10 of everybody with held-out likes, (people, 3)."""
    chosen = np.arange(len(part.train)) if people is None else people
    rows = []
    for person in chosen[part.test[chosen].any(axis=1)].tolist():
        profile = part.profile(person, person)
        rows.append(gain(scorer.score(profile), profile, part.test[person]))
    return np.array(rows)


def similar_trust(train: NDArray[np.bool_], count: int = 5) -> list[tuple[int, int, float]]:
    """Everybody trusts the `count` people of the most similar taste (cosine)."""
    matrix = train.astype(np.float32)
    norm = np.sqrt(np.maximum(matrix.sum(axis=1), 1))
    cosine = matrix @ matrix.T / np.outer(norm, norm)
    np.fill_diagonal(cosine, -1)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    return [(a, int(b), float(cosine[a, b])) for a in range(len(train)) for b in near[a]]


@dataclass(frozen=True)
class Attack:
    """Poisoned likes (honest and attackers, then sybils; items, then the three targets) and poisoned trust."""

    train: NDArray[np.bool_]
    trust: TrustEdges
    attackers: NDArray[np.int64]
    n_honest: int


def attack(
    part: Split,
    trust: list[tuple[int, int, float]],
    share: float,
    sybils: int,
    judges: NDArray[np.int64],
    seed: int,
    *,
    shared: bool = False,
) -> Attack:
    """Inject coordinated attackers.

    Attackers are compromised people: they keep the trust they have, like the targets on top of their own taste, and
    trust only their sybils, in a line or in cycles by coin flip. Each sybil likes the targets and 20 of the 200 most
    popular items. With `shared` every sybil is also trusted by a second attacker (stronger than the protocol).
    """
    rng = np.random.default_rng(seed)
    n, m = part.train.shape
    attackers = rng.choice(np.setdiff1d(np.arange(n), judges), round(share * n), replace=False)
    total = n + len(attackers) * sybils
    train = np.zeros((total, m + TARGETS), bool)
    train[:n, :m] = part.train
    train[attackers, m:] = True
    train[n:, m:] = True
    popular = np.argsort(-part.train.sum(axis=0), kind="stable")[:200]
    lines = rng.random(len(attackers)) < 0.5
    bad = set(attackers.tolist())
    edges = [edge for edge in trust if edge[0] not in bad]
    for number, attacker in enumerate(attackers.tolist()):
        mine = range(n + number * sybils, n + (number + 1) * sybils)
        if lines[number]:
            edges += [(a, b, 1.0) for a, b in zip([attacker, *mine], mine, strict=False)]
        else:
            edges += [edge for s in mine for edge in ((attacker, s, 1.0), (s, attacker, 1.0))]
        if shared:
            edges += [(int(attackers[number - 1]), s, 1.0) for s in mine]
    for sybil in range(n, total):
        train[sybil, rng.choice(popular, 20, replace=False)] = True
    return Attack(train, TrustEdges.of(total, edges), attackers, n)
