"""A strategy in a few words: "modest(s=10)|sgd(lr=0.1)|int4|trimmed(0.2)".

Parts are separated by "|", in any order; each is a name with arguments as in Python, numbers and words only. Of each
kind (schedule, trainer, codec, aggregator) at most one is given; "vc" wraps the aggregator in variance correction.
`Strategy.names()` lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flocklet.errors import UsageError
from flocklet.swarm.aggregators import CentredClipping, Flag, FlTrust, FoolsGold, NormBound, Ranked, SybilWall
from flocklet.swarm.averaging import Mean, Metropolis, VarianceCorrected
from flocklet.swarm.bristle import Bristle
from flocklet.swarm.codecs import Fp16, Fp32, Int4, Int8, RandomK, Sign, TopK
from flocklet.swarm.gossip import Gossip
from flocklet.swarm.interface import Aggregator, Codec, Schedule, Trainer
from flocklet.swarm.modest import Modest
from flocklet.swarm.samplers import Topology
from flocklet.swarm.trainers import Gradient, Sam, Sgd

__all__ = ["Strategy"]

Scalar = int | float | str | bool
_PART = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:\(([^()]*)\))?\s*")


def _graph(kind: str, first: str) -> Callable[..., Gossip]:
    def make(
        value: Scalar | None = None, /, *, q: int = 1, heal: int = 0, deadline: float = 5.0, **more: Any
    ) -> Gossip:
        if value is not None:
            more[first] = value
        return Gossip(Topology(kind, **more), q=q, heal=heal, deadline_s=deadline)

    return make


def _ranked(rule: str) -> Callable[..., Ranked]:
    return lambda f=0.2, **more: Ranked(rule, f, **more)


def _parts() -> Mapping[str, tuple[str, Callable[..., Any]]]:
    """Return name -> (kind, factory)."""
    return {
        "modest": ("schedule", Modest),
        "fedavg": ("schedule", lambda **more: Modest(s=0, **more)),
        "full": ("schedule", _graph("full", "degree")),
        "ring": ("schedule", _graph("ring", "degree")),
        "regular": ("schedule", _graph("regular", "degree")),
        "ba": ("schedule", _graph("ba", "m")),
        "geometric": ("schedule", _graph("geometric", "radius")),
        "onepeer": ("schedule", _graph("onepeer", "degree")),
        "sgd": ("trainer", Sgd),
        "sam": ("trainer", lambda rho=0.05, **more: Sam(rho=rho, **more)),
        "gradient": ("trainer", Gradient),
        "fp32": ("codec", Fp32),
        "fp16": ("codec", Fp16),
        "int8": ("codec", Int8),
        "int4": ("codec", Int4),
        "topk": ("codec", lambda share=0.05, ef=True: TopK(share, bool(ef))),
        "randk": ("codec", lambda share=0.1: RandomK(share)),
        "sign": ("codec", lambda ef=True: Sign(bool(ef))),
        "mean": ("aggregator", Mean),
        "weighted": ("aggregator", lambda cap=3.0: Mean(by_samples=True, cap=cap)),
        "metropolis": ("aggregator", Metropolis),
        **{
            rule: ("aggregator", _ranked(rule))
            for rule in ("trimmed", "median", "rfa", "krum", "multikrum", "bulyan")
        },
        "cclip": ("aggregator", CentredClipping),
        "normbound": ("aggregator", NormBound),
        "fltrust": ("aggregator", FlTrust),
        "flag": ("aggregator", Flag),
        "foolsgold": ("aggregator", FoolsGold),
        "sybilwall": ("aggregator", SybilWall),
        "centred": ("aggregator", lambda: SybilWall(is_centred=True)),
        "bristle": ("aggregator", Bristle),
        "vc": ("correction", VarianceCorrected),
    }


@dataclass(frozen=True)
class Strategy:
    """How a swarm learns together. `text` is how it was written, for tables."""

    schedule: Schedule = field(default_factory=Modest)
    trainer: Trainer = field(default_factory=Sgd)
    codec: Codec = field(default_factory=Fp32)
    aggregator: Aggregator = field(default_factory=Mean)
    text: str = ""

    def __post_init__(self) -> None:
        if "gossip" in self.aggregator.needs and (
            not isinstance(self.codec, Fp32) or not isinstance(self.schedule, Gossip)
        ):
            raise UsageError("SybilWall passes whole models on", remedy="use it with a graph and fp32")

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Return the strategy that `text` describes; raise UsageError naming the part that is wrong."""
        known, found = _parts(), {}
        correction: VarianceCorrected | None = None
        for part in text.split("|"):
            match = _PART.fullmatch(part)
            if match is None or match[1] not in known:
                raise UsageError(
                    f"{part.strip()!r} is not part of a strategy", remedy=f"one of {', '.join(known)}"
                )
            kind, factory = known[match[1]]
            if kind in found or (kind == "correction" and correction is not None):
                raise UsageError(f"{part.strip()!r} is a second {kind}", remedy="name one of each kind")
            piece = _make(part.strip(), factory, match[2] or "")
            if kind == "correction":
                correction = piece
            else:
                found[kind] = piece
        if correction is not None:
            found["aggregator"] = replace(correction, inner=found.get("aggregator", Mean()))
        return cls(**found, text=text)

    @staticmethod
    def names() -> dict[str, list[str]]:
        """Return kind -> names."""
        table: dict[str, list[str]] = {}
        for name, (kind, _) in _parts().items():
            table.setdefault(kind, []).append(name)
        return table


def _make(part: str, factory: Callable[..., Any], arguments: str) -> Any:
    values: list[Scalar] = []
    named: dict[str, Scalar] = {}
    for argument in filter(None, (piece.strip() for piece in arguments.split(","))):
        name, equals, value = argument.partition("=")
        if equals:
            named[name.strip()] = _scalar(value.strip())
        else:
            values.append(_scalar(argument))
    try:
        return factory(*values, **named)
    except TypeError as error:
        raise UsageError(f"{part!r} has arguments that it does not take", remedy=str(error)) from error


def _scalar(text: str) -> Scalar:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)
