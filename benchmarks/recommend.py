"""Measure recommendation, trust and their defence beside implicit ALS, EASE in NumPy and meritrank-python.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recommend.py [--seeds 5] [--victims 60]
        [--only quality,partial,protocol,attack,trust,ingest,latency,signals,bandit] [--cache DIR] [--json FILE] [--svg FILE]

MovieLens 100K is fetched into the cache once (2.1 MB). Peers that are not installed are rows that say so:
`pip install implicit meritrank-python` (the latter is GPL: it is run here, never copied).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import recommend_attack
import recommend_bandit
import recommend_speed
from recommend_data import figures, gain, similar_trust, split

from flocklet.datasets import MovieLens, fetch_movielens
from flocklet.models.recommend.blend import Blend, choose_weights
from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Ease, ItemKNN, Popularity, Salsa, Scorer
from flocklet.models.recommend.published import PublishedWalk
from flocklet.models.search.metrics import bootstrap_interval, paired_randomisation_test

Rows = list[dict[str, Any]]


class PlainEase:
    """The control: EASE written down as in the paper, ridge 500, no tags, no influence."""

    name = "EASE in NumPy (ridge 500)"

    def fit(self, likes: Likes) -> None:
        matrix = np.zeros((likes.n_people, likes.n_items))
        matrix[likes.rows, likes.columns] = 1
        inverse = np.linalg.inv(matrix.T @ matrix + 500 * np.eye(likes.n_items))
        self.weights = -inverse / np.diag(inverse)
        np.fill_diagonal(self.weights, 0)

    def score(self, profile: Profile) -> np.ndarray:
        return self.weights[profile.columns].sum(axis=0)


class ImplicitAls:
    """implicit's ALS: 64 factors, regularisation .05, alpha 1, 15 iterations (specs/recommendation.md, 7)."""

    name = "implicit ALS"
    settings: ClassVar = {"regularization": 0.05, "alpha": 1.0}

    def fit(self, likes: Likes) -> None:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix

        ones = np.ones(len(likes.columns), np.float32)
        matrix = csr_matrix((ones, (likes.rows, likes.columns)), (likes.n_people, likes.n_items))
        self.model = AlternatingLeastSquares(
            64, **self.settings, iterations=15, random_state=1, num_threads=1
        )
        self.model.fit(matrix, show_progress=False)

    def score(self, profile: Profile) -> np.ndarray:
        return self.model.item_factors @ self.model.user_factors[profile.row]


class TunedAls(ImplicitAls):
    """The tuned variant of the same section."""

    name = "implicit ALS, tuned"
    settings: ClassVar = {"regularization": 10.0, "alpha": 5.0}


class Chosen(Blend):
    """The default recommender as a device uses it: the weights are chosen on hidden likes."""

    name = "default (blend, weights chosen)"

    def fit(self, likes: Likes) -> None:
        owner = int(np.argmax(np.diff(likes.starts)))
        self.weights = choose_weights(likes, owner, np.random.default_rng(0))
        super().fit(likes)


def scorers() -> list[Callable[[], Scorer]]:
    return [
        Popularity, ItemKNN, lambda: Salsa(0.5), lambda: Factors(16, ridge=0.1), PlainEase, Ease, ImplicitAls,
        TunedAls, Chosen,
    ]  # fmt: skip


def interval(values: np.ndarray) -> list[float]:
    return list(bootstrap_interval(values, np.random.default_rng(0), rounds=2_000))


def quality(data: MovieLens, seeds: int, with_walk: bool) -> Rows:
    rows: Rows = []
    for kind in ("random", "temporal"):
        found: dict[str, list[np.ndarray]] = {}
        timing: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds if kind == "random" else 1):
            part = split(data, kind, seed)
            trust = np.array(similar_trust(part.train)) if with_walk else np.empty((0, 3))
            likes = part.likes()
            for make in [*scorers(), *([PublishedWalk] if with_walk and seed == 0 else [])]:
                scorer = make()
                try:
                    begun = time.perf_counter()
                    scorer.fit(likes if make is not PublishedWalk else with_trust(likes, trust))
                    fitted = time.perf_counter()
                except ImportError as error:
                    rows.append({"split": kind, "model": scorer.name, "missing": str(error)})
                    continue
                found.setdefault(scorer.name, []).append(figures(scorer, part))
                spent = (time.perf_counter() - fitted) / len(part.train)
                timing.setdefault(scorer.name, []).append((fitted - begun, spent * 1e6))
        ours = np.concatenate(found[Chosen.name])[:, 0]
        for name, parts in found.items():
            every = np.concatenate(parts)
            same = len(every) == len(ours)
            rows.append(
                {
                    "split": kind, "model": name, "seeds": len(parts),
                    "ndcg@10": float(every[:, 0].mean()), "interval": interval(every[:, 0]),
                    "recall@20": float(every[:, 1].mean()), "hit@10": float(every[:, 2].mean()),
                    "by_seed": [float(p[:, 0].mean()) for p in parts],
                    "p_against_default": paired_randomisation_test(
                        ours, every[:, 0], np.random.default_rng(0), rounds=2_000
                    ) if same and name != Chosen.name else None,
                    "fit_s": float(np.median([t[0] for t in timing[name]])),
                    "score_us": float(np.median([t[1] for t in timing[name]])),
                }
            )  # fmt: skip
    return rows


