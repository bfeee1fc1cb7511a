"""Sybil attacks and several-signal re-ranking on MovieLens 100K for benchmarks/recommend.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from recommend_data import TARGETS, Attack, Split, attack, gain, similar_trust, split

from flocklet.datasets.installed import MovieLens
from flocklet.models.recommend.blend import Blend, top_unseen
from flocklet.models.recommend.independence import independent
from flocklet.models.recommend.influence import influence
from flocklet.models.recommend.likes import Likes
from flocklet.models.recommend.linear import Popularity, Scorer
from flocklet.models.recommend.signals import Critic, ReRanker
from flocklet.models.search.evaluation.metrics import bootstrap_interval
from studies.offpolicy import Log, doubly_robust, ips, snips
from studies.published import PublishedWalk

Rows = list[dict[str, Any]]
CASES: dict[
    str, tuple[float, int, float, bool]
] = {  # share of attackers, sybils each, share of the victim's likes that they copy, shared sybils
    "none": (0.0, 0, 0.0, False),
    "10% x 5": (0.1, 5, 0.0, False),
    "10% x 50": (0.1, 50, 0.0, False),
    "30% x 5": (0.3, 5, 0.0, False),
    "10% x 5, copying the victim": (0.1, 5, 1.0, False),
    "10% x 5, copying, sybils shared by two attackers": (0.1, 5, 1.0, True),
    "10% x 5, copying half, sybils shared by two": (0.1, 5, 0.5, True),
}


def attacks(
    data: MovieLens,
    seeds: int,
    victims: int,
    once: Callable[[str, Callable[[], Any]], Any],
    *,
    with_walk: bool,
) -> Rows:
    """Return sybil slots in the top 10 and nDCG@10 of the defended and the open default, popularity and the walk.

    `once(name, work)` returns the result of one seed of one attack, made now or kept from before.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(seeds):
        for number, case in enumerate(CASES):
            result = once(
                f"attack-{seed}-{number}",
                lambda s=seed, c=case: _attacked(data, s, c, victims, with_walk and s == 0),
            )
            for name, figures in result.items():
                found.setdefault((case, name), []).extend(figures)
    return _rows(found)


def _attacked(data: MovieLens, seed: int, case: str, victims: int, with_walk: bool) -> dict[str, list[Any]]:
    part = split(data, "random", seed)
    trust = similar_trust(part.train)
    able = np.flatnonzero(part.test.any(axis=1))
    judges = np.random.default_rng(3_000 + seed).choice(able, victims, replace=False)
    share, sybils, copies, shared = CASES[case]
    poisoned = attack(part, trust, share, sybils, judges, 4_000 + seed, shared=shared)
    found: dict[str, list[Any]] = {}
    for name, figure in _judged(part, poisoned, judges, copies, {}, with_walk=with_walk):
        found.setdefault(name, []).append(figure)
    return found


def _rows(found: dict[tuple[str, str], list[list[float]]]) -> Rows:
    rows: Rows = []
    for (case, name), figures in found.items():
        slots, quality = np.array(figures).T
        clean = np.array(found["none", name])[:, 1]
        rng = np.random.default_rng(0)
        rows.append(
            {
                "attack": case, "model": name, "judged": len(figures),
                "slots": float(slots.mean()), "slots_interval": list(bootstrap_interval(slots, rng, rounds=2_000)),
                "ndcg@10": float(quality.mean()),
                "ndcg_interval": list(bootstrap_interval(quality, rng, rounds=2_000)),
                "kept": float(quality.mean() / clean.mean()),
                "kept_of_open": float(quality.mean() / np.array(found["none", "open"])[:, 1].mean()),
            }
        )  # fmt: skip
    return rows


def _judged(
    part: Split,
    poisoned: Attack,
    judges: np.ndarray,
    copies: float,
    done: dict[bytes, tuple[float, float]],
    *,
    with_walk: bool,
) -> list[tuple[str, tuple[float, float]]]:
    figures: list[tuple[str, tuple[float, float]]] = []
    n, shared = poisoned.n_honest, {}
    for judge in judges.tolist():
        train = poisoned.train
        if copies:
            train = train.copy()
            kept = np.random.default_rng(judge).random((len(train) - n, part.train.shape[1])) < copies
            train[n:, :-TARGETS] = part.train[judge] & kept
        voice = influence(poisoned.trust, judge)
        # Nothing is learnt from whoever has no influence, so equal influence on equal likes is one and the same fit.
        heard = voice > 0
        key = (
            bytes([judge % 251])
            + judge.to_bytes(4, "big")
            + voice[heard].tobytes()
            + np.packbits(train[heard]).tobytes()
        )
        if key not in done:
            done[key] = _one(Blend, part, train, judge, voice)
        figures.append(("defended", done[key]))
        for name, make in (("open", Blend), ("popularity", Popularity)):
            if copies or name not in shared:
                shared[name] = _fitted(make, part, train, np.ones(len(train), np.float32), poisoned)
            figures.append((name, _figure(shared[name], part, judge)))
        if with_walk and len(train) < 3_000:
            if copies or "walk" not in shared:
                shared["walk"] = _fitted(
                    PublishedWalk, part, train, np.ones(len(train), np.float32), poisoned
                )
            figures.append(("published walk", _figure(shared["walk"], part, judge)))
    return figures


