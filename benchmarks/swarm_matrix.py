"""Every rule against every attack on MNIST: python benchmarks/swarm_matrix.py KEEP.json [--seeds 5] [--svg FOLDER]

15 peers, 3 liars, 196-32-10, 32 rows a round, lr 0.2; IID for 300 rounds and Dirichlet 0.5 for 200. Each measured cell
is written to KEEP.json at once and never measured again, so the run can be cut (--limit SECONDS) and taken up. Then it
prints the matrix (median over the seeds; * the best of a row) and draws it. Set FLOCKLET_MNIST (flocklet.digits).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flocklet.digits import Images, load_mnist
from flocklet.models.mlp import Mlp
from flocklet.swarm.laboratory import LAB_ATTACKS, LAB_RULES, duel
from flocklet.swarm.plot import heat_map
from flocklet.swarm.task import Task, split_dirichlet, split_iid

SPLITS = {"IID": (None, 300), "alpha .5": (0.5, 200)}
Cells = dict[str, tuple[float, float]]  # "split|attack|rule|seed" -> (accuracy, attack success)


def cells(seeds: int) -> Iterator[tuple[int, str, str, str]]:
    for seed in range(1, seeds + 1):
        for split in SPLITS:
            for attack in LAB_ATTACKS:
                for rule in LAB_RULES:
                    yield seed, split, attack, rule


def make(train: Images, test: Images, seed: int, alpha: float | None) -> Task:
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(train.labels), 20000, replace=False)
    labels = train.labels[picked]
    shares = (
        split_iid(np.arange(20000), 15, rng)
        if alpha is None
        else split_dirichlet(labels, 15, alpha, rng, minimum=10)
    )
    kept = rng.choice(len(test.labels), 3000, replace=False)
    return Task(
        Mlp((196, 32, 10)), train.features[picked], labels, test.features[kept], test.labels[kept], shares
    )


def measure(found: Cells, seeds: int, limit_s: float, keep: Path) -> None:
    train, test = load_mnist()
    began, task, held = time.monotonic(), None, (0, "")
    for seed, split, attack, rule in cells(seeds):
        key = f"{split}|{attack}|{rule}|{seed}"
        if key in found:
            continue
        if time.monotonic() - began > limit_s:
            return
        alpha, rounds = SPLITS[split]
        if task is None or held != (seed, split):
            task, held = make(train, test, seed, alpha), (seed, split)
        found[key] = duel(task, rule, attack, f=3, rounds=rounds, seed=seed)
        keep.write_text(json.dumps(found, indent=0), encoding="utf-8")


def show(found: Cells, folder: Path | None) -> None:
    for split in SPLITS:
        medians: dict[tuple[str, str], float] = {}
        print(f"{split}\n{'':14}" + "".join(f"{rule:>17}" for rule in LAB_RULES))
        for attack in LAB_ATTACKS:
            values: dict[str, list[tuple[float, float]]] = {rule: [] for rule in LAB_RULES}
            for key, value in found.items():
                where, what, rule, _ = key.split("|")
                if (where, what) == (split, attack):
                    values[rule].append((value[0], value[1]))
            if not all(values.values()):
                continue
            line = {rule: np.median(values[rule], axis=0) for rule in LAB_RULES}
            best = max(one[0] for one in line.values())
            shown = ""
            for rule, (accuracy, success) in line.items():
                medians[attack, rule] = float(accuracy)
                extra = f" {100 * success:.0f}%" if attack in ("label flip", "backdoor") else ""
                shown += f"{f'{accuracy:.3f}{extra}' + ('*' if accuracy == best else ' '):>17}"
            seeds = min(len(one) for one in values.values())
            print(f"{attack:14}{shown}  ({seeds} seeds)")
        attacks = [attack for attack in LAB_ATTACKS if (attack, LAB_RULES[0]) in medians]
        if folder is not None and attacks:
            file = folder / f"matrix-{'iid' if split == 'IID' else 'dirichlet'}.svg"
            title = f"Accuracy on MNIST ({split}), 3 of 15 lie"
            file.write_text(heat_map(attacks, LAB_RULES, medians, title=title), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keep", type=Path, help="where cells are kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument("--svg", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    found: Cells = json.loads(args.keep.read_text(encoding="utf-8")) if args.keep.exists() else {}
    measure(found, args.seeds, args.limit, args.keep)
    show(found, args.svg)


if __name__ == "__main__":
    main()
