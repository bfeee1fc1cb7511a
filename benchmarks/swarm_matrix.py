"""Every rule against every attack on MNIST: python benchmarks/swarm_matrix.py KEEP.json [--seeds 5] [--svg FOLDER]

Without --gossip: 15 peers, 3 liars who know all honest changes, no network; 196-32-10, 32 rows a round, lr 0.2; IID for
300 rounds and Dirichlet 0.5 for 200. With it: the simulator (swarm_matrix_gossip.py), for rules and attacks that need
neighbours. Each measured cell is written to KEEP.json at once and never measured again, so the run can be cut (--limit
SECONDS) and taken up; several KEEP files are shown as one, the first is written. Then it prints the matrix in Markdown
(median over the seeds; bold: the best of a row) and draws it. --check measures the cells of the design's table as it
was made, on the first rows of MNIST, and compares cell by cell. Set FLOCKLET_MNIST (flocklet.swarm.tasks.digits).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from flocklet.models.mlp import Mlp
from flocklet.plots.swarm import heat_map
from flocklet.swarm.sim.laboratory import LAB_ATTACKS, LAB_RULES, TARGETED, contest
from flocklet.swarm.task import Task, split_dirichlet, split_iid
from flocklet.swarm.tasks.digits import Images, load_mnist

Cell = tuple[float, float]  # accuracy, attack success
Cells = dict[str, Cell]  # "split|attack|rule|seed" -> cell
Mnist = tuple[Images, Images]

# The design's table (1 or 2 seeds): rule by rule what a prototype measured.
KNOWN_RULES = ("mean", "median", "trimmed", "krum", "multikrum", "bulyan", "rfa", "cclip", "flag", "flag4")
KNOWN = {
    ("IID", "none"): (0.873, 0.864, 0.873, 0.850, 0.871, 0.873, 0.873, 0.872, 0.865, 0.854),
    ("IID", "uniform"): (0.113, 0.854, 0.857, 0.853, 0.871, 0.863, 0.871, 0.869, 0.861, 0.849),
    ("IID", "x(-10)"): (0.098, 0.855, 0.857, 0.857, 0.871, 0.860, 0.863, 0.862, 0.853, 0.842),
    ("IID", "IPM 0.5"): (0.863, 0.835, 0.846, 0.468, 0.848, 0.782, 0.839, 0.861, 0.827, 0.825),
    ("IID", "ALIE 1"): (0.766, 0.638, 0.640, 0.847, 0.827, 0.810, 0.805, 0.743, 0.758, 0.809),
    ("alpha .5", "none"): (0.856, 0.802, 0.856, 0.826, 0.857, 0.856, 0.854, 0.855, 0.829, 0.735),
    ("alpha .5", "uniform"): (0.105, 0.707, 0.744, 0.826, 0.856, 0.801, 0.845, 0.844, 0.806, 0.632),
    ("alpha .5", "IPM 0.5"): (0.837, 0.634, 0.743, 0.606, 0.746, 0.603, 0.697, 0.834, 0.723, 0.706),
    ("alpha .5", "ALIE 1"): (0.821, 0.629, 0.615, 0.813, 0.813, 0.719, 0.650, 0.690, 0.683, 0.549),
}


class Matrix(Protocol):
    """What is measured: rules x attacks x splits."""

    name: str
    title: str
    splits: Sequence[str]
    attacks: Sequence[str]
    rules: Sequence[str]

    def measure(
        self, mnist: Mnist, seed: int, split: str, attack: str, rules: Sequence[str]
    ) -> Iterator[tuple[str, Cell]]:
        """Yield rule and cell."""
        ...


class Laboratory:
    name, title = "laboratory", "3 of 15 lie"
    splits: Sequence[str] = ("IID", "alpha .5")
    attacks: Sequence[str] = tuple(LAB_ATTACKS)
    rules: Sequence[str] = LAB_RULES

    def measure(
        self, mnist: Mnist, seed: int, split: str, attack: str, rules: Sequence[str]
    ) -> Iterator[tuple[str, Cell]]:
        """Yield rule and cell; all rules run side by side on the same rows."""
        task = self.task(mnist, seed, None if split == "IID" else 0.5)
        rounds = 300 if split == "IID" else 200
        yield from contest(task, rules, attack, f=self.told(attack), rounds=rounds, seed=seed).items()

    def told(self, attack: str) -> int:
        """Return f: as on a real network, a rule is told of three liars even when there are none."""
        return 3

    def task(self, mnist: Mnist, seed: int, alpha: float | None) -> Task:
        """Return 20,000 rows for 15 peers."""
        return make(mnist, seed, 15, (196, 32, 10), alpha)


class Design(Laboratory):
    """The laboratory as the design's table was made: the first rows of each file, f = 0 without an attack.

    The first half of MNIST's test file is the harder one: the plain mean reaches .87 there and .90 on all of it.
    """

    name = "design"
    attacks = ("none", "uniform", "x(-10)", "IPM 0.5", "ALIE 1")
    rules = KNOWN_RULES

    def told(self, attack: str) -> int:
        """Return f."""
        return 0 if attack == "none" else 3

    def task(self, mnist: Mnist, seed: int, alpha: float | None) -> Task:
        """Return the first 20,000 rows for 15 peers, judged by the first 5,000 test rows."""
        (train, test), rng = mnist, np.random.default_rng(seed)
        labels = train.labels[:20000]
        shares = (
            split_iid(np.arange(20000), 15, rng)
            if alpha is None
            else split_dirichlet(labels, 15, alpha, rng, minimum=10)
        )
        model = Mlp((196, 32, 10))
        return Task(model, train.features[:20000], labels, test.features[:5000], test.labels[:5000], shares)


def make(
    mnist: Mnist, seed: int, peers: int, sizes: Sequence[int], alpha: float | None, rows: int = 20000
) -> Task:
    """Return MNIST pooled to 14 x 14, shared out; 3,000 test rows."""
    train, test = mnist
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(train.labels), rows, replace=False)
    labels = train.labels[picked]
    shares = (
        split_iid(np.arange(rows), peers, rng)
        if alpha is None
        else split_dirichlet(labels, peers, alpha, rng, minimum=10)
    )
    kept = rng.choice(len(test.labels), 3000, replace=False)
    return Task(Mlp(sizes), train.features[picked], labels, test.features[kept], test.labels[kept], shares)


def measure(matrix: Matrix, found: Cells, seeds: range, limit_s: float, keep: Path) -> None:
    """Fill in what is missing."""
    mnist, began = load_mnist(), time.monotonic()
    for seed, split, attack in itertools.product(seeds, matrix.splits, matrix.attacks):
        missing = [rule for rule in matrix.rules if f"{split}|{attack}|{rule}|{seed}" not in found]
        if not missing:
            continue
        if time.monotonic() - began > limit_s:
            return
        for rule, cell in matrix.measure(mnist, seed, split, attack, missing):
            found[f"{split}|{attack}|{rule}|{seed}"] = cell
        spare = keep.with_suffix(".new")
        spare.write_text(json.dumps(found, indent=0), encoding="utf-8")
        os.replace(spare, keep)


def gather(found: Cells, split: str, attack: str, rule: str) -> np.ndarray:
    """Return the cells of all seeds, (seeds, 2)."""
    start = f"{split}|{attack}|{rule}|"
    return np.array([cell for key, cell in found.items() if key.startswith(start)]).reshape(-1, 2)


def show(matrix: Matrix, found: Cells, folder: Path | None) -> None:
    """Print one Markdown table per split, with attacks of which every rule was measured; draw them."""
    for split in matrix.splits:
        cells = {(a, r): gather(found, split, a, r) for a in matrix.attacks for r in matrix.rules}
        attacks = [a for a in matrix.attacks if all(len(cells[a, r]) for r in matrix.rules)]
        if not attacks:
            continue
        middle = {key: np.median(values, axis=0) for key, values in cells.items() if len(values)}
        seeds = [len(cells[a, r]) for a in attacks for r in matrix.rules]
        print(f"\n{split}, {matrix.title}, {min(seeds)} seeds\n")
        print("| attack | " + " | ".join(matrix.rules) + " |\n|---" + "|---" * len(matrix.rules) + "|")
        for attack in attacks:
            best = max(middle[attack, rule][0] for rule in matrix.rules)
            shown = []
            for rule in matrix.rules:
                accuracy, success = middle[attack, rule]
                text = f"{accuracy:.3f}".lstrip("0")
                text = f"**{text}**" if accuracy >= best - 0.0005 else text
                shown.append(text + (f" / {100 * success:.0f} %" if _is_targeted(attack) else ""))
            print(f"| {attack} | " + " | ".join(shown) + " |")
        if folder is not None:
            file = folder / f"swarm-{matrix.name}-{'iid' if split == 'IID' else 'dirichlet'}.svg"
            values = {key: float(value[0]) for key, value in middle.items()}
            title = (
                f"Accuracy on MNIST, {'IID' if split == 'IID' else 'Dirichlet ' + split[6:]}, {matrix.title}"
            )
            notes = {key: f"{100 * value[1]:.0f} %" for key, value in middle.items() if _is_targeted(key[0])}
            file.write_text(
                heat_map(attacks, matrix.rules, values, title=title, notes=notes), encoding="utf-8"
            )


def _is_targeted(attack: str) -> bool:
    return attack in TARGETED or attack.startswith("sybil")


def check(found: Cells) -> None:
    """Compare with the design's table: a cell agrees within the spread of our seeds, or one point if that is more."""
    agree = count = 0
    for (split, attack), row in KNOWN.items():
        for rule, known in zip(KNOWN_RULES, row, strict=True):
            ours = gather(found, split, attack, rule)[:, 0]
            if not len(ours):
                continue
            low, high, spread = ours.min(), ours.max(), max(np.ptp(ours), 0.01)
            is_fine = low - spread <= known <= high + spread
            agree, count = agree + is_fine, count + 1
            verdict = "" if is_fine else f"  ({'above' if low > known else 'below'} the design)"
            here = f"{np.median(ours):.3f} [{low:.3f}, {high:.3f}]"
            print(f"{split:9} {attack:8} {rule:10} design {known:.3f}  here {here}{verdict}")
    print(f"{agree} of {count} cells agree")


def _gossip() -> Matrix:
    from swarm_matrix_gossip import Gossiping

    return Gossiping()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keep", type=Path, nargs="+", help="where cells are kept")
    parser.add_argument("--gossip", action="store_true", help="between neighbours, in the simulator")
    parser.add_argument("--check", action="store_true", help="the cells of the design's table, compared")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--svg", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    matrix: Matrix = _gossip() if args.gossip else Design() if args.check else Laboratory()
    found: Cells = {}
    for keep in reversed(args.keep):
        found |= json.loads(keep.read_text(encoding="utf-8")) if keep.exists() else {}
    measure(matrix, found, range(args.first, args.first + args.seeds), args.limit, args.keep[0])
    if args.check:
        check(found)
    else:
        show(matrix, found, args.svg)


if __name__ == "__main__":
    main()
