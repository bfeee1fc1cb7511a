"""Three of fifteen peers lie. Which rule still learns? Each row is an attack, each column a rule; digits, 100 rounds.

Needs scikit-learn (it holds the images): pip install '.[digits]'
"""

from pathlib import Path

from flocklet.plots.swarm import heat_map
from flocklet.swarm.sim.laboratory import duel
from flocklet.swarm.tasks.digits import digits_task

RULES = ("mean", "median", "trimmed", "krum", "multikrum", "rfa", "cclip")
ATTACKS = ("none", "uniform", "x(-10)", "ALIE 1", "IPM 0.5", "label flip")


def main() -> None:
    task = digits_task(peers=15, seed=1, alpha=100.0)
    cells = {
        (attack, rule): duel(task, rule, attack, f=3, rounds=100, seed=1)[0]
        for attack in ATTACKS
        for rule in RULES
    }
    print(f"{'':12}" + "".join(f"{rule:>11}" for rule in RULES))
    for attack in ATTACKS:
        best = max(cells[attack, rule] for rule in RULES)
        marks = (
            f"{cells[attack, rule]:10.3f}{'*' if cells[attack, rule] == best else ' '}" for rule in RULES
        )
        print(f"{attack:12}" + "".join(marks))
    Path("attack_and_defend.svg").write_text(
        heat_map(ATTACKS, RULES, cells, title="Accuracy on digits, 3 of 15 lie")
    )
    print("drawn in attack_and_defend.svg")


if __name__ == "__main__":
    main()
