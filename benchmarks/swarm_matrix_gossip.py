"""The matrix between neighbours, in the simulator: `python benchmarks/swarm_matrix.py KEEP.json --gossip`.

20 peers on a random 10-regular graph, 3 of them lie, nobody has more than two liars among its neighbours (the rules are
told f = 2); softmax on 196 pixels, Dirichlet 0.5 over 6,000 rows, 5 steps of 20 rows at lr 0.2, 15 rounds, fp32. Liars
know what their neighbours sent them, no more. Sybils are ten peers more, each honest peer with one (or three) of them
as a neighbour beyond its ten; all send the same model, learnt from rows whose 0 and 1 are swapped. Every peer may look
at ten labelled rows per class (Bristle does). Accuracy is the mean over the honest peers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from swarm_matrix import Cell, Mnist, make

from flocklet.models.mlp import Mlp
from flocklet.swarm.attacks.model import Attack, add_sybils
from flocklet.swarm.sim.laboratory import attack_success
from flocklet.swarm.sim.network import Conditions
from flocklet.swarm.sim.simulation import Simulation
from flocklet.swarm.strategy import Strategy
from flocklet.swarm.task import Task
from flocklet.swarm.topologies import Graph, regular

RULES = {
    "mean": "mean",
    "metropolis": "metropolis",
    "weighted": "weighted",
    "median": "median",
    "trimmed": "trimmed(2)",
    "krum": "krum(2)",
    "multikrum": "multikrum(2)",
    "bulyan": "bulyan(2)",
    "rfa": "rfa",
    "cclip": "cclip",
    "normbound": "normbound",
    "nnm+trimmed": "trimmed(2,nnm=true)",
    "bucketing+median": "median(bucket=2)",
    "fltrust": "fltrust",
    "flag": "flag",
    "foolsgold": "foolsgold",
    "sybilwall": "sybilwall",
    "centred": "centred",
    "bristle": "bristle",
}
ATTACKS: dict[str, tuple[str, float | None]] = {
    "none": ("none", None),
    "noise": ("noise", None),
    "uniform": ("uniform", None),
    "sign flip": ("signflip", None),
    "x(-10)": ("scale", -10.0),
    "-3 mean": ("invert", 3.0),
    "ALIE 0.21": ("alie", 0.21),
    "ALIE 1": ("alie", 1.0),
    "IPM 0.1": ("ipm", 0.1),
    "IPM 0.5": ("ipm", 0.5),
    "dissensus": ("dissensus", None),
    "drop 80 %": ("drop", 0.8),
    "constant 100": ("constant", None),
    "denormal": ("denormal", None),
    "mute": ("mute", None),
    "liar": ("liar", None),
    "free rider": ("freerider", None),
    "stale": ("stale", None),
    "replay": ("replay", None),
    "label flip": ("labelflip", None),
    "labels reversed": ("reversed", None),
    "sybil 10 x 1": ("sybil", 1),
    "sybil 10 x 3": ("sybil", 3),
    "backdoor": ("backdoor", None),
}
PEERS, DEGREE, LIARS, SYBILS, MOST = 20, 10, 3, 10, 2


class Gossiping:
    name, title = "gossip", "3 of 20 lie, 10 neighbours"
    splits: Sequence[str] = ("alpha .5",)
    attacks: Sequence[str] = tuple(ATTACKS)
    rules: Sequence[str] = tuple(RULES)
    first: Sequence[str] = ()

    def measure(
        self, mnist: Mnist, seed: int, split: str, attack: str, rules: Sequence[str]
    ) -> Iterator[tuple[str, Cell]]:
        """Yield rule and cell."""
        task, graph, liars = setting(mnist, seed, attack)
        for rule in rules:
            yield rule, cell(task, graph, liars, seed, attack, rule)


def setting(mnist: Mnist, seed: int, attack: str) -> tuple[Task, Graph, list[int]]:
    """Return the task with its probe rows, the graph, and who lies."""
    task = make(mnist, seed, PEERS, (196, 10), 0.5, rows=6000)
    train, _ = mnist
    rng = np.random.default_rng(1000 + seed)
    order = rng.permutation(len(train.labels))
    shown = np.concatenate([order[train.labels[order] == c][:10] for c in range(10)])
    task = Task(
        Mlp((196, 10)),
        np.concatenate([task.features, train.features[shown]]),
        np.concatenate([task.labels, train.labels[shown]]),
        task.test_features,
        task.test_labels,
        task.shares,
        probe=np.arange(len(task.labels), len(task.labels) + len(shown)),
    )
    graph = regular(PEERS, DEGREE, rng)
    kind, edges = ATTACKS[attack]
    if kind == "none":
        return task, graph, []
    if kind == "sybil" and edges is not None:
        some = rng.choice(6000, 600, replace=False)
        labels = task.labels[some]
        flipped = np.where(labels == 0, 1, np.where(labels == 1, 0, labels))
        task = add_sybils(task, SYBILS, task.features[some], flipped)
        return task, with_sybils(graph, int(edges), rng), list(range(PEERS, PEERS + SYBILS))
    while True:
        liars = sorted(rng.choice(PEERS, LIARS, replace=False).tolist())
        if all(len(set(row) & set(liars)) <= MOST for row in graph):
            return task, graph, liars


def with_sybils(honest: Graph, edges: int, rng: np.random.Generator) -> Graph:
    """Return the graph with ten vertices more; each old one has `edges` of them as neighbours, dealt in turn."""
    rows = [list(row) for row in honest] + [[] for _ in range(SYBILS)]
    deck = rng.permutation(SYBILS)
    for i in range(len(honest)):
        for k in range(edges):
            sybil = len(honest) + int(deck[(i * edges + k) % SYBILS])
            rows[i].append(sybil)
            rows[sybil].append(i)
    return tuple(tuple(sorted(row)) for row in rows)


def cell(
    task: Task, graph: Graph, liars: Sequence[int], seed: int, attack: str, rule: str, rounds: int = 15
) -> Cell:
    """Return the accuracy of the honest peers and what the attacker achieved."""
    kind, strength = ATTACKS[attack]
    cabal: dict[bytes, np.ndarray] = {}
    attacks = {i: Attack(kind, None if kind == "sybil" else strength, cabal=cabal) for i in liars}
    text = f"regular({DEGREE},deadline=1)|sgd(lr=0.2,steps=5,batch=20)|{RULES[rule]}"
    swarm = Simulation(
        Strategy.parse(text), task, seed=seed, rounds=rounds, every=rounds, attacks=attacks, graph=graph,
        conditions=Conditions(is_decoded=False),
    ).start()  # fmt: skip
    report = swarm.run()
    honest = [peer.x for i, peer in enumerate(swarm.peers) if i not in attacks]
    named = "label flip" if kind == "sybil" else attack
    return report.accuracy, attack_success(task, np.stack(honest), named)
