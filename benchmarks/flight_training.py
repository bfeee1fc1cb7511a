"""Training policies by back-propagation through the simulator: wall clock in fresh processes, quality per seed, transfer.

Rows (`--only`):
  wall      `flocklet fly train` in a fresh process, from its start to the exported file: cold (an empty cache of compiled
            kernels) and warm; the file is then judged
  quick     the same recipe in this process, every seed: survival, error, figure-eights
  track     the best policy of a training of at most 60 s, every seed
  any       one policy for all vehicles: nominal, l2f-2025 and random vehicles of the class
  recover   throws of any attitude: the part that is upright, slow and calm from two seconds on

Judged with `flocklet.models.flight.judge.evaluate` (seeds 0-9, 100 hovers each, a figure-eight per seed and period).
`--json FILE` keeps everything; `--keep DIR` writes the policies. Timed figures need a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from flocklet.models.flight.judge.evaluate import figure_eights, hover
from flocklet.models.flight.policy import Policy
from flocklet.models.flight.sim.control_loop import fly
from flocklet.models.flight.sim.dynamics import CRAZYFLIE, Vehicle
from flocklet.models.flight.sim.environment import reset
from flocklet.models.flight.sim.randomise import draw
from flocklet.models.flight.sim.vehicle import L2F_2025
from flocklet.models.flight.train.bptt import Trainer
from flocklet.models.flight.train.bptt_programs import Shape
from flocklet.models.flight.train.recipes import fleet_of, policy_of, recipe
from flocklet.models.flight.train.window import Programs

PERIODS = (15.0, 5.5, 3.5)


def judge(
    policy: Policy, vehicle: Vehicle, episodes: int, periods: tuple[float, ...] = PERIODS
) -> dict[str, Any]:
    """Return survival, error and figure-eights of a policy on a vehicle."""
    found: dict[str, Any] = hover(policy, vehicle, episodes=episodes).summary()
    for period, track in (figure_eights(policy, vehicle, periods_s=periods) if periods else {}).items():
        flown = track.summary()
        found[f"eight_{period:g}"] = flown["rmse_m"] if flown["alive"] == 1.0 else None
    return found


def trained(
    task: str, seed: int, vehicle: Vehicle | None, programs: Programs | None
) -> tuple[Policy, Programs, float]:
    """Train in this process; return the policy, the compiled programs and the seconds without compiling."""
    settings = recipe(task, is_fleet=vehicle is None)
    made = programs or Programs(Shape(settings.rows, settings.longest, settings.lags))
    start = time.perf_counter()
    trainer = Trainer(settings, fleet_of(vehicle), np.random.default_rng(seed), programs=made)
    for _ in range(settings.updates):
        trainer.update()
    trainer.close()
    return policy_of(trainer.params), made, time.perf_counter() - start


def wall(seeds: range, episodes: int) -> list[dict[str, Any]]:
    """Return one row per seed: seconds cold and warm, and how the policy flies.

    Python's byte code is there in both, as after an ordinary installation: one run that does not count writes it.
    """
    rows = []
    with tempfile.TemporaryDirectory() as bytecode:
        for count, seed in enumerate([seeds[0], *seeds]):
            row = _wall(seed, episodes, bytecode)
            if count:
                rows.append(row)
                show("wall", row)
    return rows


def _wall(seed: int, episodes: int, bytecode: str) -> dict[str, Any]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        env |= {"FLOCKLET_CACHE": folder, "PYTHONPYCACHEPREFIX": bytecode}
        out = Path(folder) / "policy.onnx"
        command = [
            sys.executable,
            "-m",
            "flocklet",
            "fly",
            "train",
            "-q",
            "--seed",
            str(seed),
            "--out",
            str(out),
        ]
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            subprocess.run(command, check=True, env=env, capture_output=True)
            seconds.append(time.perf_counter() - start)
        judged = judge(Policy.from_onnx(out.read_bytes()), CRAZYFLIE, episodes, ()) if episodes else {}
    return {"seed": seed, "cold_s": seconds[0], "warm_s": float(np.median(seconds[1:])), **judged}


def quality(task: str, seeds: range, episodes: int, keep: Path | None) -> list[dict[str, Any]]:
    """Return one row per seed of a recipe on the nominal vehicle."""
    rows, programs = [], None
    for seed in seeds:
        policy, programs, seconds = trained(task, seed, CRAZYFLIE, programs)
        save(policy, keep, f"{task}-{seed}")
        rows.append({"seed": seed, "train_s": seconds, **judge(policy, CRAZYFLIE, episodes)})
        show(task, rows[-1])
    return rows


def transfer(seeds: range, episodes: int, keep: Path | None) -> list[dict[str, Any]]:
    """Return one row per seed and vehicle for policies trained on random vehicles."""
    rows, programs = [], None
    others = draw(np.random.default_rng(777), episodes * 10, nominal=0.0)
    for seed in seeds:
        policy, programs, seconds = trained("track", seed, None, programs)
        save(policy, keep, f"any-{seed}")
        for name, vehicle in (("crazyflie", CRAZYFLIE), ("l2f-2025", L2F_2025)):
            rows.append(
                {"seed": seed, "train_s": seconds, "vehicle": name, **judge(policy, vehicle, episodes)}
            )
            show("any", rows[-1])
        rows.append({"seed": seed, "vehicle": "random", **hover(policy, others, episodes=episodes).summary()})
        show("any", rows[-1])
    return rows


def recovered(policy: Policy, throws: int, seed: int) -> float:
    """Return the part of the throws that is recovered within two seconds and stays so until five seconds.

    Recovered: tilt below 20 degrees, speed below 0.5 m/s, angular velocity below 2 rad/s. There is no wall.
    """
    rng = np.random.default_rng((seed, 2026))
    state = reset(rng, throws, CRAZYFLIE, recipe("recover").options)
    last_bad = np.full(throws, -1)
    for step, tick in enumerate(fly(policy, state, CRAZYFLIE, rng, 500)):
        body = tick.after.body
        tilt = 1.0 - 2.0 * (body[:, 4] ** 2 + body[:, 5] ** 2)
        speed, rate = (np.linalg.norm(body[:, part], axis=1) for part in (slice(7, 10), slice(10, 13)))
        good = (tilt > math.cos(math.radians(20))) & (speed < 0.5) & (rate < 2.0)
        last_bad[~good] = step
    return float((last_bad < 199).mean())


def recovery(seeds: range, throws: int, keep: Path | None) -> list[dict[str, Any]]:
    """Return one row per seed of the recovery task."""
    rows, programs = [], None
    for seed in seeds:
        policy, programs, seconds = trained("recover", seed, CRAZYFLIE, programs)
        save(policy, keep, f"recover-{seed}")
        rows.append({"seed": seed, "train_s": seconds, "recovered": recovered(policy, throws, seed)})
        show("recover", rows[-1])
    return rows


def save(policy: Policy, keep: Path | None, name: str) -> None:
    """Write a policy if asked to."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{name}.onnx").write_bytes(policy.to_onnx())


def show(name: str, row: dict[str, Any]) -> None:
    """Print one row."""
    cells = [f"{k}={v:.4f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()]
    print(name, *cells, flush=True)


def main() -> None:
    """Run the chosen rows, print medians, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=["wall", "quick", "track", "any", "recover"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--episodes", type=int, default=100, help="hovers per seed of the judge")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    runs = {
        "wall": lambda: wall(seeds, args.episodes),
        "quick": lambda: quality("hover", seeds, args.episodes, args.keep),
        "track": lambda: quality("track", seeds, args.episodes, args.keep),
        "any": lambda: transfer(seeds, args.episodes, args.keep),
        "recover": lambda: recovery(seeds, 1000, args.keep),
    }
    results: dict[str, Any] = {}
    for name in args.only:
        rows = results[name] = runs[name]()
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(str(row.get("vehicle", "")), []).append(row)
        for group, members in groups.items():
            keys = [k for k, v in members[0].items() if k != "seed" and isinstance(v, int | float)]
            medians = {
                k: float(np.median([m[k] for m in members if m.get(k) is not None] or [math.nan]))
                for k in keys
            }
            show(f"median of {name} {group}".rstrip(), medians)
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
