"""Measure recommendation, trust and their defence beside implicit ALS, EASE in NumPy and meritrank-python.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recommend.py [--seeds 5] [--victims 60]
        [--only quality,partial,protocol,attack,trust,ingest,latency,signals,bandit] [--cache DIR] [--json FILE]
        [--svg FILE] [--keep DIR]

MovieLens 100K is fetched into the cache once (2.1 MB). Peers that are not installed are rows that say so:
`pip install implicit meritrank-python networkx` (GPL: it is run here, never copied). With `--keep` the result of each
seed is kept there, and a run that was cut short goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import recommend_attack
import recommend_bandit
import recommend_speed
from recommend_data import figures, gain, similar_trust, split

from flocklet.datasets.installed import MovieLens, fetch_movielens
from flocklet.models.recommend.blend import Blend, choose_weights
from flocklet.models.recommend.factors import Factors
from flocklet.models.recommend.likes import Likes, Profile
from flocklet.models.recommend.linear import Ease, ItemKNN, Popularity, Salsa, Scorer
from flocklet.models.search.evaluation.metrics import bootstrap_interval, paired_randomisation_test
from studies.published import PublishedWalk

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
    """implicit's ALS: 64 factors, regularisation .05, alpha 1, 15 iterations."""

    name = "implicit ALS"
    factors = 64
    settings: Mapping[str, float] = MappingProxyType({"regularization": 0.05, "alpha": 1.0})

    def fit(self, likes: Likes) -> None:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix

        ones = np.ones(len(likes.columns), np.float32)
        matrix = csr_matrix((ones, (likes.rows, likes.columns)), (likes.n_people, likes.n_items))
        self.model = AlternatingLeastSquares(
            self.factors, **self.settings, iterations=15, random_state=1, num_threads=1
        )
        self.model.fit(matrix, show_progress=False)

    def score(self, profile: Profile) -> np.ndarray:
        return self.model.item_factors @ self.model.user_factors[profile.row]


class TunedAls(ImplicitAls):
    """The best of 67 settings per split (factors 8 to 128, regularisation .05 to 300, alpha .6 to 64), each judged by
    nDCG@10 on a fifth of the training likes of seed 0 (the newest for the temporal split)."""

    name = "implicit ALS, tuned"

    def __init__(self, kind: str = "random") -> None:
        self.factors = {"random": 32, "temporal": 64}[kind]
        self.settings = {
            "random": {"regularization": 40.0, "alpha": 8.0},
            "temporal": {"regularization": 10.0, "alpha": 1.25},
        }[kind]


class Chosen(Blend):
    """The default recommender as a device uses it: the weights are chosen on hidden likes."""

    name = "default (blend, weights chosen)"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def fit(self, likes: Likes) -> None:
        owner = int(np.argmax(np.diff(likes.starts)))
        self.weights = choose_weights(likes, owner, np.random.default_rng(self.seed))
        super().fit(likes)


class Kept:
    """Results of single seeds in a folder, so that a long run can be cut and go on; without a folder nothing is."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        if self.folder is None:
            return work()
        path = self.folder / f"{name}.json"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            result = work()
            path.write_text(json.dumps(result))
            print(f"  {name} done", flush=True)
        return json.loads(path.read_text())


def scorers(kind: str) -> list[Callable[[], Scorer]]:
    return [
        Popularity, ItemKNN, lambda: Salsa(0.5), lambda: Factors(16, ridge=0.1), PlainEase, Ease, ImplicitAls,
        lambda: TunedAls(kind),
    ]  # fmt: skip


def interval(values: np.ndarray) -> list[float]:
    return list(bootstrap_interval(values, np.random.default_rng(0), rounds=2_000))


def quality(data: MovieLens, seeds: int, with_walk: bool, kept: Kept) -> Rows:
    """Every model on both splits; the temporal split is the same for every seed, only the default's choice varies."""
    rows: Rows = []
    for kind in ("random", "temporal"):
        found: dict[str, list[np.ndarray]] = {}
        timing: dict[str, list[list[float]]] = {}
        for seed in range(seeds):
            makes: list[Callable[[], Scorer]] = [lambda seed=seed: Chosen(seed)]
            if kind == "random" or seed == 0:
                makes = [*scorers(kind), *makes]
            results = kept.once(
                f"quality-{kind}-{seed}", lambda k=kind, s=seed, m=makes: fitted(data, k, s, m)
            )
            if with_walk and seed == 0:
                results |= kept.once(f"walk-{kind}", lambda k=kind: fitted(data, k, 0, [PublishedWalk]))
            for name, result in results.items():
                if "missing" in result:
                    rows += [{"split": kind, "model": name, **result}] * (seed == 0)
                    continue
                found.setdefault(name, []).append(np.array(result["figures"]))
                timing.setdefault(name, []).append(result["timing"])
        for name, parts in found.items():
            if kind == "temporal":  # one split: what differs from run to run is not more evidence
                parts = [np.mean(parts, axis=0)]
            every = np.concatenate(parts)
            mine = found[Chosen.name]
            ours = np.concatenate(mine[: len(parts)] if kind == "random" else [np.mean(mine, axis=0)])[:, 0]
            rows.append(
                {
                    "split": kind, "model": name, "seeds": len(found[name]),
                    "ndcg@10": float(every[:, 0].mean()), "interval": interval(every[:, 0]),
                    "recall@20": float(every[:, 1].mean()), "hit@10": float(every[:, 2].mean()),
                    "by_seed": [float(p[:, 0].mean()) for p in found[name]],
                    "p_against_default": paired_randomisation_test(
                        ours, every[:, 0], np.random.default_rng(0), rounds=2_000
                    ) if name != Chosen.name else None,
                    "fit_s": float(np.median([t[0] for t in timing[name]])),
                    "score_us": float(np.median([t[1] for t in timing[name]])),
                }
            )  # fmt: skip
    return rows


