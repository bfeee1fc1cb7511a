"""A strategy in a few words: "modest(s=10)|sgd(lr=0.1)|int4|trimmed(0.2)".

Parts are separated by "|", in any order; each is a name with arguments as in Python, numbers and words only. Of each
kind (schedule, trainer, codec, aggregator) at most one is given; "vc" wraps the aggregator in variance correction.
`Strategy.names()` lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flocklet.errors import UsageError
from flocklet.swarm.aggregators.averaging import Mean, VarianceCorrected
from flocklet.swarm.aggregators.robust import Ranked
from flocklet.swarm.codecs import Fp32
from flocklet.swarm.participant import Schedule
from flocklet.swarm.protocols import Aggregator, Codec, Sampling, Trainer
from flocklet.swarm.registry import Scalar, parts
from flocklet.swarm.samplers import HashOrder
from flocklet.swarm.trainers.numpy import Sgd

__all__ = ["Strategy"]

_PART = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(?:\(([^()]*)\))?\s*")


def _modest() -> Schedule:
    from flocklet.swarm.schedules.modest import Modest

    return Modest()


@dataclass(frozen=True)
class Strategy:
    """How a swarm learns together. `text` is how it was written, for tables."""

    schedule: Schedule = field(default_factory=_modest)
    sampler: Sampling = field(default_factory=lambda: HashOrder(10))
    trainer: Trainer = field(default_factory=Sgd)
    codec: Codec = field(default_factory=Fp32)
    aggregator: Aggregator = field(default_factory=Mean)
    text: str = ""

    def __post_init__(self) -> None:
        if "gossip" in self.aggregator.needs and (
            not isinstance(self.codec, Fp32) or self.schedule.name != "gossip"
        ):
            raise UsageError("SybilWall passes whole models on", remedy="use it with a graph and fp32")
        if self.schedule.name == "poisson" and not (
            isinstance(self.codec, Fp32) and isinstance(self.aggregator, Mean)
        ):
            raise UsageError(
                "poisson swaps whole models and takes their mean: it has no place for a codec or a rule",
                remedy="leave them out, or take regular(4)",
            )

    def check(self, peers: int) -> None:
        """Raise UsageError if the rule would be the plain mean in a swarm of `peers`: no silent weakness."""
        rule = self.aggregator.inner if isinstance(self.aggregator, VarianceCorrected) else self.aggregator
        fewest = self.schedule.fewest(self.sampler.fewest(peers))
        if isinstance(rule, Ranked) and fewest < rule.least:
            raise UsageError(
                f"{rule.name} needs {rule.least} models to withstand one liar, {self.words} gives {fewest}",
                remedy="more neighbours or a larger sample, a larger f, or mean",
            )

    @property
    def words(self) -> str:
        """The first part as it was written: the schedule, where one was named."""
        return next((part.strip() for part in self.text.split("|") if part.strip()), self.schedule.name)

    @classmethod
    def parse(cls, text: str) -> Strategy:
        """Return the strategy that `text` describes; raise UsageError naming the part that is wrong."""
        known, found = parts(), {}
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
            elif kind == "schedule":
                found["sampler"], found["schedule"] = piece
            else:
                found[kind] = piece
        if correction is not None:
            found["aggregator"] = replace(correction, inner=found.get("aggregator", Mean()))
        return cls(**found, text=text)

    @staticmethod
    def names() -> dict[str, list[str]]:
        """Return kind -> names."""
        table: dict[str, list[str]] = {}
        for name, (kind, _) in parts().items():
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
            value = kind(text)
        except ValueError:
            continue
        if not -1e18 < value < 1e18:  # NaN, too
            raise UsageError(f"{text!r} is no number for a strategy", remedy="a finite number")
        return value
    return {"true": True, "false": False}.get(text.lower(), text)
