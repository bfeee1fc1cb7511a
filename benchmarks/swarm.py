"""Swarm learning in virtual time against the project's own targets: python benchmarks/swarm.py [T2 T3 ...] [--json FILE]

MNIST is pooled to 14x14: set FLOCKLET_MNIST (flocklet.swarm.tasks.digits
says how). Every row is a median over the seeds with the
smallest and largest value in brackets; "need" is the target, "met" whether the median meets it.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.models.mlp import Mlp
from flocklet.swarm.attacks.model import Attack, add_sybils
from flocklet.swarm.sim.churn import Happening, at_random, hubs
from flocklet.swarm.sim.network import Conditions
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task, split_by_class, split_dirichlet, split_iid, stratified
from flocklet.swarm.tasks.digits import Images, load_digits, load_mnist
from flocklet.swarm.topologies import Graph, barabasi_albert, regular

Rows = list[dict[str, Any]]
FAST = Conditions(
    is_decoded=False
)  # frames are encoded for real; a test shows that decoding them changes nothing


run = functools.partial(Simulation, conditions=FAST)


class Bench:
    """Collect rows: one per (target, setting), many seeds each."""

    def __init__(self, seeds: int, first: int = 1) -> None:
        self.seeds = range(first, first + seeds)
        self.rows: Rows = []
        self._mnist: tuple[Images, Images] | None = None

    @property
    def mnist(self) -> tuple[Images, Images]:
        if self._mnist is None:
            self._mnist = load_mnist()
        return self._mnist

    def task(
        self,
        seed: int,
        rows: int,
        peers: int,
        sizes: Sequence[int],
        alpha: float | None,
        *,
        tests: int = 3000,
    ) -> Task:
        train, test = self.mnist
        rng = np.random.default_rng(seed)
        picked = rng.choice(len(train.labels), rows, replace=False)
        labels = train.labels[picked]
        shares = (
            split_iid(np.arange(rows), peers, rng)
            if alpha is None
            else split_dirichlet(labels, peers, alpha, rng, minimum=10)
        )
        kept = rng.choice(len(test.labels), tests, replace=False)
        return Task(
            Mlp(sizes), train.features[picked], labels, test.features[kept], test.labels[kept], shares
        )

    def add(
        self,
        target: str,
        what: str,
        unit: str,
        values: Sequence[float],
        need: str = "",
        is_met: Callable[[float], bool] | None = None,
    ) -> float:
        middle = float(np.median(values))
        row = {
            "target": target, "what": what, "unit": unit, "median": middle, "low": float(np.min(values)),
            "high": float(np.max(values)), "values": [float(v) for v in values], "need": need,
            "met": None if is_met is None else bool(is_met(middle)),
        }  # fmt: skip
        self.rows.append(row)
        verdict = "" if row["met"] is None else ("met" if row["met"] else "NOT MET")
        print(
            f"{target:4} {what:58} {middle:10.4g} [{row['low']:.4g}, {row['high']:.4g}] {unit:12} {need:10} {verdict}",
            flush=True,
        )
        return middle


def t2(bench: Bench) -> None:
    """MoDeST against D-PSGD in model transfers to .90."""
    sgd = "sgd(lr=0.2,steps=5,batch=20)"
    transfers: dict[tuple[str, str], list[float]] = {}
    for name, alpha in (("IID", None), ("alpha .3", 0.3)):
        for strategy in ("modest(s=10)", "regular(10)", "onepeer"):
            found = []
            for seed in bench.seeds:
                task = bench.task(seed, 20000, 100, (196, 48, 10), alpha)
                report = run(
                    Strategy.parse(f"{strategy}|{sgd}"), task, seed=seed, rounds=400, every=5, stop_at=0.9,
                    judged=None if "modest" in strategy else range(0, 100, 5),
                ).run()  # fmt: skip
                hit = report.reached(0.9)
                sent = report.messages["trained"] + report.messages["aggregated"] + report.messages["send"]
                found.append(float(sent) if hit else float("inf"))
            transfers[name, strategy] = found
            bench.add("T2a", f"{name}: {strategy}, transfers to .90", "models", found)
        ratio = np.array(transfers[name, "regular(10)"]) / np.array(transfers[name, "modest(s=10)"])
        bench.add("T2a", f"{name}: 10-regular D-PSGD / MoDeST", "x", ratio, ">= 10", lambda x: x >= 10)


def t2b(bench: Bench) -> None:
    """MoDeST when 80 % crash at round 20, and when half the peers leave or join in one run."""
    sgd = "sgd(lr=0.2,steps=5,batch=20)"
    calm, crashed, stall, moved = [], [], [], []
    for seed in bench.seeds:
        task = bench.task(seed, 20000, 100, (196, 48, 10), None)
        rng = np.random.default_rng(seed)
        strategy = Strategy.parse(f"modest(s=10)|{sgd}")
        calm.append(run(strategy, task, seed=seed, rounds=230, every=10).run().accuracy)
        dead = at_random(100, 80, rng)
        report = run(
            strategy, task, seed=seed, rounds=230, every=10, script=[Happening(20, "crash", dead)]
        ).run()
        crashed.append(report.accuracy)
        order = rng.permutation(100).tolist()
        script = [Happening(20 + 2 * i, "leave", (order[i],)) for i in range(25)]
        script += [Happening(21 + 2 * i, "join", (order[99 - i],)) for i in range(25)]
        report = run(strategy, task, seed=seed, rounds=100, every=10, script=script, late=order[75:]).run()
        times = sorted(report.round_times.values())
        gaps = np.diff(times)
        stall.append(float(np.max(gaps) - np.median(gaps)))
        moved.append(report.accuracy)
    bench.add("T2b", "IID, round 230, nobody crashes", "accuracy", calm)
    bench.add("T2b", "IID, round 230, 80 % crash at round 20", "accuracy", crashed)
    lost = 100 * (np.array(calm) - np.array(crashed))
    bench.add("T2b", "cost of the crash", "points", lost, "<= 1", lambda x: x <= 1)
    bench.add("T2c", "25 leave and 25 join, round 100", "accuracy", moved)
    bench.add(
        "T2c", "longest stall beyond a usual round (ping timeout 1 s)", "s", stall, "<= 2", lambda x: x <= 2
    )


def t3(bench: Bench) -> None:
    """Variance correction: gossip from random inits, 50 peers, 8-regular, 60 rounds."""
    sgd = "regular(8)|sgd(lr=0.05,momentum=0.9,steps=5,batch=32)"
    end: dict[str, list[float]] = {}
    for name, alpha, is_shared, rule in (
        ("IID, same init, average", None, True, ""),
        ("IID, same init, corrected", None, True, "|vc"),
        ("IID, random inits, average", None, False, ""),
        ("IID, random inits, corrected", None, False, "|vc"),
        ("alpha .5, random inits, average", 0.5, False, ""),
        ("alpha .5, random inits, corrected", 0.5, False, "|vc"),
    ):
        found = []
        for seed in bench.seeds:
            task = bench.task(seed, 12000, 50, (196, 64, 32, 10), alpha)
            report = run(
                Strategy.parse(sgd + rule), task, seed=seed, rounds=60, every=20, shared_start=is_shared
            ).run()
            found.append(report.accuracy)
        end[name] = found
        control = name == "IID, random inits, average"
        bench.add(
            "T3", name, "accuracy", found, "< .5" if control else "", (lambda x: x < 0.5) if control else None
        )
    gap = 100 * (np.array(end["IID, same init, average"]) - np.array(end["IID, random inits, corrected"]))
    bench.add("T3", "same init - random inits corrected", "points", gap, "<= 1", lambda x: x <= 1)


def _transfer_task(bench: Bench, seed: int, per_peer: int | None, liars: int) -> tuple[Task, int]:
    """Return MNIST14 seen through a hidden layer learnt on scikit-learn's digits, and the bytes of the full model."""
    digits = load_digits()
    at = np.minimum((np.arange(14) * 8 / 14).astype(int), 7)
    big = digits.features.reshape(-1, 8, 8)[:, at][:, :, at].reshape(-1, 196)
    rng = np.random.default_rng(seed)
    whole = Mlp((196, 128, 10))
    params = whole.init(rng)[None]
    for _ in range(3000):
        rows = rng.integers(len(big), size=(1, 32))
        params -= 0.1 * whole.gradient(params, big[rows], digits.labels[rows])[0]
    train, test = bench.mnist

    def hidden(features: np.ndarray) -> np.ndarray:
        return whole.forward(params, features)[1][0]

    picked = rng.permutation(len(train.labels))
    pool, probe = picked[:40000], picked[40000:]
    shares = (
        split_iid(pool[:4000], 10, rng)
        if per_peer is None
        else tuple(pool[s] for s in split_by_class(train.labels[pool], 10, per_peer, rng, rows_each=400))
    )
    shares = (*shares, *([shares[0]] * liars))
    used = np.unique(np.concatenate(shares))
    kept = np.concatenate([probe[train.labels[probe] == c][:10] for c in range(10)])
    rows = np.concatenate([used, kept])
    place = {int(row): i for i, row in enumerate(rows)}
    kept_test = rng.choice(len(test.labels), 3000, replace=False)
    task = Task(
        Mlp((128, 10)), hidden(train.features[rows]), train.labels[rows], hidden(test.features[kept_test]),
        test.labels[kept_test], tuple(np.array([place[int(r)] for r in share]) for share in shares),
        probe=np.arange(len(used), len(rows)),
    )  # fmt: skip
    return task, whole.layout.size * 4