def fitted(data: MovieLens, kind: str, seed: int, makes: list[Callable[[], Scorer]]) -> dict[str, Any]:
    """Return figures of everybody, seconds of the fit and microseconds a person, for each model."""
    part = split(data, kind, seed)
    results: dict[str, Any] = {}
    for make in makes:
        scorer, likes = make(), part.likes()
        if isinstance(scorer, PublishedWalk):
            likes = with_trust(likes, np.array(similar_trust(part.train)))
        try:
            begun = time.perf_counter()
            scorer.fit(likes)
            done = time.perf_counter()
        except ImportError as error:
            results[scorer.name] = {"missing": str(error)}
            continue
        table = figures(scorer, part)
        spent = (time.perf_counter() - done) / len(part.train)
        results[scorer.name] = {"figures": table.tolist(), "timing": [done - begun, spent * 1e6]}
        if isinstance(scorer, Chosen):
            results[scorer.name]["weights"] = list(scorer.weights)
    return results


def with_trust(likes: Likes, trust: np.ndarray) -> Likes:
    return Likes(likes.starts, likes.columns, likes.n_items, likes.influence, likes.tags, trust)


def partial(data: MovieLens, seeds: int, views: int, kept: Kept) -> Rows:
    """Each view holds a random fifth of the people; a tenth of all people is judged by each of `views` views."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for view in range(views):
            result = kept.once(f"partial-{seed}-{view}", lambda s=seed, v=view: viewed(data, s, v))
            for name, values in result.items():
                found.setdefault(name, []).extend(values)
    return [
        {"model": name, "people seen": 0.2, "judged": len(values), "ndcg@10": float(np.mean(values)),
         "interval": interval(np.array(values))}
        for name, values in found.items()
    ]  # fmt: skip


def viewed(data: MovieLens, seed: int, view: int) -> dict[str, list[float]]:
    part, rng = split(data, "random", seed), np.random.default_rng(1_000 + seed)
    n = len(part.train)
    order = rng.permutation(n)
    seen = [rng.choice(n, n // 5, replace=False) for _ in range(view + 1)][-1]
    judged = [int(p) for p in np.array_split(order, 10)[view] if part.test[p].any()]
    found: dict[str, list[float]] = {}
    for name, make in (("default", Chosen), ("EASE", Ease), ("SALSA", lambda: Salsa(0.5))):
        scorer = make()
        scorer.fit(part.likes(seen))
        for person in judged:
            profile = part.profile(person)
            found.setdefault(name, []).append(gain(scorer.score(profile), profile, part.test[person])[0])
    return found


def protocol(data: MovieLens, seeds: int, kept: Kept) -> Rows:
    """Delete one loved item of each of 100 people and see whether it comes back (authors' relevance protocol)."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for name, values in kept.once(f"protocol-{seed}", lambda s=seed: returned(data, s)).items():
            found.setdefault(name, []).extend(values)
    return [
        {"model": name, "people": len(v), "hit@10": float(np.mean(v)), "interval": interval(np.array(v))}
        for name, v in found.items()
    ]


def returned(data: MovieLens, seed: int) -> dict[str, list[float]]:
    rng = np.random.default_rng(2_000 + seed)
    part = split(data, "random", seed)
    every = part.train | part.test
    judges = rng.choice(np.flatnonzero(every.sum(axis=1) >= 6), 100, replace=False)
    lost = [int(rng.choice(np.flatnonzero(every[j]))) for j in judges]
    train = every.copy()
    train[judges, lost] = False
    likes = Likes.of(*np.nonzero(train), train.shape, tags=part.tags)
    trust = np.array(similar_trust(train))
    found: dict[str, list[float]] = {}
    for make in (
        Popularity,
        ItemKNN,
        lambda: Salsa(0.5),
        PlainEase,
        TunedAls,
        Chosen,
        PublishedWalk,
    ):
        scorer = make()
        try:
            scorer.fit(with_trust(likes, trust))
        except ImportError:
            continue
        for judge, item in zip(judges.tolist(), lost, strict=True):
            profile = likes.profile(judge)
            right = np.zeros(train.shape[1], bool)
            right[item] = True
            found.setdefault(scorer.name, []).append(gain(scorer.score(profile), profile, right)[2])
    return found


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ("quality", "partial", "protocol", "attack", "trust", "ingest", "latency", "signals", "bandit")
    parser.add_argument("--only", default=",".join(names))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--victims", type=int, default=12, help="judged people per seed and attack")
    parser.add_argument(
        "--views", type=int, default=10, help="views of a fifth of the people per seed, at most 10"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "flocklet")
    parser.add_argument("--no-walk", action="store_true", help="leave the slow published walk out")
    parser.add_argument("--keep", type=Path, help="keep the result of each seed here and go on from there")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    only = args.only.split(",")
    data = fetch_movielens(args.cache)
    results: dict[str, Rows] = {}

    kept = Kept(args.keep)
    work: dict[str, Callable[[], Rows]] = {
        "quality": lambda: quality(data, args.seeds, not args.no_walk, kept),
        "partial": lambda: partial(data, args.seeds, args.views, kept),
        "protocol": lambda: protocol(data, args.seeds, kept),
        "attack": lambda: recommend_attack.attacks(
            data, args.seeds, args.victims, kept.once, with_walk=not args.no_walk
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