def with_trust(likes: Likes, trust: np.ndarray) -> Likes:
    return Likes(likes.starts, likes.columns, likes.n_items, likes.influence, likes.tags, trust)


def partial(data: MovieLens, seeds: int, views: int) -> Rows:
    """Each view holds a random fifth of the people; a tenth of all people is judged by each of `views` views."""
    rows: Rows = []
    for name, make in (("default", Chosen), ("EASE", Ease), ("SALSA", lambda: Salsa(0.5))):
        found = []
        for seed in range(seeds):
            part, rng = split(data, "random", seed), np.random.default_rng(1_000 + seed)
            n = len(part.train)
            for judged in np.array_split(rng.permutation(n), 10)[:views]:
                view = rng.choice(n, n // 5, replace=False)
                scorer = make()
                scorer.fit(part.likes(view))
                profiles = [(p, part.profile(int(p))) for p in judged if part.test[p].any()]
                found += [gain(scorer.score(profile), profile, part.test[p])[0] for p, profile in profiles]
        rows.append(
            {
                "model": name,
                "people": 0.2,
                "ndcg@10": float(np.mean(found)),
                "interval": interval(np.array(found)),
            }
        )
    return rows


def protocol(data: MovieLens, seeds: int) -> Rows:
    """Delete one loved item of each of 100 people and see whether it comes back (authors' relevance protocol)."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(2_000 + seed)
        part = split(data, "random", seed)
        every = part.train | part.test
        judges = rng.choice(np.flatnonzero(every.sum(axis=1) >= 6), 100, replace=False)
        lost = [int(rng.choice(np.flatnonzero(every[j]))) for j in judges]
        train = every.copy()
        train[judges, lost] = False
        likes = Likes.of(*np.nonzero(train), train.shape, tags=part.tags)
        trust = np.array(similar_trust(train))
        for make in (
            Popularity,
            ItemKNN,
            lambda: Salsa(0.5),
            PlainEase,
            Chosen,
            *([PublishedWalk] * (seed == 0)),
        ):
            scorer = make()
            scorer.fit(with_trust(likes, trust))
            for judge, item in zip(judges.tolist(), lost, strict=True):
                profile = likes.profile(judge)
                right = np.zeros(train.shape[1], bool)
                right[item] = True
                found.setdefault(scorer.name, []).append(gain(scorer.score(profile), profile, right)[2])
    return [
        {"model": name, "people": len(v), "hit@10": float(np.mean(v)), "interval": interval(np.array(v))}
        for name, v in found.items()
    ]


def show(title: str, rows: Rows) -> None:
    print(f"\n{title}")
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "by_seed"))
    lines = [columns, *([cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, list):
        return " to ".join(f"{v:.3f}" for v in value)
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ("quality", "partial", "protocol", "attack", "trust", "ingest", "latency", "signals", "bandit")
    parser.add_argument("--only", default=",".join(names))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--victims", type=int, default=60)
    parser.add_argument(
        "--views", type=int, default=10, help="views of a fifth of the people per seed, at most 10"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "flocklet")
    parser.add_argument("--no-walk", action="store_true", help="leave the slow published walk out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    only = args.only.split(",")
    data = fetch_movielens(args.cache)
    results: dict[str, Rows] = {}

    def keep(rows: Rows) -> None:
        if args.json:
            args.json.write_text(json.dumps({**results, "attack": rows}, indent=1))

    work: dict[str, Callable[[], Rows]] = {
        "quality": lambda: quality(data, args.seeds, not args.no_walk),
        "partial": lambda: partial(data, args.seeds, args.views),
        "protocol": lambda: protocol(data, args.seeds),
        "attack": lambda: recommend_attack.attacks(
            data, args.seeds, args.victims, keep, with_walk=not args.no_walk
        ),
        "trust": recommend_speed.trust,
        "ingest": recommend_speed.ingest,
        "latency": lambda: recommend_speed.latency(data),
        "bandit": lambda: recommend_bandit.estimates(args.cache),
        "signals": lambda: recommend_attack.signals(data, args.seeds),
    }
    for name in names:
        if name in only:
            results[name] = work[name]()
            show(name, results[name])
            if args.json:
                args.json.write_text(json.dumps(results, indent=1))
    if args.svg and "attack" in results:
        from recommend_plot import attack_plot

        args.svg.write_text(attack_plot(results["attack"]))


if __name__ == "__main__":
    main()
