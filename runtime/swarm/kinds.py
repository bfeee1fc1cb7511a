"""The messages of strategies, each a typed dataclass: what a peer sent is checked against it once, before any schedule.

Some bounds depend on the swarm (a view has 10 bytes per member, a sample 8 per sampled peer): the schedule that knows the
number of members refuses the rest by the same name, `field`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from flocklet.wire.schema import Many, Tensors, Within

__all__ = ["Ack", "Aggregated", "Member", "Merged", "Report", "Send", "Swap", "Told", "Trained"]

MAX_MEMBERS = 1 << 16
MAX_NEWS = 16
VIEW_ENTRY, PREFIX_BYTES, STAMP_BYTES = 10, 8, 72
_U32 = (1 << 32) - 1
_View = Annotated[bytes, Within(0, VIEW_ENTRY * MAX_MEMBERS, step=VIEW_ENTRY)]
_Sample = Annotated[bytes, Within(0, PREFIX_BYTES * MAX_MEMBERS, step=PREFIX_BYTES)]


@dataclass(frozen=True, slots=True)
class Trained:
    """A model handed in to the aggregator of a round: `of` is the sample that its author believes it belongs to."""

    kind: ClassVar[str] = "trained"
    tensors: Tensors
    view: _View
    of: _Sample
    by: Annotated[
        bytes, Within(0, PREFIX_BYTES, step=PREFIX_BYTES)
    ]  # who gave its author the model it started from
    proof: Annotated[bytes, Within(64, 64)]  # its author's signature of the round and of who shall merge
    on: Annotated[bytes, Within(16, 16)] | None = None  # the base of a model that travels whole


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The model of a round, for its sample `of`; `ticket` holds the proofs of those who handed in for it."""

    kind: ClassVar[str] = "aggregated"
    tensors: Tensors
    view: _View
    of: _Sample
    ticket: Annotated[bytes, Within(0, STAMP_BYTES * MAX_MEMBERS, step=STAMP_BYTES)]
    news: Annotated[tuple[bytes, ...], Many(MAX_NEWS), Within(0, 512)] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A change reported to a keeper; `ms` is how long its author says that it trained."""

    kind: ClassVar[str] = "trained"
    tensors: Tensors
    ms: Annotated[int, Within(0, _U32)]


@dataclass(frozen=True, slots=True)
class Merged:
    """A keeper's answer to a report."""

    kind: ClassVar[str] = "aggregated"
    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Ack:
    """Whether the model of that round was taken; `ok` false asks for it whole."""

    kind: ClassVar[str] = "agg_ack"
    ok: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A change of membership, signed by whom it is about."""

    kind: ClassVar[str] = "member"
    in_: bool
    round: Annotated[int, Within(0, (1 << 63) - 1)]


@dataclass(frozen=True, slots=True)
class Send:
    """A neighbour's model: `d` is its degree, `c` the number of classes that it holds."""

    kind: ClassVar[str] = "send"
    tensors: Tensors
    d: Annotated[int, Within(0, (1 << 16) - 1)]
    c: Annotated[int, Within(0, 4096)]


@dataclass(frozen=True, slots=True)
class Told:
    """A model at second hand: whose it is, and how many hops away that peer is."""

    kind: ClassVar[str] = "gossip"
    tensors: Tensors
    about: Annotated[bytes, Within(32, 32)]
    distance: Annotated[int, Within(1, 15)]


@dataclass(frozen=True, slots=True)
class Swap:
    """One half of an exchange of two models."""

    kind: ClassVar[str] = "swap"
    tensors: Tensors
    answer: bool
