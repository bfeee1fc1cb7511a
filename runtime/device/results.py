"""What goes in and out of a device: the results of every verb, and clicks of the past.

On the socket between a verb and a running peer a result is a plain map; `build` makes the dataclass of it.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

__all__ = [
    "AddResult",
    "ClickResult",
    "Hit",
    "ImportResult",
    "PastClick",
    "PeerStatus",
    "RateResult",
    "Recommendation",
    "Recommendations",
    "Refusal",
    "RemoveResult",
    "SearchResults",
    "SkippedFile",
    "Status",
    "TaskStatus",
    "TrustResult",
    "TrustedPerson",
    "Twin",
    "build",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Twin:
    """A document that says the same as a result: a copy, another edition, a translation.

    Attributes:
        title: Its title, or the name of the file.
        path: Where the file lies.
        language: ISO 639-1, "" where not known.
    """

    title: str
    path: str | None
    language: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One shown result.

    Attributes:
        rank: Its place, from 1.
        item_id: The item, the same number on every device that has the same content.
        title: The title, or the name of the file.
        path: Where the file lies, None for what came from no file.
        snippet: The passage with most of the query's rare words.
        votes: The score of G-Rank: how many like-minded people clicked it.
        text_score: The score of BM25.
        score: What decided the order, by default the posterior click rate.
        why: The reasons, when they were asked for.
        spans: Where in the snippet the words of the query stand, (first, one past the last) character.
        part: The page, slide, sheet or chapter of the snippet, "" where there is none.
        line: The line of the snippet in a text file, from 1; 0 elsewhere.
        twins: Other documents that say the same.
    """

    rank: int
    item_id: int
    title: str
    path: str | None
    snippet: str
    votes: float
    text_score: float
    score: float = 0.0
    why: dict[str, Any] | None = None
    spans: tuple[tuple[int, int], ...] = ()
    part: str = ""
    line: int = 0
    twins: tuple[Twin, ...] = ()


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The answer to a query.

    Attributes:
        query_id: What a click refers to.
        query: The words.
        found: The results of this page, best first.
        total: How many documents there are for the query, those folded into others counted.
        page: Which page this is, from 1.
        corrected: (word as typed, words that were searched for too).
        note: What else to know, "" for nothing.
    """

    query_id: int
    query: str
    found: tuple[Hit, ...]
    total: int = 0
    page: int = 1
    corrected: tuple[tuple[str, tuple[str, ...]], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out.

    Attributes:
        path: The file.
        why: What is wrong with it.
        remedy: What to do, "" if nothing helps.
    """

    path: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class AddResult:
    """What indexing files did.

    Attributes:
        added: Documents that are new or changed.
        unchanged: Documents that were there already.
        gone: Documents whose file is no longer there.
        skipped: Files that were left out, each with its reason.
        documents: All documents in the index now.
        guessed: Documents whose text needed a guess of its encoding.
    """

    added: int
    unchanged: int
    gone: int
    skipped: tuple[SkippedFile, ...]
    documents: int
    guessed: int = 0


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """What taking files out did: how many documents were `removed`, how many `documents` are left."""

    removed: int
    documents: int


@dataclass(frozen=True, slots=True)
class ClickResult:
    """A click that was signed and kept: for which `query`, on which item, as which number of its person."""

    query: str
    item_id: int
    seq: int


@dataclass(frozen=True, slots=True)
class RateResult:
    """What was noted of an item; None for what was not said."""

    item_id: int
    name: str
    stars: float | None
    is_finished: bool | None
    dwell_s: float | None


@dataclass(frozen=True, slots=True)
class TrustResult:
    """An opinion that was signed: about `peer` (an origin in hex), 1 trusts, -1 distrusts, 0 takes it back."""

    peer: str
    weight: float