def t4(bench: Bench) -> None:
    """Bristle: 10 honest peers, output layer only, noise and -3 x mean attackers, fully connected."""
    rules = ("mean", "median", "krum", "bristle")
    end: dict[tuple[str, str], list[float]] = {}
    sizes: list[float] = []
    settings = (
        ("IID, no attack", None, None, 0), ("IID, 5 noise", None, "noise", 5), ("IID, 5 x -3 mean", None, "invert", 5),
        ("2 classes, no attack", 2, None, 0), ("2 classes, 5 noise", 2, "noise", 5),
        ("2 classes, 5 x -3 mean", 2, "invert", 5), ("2 classes, 12 noise of 22", 2, "noise", 12),
    )  # fmt: skip
    for name, per_peer, kind, liars in settings:
        for rule in rules:
            found = []
            for seed in bench.seeds:
                task, full_bytes = _transfer_task(bench, seed, per_peer, liars)
                attacks = {10 + i: Attack(kind) for i in range(liars)} if kind else {}
                share = liars / (10 + liars)
                text = rule if rule in ("mean", "median", "bristle") else f"{rule}(f={share:.3f})"
                report = run(
                    Strategy.parse(f"full|sgd(lr=0.05,steps=5,batch=20)|{text}"), task, seed=seed, rounds=40,
                    every=10, attacks=attacks,
                ).run()  # fmt: skip
                found.append(report.accuracy)
                if rule == "bristle" and not liars:
                    sizes.append(100 * (1 - report.bytes / report.messages["send"] / full_bytes))
            end[name, rule] = found
            bench.add("T4", f"{name}: {rule}", "accuracy", found)
    for name, per_peer, kind, _ in settings:
        if per_peer and kind:
            ours = np.array(end[name, "bristle"])
            bench.add(
                "T4", f"{name}: Bristle / Krum", "x", ours / end[name, "krum"], ">= 2.3", lambda x: x >= 2.3
            )
            bench.add(
                "T4",
                f"{name}: Bristle / median",
                "x",
                ours / end[name, "median"],
                ">= 1.15",
                lambda x: x >= 1.15,
            )
    for name in ("IID, no attack", "2 classes, no attack"):
        cost = 100 * (np.array(end[name, "mean"]) - np.array(end[name, "bristle"]))
        bench.add("T4", f"{name}: cost against mean", "points", cost, "<= 3", lambda x: x <= 3)
    bench.add("T4", "bytes saved against the full model", "%", sizes, ">= 90", lambda x: x >= 90)