def _fitted(
    make: Callable[[], Scorer], part: Split, train: np.ndarray, voice: np.ndarray, poisoned: Attack
) -> Scorer:
    trust = np.column_stack([poisoned.trust.src, poisoned.trust.dst, poisoned.trust.weight])
    scorer = make()
    scorer.fit(Likes.of(*np.nonzero(train), train.shape, influence=voice, tags=_tags(part), trust=trust))
    return scorer


def _one(
    make: Callable[[], Scorer], part: Split, train: np.ndarray, judge: int, voice: np.ndarray
) -> tuple[float, float]:
    heard = np.flatnonzero(voice > 0)
    likes = Likes.of(
        *np.nonzero(train[heard]), (len(heard), train.shape[1]), influence=voice[heard], tags=_tags(part)
    )
    likes = replace(likes, influence=independent(likes, int(np.searchsorted(heard, judge))))
    scorer = make()
    scorer.fit(likes)
    return _figure(scorer, part, judge)


def _tags(part: Split) -> np.ndarray:
    """The targets carry the tags of a popular film: whoever makes them up chooses what they are called."""
    famous = part.tags[:, [int(part.train.sum(axis=0).argmax())] * TARGETS]
    return np.hstack([part.tags, famous])


def _figure(scorer: Scorer, part: Split, judge: int) -> tuple[float, float]:
    profile = part.profile(judge, judge)
    scores = scorer.score(profile)
    right = np.concatenate([part.test[judge], np.zeros(TARGETS, bool)])
    slots = int((top_unseen(np.asarray(scores, np.float32), profile, 10) >= part.train.shape[1]).sum())
    return float(slots), gain(scores, profile, right)[0]


# -- several signals --


def signals(data: MovieLens, seeds: int) -> Rows:
    """A simulator of MovieLens people: dwell is the main signal, liking and finishing the auxiliary ones.

    A person's true rating of a film (rank-12 reconstruction of the rating matrix plus noise) makes them like it; dwell
    also grows with how loud a film is (a made-up trait that liking does not share). A uniform logger shows lists of
    20 films and one of them is played. Synthetic: it shows how the constraint works, nothing about real people.
    """
    found: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(5_000 + seed)
        people, films, like, dwell, finish = _simulator(data, rng)
        lists = _lists(people, films, rng, 4_000)
        features, index = lists
        taken = rng.integers(0, 20, len(index))
        rows = np.arange(len(index))
        who, shown = index[:, 0], index[:, 1:]
        film = shown[rows, taken]
        seen = features[rows, taken]
        noise = rng.normal(0, 0.3, (3, len(rows)))
        truth = {"dwell": dwell, "like": like, "finish": finish}
        critics = {}
        for number, (name, table) in enumerate(truth.items()):
            critics[name] = Critic(5.0)
            critics[name].fit(seen, table[who, film] + noise[number])
        fresh, judged = _lists(people, films, rng, 1_000)
        for total in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0):
            strength = {"like": total / 2, "finish": total / 2}
            ranker = ReRanker(critics["dwell"], {k: critics[k] for k in ("like", "finish")}, strength)
            best = ranker.scores(fresh).argmax(axis=1)
            chosen = judged[np.arange(len(best)), best + 1]
            true = tuple(float(t[judged[:, 0], chosen].mean()) for t in truth.values())
            policy = np.eye(20)[ranker.scores(features).argmax(axis=1)]
            log = Log(taken, dwell[who, film] + noise[0], np.full(len(rows), 1 / 20))
            model = critics["dwell"].value(features)
            guesses = (ips(log, policy, rng), snips(log, policy, rng), doubly_robust(log, policy, model, rng))
            inside = np.mean([g.low <= true[0] <= g.high for g in guesses])
            found.setdefault(("lambda", total), []).append(
                (*true, *(g.value for g in guesses), guesses[1].effective, float(inside))
            )
    names = (
        "dwell",
        "like",
        "finish",
        "dwell by IPS",
        "by SNIPS",
        "by DR",
        "effective rows",
        "inside the interval",
    )
    return [
        {"strength": total, **dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))}
        for (_, total), values in found.items()
    ]


def _simulator(data: MovieLens, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    ratings = np.zeros((943, 1_682))
    ratings[data.users - 1, data.films - 1] = data.ratings - 3.5
    left, size, right = np.linalg.svd(ratings, full_matrices=False)
    people = left[:, :12] * np.sqrt(size[:12])
    films = right[:12].T * np.sqrt(size[:12])
    loud = rng.normal(0, 1, len(films))
    taste = people @ films.T
    like = 1 / (1 + np.exp(-3 * taste + 0.8 * loud))
    finish = 1 / (1 + np.exp(-2 * taste - 0.2))
    dwell = 0.5 * like + 0.35 * loud
    return people, np.column_stack([films, loud]), like, dwell, finish


def _lists(
    people: np.ndarray, films: np.ndarray, rng: np.random.Generator, count: int
) -> tuple[np.ndarray, np.ndarray]:
    who = rng.integers(0, len(people), count)
    shown = rng.integers(0, len(films), (count, 20))
    taste = people[who][:, None, :] * films[shown][:, :, :12]
    features = np.concatenate(
        [taste, taste.sum(-1, keepdims=True), films[shown][:, :, 12:], np.ones((count, 20, 1))], axis=-1
    )
    return features, np.column_stack([who, shown])
