"""Reproduce the G-Rank thesis: its curve, what users are really shown, attacks, audit switches, bytes of a
pull.

    python benchmarks/grank.py [--seeds 5] [--only curve,attacks,audit] [--json FILE] [--svg FILE]

The reference curve is that of the prototype in specs/ranking.md, 4.4 (one seed, original data); ours runs
on generated data of the same shape, `--seeds` seeds, mean and standard deviation.
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

from flocklet.models.search.thesis import Config, Measure, Simulation, simulate
from flocklet.models.search.thesis_bytes import Scale

REFERENCE = {0: 122.0, 1000: 66.5, 2000: 21.8, 3000: 8.0, 5000: 3.2}
MODES = {
    "thesis F=0": Config(),
    "thesis F=1": Config(isolation=1.0),
    "one vote F=0": Config(one_vote=True),
    "default (one vote F=1)": Config(isolation=1.0, one_vote=True),
}
ATTACKS = {
    "coordinated, 10 of 110": {"attack": "coordinated"},
    "targeted, 10 of 110": {"attack": "targeted"},
    "inflation, 10 x 1000": {"attack": "inflation", "clicks_per_sybil": 1_000},
    "coordinated, push gossip": {"attack": "coordinated", "gossip": "push"},
    "targeted, push gossip": {"attack": "targeted", "gossip": "push"},
    "epic, 300 of 400": {"attack": "epic", "sybils": 300},
}
AUDIT = {
    "thesis as written, F=1": {},
    "1 squares the other term": {"squares_terms": True},
    "2 F overwritten": {"drops_isolation": True},
    "3 similarity by item row": {"aligns_by_row": True},
}


def at(run: Simulation, tick: int) -> Measure:
    """Return the measurement at `tick`."""
    return next(measure for measure in run.measures if measure.tick == tick)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def curve(seeds: int) -> dict[str, Any]:
    """Run every mode without an attack."""
    result: dict[str, Any] = {}
    for name, config in MODES.items():
        runs, scales, cpu_s = [], [], []
        for seed in range(seeds):
            scale = Scale(200, lambda run: run.measures[-1].tick >= 3_000 and run.measures[-1].distance <= 5)
            weighed = scale if name == "thesis F=0" else None
            start_s = time.process_time()
            runs.append(simulate(config, seed, weighed))
            cpu_s.append(time.process_time() - start_s)
            scales += scale.sizes
        ticks = (0, 1000, 2000, 3000, 4500, 5000, 10000)
        rows = {
            str(tick): {
                field: mean_sd([getattr(at(run, tick), field) for run in runs])
                for field in ("distance", "top_held", "shown_distance", "shown_top1", "sent")
            }
            for tick in ticks
        }
        result[name] = {
            "rows": rows,
            "line": [
                (m.tick, float(np.mean([run.measures[n].distance for run in runs])))
                for n, m in enumerate(runs[0].measures)
            ],
            "cpu_s": float(np.median(cpu_s)),
        }
        if scales:
            sizes = np.array(scales, dtype=float)
            result[name]["pull_bytes"] = {
                "mean": float(sizes[:, 0].mean()),
                "median": float(np.median(sizes[:, 0])),
                "p95": float(np.quantile(sizes[:, 0], 0.95)),
                "entries": float(sizes[:, 1].mean()),
                "pulls": len(sizes),
            }
        print_curve(name, result[name])
    return result


def print_curve(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}   ({found['cpu_s']:.1f} s CPU per run)")
    print(f"{'tick':>6} {'distance':>16} {'reference':>10} {'shown dist.':>12} {'shown top-1':>12}
    {'entries':>8}") for tick, row in found["rows"].items(): reference = REFERENCE.get(int(tick), "") if
    name == "thesis F=0" else "" if reference: reference = f"{reference} {row['distance'][0] / reference -
    1:+.0%}" print( f"{tick:>6} {row['distance'][0]:>9.1f} ± {row['distance'][1]:<4.1f} {reference:>10}" f"
    {row['shown_distance'][0]:>12.1f} {row['shown_top1'][0]:>12.3f} {row['sent'][0]:>8.0f}" ) if
    "pull_bytes" in found: size = found["pull_bytes"] print( f"bytes of a pull once distance <= 5: mean
    {size['mean']:.0f}, median {size['median']:.0f}, " f"95 % {size['p95']:.0f}, {size['entries']:.0f}
    entries, {size['pulls']} pulls" )


def attacks(seeds: int) -> dict[str, Any]:
    """Run every attack on the thesis mode and on the default."""
    result: dict[str, Any] = {}
    print(f"\n{'attack':<26} {'mode':<24} {'captured':>9} {'worst seed':>10} {'distance':>9} {'shown
    top-1':>11}") for name, change in ATTACKS.items(): for mode, config in MODES.items(): if
    change.get("sybils", 0) > 100 and "F=0" not in mode and "default" not in mode: continue merged =
    dataclasses.replace(config, ticks=7_500, **change) merged = dataclasses.replace(merged,
    measure_every=500) last = [simulate(merged, seed).measures[-1] for seed in range(seeds)] row = {
    "captured": float(np.mean([m.captured for m in last])), "captured_worst": float(np.max([m.captured for m
    in last])), "distance": float(np.mean([m.distance for m in last])), "shown_top1":
    float(np.mean([m.shown_top1 for m in last])), } result[f"{name} | {mode}"] = row print( f"{name:<26}
    {mode:<24} {row['captured']:>9.3f} {row['captured_worst']:>10.3f}" f" {row['distance']:>9.1f}
    {row['shown_top1']:>11.3f}", flush=True, ) return result


def audit(seeds: int) -> dict[str, Any]:
    """Switch on each deviation of the published notebook by itself."""
    result: dict[str, Any] = {}
    rows: list[tuple[str, dict[str, Any]]] = [(name, {"isolation": 1.0, **change}) for name, change in
    AUDIT.items()] rows.append(("4 thesis' targeted attack", {"isolation": 1.0, "attack": "targeted",
    "ticks": 7_500})) rows.append( ("4 notebook's attack", {"isolation": 1.0, "attack": "targeted", "ticks":
    7_500, "notebook_attack": True}) ) print(f"\n{'switch':<28} {'tick':>6} {'raw counts (5)':>14} {'shown
    dist.':>12} {'shown top-1':>12} {'captured':>9}") for name, change in rows: config =
    dataclasses.replace(Config(ticks=5_000, measure_every=1_000), **change) runs = [simulate(config, seed)
    for seed in range(seeds)] tick = runs[0].measures[-1].tick fields = ("distance", "shown_distance",
    "shown_top1", "captured") found = {field: float(np.mean([getattr(at(run, tick), field) for run in
    runs])) for field in fields} result[name] = {"tick": tick, **found} print( f"{name:<28} {tick:>6}
    {found['distance']:>14.1f} {found['shown_distance']:>12.1f}" f" {found['shown_top1']:>12.3f}
    {found['captured']:>9.3f}", flush=True, ) return result


def draw(lines: dict[str, list[tuple[int, float]]]) -> str:
    """Return the curves and the reference points as SVG."""
    width, height, most_x, most_y = 640, 360, 10_000, 150.0
    colours = ("#0b6e99", "#d9730d", "#6940a5", "#0f7b6c")
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-50 -20 {width + 70} {height + 60}"
    font-size="12">']

    def place(x: float, y: float) -> str:
        return f"{x / most_x * width:.1f},{height - y / most_y * height:.1f}"

    parts.append(f'<path d="M0,0V{height}H{width}" fill="none" stroke="#888"/>')
    for tick in range(0, most_x + 1, 2_000):
        parts.append(f'<text x="{tick / most_x * width:.0f}" y="{height + 18}"
        text-anchor="middle">{tick}</text>') for level in range(0, 151, 50): parts.append(f'<text x="-8"
        y="{height - level / most_y * height + 4:.0f}" text-anchor="end">{level}</text>') for number, (name,
        line) in enumerate(lines.items()): points = " ".join(place(x, y) for x, y in line) colour =
        colours[number % len(colours)] parts.append(f'<polyline points="{points}" fill="none"
        stroke="{colour}" stroke-width="2"/>') parts.append(f'<text x="{width - 200}" y="{20 + 18 * number}"
        fill="{colour}">{name}</text>') for tick, level in REFERENCE.items(): x, y = place(tick,
        level).split(",") parts.append(f'<circle cx="{x}" cy="{y}" r="4" fill="none" stroke="#000"/>')
        parts.append(f'<text x="{width / 2:.0f}" y="{height + 36}" text-anchor="middle">tick (o =
        reference)</text></svg>') return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter) parser.add_argument("--seeds", type=int,
    default=5) parser.add_argument("--only", default="curve,attacks,audit") parser.add_argument("--json",
    type=Path) parser.add_argument("--svg", type=Path) options = parser.parse_args() wanted =
    options.only.split(",") found: dict[str, Any] = {"seeds": options.seeds} for name, run in (("curve",
    curve), ("attacks", attacks), ("audit", audit)): if name in wanted: found[name] = run(options.seeds) if
    options.json: options.json.write_text(json.dumps(found, indent=1)) if options.svg and "curve" in found:
    options.svg.write_text(draw({name: mode["line"] for name, mode in found["curve"].items()}))


if __name__ == "__main__":
    main()
