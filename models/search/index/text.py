"""Turn text into the terms that are indexed and searched.

The pipeline (specs: lower case, words, stop words, English Porter2 stems) is the one of the reference
figures for ASCII text. Other scripts are kept:

- letters are compared without case, accents, points and what nobody sees (`folding`: "Größe", "GROSSE" are one word);
- scripts that are written without spaces between words (Han, kana, Hangul, Thai, Lao, Khmer, Myanmar) give
  one term for each character and one for each two neighbouring characters, so one character is enough to
  search;
- English stems are made of words of ASCII letters and digits only; other words are kept whole, unless the document is
  in a language that has a stemmer (`analysis`);
- a term has at most `MAX_TERM_LENGTH` characters; what is longer (base64, minified code) is cut there.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from flocklet.models.search.index.folding import fold, prepare
from flocklet.models.search.index.stemmer import stem

__all__ = [
    "MAX_TERM_LENGTH",
    "STOP_WORDS",
    "UNSPACED",
    "normalise",
    "surface_words",
    "term_of",
    "tokenize",
    "words",
]

MAX_TERM_LENGTH = 64

_STOP_WORDS = """
a about above after again against all am an and any are as at be because been before being below between
both but by can could did do does doing down during each few for from further had has have having he her
here hers him his how i if in into is it its itself just me more most my no nor not of off on once only or
other our ours out over own same she should so some such than that the their theirs them then there these
they this those through to too under until up very was we were what when where which while who whom why will
with would you your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

# Byte by byte: letters in lower case, digits, and a space for anything else.
_ASCII_TABLE = bytes(code if chr(code).isalnum() else 32 for code in range(128)).lower() + b" " * 128
# Han (and its extensions), kana, Hangul; Thai, Lao; Myanmar; Khmer.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)


@lru_cache(maxsize=1)
def _word_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a word and of a run of an unspaced script, made on first use."""
    # Vowel signs (Devanagari, Arabic, ...) are marks, not letters, to Python; without them words fall apart.
    marks = "".join(
        chr(code) for code in range(0x300, 0x3100) if unicodedata.category(chr(code)) in ("Mn", "Mc")
    )
    return re.compile(rf"(?:[^\W_]|[{marks}])+"), re.compile(f"([{UNSPACED}]+)")


@lru_cache(maxsize=16384)
def _stem(word: str) -> str:
    return stem(word)


def term_of(word: str) -> str:
    """Return the indexed term of one normalised `word`: its stem, "" for a stop word; long words are cut."""
    word = word[:MAX_TERM_LENGTH]
    if word in STOP_WORDS:
        return ""
    return _stem(word) if word.isascii() else word


def normalise(text: str) -> str:
    """Return `text` as words are compared: without case, invisible characters, accents and points."""
    return text.lower() if text.isascii() else fold(prepare(text))


def words(text: str) -> list[str]:
    """Return the normalised words of `text` in order, stop words included, none stemmed."""
    if text.isascii():
        return text.encode().translate(_ASCII_TABLE).decode().split()
    return _cut(normalise(text))


def surface_words(text: str) -> list[str]:
    """Return the words of `text` like `words`, with their accents: what a stemmer of another language takes."""
    if text.isascii():
        return text.encode().translate(_ASCII_TABLE).decode().split()
    return _cut(prepare(text))


def _cut(text: str) -> list[str]:
    word_pattern, unspaced_pattern = _word_patterns()
    result: list[str] = []
    for match in word_pattern.findall(text):
        if match.isascii():
            result.append(match)
            continue
        for place, part in enumerate(unspaced_pattern.split(match)):
            if place % 2:
                result.extend(part)
                result.extend(part[at : at + 2] for at in range(len(part) - 1))
            elif part:
                result.append(part)
    return result


def tokenize(text: str) -> list[str]:
    """Return the terms of `text` in order, with repetitions: what the index stores and what a query asks for.

    >>> tokenize("The aerodynamics of heated wings")
    ['aerodynam', 'heat', 'wing']
    """
    return [term for word in words(text) if (term := term_of(word))]
