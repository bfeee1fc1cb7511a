"""Turn documents and queries into rows of the vocabulary, each document in its own language.

A query is analysed in every language of the index. The terms that its word has in them are one *group*: it is scored
like one term, the union of the posting lists. In an index of one language every group has one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from flocklet.models.search.index.folding import fold
from flocklet.models.search.index.text import MAX_TERM_LENGTH, surface_words, term_of, words

__all__ = ["ENGLISH", "LANGUAGES", "Analysis", "analysed_as", "analyser_of", "stemmer_version"]

ENGLISH = "en"
_NAMES = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech", "da": "danish", "nl": "dutch",
    "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi",
    "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian", "ne": "nepali",
    "no": "norwegian", "nb": "norwegian", "nn": "norwegian", "fa": "persian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "st": "sesotho", "es": "spanish", "sv": "swedish", "ta": "tamil",
    "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
LANGUAGES = frozenset(_NAMES)
"""Languages with a stemmer of their own beside English (ISO 639-1)."""
_MEMO_WORDS = 50_000
_SHORTEST, _LONGEST = 3, 24
_SURFACE_MAX = 400_000


def analysed_as(language: str) -> str:
    """Return the language whose analyser a document in `language` goes through: its own, else English."""
    return language if language in LANGUAGES else ENGLISH


def stemmer_version() -> str:
    """Return the version of the stemmers: terms of another one do not fit."""
    return version("snowballstemmer")


def analyser_of(language: str) -> Callable[[str], str]:
    """Return what makes a term of a word of `surface_words`, "" for a stop word; words are stemmed, then folded."""
    if language not in LANGUAGES:
        return lambda word: term_of(fold(word))
    name = _NAMES[language]
    # The class itself: `snowballstemmer.stemmer` silently takes another package when that is installed.
    stemmer = getattr(import_module(f"snowballstemmer.{name}_stemmer"), f"{name.capitalize()}Stemmer")()
    return lambda word: fold(stemmer.stemWord(word[:MAX_TERM_LENGTH]))[:MAX_TERM_LENGTH]


class _Rows(dict[str, int]):
    """Map a word to the row of its term, -1 for a stop word; a word not seen before gets a row."""

    def __init__(
        self, vocabulary: dict[str, int], surface: dict[str, int], term: Callable[[str], str]
    ) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._surface = surface
        self.term = term

    def __missing__(self, word: str) -> int:
        if len(word) > MAX_TERM_LENGTH:
            return self[word[:MAX_TERM_LENGTH]]
        term = self.term(word)
        row = self._vocabulary.setdefault(term, len(self._vocabulary)) if term else -1
        if (
            row >= 0
            and _SHORTEST <= len(word) <= _LONGEST
            and word.isalpha()
            and len(self._surface) < _SURFACE_MAX
        ):
            self._surface.setdefault(fold(word), row)
        if len(self) >= _MEMO_WORDS:
            self.clear()
        self[word] = row
        return row

    def known(self, word: str) -> int:
        """Return the row of a word without giving it one: the memo may only learn the words of documents."""
        row = self.get(word)
        return self._vocabulary.get(self.term(word), -1) if row is None else row


class Analysis:
    """Analyse into the rows of `vocabulary`, term -> row, which grows with the documents.

    `surface` maps words as they are written (folded, 3 to 24 letters) to rows: what a typing error may have meant.
    """

    def __init__(self, vocabulary: dict[str, int], surface: dict[str, int] | None = None) -> None:
        self.vocabulary = vocabulary
        self.surface = {} if surface is None else surface
        self._memos = {ENGLISH: _Rows(vocabulary, self.surface, term_of)}

    def renumbered(self, vocabulary: dict[str, int], rows: NDArray[np.int64]) -> Analysis:
        """Return an analysis into another vocabulary, the stemmers kept; `rows` are the new ones of the old, -1 for none."""
        surface = {word: new for word, row in self.surface.items() if (new := int(rows[row])) >= 0}
        other = Analysis(vocabulary, surface)
        for language, memo in self._memos.items():
            other._memos[language] = _Rows(vocabulary, surface, memo.term)
        return other

    def rows(self, text: str, language: str) -> Iterator[int]:
        """Yield the row of each word of a document in order, -1 for stop words."""
        cut = words if language == ENGLISH else surface_words
        return map(self._memo(language).__getitem__, cut(text))

    def groups(self, query: str, languages: Sequence[str]) -> list[tuple[int, ...]]:
        """Return for each word of a query in order the rows that it means in `languages`; words without any are left out."""
        if tuple(languages) in ((ENGLISH,), ()):
            memo = self._memos[ENGLISH]
            return [(row,) for word in words(query) if (row := memo.known(word)) >= 0]
        result = []
        for word in surface_words(query):
            rows = {self._known(word, language) for language in languages} - {-1}
            if rows:
                result.append(tuple(sorted(rows)))
        return result

    def groups_in(self, text: str, language: str) -> list[tuple[int]]:
        """Return the row of each word of a piece of a document in `language`, unknown words left out."""
        name = analysed_as(language)
        return [(row,) for word in surface_words(text) if (row := self._known(word, name)) >= 0]

    def asked(self, query: str, languages: Sequence[str]) -> set[tuple[int, ...]]:
        """Return the distinct groups of a query; () stands for words that no document has (stop words ask for nothing)."""
        result = set()
        for word in surface_words(query):
            terms = {self._term(word, language) for language in languages or (ENGLISH,)} - {""}
            if terms:
                result.add(tuple(sorted({self.vocabulary.get(term, -1) for term in terms} - {-1})))
        return result

    def terms(self, query: str, languages: Sequence[str]) -> list[str]:
        """Return the terms of a query in order, with repetitions, in all `languages`, known or not."""
        result: list[str] = []
        for word in surface_words(query):
            result += dict.fromkeys(term for language in languages if (term := self._term(word, language)))
        return result

    def _term(self, word: str, language: str) -> str:
        return term_of(fold(word)) if language == ENGLISH else self._memo(language).term(word)

    def _known(self, word: str, language: str) -> int:
        return self._memo(language).known(fold(word) if language == ENGLISH else word)

    def _memo(self, language: str) -> _Rows:
        memo = self._memos.get(language)
        if memo is None:
            memo = self._memos[language] = _Rows(self.vocabulary, self.surface, analyser_of(language))
        return memo
