"""Measure flocklet's ranking: learning from clicks, unseen queries, learning among peers, attacks, time per list.

    OMP_NUM_THREADS=1 python benchmarks/ranking.py --data DIR --part repeated --seeds 5 --json out.json

DIR holds folders in the BEIR layout (cranfield, med, adi). Parts: repeated, decentralised, mismatch, unseen, swarm,
byzantine, time. Every figure is a median over seeds with the smallest and the largest. LightGBM's LambdaMART runs beside
`unseen` when it is installed (pip install lightgbm scipy).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.datasets.installed import load_collection
from flocklet.events.click import normalise_query
from flocklet.models.search.evaluation.click_models import click_model, graded
from flocklet.models.search.evaluation.evaluate import (
    JudgedQuery,
    figures,
    judged_queries,
    learn_from_clicks,
    rerank_cv,
)
from flocklet.models.search.evaluation.metrics import k_fold, paired_randomisation_test
from flocklet.models.search.index.index import Index
from flocklet.models.search.ranking.grank import GRank, Settings
from flocklet.models.search.ranking.posterior import Posterior, text_prior
from flocklet.models.search.rerank.features import Features
from flocklet.models.search.rerank.gate import GateSettings
from flocklet.models.search.rerank.listwise import JudgedList, Lists, bm25_weights, ndcg_of
from flocklet.models.search.rerank.pdgd import PdgdRanker
from studies.quick import QuickScorer
from studies.swarm_study import StudySettings, run_study

PEOPLE = ("nav", "info", "pbm")
OPEN_GATE = GateSettings(is_clipped=False, is_gated=False, quorum=1)


class Bench:
    """One collection, indexed, with its judged queries."""

    def __init__(self, folder: Path) -> None:
        collection = load_collection(folder)
        self.name = collection.name
        self.index = Index()
        self.index.add_many(collection.documents)
        self.queries = judged_queries(collection, self.index)

    def lists(self) -> list[JudgedList]:
        features = Features(self.index)
        return [
            JudgedList(features.matrix(one.text, one.ids, one.scores), one.gains, one.ideal)
            for one in self.queries
        ]


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": float(np.median(values)),
        "low": float(min(values)),
        "high": float(max(values)),
        "seeds": len(values),
    }


def show(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name:42} {row['median']:.4f}  [{row['low']:.4f}, {row['high']:.4f}]  {row['seeds']} seeds",
        flush=True,
    )


def ndcg(one: JudgedQuery, order: Any) -> float:
    gains = np.exp2(one.gains[order[:10]].astype(np.float64)) - 1
    return float(gains @ (1 / np.log2(np.arange(2, len(gains) + 2)))) / one.ideal


def traffic_of(count: int) -> Any:
    chances = 1.0 / np.arange(1, count + 1)
    return chances / chances.sum()


def grank_stream(bench: Bench, people: str, seed: int, impressions: int) -> float:
    """Return the traffic-weighted nDCG@10 of G-Rank on the same kind of stream: thesis mode with F = 1 and one common
    log, but ties in the order of BM25 (by item id, as in the thesis, it starts near .01 and ends near .2).
    """
    from flocklet.events.click import ClickEntry

    rng = np.random.default_rng(seed)
    model = GRank(replace(Settings.thesis(isolation=1, noise=0.5), text_breaks_ties=True))
    world, traffic = click_model(people), traffic_of(len(bench.queries))
    names = [normalise_query(one.text) for one in bench.queries]
    strongest = max(max(one.judged.values()) for one in bench.queries)
    me = (0).to_bytes(16, "big")
    for step, at in enumerate(rng.choice(len(names), impressions, p=traffic).tolist()):
        one = bench.queries[at]
        ranking = model.order(names[at], one.ids, one.scores, me=me, rng=rng)
        place = {item: n for n, item in enumerate(one.ids.tolist())}
        order = np.array([place[item] for item in ranking.ids[:10].tolist()])
        clicks = np.flatnonzero(world.sample(graded(one.gains[order], strongest)[None], rng)[0])
        for click in clicks.tolist():
            shown = tuple(int(item) for item in one.ids[order])
            model.learn(ClickEntry(me, step + 1, names[at], shown, click, 0))
    result = []
    for at, one in enumerate(bench.queries):
        place = {item: n for n, item in enumerate(one.ids.tolist())}
        ranking = model.order(names[at], one.ids, one.scores, me=me)
        result.append(ndcg(one, np.array([place[item] for item in ranking.ids.tolist()])))
    return float(traffic @ np.array(result))


def part_repeated(bench: Bench, seeds: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for people in PEOPLE:
        five, twenty, shown = [], [], []
        for seed in range(seeds):
            _, curve = learn_from_clicks(
                bench.queries,
                click_model(people),
                np.random.default_rng(seed),
                impressions=20_000,
                marks=(5_000,),
            )
            five.append(curve.learnt[0])
            twenty.append(curve.learnt[1])
            shown.append(curve.shown[1])
        for name, values in (("5k", five), ("20k", twenty), ("20k as shown", shown)):
            report[f"{people} {name}"] = spread(values)
            show(f"{people} {name}", report[f"{people} {name}"])
    return report


def part_grank(bench: Bench, seeds: int) -> dict[str, Any]:
    report = {
        f"grank {people} 5k": spread([grank_stream(bench, people, seed, 5_000) for seed in range(seeds)])
        for people in PEOPLE
    }
    for name, row in report.items():
        show(name, row)
    return report


def part_mismatch(bench: Bench, seeds: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for people, by_rank_only in (("pbm", True), ("dbn", True), ("dbn", False)):
        values = []
        for seed in range(seeds):
            _, curve = learn_from_clicks(
                bench.queries,
                click_model(people),
                np.random.default_rng(seed),
                impressions=5_000,
                by_rank_only=by_rank_only,
            )
            values.append(curve.learnt[-1])
        name = f"people {people}, learner {'PBM' if by_rank_only else 'as shipped'}"
        report[name] = spread(values)
        show(name, report[name])
    return report


def decentralised(bench: Bench, people: str, seed: int, impressions: int, peers: int) -> tuple[float, float]:
    """Return (one central log, mean over peers with their own logs) of the same kind of stream and persons."""
    results = []
    for is_central in (True, False):
        rng = np.random.default_rng(seed)
        world, traffic = click_model(people), traffic_of(len(bench.queries))
        names = [normalise_query(one.text) for one in bench.queries]
        priors = [text_prior(one.scores) for one in bench.queries]
        strongest = max(max(one.judged.values()) for one in bench.queries)
        models = [Posterior() for _ in range(1 if is_central else peers)]
        knows = [0] * len(models)
        log: list[tuple[bytes, str, list[int], Any]] = []
        held: list[set[int]] = [set() for _ in models]
        for step in range(impressions):
            at, peer = int(rng.choice(len(names), p=traffic)), int(rng.integers(peers))
            me = peer.to_bytes(16, "big")
            number = 0 if is_central else peer
            model, one = models[number], bench.queries[at]
            if not is_central:  # a full pull from one random peer before asking
                for event in sorted(held[int(rng.integers(peers))] - held[peer]):
                    model.observe(*log[event])
                    held[peer].add(event)
            found = model.evidence(names[at], one.ids, me=me)
            order = model.explore(model.scores(found, priors[at]), found, rng)[:10]
            clicks = world.sample(graded(one.gains[order], strongest)[None], rng)[0]
            log.append((me, names[at], one.ids[order].tolist(), clicks))
            model.observe(*log[-1])
            held[number].add(step)
            if model.impressions - knows[number] > max(100, knows[number] // 2):
                model.fit_propensities(own=[me] if not is_central else [])
                knows[number] = model.impressions
        scores = []
        for number, model in enumerate(models):
            me = number.to_bytes(16, "big") if not is_central else b""
            values = [
                ndcg(
                    one, np.argsort(-model.scores(model.evidence(name, one.ids, me=me), prior), kind="stable")
                )
                for one, name, prior in zip(bench.queries, names, priors, strict=True)
            ]
            scores.append(float(traffic @ np.array(values)))
        results.append(float(np.mean(scores)))
    return results[0], results[1]


def part_decentralised(bench: Bench, seeds: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for people in PEOPLE:
        pairs = [decentralised(bench, people, seed, 5_000, 20) for seed in range(seeds)]
        report[f"{people} central"] = spread([pair[0] for pair in pairs])
        report[f"{people} 20 peers"] = spread([pair[1] for pair in pairs])
        show(f"{people} central", report[f"{people} central"])
        show(f"{people} 20 peers", report[f"{people} 20 peers"])
    return report


def lambdamart(bench: Bench, seed: int) -> float | None:
    """Return the nDCG@10 of LightGBM's LambdaMART on the same features, folds drawn from the same seed."""
    try:
        import lightgbm
    except ImportError:
        return None
    lists = bench.lists()
    result = np.zeros(len(lists))
    for train, test in k_fold(len(lists), 5, np.random.default_rng(seed)):
        ranker = lightgbm.LGBMRanker(
            n_estimators=120,
            learning_rate=0.05,
            num_leaves=15,
            min_child_samples=20,
            random_state=seed,
            n_jobs=1,
            verbose=-1,
        )
        used = [lists[at] for at in train.tolist() if len(lists[at].gains)]
        ranker.fit(
            np.concatenate([one.matrix for one in used]),
            np.concatenate([one.gains for one in used]),
            group=[len(one.gains) for one in used],
        )
        for at in test.tolist():
            if len(lists[at].gains):
                order = np.argsort(-ranker.booster_.predict(lists[at].matrix), kind="stable")
                result[at] = ndcg(bench.queries[at], order)
    return float(result.mean())


