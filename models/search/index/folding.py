"""Fold what readers do not tell apart: case, invisible characters, accents and points, stroke letters.

`prepare` is done before words are cut, `fold` after they are stemmed: a stemmer knows the letters of its language.
Marks are removed by script (Latin, Greek, Cyrillic accents, Hebrew points, Arabic vowel signs); those that readers take
for letters stay: the signs of Indic, Thai and Khmer, the voicing of kana, and the Cyrillic short i.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["fold", "prepare"]

# Format characters (category Cf) that nobody sees, the grapheme joiner and the variation selectors.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_MARKS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06ed]"
)
_SHORT_I = "\u0438\u0306"
_LETTERS = str.maketrans(
    {
        "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "ƀ": "b", "ø": "o", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ŋ": "n",
        "ı": "i", "ſ": "s", "ŀ": "l", "\u00b7": "", "\u0671": "\u0627", "\u0649": "\u064a", "\u0629": "\u0647",
    }
)  # fmt: skip


def prepare(text: str) -> str:
    """Return `text` without case, compatibility forms and invisible characters; letters keep their accents."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return _INVISIBLE.sub("", text)


def fold(text: str) -> str:
    """Return prepared `text` without accents and points, composed (NFC) so that one word has one spelling.

    >>> [fold(prepare(word)) for word in ("Größe", "Łódź", "Ёлка")]
    ['grosse', 'lodz', 'елка']
    """
    if text.isascii():
        return text
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", text).replace(_SHORT_I, "\u0439"))
    return unicodedata.normalize("NFC", bare.translate(_LETTERS))