def _sybil_graph(honest: Graph, sybils: int, edges: int, rng: np.random.Generator) -> Graph:
    rows = [list(row) for row in honest]
    rows += [[] for _ in range(sybils)]
    deck = np.concatenate([rng.permutation(sybils) for _ in range(-(-len(honest) * edges // sybils))])
    for i in range(len(honest)):
        for s in deck[i * edges : (i + 1) * edges].tolist():
            if len(honest) + s not in rows[i]:
                rows[i].append(len(honest) + s)
                rows[len(honest) + s].append(i)
    return tuple(tuple(sorted(row)) for row in rows)


def t5(bench: Bench) -> None:
    """SybilWall: 60 honest softmax peers, 8-regular, alpha .1, sybils that swap 0 and 1."""
    strategies = {
        "average": "mean", "FoolsGold": "foolsgold", "SybilWall": "sybilwall", "centred": "centred",
    }  # fmt: skip
    for sybils, edges in ((0, 0), (10, 1), (30, 2), (60, 4)):
        for name, rule in strategies.items():
            accuracy, success = [], []
            for seed in bench.seeds:
                task = bench.task(seed, 12000, 60, (196, 10), 0.1)
                rng = np.random.default_rng(1000 + seed)
                graph = regular(60, 8, rng)
                attacks: dict[int, Attack] = {}
                if sybils:
                    some = rng.choice(len(task.labels), 2000, replace=False)
                    labels = task.labels[some]
                    flipped = np.where(labels == 0, 1, np.where(labels == 1, 0, labels))
                    keep = np.concatenate([np.flatnonzero(labels < 2), rng.choice(2000, 200, replace=False)])
                    task = add_sybils(task, sybils, task.features[some[keep]], flipped[keep])
                    graph = _sybil_graph(graph, sybils, edges, rng)
                    cabal: dict[bytes, np.ndarray] = {}
                    attacks = {60 + i: Attack("sybil", cabal=cabal) for i in range(sybils)}
                sim = run(
                    Strategy.parse(f"regular(8)|sgd(lr=0.3,steps=10,batch=16)|{rule}"), task, seed=seed,
                    rounds=50, every=50, attacks=attacks, graph=graph,
                )  # fmt: skip
                accuracy.append(sim.run().accuracy)
                models = np.stack([sim.peers[i].x for i in range(60)])
                flips = []
                for c in (0, 1):
                    guess = task.model.predict(models, task.test_features[task.test_labels == c])
                    flips.append((guess == 1 - c).mean())
                success.append(100 * float(np.mean(flips)))
            setting = f"{sybils} sybils, {edges} edges: {name}"
            is_ours = name in ("SybilWall", "centred")
            is_clean = sybils == 0 and name == "centred"
            bench.add(
                "T5",
                setting,
                "accuracy",
                accuracy,
                ">= .75" if is_clean else "",
                (lambda x: x >= 0.75) if is_clean else None,
            )
            if not sybils:
                continue
            if is_ours:
                bench.add("T5", setting, "% success", success, "<= 2", lambda x: x <= 2)
            elif name == "FoolsGold" and sybils == 10:
                bench.add("T5", setting, "% success", success, ">= 50", lambda x: x >= 50)
            else:
                bench.add("T5", setting, "% success", success)


def t8(bench: Bench) -> None:
    """DFedSAM-MGS against DFedAvgM: 50 peers, alpha .3, 80 rounds."""
    for graph, need in (("ring", 2.0), ("regular", 1.0)):
        degree = "10," if graph == "regular" else ""
        end: dict[str, list[float]] = {}
        for name, q, trainer in (
            ("DFedAvgM", 1, "sgd"), ("SAM .2", 1, "sam"), ("MGS Q=4", 4, "sgd"), ("SAM .2 + MGS Q=4", 4, "sam"),
        ):  # fmt: skip
            rho = "rho=0.2," if trainer == "sam" else ""
            text = f"{graph}({degree}q={q})|{trainer}({rho}lr=0.1,decay=0.998,momentum=0.9,steps=5,batch=32)|metropolis"
            found = []
            for seed in bench.seeds:
                task = bench.task(seed, 10000, 50, (196, 64, 10), 0.3)
                found.append(run(Strategy.parse(text), task, seed=seed, rounds=80, every=80).run().accuracy)
            end[name] = found
            bench.add("T8", f"{graph}: {name}", "accuracy", found)
        gain = 100 * (np.array(end["SAM .2 + MGS Q=4"]) - np.array(end["DFedAvgM"]))
        bench.add(
            "T8",
            f"{graph}: SAM + MGS against DFedAvgM",
            "points",
            gain,
            f">= {need:g}",
            lambda x, n=need: x >= n,
        )


def t11(bench: Bench) -> None:
    """Codecs both ways: 10 peers, all train, rotating aggregator, alpha .5, bytes and rounds to .88."""
    base: tuple[np.ndarray, np.ndarray] | None = None
    for codec in (
        "fp32",
        "fp16",
        "int8",
        "int4",
        "topk(0.1)",
        "topk(0.05)",
        "topk(0.05,ef=0)",
        "topk(0.01)",
        "sign",
        "randk(0.1)",
    ):
        rounds, sent = [], []
        for seed in bench.seeds:
            task = bench.task(seed, 20000, 10, (196, 48, 10), 0.5)
            report = run(
                Strategy.parse(f"fedavg|sgd(lr=0.2,steps=5,batch=20)|{codec}"), task, seed=seed, rounds=500,
                every=5, stop_at=0.88,
            ).run()  # fmt: skip
            hit = report.reached(0.88)
            rounds.append(float(hit[0]) if hit else float("inf"))
            sent.append(hit[2] / 1e6 if hit else float("inf"))
        bench.add("T11", f"{codec}: rounds to .88", "rounds", rounds)
        bench.add("T11", f"{codec}: bytes to .88", "MB", sent)
        if base is None:
            base = np.array(rounds), np.array(sent)
        elif codec in ("int4", "topk(0.05)"):
            bench.add("T11", f"{codec}: bytes saved", "x", base[1] / sent, ">= 20", lambda x: x >= 20)
            bench.add(
                "T11",
                f"{codec}: more rounds",
                "x",
                np.array(rounds) / base[0],
                "<= 1.25",
                lambda x: x <= 1.25,
            )


def t12(bench: Bench) -> None:
    """Disasters: 50 peers, Barabasi-Albert m=2, 30 % lost at round 5, with and without the healing sampler."""
    learn = "sgd(lr=0.1,steps=3,batch=32)|metropolis"
    gaps: dict[str, list[float]] = {}
    for seed in bench.seeds:
        task = bench.task(seed, 6000, 50, (196, 64, 10), None)
        rng = np.random.default_rng(seed)
        graph = barabasi_albert(50, 2, rng)
        lost = {"hubs": hubs(graph, 15), "random": at_random(50, 15, rng)}
        calm = run(Strategy.parse(f"ba(2)|{learn}"), task, seed=seed, rounds=80, graph=graph, every=5).run()
        curve = {point[0]: point[3] for point in calm.curve}
        for name, dead in lost.items():
            for heal in (0, 4):
                report = run(
                    Strategy.parse(f"ba(2,heal={heal})|{learn}"), task, seed=seed, rounds=80, graph=graph, every=5,
                    script=[Happening(5, "crash", dead)],
                ).run()  # fmt: skip
                found = {point[0]: point[3] for point in report.curve}
                label = f"30 % {name} lost, {'healing' if heal else 'no healing'}"
                for round in (25, 80):
                    gaps.setdefault(f"{label}, behind at round {round}", []).append(
                        100 * (curve[round] - found[round])
                    )
        gaps.setdefault("no loss, round 80 (accuracy)", []).append(curve[80])
    for name, values in gaps.items():
        is_ours = ", healing" in name and "round 25" in name
        bench.add(
            "T12", name, "points", values, "<= 1" if is_ours else "", (lambda x: x <= 1) if is_ours else None
        )


def t1(bench: Bench) -> None:
    """Ten processes to 95 % on the digits: mDNS, TLS 1.3; own network namespace for true loopback bytes (see below).

    unshare --net --pid --fork --mount-proc sh -c 'ip link set lo up multicast on; ip route add 224.0.0.0/4 dev lo; ...'
    """
    from flocklet.swarm.lan.launcher import launch

    found: dict[str, list[float]] = {}
    for seed in bench.seeds:
        before = _loopback_bytes()
        text = "fedavg|sgd(lr=0.3,epochs=2,batch=16)|int4"
        done = asyncio.run(launch(10, text, seed=seed, rounds=40, stop_at=0.95))
        rounds = max(round for round, _ in done.summaries[0]["models"])
        for name, value in (
            ("training", done.training_s), ("cold start to end", done.cold_s), ("per round", done.training_s / rounds),
            ("on loopback", (_loopback_bytes() - before) / 1e6), ("given to links", done.bytes_out / 1e6),
            ("peak RSS of a peer", max(one["rss_mb"] for one in done.summaries)), ("rounds", rounds),
            ("accuracy", done.summaries[0]["accuracy"]),
        ):  # fmt: skip
            found.setdefault(name, []).append(value)
    needs = {
        "training": ("s", 3.0), "cold start to end": ("s", 8.0), "on loopback": ("MB", 1.2),
        "peak RSS of a peer": ("MB", 60.0),
    }  # fmt: skip
    for name, values in found.items():
        unit, most = needs.get(name, ("", float("inf")))
        need = f"<= {most:g}" if name in needs else ""
        bench.add("T1", name, unit, values, need, (lambda x, m=most: x <= m) if need else None)


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    return 0


def _crowd(peers: int) -> Task:
    images, rng = load_digits(), np.random.default_rng(0)
    train, test = stratified(images.labels, 0.2, rng)
    shares = tuple(np.sort(rng.choice(len(train), 20, replace=False)) for _ in range(peers))
    return Task(
        Mlp((64, 64, 10)), images.features[train], images.labels[train], images.features[test],
        images.labels[test], shares,
    )  # fmt: skip


def scale(bench: Bench) -> None:
    """T16: 1,000 peers x 100 rounds on digits, one run per seed."""
    seconds, rates = [], []
    for seed in bench.seeds:
        strategy = Strategy.parse("onepeer|sgd(lr=0.3,steps=2,batch=16)")
        report = run(strategy, _crowd(1000), seed=seed, rounds=100, every=100).run()
        print(
            f"     seed {seed}: {report.wall_s:.1f} s, log {report.log_hash}, accuracy {report.accuracy:.3f}"
        )
        seconds.append(report.wall_s)
        rates.append(1e5 / report.wall_s)
    bench.add("T16", "1,000 peers x 100 rounds, one-peer exponential", "s", seconds, "< 60", lambda x: x < 60)
    bench.add("T16", "peer-rounds per second", "1/s", rates)


def crowd(bench: Bench) -> None:
    """T16: 10,000 peers x 3 rounds, peak memory of this process: run it alone; each seed must give one log twice."""
    for seed in bench.seeds:
        strategy = Strategy.parse("onepeer|sgd(lr=0.3,steps=2,batch=16)")
        report = run(strategy, _crowd(10_000), seed=seed, rounds=3, every=3).run()
        print(f"     seed {seed}: {report.wall_s:.1f} s, log {report.log_hash}")
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    bench.add(
        "T16", "10,000 peers: peak RSS", "MB", [int(peak.split()[1]) / 1024], "<= 2048", lambda x: x <= 2048
    )


def compiled(bench: Bench) -> None:
    """T16t: NumPy against tinygrad compiled to C, one thread: training alone (5 passes in turns), then a whole run."""
    from flocklet.swarm.tasks.catalogue import make_task
    from flocklet.swarm.trainers.compiled import Compiled
    from flocklet.swarm.trainers.numpy import Sgd

    rng = np.random.default_rng(bench.seeds[0])
    cases = []
    for sizes, batch, steps, peers in (
        ((64, 64, 10), 16, 2, 1000), ((64, 64, 10), 20, 5, 1000), ((196, 256, 10), 64, 2, 200),
        ((64, 64, 64, 10), 20, 5, 500),
    ):  # fmt: skip
        features = rng.normal(size=(1400, sizes[0])).astype(np.float32)
        labels = rng.integers(0, sizes[-1], len(features))
        task = Task(Mlp(sizes), features, labels, features, labels, (np.arange(len(features)),))
        cases.append(("-".join(map(str, sizes)), task, Sgd(lr=0.05, steps=steps, batch=batch), peers))
    for name in ("reranker", "reranker-mlp", "recommender"):
        cases.append((name, make_task(name, 10, 1), Sgd(lr=0.03, steps=5, batch=8), 200))
    for name, task, inner, peers in cases:
        native = Compiled(inner)
        native.prepare(task, inner.batch)
        start = np.stack([task.model.init(rng) for _ in range(peers)])
        plans = [inner.plan(len(task.features), rng, 0) for _ in range(peers)]
        ways = {"NumPy": (inner, 128), "NumPy, 16 peers at a time": (inner, 16), "tinygrad": (native, 128)}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(5):
            for way, (trainer, chunk) in ways.items():
                began = time.perf_counter()
                for at in range(0, peers, chunk):
                    trainer.train(task, start[at : at + chunk], plans[at : at + chunk], 0)
                rates[way].append(peers / (time.perf_counter() - began))
        what = f"{name}, {inner.steps} steps of {inner.batch} rows"
        for way, found in rates.items():
            bench.add("T16t", f"{what}, {way}: peer-rounds trained", "1/s", found)
        best = [max(pair) for pair in zip(*list(rates.values())[:2], strict=True)]
        ratios = [new / old for old, new in zip(best, rates["tinygrad"], strict=True)]
        bench.add("T16t", f"{what}: tinygrad ({native.way}) / the better NumPy", "x", ratios)
    wall: dict[str, list[float]] = {"numpy": [], "tinygrad": []}
    for seed in (1, 2, 3):
        for way, seconds in wall.items():
            strategy = Strategy.parse("onepeer|sgd(lr=0.3,steps=2,batch=16)")
            report = run(strategy, _crowd(1000), seed=seed, rounds=20, every=20, compute=way).run()
            seconds.append(report.wall_s)
    for way, seconds in wall.items():
        bench.add("T16t", f"1,000 peers x 20 rounds, everything, {way}", "s", seconds)


TARGETS: dict[str, Callable[[Bench], None]] = {
    "T1": t1, "T2": t2, "T2b": t2b, "T3": t3, "T4": t4, "T5": t5, "T8": t8, "T11": t11, "T12": t12, "T16": scale,
    "T16c": crowd, "T16t": compiled,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    bench = Bench(args.seeds, args.first)
    for name in args.targets or TARGETS:
        began = time.perf_counter()
        print(f"{name}: {TARGETS[name].__doc__}")
        TARGETS[name](bench)
        print(f"     ({time.perf_counter() - began:.0f} s)\n")
    if args.json:
        args.json.write_text(json.dumps(bench.rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