def timed_lambdamart(bench: Bench, matrix: Any, timed: Callable[[str, Callable[[], Any], int], None]) -> None:
    """Time LightGBM on the same list, if it is installed."""
    try:
        import lightgbm
    except ImportError:
        print("lambdamart: not installed (pip install lightgbm scipy)")
        return
    used = [one for one in bench.lists() if len(one.gains)]
    ranker = lightgbm.LGBMRanker(n_estimators=120, learning_rate=0.05, num_leaves=15, n_jobs=1, verbose=-1)
    ranker.fit(
        np.concatenate([one.matrix for one in used]),
        np.concatenate([one.gains for one in used]),
        group=[len(one.gains) for one in used],
    )
    booster = ranker.booster_
    timed(
        "scores and sort, LightGBM LambdaMART, 120 trees", lambda: np.argsort(-booster.predict(matrix)), 200
    )


def part_unseen(bench: Bench, seeds: int) -> dict[str, Any]:
    base = figures(bench.queries, [one.ids for one in bench.queries]).values["ndcg@10"]
    values, chances, others = [], [], []
    for seed in range(seeds):
        rankings, _ = rerank_cv(bench.queries, bench.index, np.random.default_rng(seed))
        reached = figures(bench.queries, rankings).values["ndcg@10"]
        values.append(float(reached.mean()))
        chances.append(paired_randomisation_test(reached, base, np.random.default_rng(0)))
        other = lambdamart(bench, seed)
        if other is not None:
            others.append(other)
    report: dict[str, Any] = {"bm25": spread([float(base.mean())]), "rerank_cv": spread(values)}
    report["rerank_cv"]["p_vs_bm25"] = float(np.median(chances))
    if others:
        report["lambdamart"] = spread(others)
    else:
        print("lambdamart: not installed (pip install lightgbm scipy)")
    for name, row in report.items():
        show(f"{bench.name} {name}", row)
    print(f"{bench.name} p against BM25 (median): {np.median(chances):.4f}")
    return report


