"""Turn a parsed query into what one index can answer: groups of terms that score, and who may be found."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.analysis import ENGLISH
from flocklet.models.search.index.asked import Asked
from flocklet.models.search.index.folding import fold, prepare
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.query import Query
from flocklet.models.search.index.spelling import Speller
from flocklet.models.search.index.text import STOP_WORDS, normalise, surface_words

__all__ = ["ask", "phrase_pattern", "place_in"]

_PREFIX_TERMS = 64
_PER_EDIT = 0.5
_RARE = 2
_FAR_COMMONER = 50


def ask(
    index: Index, query: Query, speller: Callable[[], Speller], allowed: NDArray[np.bool_] | None
) -> Asked | None:
    """Return what `query` asks of `index`, None when that is its plain words.

    `allowed` is who passes its fields `(documents,) bool`. A phrase only asks for documents with all of its words:
    whether they stand in order is for the caller to see (`phrase_pattern`).
    """
    languages = index.languages
    groups = index.analysis.groups(query.scored, languages)
    factors = [1.0] * len(groups)
    corrected = []
    for word in dict.fromkeys(surface_words(" ".join(query.words))):
        found = _corrected(index, word, speller)
        if found is not None:
            names, group, edits = found
            groups.append(group)
            factors.append(_PER_EDIT**edits)
            corrected.append((word, names))
    if query.is_plain and not corrected:
        return None
    for prefix in query.prefixes:
        groups.append(_starting_with(index, fold(prepare(prefix))))
        factors.append(1.0)
        allowed = _both(allowed, index.with_group(groups[-1]))
    for phrase in query.phrases:
        for group in index.analysis.asked(phrase, languages):
            allowed = _both(allowed, index.with_group(group))
    for excluded in query.excluded:
        for group in index.analysis.asked(excluded, languages):
            allowed = _both(allowed, ~index.with_group(group))
    return Asked(tuple(groups), tuple(factors), allowed, tuple(corrected))


def _both(one: NDArray[np.bool_] | None, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return other if one is None else one & other


def _starting_with(index: Index, prefix: str) -> tuple[int, ...]:
    """Return the rows of the words that begin with `prefix`, those of most documents."""
    rows = {row for word, row in index.analysis.surface.items() if word.startswith(prefix)}
    rows |= {row for term, row in index.analysis.vocabulary.items() if term.startswith(prefix)}
    return tuple(sorted(sorted(rows, key=lambda row: (-index.frequency((row,)), row))[:_PREFIX_TERMS]))


def _corrected(
    index: Index, word: str, speller: Callable[[], Speller]
) -> tuple[tuple[str, ...], tuple[int, ...], int] | None:
    """Return the words that a rare or unknown `word` may have meant, their rows, and the edits of the likeliest."""
    if len(word) < 4 or not word.isalpha() or word in STOP_WORDS:
        return None
    groups = index.analysis.groups(word, index.languages)
    df = max((index.frequency(group) for group in groups), default=0)
    if df > _RARE:
        return None
    own = {row for group in groups for row in group}
    near = speller().near(normalise(word), np.asarray(index.parts[1], np.int32))
    near = [(other, row, edits) for other, row, edits in near if row not in own]
    if not near or (df and index.frequency((near[0][1],)) < _FAR_COMMONER * df):
        return None
    rows = tuple(sorted({row for _, row, _ in near}))
    return tuple(other for other, _, _ in near), rows, near[0][2]


def place_in(
    index: Index, asked: Asked | None, query: Query, language: str
) -> tuple[Callable[[str], int], list[float]]:
    """Return what gives a word of a document in `language` its place among the groups asked for, and their idf."""
    groups = index.analysis.groups(query.scored, index.languages) if asked is None else list(asked.groups)
    places: dict[int, int] = {}
    for at, group in enumerate(groups):
        for row in group:
            places.setdefault(row, at)
    total = len(index)
    rarity = [
        float(np.log1p((total - df + 0.5) / (df + 0.5)))
        for df in (index.frequency(group) for group in groups)
    ]

    def place(word: str) -> int:
        for (row,) in index.analysis.groups_in(word, language or ENGLISH):
            if row in places:
                return places[row]
        return -1

    return place, rarity


def phrase_pattern(index: Index, phrase: str) -> re.Pattern[str]:
    """Return what finds `phrase` in a normalised text: its words in order by their stems, stop words as any word."""
    pieces = []
    for word in surface_words(phrase):
        plain = fold(word)
        if plain in STOP_WORDS:
            pieces.append(r"\w+")
            continue
        stems = {plain, *index.query_terms(word)}
        shared = [plain[: _common(plain, stem)] for stem in stems]
        start = min(shared, key=len)
        pieces.append(re.escape(start if len(start) > 2 else plain) + r"\w*")
    return re.compile(r"\b" + r"\W+".join(pieces) if pieces else r"(?!)")


def _common(one: str, other: str) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