@dataclass(frozen=True, slots=True)
class TrustedPerson:
    """Somebody whom trust reaches.

    Attributes:
        peer: The origin in hex.
        name: What this device calls them, "" if nothing.
        score: The score of MeritRank.
        influence: How much their taste counts.
        path: Through whom trust leads there.
    """

    peer: str
    name: str
    score: float
    influence: float
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One recommended item.

    Attributes:
        rank: Its place, from 1.
        item_id: The item.
        name: What it is called.
        score: What decided the order.
        because: What you like that it came from, when reasons were asked for.
        through: The people it came through, when reasons were asked for.
    """

    rank: int
    item_id: int
    name: str
    score: float
    because: tuple[str, ...]
    through: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recommendations:
    """What else somebody may like.

    Attributes:
        found: The items, best first.
        played: How many items re-ranked them by what became of them.
        is_trust_used: Whether trust decided whose taste counts.
        people: Known people.
        edges: Known opinions.
        liked_from: The least number of stars that is a like.
    """

    found: tuple[Recommendation, ...]
    played: int
    is_trust_used: bool
    people: int
    edges: int
    liked_from: float


@dataclass(frozen=True, slots=True)
class ImportResult:
    """How many `ratings` of how many `people` were read, how many were `new` and how many are likes (`liked`)."""

    ratings: int
    new: int
    people: int
    liked: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A link that was refused: when, by which code of PROTOCOL.md, and in words."""

    at_s: float
    reason: str
    what: str


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A background task: `running` or `restarting`, how often it began again, why, and for how long it has been running."""

    name: str
    state: str
    restarts: int
    cause: str
    running_s: float


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as this one sees it.

    Attributes:
        id: The device id, None as long as nothing claims one.
        short: What a person recognises; what `flocklet trust` takes.
        addresses: Where it may be reached.
        sources: Who told of it: mdns, remembered, static, told.
        is_linked: Whether a link to it is open.
        is_foreign: Whether it is of another flock.
        liveness: What its heartbeats say.
        rtt_ms: The round trip, None without a link.
        clock_ahead_s: How far its wall clock is ahead of ours, to the minute; None until it was told.
        found_after_s: How long after the start it was first seen.
        problem: Why it is not linked, "" if nothing is wrong.
    """

    id: str | None
    short: str
    addresses: tuple[str, ...]
    sources: tuple[str, ...]
    is_linked: bool
    is_foreign: bool
    liveness: str
    rtt_ms: float | None
    clock_ahead_s: float | None
    found_after_s: float
    problem: str


@dataclass(frozen=True, slots=True)
class Status:
    """What a peer holds and does.

    Attributes:
        device_id: The device id.
        short_id: Its first digits.
        flock: "open", "closed" or "none".
        port: The TCP port it listens on.
        pid: The process.
        links: Open links.
        bytes_in: Bytes received over links.
        bytes_out: Bytes sent over links.
        gossip_s: Seconds between two exchanges, 0: it only answers.
        gossip: Counts of the exchanges by name.
        refusals: The last refused links.
        tasks: The background tasks and how they are.
        refused: Messages that were not let in, by reason.
        bans: Who is banned by its short id, why and for how long.
        problems: What is wrong, one line each.
        documents: Documents in the index.
        people: People on this device.
        origins: People known from anywhere.
        events: Queries that were asked here.
        clicks: Clicks known from anywhere.
        condemned: People who were caught signing two truths.
        deltas: Model deltas kept.
        edges: Known opinions about people and items.
        database_bytes: The size of the store.
        reranker: What the online rerankers have learnt.
        quotas: How full each quota is, "used of limit".
    """

    device_id: str
    short_id: str
    flock: str
    port: int
    pid: int
    links: int
    bytes_in: int
    bytes_out: int
    gossip_s: float
    gossip: Mapping[str, int]
    refusals: tuple[Refusal, ...]
    tasks: tuple[TaskStatus, ...]
    refused: Mapping[str, int]
    bans: Mapping[str, str]
    problems: tuple[str, ...]
    documents: int
    people: int
    origins: int
    events: int
    clicks: int
    condemned: int
    deltas: int
    edges: int
    database_bytes: int
    reranker: Mapping[str, Any]
    quotas: Mapping[str, str]


def build(kind: type[T], plain: Mapping[str, Any]) -> T:
    """Return the dataclass `kind` with what a plain map says: lists become tuples, maps of fields dataclasses.

    Raises:
        KeyError: a field without a default is missing.
    """
    hints = _hints(typing.cast("Hashable", kind))
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]  # every kind is a dataclass
        if field.name in plain:
            values[field.name] = _value(hints[field.name], plain[field.name])
    missing = [field.name for field in fields(kind) if field.name not in values and field.default is MISSING]  # type: ignore[arg-type]
    if missing:
        raise KeyError(f"{kind.__name__} needs {', '.join(missing)}")
    return kind(**values)


@functools.cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, list | tuple):
        item: Any = (typing.get_args(hint) or (Any,))[0]
        made: type[Any] | None = item if hasattr(item, "__dataclass_fields__") else None
        return tuple(build(made, one) if made and isinstance(one, Mapping) else one for one in value)
    return value


@dataclass(frozen=True, slots=True)
class PastClick:
    """A click that happened before flocklet was here: who asked what, what was shown, and the index clicked."""

    person: str
    query: str
    shown: tuple[int, ...]
    clicked: int
    at_s: float
