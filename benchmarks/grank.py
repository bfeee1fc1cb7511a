"""Reproduce the G-Rank thesis: its curve, what users are really shown, attacks, audit switches, bytes of a pull.

    python benchmarks/grank.py [--seeds 5] [--only curve,attacks,audit] [--match TEXT] [--json FILE] [--svg FILE]

The reference curve is that of a prototype (one seed, original data); ours runs on
generated data of the same shape, `--seeds` seeds, mean and standard deviation.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.thesis import Config, Measure, Simulation, simulate
from studies.thesis_bytes import Scale

REFERENCE = {0: 122.0, 1000: 66.5, 2000: 21.8, 3000: 8.0, 5000: 3.2}
TICKS = (0, 1000, 2000, 3000, 4500, 5000, 10000)
FIELDS = ("distance", "top_held", "shown_distance", "shown_top1", "sent")
MODES = {
    "thesis F=0": Config(),
    "thesis F=1": Config(isolation=1.0),
    "one vote F=0": Config(one_vote=True),
    "default (one vote F=1)": Config(isolation=1.0, one_vote=True),
}
ATTACKS: dict[str, dict[str, Any]] = {
    "coordinated, 10 of 110": {"attack": "coordinated"},
    "targeted, 10 of 110": {"attack": "targeted"},
    "inflation, 10 x 1000": {"attack": "inflation", "clicks_per_sybil": 1_000},
    "coordinated, push gossip": {"attack": "coordinated", "gossip": "push"},
    "targeted, push gossip": {"attack": "targeted", "gossip": "push"},
    "epic, 300 of 400": {"attack": "epic", "sybils": 300},
}
TARGETED = {"attack": "targeted", "ticks": 6_500}
AUDIT: dict[str, dict[str, Any]] = {
    "thesis as written, F=1": {},
    "1 squares the other term": {"squares_terms": True},
    "2 F overwritten": {"drops_isolation": True},
    "3 similarity by item row": {"aligns_by_row": True},
    "4 off: thesis' attack": TARGETED,
    "4 on: notebook's attack": {**TARGETED, "notebook_attack": True},
}


def at(run: Simulation, tick: int) -> Measure:
    """Return the measurement at `tick`."""
    return next(measure for measure in run.measures if measure.tick == tick)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def is_converged(run: Simulation) -> bool:
    """Return whether the thesis metric has come down to 5."""
    return run.measures[-1].tick >= 3_000 and run.measures[-1].distance <= 5


def curve(seeds: int, match: str) -> dict[str, Any]:
    """Run every mode without an attack."""
    result: dict[str, Any] = {}
    for name, config in MODES.items():
        if match not in name:
            continue
        runs, weighed, cpu_s = [], [], []
        for seed in range(seeds):
            start_s = time.process_time()
            runs.append(simulate(config, seed))
            cpu_s.append(time.process_time() - start_s)
            if name == "thesis F=0":
                scale = Scale(200, is_converged)
                simulate(dataclasses.replace(config, ticks=7_000), seed, scale)
                weighed += scale.sizes
        found: dict[str, Any] = {
            "rows": {
                tick: {field: mean_sd([getattr(at(run, tick), field) for run in runs]) for field in FIELDS}
                for tick in TICKS
            },
            "line": [
                (measure.tick, float(np.mean([run.measures[number].distance for run in runs])))
                for number, measure in enumerate(runs[0].measures)
            ],
            "cpu_s": float(np.median(cpu_s)),
        }
        if weighed:
            found["pull_bytes"] = weigh(np.array(weighed, dtype=float))
        result[name] = found
        print_curve(name, found)
    return result


def weigh(sizes: Any) -> dict[str, float]:
    """Sum up (bytes, entries) of pulls."""
    return {
        "mean": float(sizes[:, 0].mean()),
        "median": float(np.median(sizes[:, 0])),
        "p95": float(np.quantile(sizes[:, 0], 0.95)),
        "entries": float(sizes[:, 1].mean()),
        "pulls": len(sizes),
    }


def print_curve(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}   ({found['cpu_s']:.1f} s CPU per run)")
    print(
        f"{'tick':>6} {'distance':>14} {'reference':>12} {'shown dist.':>12} {'shown top-1':>12} {'entries':>8}"
    )
    for tick, row in found["rows"].items():
        mean, deviation = row["distance"]
        reference = ""
        if name == "thesis F=0" and tick in REFERENCE:
            reference = f"{REFERENCE[tick]} {mean / REFERENCE[tick] - 1:+.0%}"
        print(
            f"{tick:>6} {mean:>8.1f} ± {deviation:<3.1f} {reference:>12} {row['shown_distance'][0]:>12.1f}"
            f" {row['shown_top1'][0]:>12.3f} {row['sent'][0]:>8.0f}",
            flush=True,
        )
    if "pull_bytes" in found:
        size = found["pull_bytes"]
        print(
            f"bytes of a pull once distance <= 5: mean {size['mean']:.0f}, median {size['median']:.0f}, "
            f"95 % {size['p95']:.0f}; {size['entries']:.0f} entries; {size['pulls']} pulls",
            flush=True,
        )


def attacks(seeds: int, match: str) -> dict[str, Any]:
    """Run every attack on every mode; the epic one on two of them."""
    result: dict[str, Any] = {}
    print(f"\n{'attack':<25} {'mode':<23} {'captured':>9} {'worst':>6} {'distance':>9} {'shown top-1':>11}")
    for name, change in ATTACKS.items():
        for mode, base in MODES.items():
            if match not in name:
                continue
            if name.startswith("epic") and mode not in ("thesis F=0", "default (one vote F=1)"):
                continue
            config = dataclasses.replace(base, ticks=6_500, measure_every=500, **change)
            last = [simulate(config, seed).measures[-1] for seed in range(seeds)]
            row = {
                "captured": float(np.mean([m.captured for m in last])),
                "captured_worst": float(np.max([m.captured for m in last])),
                "distance": float(np.mean([m.distance for m in last])),
                "shown_top1": float(np.mean([m.shown_top1 for m in last])),
            }
            result[f"{name} | {mode}"] = row
            print(
                f"{name:<25} {mode:<23} {row['captured']:>9.3f} {row['captured_worst']:>6.2f}"
                f" {row['distance']:>9.1f} {row['shown_top1']:>11.3f}",
                flush=True,
            )
    return result


def audit(seeds: int, match: str) -> dict[str, Any]:
    """Switch on each deviation of the published notebook by itself; the fifth is the column it evaluates."""
    result: dict[str, Any] = {}
    print(f"\n{'switch':<26} {'tick':>6} {'5: counts':>10} {'shown dist.':>12} {'top-1':>6} {'captured':>9}")
    for name, change in AUDIT.items():
        if match not in name:
            continue
        settings = {"isolation": 1.0, "ticks": 5_000, "measure_every": 500, **change}
        last = [simulate(Config(**settings), seed).measures[-1] for seed in range(seeds)]
        fields = ("distance", "shown_distance", "shown_top1", "captured")
        found = {field: float(np.mean([getattr(m, field) for m in last])) for field in fields}
        result[name] = {"tick": last[0].tick, **found}
        print(
            f"{name:<26} {last[0].tick:>6} {found['distance']:>10.1f} {found['shown_distance']:>12.1f}"
            f" {found['shown_top1']:>6.3f} {found['captured']:>9.3f}",
            flush=True,
        )
    return result


def draw(lines: dict[str, list[tuple[int, float]]]) -> str:
    """Return the curves and the reference points as SVG."""
    width, height, most_x, most_y = 640, 360, 10_000, 150.0
    colours = ("#0b6e99", "#d9730d", "#6940a5", "#0f7b6c")
    head = f'viewBox="-50 -20 {width + 70} {height + 60}" font-size="12"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {head}>']

    def place(x: float, y: float) -> tuple[float, float]:
        return round(x / most_x * width, 1), round(height - y / most_y * height, 1)

    def write(x: float, y: float, text: object, more: str = "") -> None:
        parts.append(f'<text x="{x}" y="{y}" {more}>{text}</text>')

    parts.append(f'<path d="M0,0V{height}H{width}" fill="none" stroke="#888"/>')
    for tick in range(0, most_x + 1, 2_000):
        write(place(tick, 0)[0], height + 18, tick, 'text-anchor="middle"')
    for level in range(0, 151, 50):
        write(-8, place(0, level)[1] + 4, level, 'text-anchor="end"')
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join("{},{}".format(*place(x, y)) for x, y in line)
        colour = colours[number % len(colours)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        write(width - 200, 20 + 18 * number, name, f'fill="{colour}"')
    for tick, level in REFERENCE.items():
        x, y = place(tick, level)
        parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="none" stroke="#000"/>')
    write(width / 2, height + 36, "tick; circles: reference", 'text-anchor="middle"')
    return "\n".join([*parts, "</svg>"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="curve,attacks,audit")
    parser.add_argument("--match", default="", help="only rows whose name contains this text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",")
    found: dict[str, Any] = {"seeds": options.seeds}
    for name, run in (("curve", curve), ("attacks", attacks), ("audit", audit)):
        if name in wanted:
            found[name] = run(options.seeds, options.match)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.svg and "curve" in found:
        options.svg.write_text(draw({name: mode["line"] for name, mode in found["curve"].items()}))


if __name__ == "__main__":
    main()
