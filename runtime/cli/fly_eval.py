"""`flocklet fly eval`: judge a policy by the protocol of docs/flight.md, in a table or as JSON."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flocklet.cli.output import Output
from flocklet.cli.targets import check_target
from flocklet.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from flocklet.models.flight.judge.verdict import Verdict

__all__ = ["add_parser", "run"]

_EPISODES = 1000
_ROTORPY = "rotorpy"


def add_parser(verbs: Any) -> None:
    """Add the sub-verb."""
    judge = verbs.add_parser(
        "eval",
        help="judge a policy: hovering, figure-eights, other vehicles",
        description="Fly a policy in simulation and print how well it does. Nothing here flies for real.",
    )
    judge.add_argument("policy", metavar="POLICY", nargs="?", help="an ONNX file, 146 values in, 4 out")
    judge.add_argument(
        "--vehicle",
        action="append",
        metavar="NAME|FILE",
        help="crazyflie (default), l2f-2025, rotorpy (their simulator), a TOML file, or all; may be repeated",
    )
    judge.add_argument("--seeds", default="0-9", metavar="A-B", help="seeds, as 0-9 or 0,3,5 (0-9)")
    judge.add_argument(
        "--episodes", type=int, default=_EPISODES, metavar="N", help="hovers in all, shared out (1000)"
    )
    judge.add_argument("--no-500hz", action="store_true", help="leave out the figure-eights at 500 Hz")
    judge.add_argument(
        "--raptor", action="store_true", help="judge the RAPTOR policy beside it (package foundation-policy)"
    )
    judge.add_argument(
        "--firmware", type=Path, metavar="DIR", help="fly this export in its emulated microcontroller"
    )
    judge.add_argument("--activation", choices=("tanh", "fast_tanh"), help="what Tanh in the file means")
    judge.add_argument("--plot", type=Path, metavar="FILE", help="draw the flights: .png or .svg")
    judge.add_argument("--replay", type=Path, metavar="FILE.html", help="write a page that replays a flight")
    judge.set_defaults(run=run)


def _seeds(text: str) -> tuple[int, ...]:
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError:
        raise UsageError(f"--seeds is '{text}'; write it as 0-9 or 0,3,5") from None
    if not found or len(found) > 1000 or len(set(found)) != len(found):
        raise UsageError(f"--seeds '{text}' must name between 1 and 1000 different seeds")
    return tuple(found)


def run(args: argparse.Namespace) -> int:
    """Run the sub-verb; return the exit code."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before NumPy is loaded: the sums must not depend on the machine

    output = Output(args)
    check_target(args.plot, (".png", ".svg"))
    check_target(args.replay, (".html", ".htm"))
    if (args.policy is None) == (args.firmware is None):
        raise UsageError("give a policy, or --firmware DIR with an export: exactly one of them")
    seeds = _seeds(args.seeds)
    if args.episodes < len(seeds):
        raise UsageError(f"{args.episodes} episodes cannot be shared by {len(seeds)} seeds")
    verdicts = _firmware(args, output, seeds) if args.firmware else _policies(args, output, seeds)
    _pictures(args, verdicts)
    _tables(output, verdicts)
    documents = [verdict.to_json() for verdict in verdicts]
    output.document(documents[0] if len(documents) == 1 else {"results": documents})
    return 0


def _firmware(args: argparse.Namespace, output: Output, seeds: Sequence[int]) -> list[Verdict]:
    from flocklet.cli.fly_files import fly_firmware, read_vehicle

    names = args.vehicle or ["crazyflie"]
    chosen = seeds if args.seeds != "0-9" else (0,)  # an emulator is no simulator of thousands
    found = []
    for name in names:
        title, vehicle = read_vehicle(name)
        with output.progress(f"emulating on {title}"):
            found.append(fly_firmware(args.firmware, vehicle, vehicle_name=title, seeds=chosen, record=1))
    return found


def _policies(args: argparse.Namespace, output: Output, seeds: Sequence[int]) -> list[Verdict]:
    from flocklet.cli.fly_files import read_policy, read_vehicle
    from flocklet.models.flight.judge.verdict import judge

    policies: list[tuple[str, Any, bool]] = [
        (Path(args.policy).name, read_policy(args.policy, activation=args.activation), True)
    ]
    if args.raptor:
        from flocklet.models.flight.judge.raptor import Raptor

        policies.append(("RAPTOR", Raptor(), False))
    names: list[str] = args.vehicle or ["crazyflie"]
    if "all" in names:
        names = ["crazyflie", "l2f-2025", _ROTORPY]
    ours = [read_vehicle(name) for name in names if name != _ROTORPY]
    found = []
    record = 1 if args.plot or args.replay else 0
    with output.progress("flying") as step:
        total = len(policies) * len(names) * 3
        done = 0

        def told(what: str) -> None:
            nonlocal done
            step(done, total, what)
            done += 1

        for name, policy, is_noisy in policies:
            for title, vehicle in ours:
                found.append(
                    judge(
                        policy,
                        vehicle,
                        names=(name, title),
                        seeds=seeds,
                        episodes=args.episodes // len(seeds),
                        is_noisy=is_noisy,
                        with_fast=is_noisy and not args.no_500hz,  # RAPTOR was made for 100 Hz
                        record=record,
                        told=told,
                    )
                )
            if _ROTORPY in names:
                told("RotorPy")
                found += _rotorpy(args, output, name, policy, record)
    return found


def _rotorpy(args: argparse.Namespace, output: Output, name: str, policy: Any, record: int) -> list[Verdict]:
    from flocklet.models.flight.judge.rotorpy import judge_in_rotorpy

    try:
        return [judge_in_rotorpy(policy, name=name, record=record)]
    except MissingExtra as error:
        if "all" not in (args.vehicle or []):
            raise
        output.warning(f"RotorPy was left out: {error} ({error.remedy})")
        return []


def _pictures(args: argparse.Namespace, verdicts: Sequence[Verdict]) -> None:
    if args.plot is not None:
        from flocklet.plots.flight import draw_flights

        draw_flights(args.plot, verdicts[0])
    if args.replay is not None:
        from flocklet.plots.flight_replay import replay_page

        args.replay.write_text(replay_page(verdicts[0]), encoding="utf-8")


def _figure(value: float | int | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _tables(output: Output, verdicts: Sequence[Verdict]) -> None:
    rows = []
    for verdict in verdicts:
        figures = verdict.hover.summary()
        rows.append(
            [
                verdict.policy,
                verdict.vehicle,
                *[_figure(figures[key]) for key in ("survival", "error_m", "p95_m", "settled")],
                *[_figure(figures[key], 0) for key in ("episode_length", "target_return")],
                _figure(figures["action_change"]),
                figures["episodes"],
            ]
        )
    columns = ["policy", "vehicle", "survival", "error m", "p95 m", "settled", "steps", "return", "change"]
    output.table([*columns, "episodes"], rows, title="hover, 5 s, noise and disturbances")
    rows = []
    for verdict in verdicts:
        for rate, eights in ((100, verdict.eights), (500, verdict.fast_eights)):
            for period, track in eights.items():
                figures = track.summary()
                errors = [_figure(figures[key]) for key in ("alive", "rmse_m", "rmse_xy_m", "max_m")]
                rows.append([verdict.policy, verdict.vehicle, rate, f"{period:g}", *errors])
    columns = ["policy", "vehicle", "Hz", "period s", "alive", "rmse m", "rmse xy m", "max m"]
    output.table(columns, rows, title="figure-eight, 2 m x 1 m")
