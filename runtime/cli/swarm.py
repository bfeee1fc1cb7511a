"""The verb that learns together: swarm run (real processes), swarm simulate (virtual time)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.parser import add_sub_verbs
from flocklet.cli.targets import check_target
from flocklet.errors import UsageError
from flocklet.swarm.tasks.catalogue import CATALOGUE, check_numbers, with_trainer

__all__ = ["add_parser"]

_WAYS = ("numpy", "tinygrad", "gpu")
_STRATEGIES = "A strategy is written 'modest(s=10)|int4|trimmed(0.2)': schedule, trainer, codec and aggregator in any order."


def add_parser(verbs: Any) -> None:
    """Add the verb and its sub-verbs."""
    swarm = verbs.add_parser(
        "swarm",
        help="learn together: real peers on this machine, or thousands in virtual time",
        description="Peers that learn together without a server.",
    )
    below = add_sub_verbs(verbs, swarm)
    run = below.add_parser(
        "run",
        help="start real peers on this machine, each a process",
        description="Start peers that learn together, each a process of its own that finds the others by mDNS. "
        + _STRATEGIES,
    )
    _add_options(run)
    run.set_defaults(run=_swarm, is_simulated=False)
    simulate = below.add_parser(
        "simulate",
        help="simulate peers in virtual time, by the same code",
        description="Simulate peers that learn together: the same code, in virtual time, in this process. "
        + _STRATEGIES,
    )
    _add_options(simulate)
    simulate.set_defaults(run=_swarm, is_simulated=True)


def _add_options(swarm: argparse.ArgumentParser) -> None:
    swarm.add_argument("--peers", type=int, default=10, metavar="N", help="how many (default: 10)")
    swarm.add_argument("--model", default="digits", choices=tuple(CATALOGUE), help="what they learn")
    swarm.add_argument(
        "--strategy", default="modest", metavar="TEXT", help="how they learn (default: modest)"
    )
    swarm.add_argument(
        "--codec", default="", metavar="NAME", help="fp32, fp16, int8, int4, topk(0.05), sign ..."
    )
    swarm.add_argument("--rounds", type=int, default=40, metavar="N", help="at most (default: 40)")
    swarm.add_argument(
        "--stop-at",
        type=float,
        default=None,
        metavar="SHARE",
        help="accuracy that ends it (default: 0.95 for digits); 0: never",
    )
    swarm.add_argument("--seed", type=int, default=1, metavar="N", help="same seed, same run")
    swarm.add_argument(
        "--compute",
        default="numpy",
        choices=_WAYS,
        help="what trains: numpy (default), tinygrad compiled to C, or tinygrad on the GPU",
    )
    swarm.add_argument(
        "--attack", default="", metavar="KIND", help="noise, signflip, alie, ipm, freerider ..."
    )
    swarm.add_argument("--attackers", type=int, default=0, metavar="N", help="how many peers attack")
    swarm.add_argument(
        "--plot", type=Path, metavar="FILE", help="write accuracy against bytes and time as SVG"
    )


def _swarm(args: argparse.Namespace) -> int:
    from flocklet.swarm.attacks.model import Attack
    from flocklet.swarm.strategy import Strategy

    output = Output(args)
    check_numbers(args.peers, args.seed, args.rounds)
    if not 0 <= args.attackers < args.peers or (args.attackers and not args.attack):
        raise UsageError(
            "--attackers needs --attack and at least one honest peer", remedy="fewer --attackers"
        )
    check_target(args.plot, (".svg",))
    if args.stop_at is None:
        args.stop_at = CATALOGUE[args.model].stop_at
    text = _strategy(args)
    Strategy.parse(text)
    attacks = {args.peers - 1 - i: Attack(args.attack) for i in range(args.attackers)}
    facts = _simulated(args, text, attacks) if args.is_simulated else _real(args, output, text, attacks)
    rows = [(r, f"{s:.2f}", f"{b / 1e3:,.0f}", f"{a:.3f}") for r, s, b, a in facts["curve"]]
    output.table(("round", "seconds", "kB sent", "accuracy"), rows)
    output.remark(facts["words"])
    output.document({key: value for key, value in facts.items() if key != "words"})
    if args.plot is not None:
        from flocklet.plots.swarm import curves

        points = [(s, float(b), a) for _, s, b, a in facts["curve"]]
        args.plot.write_text(curves({text: points}, title=f"{args.peers} peers"), encoding="utf-8")
        output.remark(f"drawn in {args.plot}")
    return 0


def _strategy(args: argparse.Namespace) -> str:
    parts = [part.strip() for part in args.strategy.split("|") if part.strip()]
    if args.codec:
        parts.append(args.codec)
    return with_trainer("|".join(parts), args.model)


def _simulated(args: argparse.Namespace, text: str, attacks: dict[int, Any]) -> dict[str, Any]:
    from flocklet.swarm.sim.simulation import Simulation

    report = Simulation(
        text, args.model, args.peers, args.seed, args.rounds, stop_at=args.stop_at or None, compute=args.compute,
        attack=args.attack if args.attackers else "", attackers=args.attackers,
    ).run()  # fmt: skip
    words = f"{report.bytes / 1e3:,.0f} kB in {sum(report.messages.values())} messages, log {report.log_hash}"
    return {
        "model": args.model, "strategy": text, "peers": args.peers, "is_simulated": True, "curve": report.curve,
        "bytes": report.bytes, "log": report.log_hash, "refused": dict(report.refused), "words": words,
    }  # fmt: skip


def _real(args: argparse.Namespace, output: Output, text: str, attacks: dict[int, Any]) -> dict[str, Any]:
    import asyncio

    from flocklet.swarm.lan.launcher import launch

    curve: dict[int, tuple[int, float, int, float]] = {}
    sent: dict[int, int] = {}
    with output.progress("learning") as step:

        def ended(index: int, line: Any) -> None:
            sent[index] = line["bytes"]
            if "accuracy" in line and line["round"] not in curve:
                curve[line["round"]] = (line["round"], line["at_s"], sum(sent.values()), line["accuracy"])
                step(line["round"], args.rounds, f"accuracy {line['accuracy']:.3f}")

        found = asyncio.run(
            launch(
                args.peers, text, seed=args.seed, rounds=args.rounds, stop_at=args.stop_at,
                attacks={index: attack.kind for index, attack in attacks.items()}, model=args.model, on_round=ended,
                compute=args.compute,
            )
        )  # fmt: skip
    rss_mb = max(summary["rss_mb"] for summary in found.summaries)
    words = (
        f"{args.peers} peers met in {found.met_s:.1f} s, learnt in {found.training_s:.1f} s, sent "
        f"{found.bytes_out / 1e3:,.0f} kB, at most {rss_mb:.0f} MB of memory each"
    )
    return {
        "model": args.model, "strategy": text, "peers": args.peers, "is_simulated": False,
        "curve": [curve[r] for r in sorted(curve)],
        "bytes": found.bytes_out, "met_s": found.met_s, "training_s": found.training_s, "cold_s": found.cold_s,
        "rss_mb": rss_mb, "accuracy": [summary["accuracy"] for summary in found.summaries], "words": words,
    }  # fmt: skip
