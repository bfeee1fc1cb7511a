"""Choose what to show of a text: the window with most of the query's rare words, and where they stand in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from flocklet.models.search.index.text import UNSPACED

__all__ = ["Passage", "passage_of"]

_WINDOW = 28  # words
_LEAD = 6  # words before the first hit
_ADJACENT = 0.3
_MENU_LINES = 8
_CUT = 200_000
_TOKEN = re.compile(f"[{UNSPACED}]|[^\\W_]+(?:[\u0300-\u036f\u00ad\u200b-\u200d\u2060]+[^\\W_]*)*")


@dataclass(frozen=True, slots=True)
class Passage:
    """Hold a stretch of a document: `text` on one line, `spans` of the query's words in it, where it starts in the
    document.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    start: int = 0


def passage_of(text: str, place_of: Callable[[str], int], rarity: list[float]) -> Passage:
    """Return the best passage of `text`.

    `place_of` gives the place in the query of a word of the text, -1 for others; `rarity` the idf of each place.
    Without any word of the query the passage is the beginning.
    """
    memo: dict[str, int] = {}
    tokens: list[tuple[int, int, int]] = []
    first = None
    for match in _TOKEN.finditer(text):
        word = match.group()
        place = memo.get(word)
        if place is None:
            place = memo[word] = place_of(word)
        if place >= 0 and first is None:
            first = match.start()
        tokens.append((match.start(), match.end(), place))
        if (first is None and match.start() > 8 * _CUT) or (
            first is not None and match.start() > first + _CUT
        ):
            break
    if not tokens:
        return Passage("")
    if first is None:
        return _shown(text, tokens[:_WINDOW], 0)
    best, best_score = 0, float("-inf")
    for at, (_, _, place) in enumerate(tokens):
        if place < 0:
            continue
        score = _score(text, tokens[at : at + _WINDOW], rarity)
        if score > best_score:
            best, best_score = at, score
    start = max(0, best - _LEAD)
    return _shown(text, tokens[start : best + _WINDOW - _LEAD], tokens[start][0])


def _score(text: str, window: list[tuple[int, int, int]], rarity: list[float]) -> float:
    hits = [place for _, _, place in window]
    covered = sum(rarity[place] for place in set(hits) if place >= 0)
    pairs = sum(a >= 0 and b == a + 1 for a, b in pairwise(hits))
    is_menu = text.count("\n", window[0][0], window[-1][1]) > _MENU_LINES
    return covered + min(_ADJACENT * pairs, 1.0) - (0.5 * max(rarity) if is_menu else 0.0)


def _shown(text: str, window: list[tuple[int, int, int]], start: int) -> Passage:
    pieces: list[str] = ["… " if window[0][0] > 0 else ""]
    spans: list[tuple[int, int]] = []
    size = len(pieces[0])
    at = window[0][0]
    for first, last, place in window:
        gap = " ".join(text[at:first].split()) if text[at:first].strip() else ""
        between = text[at:first]
        if gap:
            gap = (" " if between[:1].isspace() else "") + gap + (" " if between[-1:].isspace() else "")
        elif between:
            gap = " "
        word = text[first:last]
        size += len(gap)
        if place >= 0:
            spans.append((size, size + len(word)))
        size += len(word)
        pieces += [gap, word]
        at = last
    ending = re.match(r"[^\w\s]{0,3}", text[at : at + 3])
    pieces.append(ending.group() if ending else "")
    pieces.append(" …" if text[at:].strip() else "")
    return Passage("".join(pieces), tuple(spans), start)