def study(bench: Bench, seeds: int, rows: dict[str, StudySettings]) -> dict[str, Any]:
    lists = bench.lists()
    report: dict[str, Any] = {}
    cuts = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(lists))
        cuts.append((np.sort(order[len(lists) // 4 :]), np.sort(order[: len(lists) // 4])))
    report["bm25"] = spread(
        [float(ndcg_of(Lists(lists).take(test), bm25_weights()).mean()) for _, test in cuts]
    )
    show("bm25 on the test quarters", report["bm25"])
    for name, settings in rows.items():
        results = [
            run_study(lists, train, test, click_model("nav"), np.random.default_rng(seed), settings)
            for seed, (train, test) in enumerate(cuts)
        ]
        base = [float(ndcg_of(Lists(lists).take(test), bm25_weights()).mean()) for _, test in cuts]
        report[name] = {
            "mean": spread([float(one.ndcg.mean()) for one in results]),
            "worst": spread([float(one.ndcg.min()) for one in results]),
            "worst minus bm25": spread(
                [float(one.ndcg.min()) - b for one, b in zip(results, base, strict=True)]
            ),
            "honest": dict(sum((one.honest for one in results[1:]), results[0].honest)),
            "hostile": dict(sum((one.hostile for one in results[1:]), results[0].hostile)),
        }
        for key in ("mean", "worst", "worst minus bm25"):
            show(f"{name}: {key}", report[name][key])
        print(f"    honest models {report[name]['honest']}, hostile {report[name]['hostile']}", flush=True)
    return report


def part_swarm(bench: Bench, seeds: int) -> dict[str, Any]:
    return study(
        bench,
        seeds,
        {
            "alone": StudySettings(gossips=False),
            "averaging": StudySettings(gate=OPEN_GATE),
            "clip + gate + median": StudySettings(),
            "MLP-64, clip + gate + median": StudySettings(is_deep=True),
        },
    )


def part_byzantine(bench: Bench, seeds: int) -> dict[str, Any]:
    rows = {}
    for attack in ("flip", "scale", "noise", "lie", "adaptive"):
        rows[f"{attack}, no defence"] = StudySettings(byzantine=6, attack=attack, gate=OPEN_GATE)
        rows[f"{attack}, clip + gate + median"] = StudySettings(byzantine=6, attack=attack)
    return study(bench, seeds, rows)


def part_time(bench: Bench, seeds: int) -> dict[str, Any]:
    one = max(bench.queries, key=lambda query: len(query.ids))
    features = Features(bench.index)
    matrix = features.matrix(one.text, one.ids, one.scores)
    report = {}

    def timed(name: str, action: Callable[[], Any], rounds: int) -> None:
        action()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            action()
            times.append((time.perf_counter() - start) * 1e6)
        report[name] = {"median_us": float(np.median(times)), "p95_us": float(np.percentile(times, 95))}
        print(f"{name:42} {report[name]['median_us']:.1f} us  (p95 {report[name]['p95_us']:.1f})")

    linear, deep = (PdgdRanker(np.random.default_rng(0), is_deep=is_deep) for is_deep in (False, True))
    quick = QuickScorer(deep.parameters)
    for name, ranker in (("linear", linear), ("MLP-64", deep), (f"MLP-64, kernel ({quick.backend})", quick)):
        timed(
            f"scores and sort of {len(matrix)}, {name}", lambda r=ranker: np.argsort(-r.scores(matrix)), 2_000
        )
    timed_lambdamart(bench, matrix, timed)
    timed("features of 100 candidates", lambda: features.matrix(one.text, one.ids, one.scores), 50)
    return report


PARTS: dict[str, Callable[[Bench, int], dict[str, Any]]] = {
    "repeated": part_repeated,
    "grank": part_grank,
    "decentralised": part_decentralised,
    "mismatch": part_mismatch,
    "unseen": part_unseen,
    "swarm": part_swarm,
    "byzantine": part_byzantine,
    "time": part_time,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per collection")
    parser.add_argument("--collection", default="cranfield")
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (
        "OMP_NUM_THREADS" not in os.environ
    ):  # libraries read it when they are loaded: start again with one thread
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})
    bench = Bench(args.data / args.collection)
    report = {"collection": bench.name, "queries": len(bench.queries)}
    for part in args.part:
        print(f"-- {part}, {bench.name}")
        report[part] = PARTS[part](bench, args.seeds)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
