"""What goes in and out of a device: results that are shown, and clicks of the past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Found", "PastClick", "Results", "snippet_of"]


@dataclass(frozen=True, slots=True)
class Found:
    """One shown result: `rank` counts from 1, `score` is the ranking's (by default the posterior click rate),
    `votes` the G-Rank score, `text_score` BM25's. `why` is filled when it was asked for.
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


@dataclass(frozen=True, slots=True)
class Results:
    """The answer to a query; `query_id` is what a click refers to."""

    query_id: int
    query: str
    found: tuple[Found, ...]


@dataclass(frozen=True, slots=True)
class PastClick:
    """A click that happened before flocklet was here: who asked what, what was shown, and the index clicked."""

    person: str
    query: str
    shown: tuple[int, ...]
    clicked: int
    at_s: float


def snippet_of(text: str, query: str, *, width: int = 160) -> str:
    """Return about `width` characters of `text` around the first word of `query` that it holds."""
    flat = " ".join(text[:20_000].split())
    lower = flat.lower()
    places = [at for word in query.lower().split() if (at := lower.find(word)) >= 0]
    start = max(0, min(places, default=0) - width // 4)
    start = flat.rfind(" ", 0, start) + 1 if start else 0
    end = start + width
    return ("… " if start else "") + flat[start:end].rstrip() + (" …" if end < len(flat) else "")
