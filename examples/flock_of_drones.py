"""Ten peers whose drones differ learn to fly together: each sends what it learnt, none sends what it measured.

Every peer has another vehicle of the 25-50 g class and may do only so many updates. Alone, it spends them on its own
vehicle. Together, after every round of a few updates the peers exchange deltas and go on from the base plus their mean;
the last round is one's own again. Printed: survival and hover error of each policy on its peer's vehicle.

    python examples/flock_of_drones.py --updates 120 --rounds 10
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from flocklet.models.base import difference
from flocklet.models.flight.judge.evaluate import hover
from flocklet.models.flight.sim.dynamics import Vehicle
from flocklet.models.flight.sim.randomise import draw
from flocklet.models.flight.sim.vehicle import rows
from flocklet.models.flight.train.adapt import merge, tensors, vector
from flocklet.models.flight.train.bptt import Settings, Trainer
from flocklet.models.flight.train.bptt_programs import Shape
from flocklet.models.flight.train.recipes import fleet_of, policy_of, recipe
from flocklet.models.flight.train.window import Programs


def one(vehicles: Vehicle, i: int) -> Vehicle:
    """Return vehicle `i` as plain numbers."""

    def plain(value: Any) -> Any:
        return (
            tuple(map(plain, value)) if isinstance(value, tuple) else float(np.asarray(value).reshape(-1)[0])
        )

    return replace(
        rows(vehicles, slice(i, i + 1)),
        **{k: plain(v) for k, v in vars(rows(vehicles, slice(i, i + 1))).items()},
    )


def main() -> None:
    """Train the ten peers alone and together, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--updates", type=int, default=120, help="updates that each peer may do")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=20, help="hovers per seed (10 seeds)")
    args = parser.parse_args()
    fleet = draw(np.random.default_rng((args.seed, 1)), args.peers, nominal=0.0)
    vehicles = [one(fleet, i) for i in range(args.peers)]
    base = recipe("hover", updates=args.updates)
    settings = replace(base, threads=1, cost=replace(base.cost, effort=0.0))
    programs = Programs(Shape(settings.rows, settings.longest, settings.lags))
    alone = [peer(settings, v, programs, i) for i, v in enumerate(vehicles)]
    for trainer in alone:
        for _ in range(args.updates):
            trainer.update()
    together = [peer(settings, v, programs, i) for i, v in enumerate(vehicles)]
    each = args.updates // args.rounds
    shared = tensors(together[0].params)
    for turn in range(args.rounds):
        deltas = []
        for trainer in together:
            trainer.load(vector(shared))
            for _ in range(each):
                trainer.update()
            deltas.append(difference(tensors(trainer.params), shared))
        if turn < args.rounds - 1:
            shared = merge(shared, deltas)
    print("peer  mass g  alone: survival  error m   together: survival  error m")
    wins = 0
    for i, vehicle in enumerate(vehicles):
        a, b = (
            hover(policy_of(t.params), vehicle, episodes=args.episodes).summary()
            for t in (alone[i], together[i])
        )
        wins += (b["survival"] or 0) >= (a["survival"] or 0) and (b["error_m"] or 9) <= (a["error_m"] or 9)
        print(
            f"{i:4d}  {vehicle.mass * 1e3:6.1f}  {a['survival']:15.3f}  {a['error_m'] or np.nan:7.3f}  "
            f"{b['survival']:19.3f}  {b['error_m'] or np.nan:7.3f}",
            flush=True,
        )
    print(f"together is no worse in both on {wins} of {args.peers} vehicles")


def peer(settings: Settings, vehicle: Vehicle, programs: Programs, i: int) -> Trainer:
    """Return a peer's trainer; all start from the same policy."""
    from flocklet.models.flight.train.bptt import blind, fresh_params

    start = fresh_params(np.random.default_rng(0))
    blind(start, settings.lags)
    return Trainer(
        settings, fleet_of(vehicle), np.random.default_rng((i, 7)), params=start, programs=programs
    )


if __name__ == "__main__":
    main()
