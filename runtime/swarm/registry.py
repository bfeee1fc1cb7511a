"""The pieces of a strategy by name: kind and factory. Modules are imported when their piece is asked for.

A device that runs one strategy keeps only that one's code in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["Scalar", "parts"]

Scalar = int | float | str | bool


def parts() -> Mapping[str, tuple[str, Callable[..., Any]]]:
    """Return name -> (kind, factory); kinds are schedule, trainer, codec, aggregator and correction.

    A schedule's factory returns the sampler that goes with it, too.
    """
    return {
        "modest": ("schedule", _modest),
        "fedavg": ("schedule", _fedavg),
        "full": ("schedule", _graph("full", "degree")),
        "ring": ("schedule", _graph("ring", "degree")),
        "regular": ("schedule", _graph("regular", "degree")),
        "ba": ("schedule", _graph("ba", "m")),
        "geometric": ("schedule", _graph("geometric", "radius")),
        "onepeer": ("schedule", _graph("onepeer", "degree")),
        "window": ("schedule", _keeper("Window")),
        "buffer": ("schedule", _keeper("Buffer")),
        "async": ("schedule", _keeper("Buffer", count=1)),
        "poisson": ("schedule", _poisson),
        "sgd": ("trainer", _piece("trainers.numpy:Sgd")),
        "sam": ("trainer", _sam),
        "gradient": ("trainer", _piece("trainers.numpy:Gradient")),
        "policy": ("trainer", _piece("trainers.policy:PolicyTrainer")),
        "fp32": ("codec", _piece("codecs:Fp32")),
        "fp16": ("codec", _piece("codecs:Fp16")),
        "int8": ("codec", _piece("codecs:Int8")),
        "int4": ("codec", _piece("codecs:Int4")),
        "topk": ("codec", _topk),
        "randk": ("codec", _randk),
        "sign": ("codec", _sign),
        "mean": ("aggregator", _piece("aggregators.averaging:Mean")),
        "weighted": ("aggregator", _weighted),
        "metropolis": ("aggregator", _piece("aggregators.averaging:Metropolis")),
        **{
            rule: ("aggregator", _ranked(rule))
            for rule in ("trimmed", "median", "rfa", "krum", "multikrum", "bulyan")
        },
        "cclip": ("aggregator", _piece("aggregators.robust:CentredClipping")),
        "normbound": ("aggregator", _piece("aggregators.robust:NormBound")),
        "fltrust": ("aggregator", _piece("aggregators.robust:FlTrust")),
        "flag": ("aggregator", _piece("aggregators.robust:Flag")),
        "foolsgold": ("aggregator", _piece("aggregators.robust:FoolsGold")),
        "sybilwall": ("aggregator", _piece("aggregators.robust:SybilWall")),
        "centred": ("aggregator", _piece("aggregators.robust:SybilWall", is_centred=True)),
        "bristle": ("aggregator", _piece("aggregators.bristle:Bristle")),
        "matching": ("aggregator", _piece("aggregators.dimat:Matching")),
        "vc": ("correction", _piece("aggregators.averaging:VarianceCorrected")),
    }


def _piece(where: str, **fixed: Scalar) -> Callable[..., Any]:
    module, _, name = where.partition(":")

    def make(*values: Scalar, **named: Scalar) -> Any:
        return getattr(import_module(f"flocklet.swarm.{module}"), name)(*values, **fixed, **named)

    return make


def _graph(kind: str, first: str) -> Callable[..., Any]:
    def make(
        value: Scalar | None = None, /, *, q: int = 1, heal: int = 0, deadline: float = 5.0, **more: Any
    ) -> Any:
        from flocklet.swarm.samplers import Topology
        from flocklet.swarm.schedules.dpsgd import Gossip

        if value is not None:
            more[first] = value
        return Topology(kind, heal=heal, **more), Gossip(q=q, deadline_s=deadline)

    return make


def _modest(s: int = 10, **more: Any) -> Any:
    from flocklet.swarm.samplers import HashOrder
    from flocklet.swarm.schedules.modest import Modest

    return HashOrder(s), Modest(**more)


def _fedavg(**more: Any) -> Any:
    return _modest(0, **more)


def _keeper(name: str, **fixed: Scalar) -> Callable[..., Any]:
    def make(*values: Scalar, **named: Scalar) -> Any:
        from flocklet.swarm.samplers import HashOrder

        return HashOrder(), _piece(f"schedules.asynchronous:{name}", **fixed)(*values, **named)

    return make


def _poisson(degree: int = 4, train: float = 1.0, swap: float = 0.5) -> Any:
    from flocklet.swarm.samplers import Topology
    from flocklet.swarm.schedules.poisson import PoissonPairs

    return Topology("regular", degree=degree), PoissonPairs(train, swap)


def _ranked(rule: str) -> Callable[..., Any]:
    def make(f: float = 0.2, **more: Any) -> Any:
        from flocklet.swarm.aggregators.robust import Ranked

        return Ranked(rule, f, **more)

    return make


def _sam(rho: float = 0.05, **more: Any) -> Any:
    from flocklet.swarm.trainers.numpy import Sam

    return Sam(rho=rho, **more)


def _topk(share: float = 0.05, ef: bool = True) -> Any:
    from flocklet.swarm.codecs import TopK

    return TopK(share, bool(ef))


def _randk(share: float = 0.1) -> Any:
    from flocklet.swarm.codecs import RandomK

    return RandomK(share)


def _sign(ef: bool = True) -> Any:
    from flocklet.swarm.codecs import Sign

    return Sign(bool(ef))


def _weighted(cap: float = 3.0) -> Any:
    from flocklet.swarm.aggregators.averaging import Mean

    return Mean(by_samples=True, cap=cap)
