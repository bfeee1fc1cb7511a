"""Stem English words: the Porter2 ("Snowball English") algorithm, written for flocklet.

Source: M. F. Porter, "The English (Porter2) stemming algorithm", snowballstem.org/algorithms/english, in
the form of Snowball 3. `stem` takes one lower-case word and is pure; callers memoise it (a text has few
distinct words).

Regions: R1 is what follows the first consonant after a vowel, R2 the same rule applied inside R1.
Consonantal "y" is written "Y" while a word is worked on.
"""

from __future__ import annotations

import re

__all__ = ["stem"]

_VOWELS = frozenset("aeiouy")
_DOUBLES = frozenset(("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt"))
_VALID_LI = frozenset("cdeghkmnrt")
_R1_PREFIXES = re.compile(r"gener|commun|arsen|past|univers|later|emerg|organ|inter")
_REGION = re.compile(r"[aeiouy][^aeiouy]")
_CONSONANT_Y = re.compile(r"([aeiouy])y")

_WHOLE_WORDS = {
    "skis": "ski",
    "skies": "sky",
    "idly": "idl",
    "gently": "gentl",
    "ugly": "ugli",
    "early": "earli",
    "only": "onli",
    "singly": "singl",
    "sky": "sky",
    "news": "news",
    "howe": "howe",
    "atlas": "atlas",
    "cosmos": "cosmos",
    "bias": "bias",
    "andes": "andes",
}
_KEEP_ING = frozenset(("inn", "out", "cann", "herr", "earr", "even"))
_KEEP_EED = frozenset(("proc", "exc", "succ"))

# Longest suffix first; the first that fits decides, whether or not its condition then holds.
_STEP_2 = (
    ("ational", "ate"),
    ("fulness", "ful"),
    ("iveness", "ive"),
    ("ization", "ize"),
    ("ousness", "ous"),
    ("biliti", "ble"),
    ("lessli", "less"),
    ("tional", "tion"),
    ("alism", "al"),
    ("aliti", "al"),
    ("ation", "ate"),
    ("entli", "ent"),
    ("fulli", "ful"),
    ("iviti", "ive"),
    ("ogist", "og"),
    ("ousli", "ous"),
    ("abli", "able"),
    ("alli", "al"),
    ("anci", "ance"),
    ("ator", "ate"),
    ("enci", "ence"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("ogi", "og"),
    ("li", ""),
)
_STEP_3 = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("alize", "al"),
    ("ative", ""),
    ("icate", "ic"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ness", ""),
    ("ful", ""),
)
_STEP_4 = (
    "ement",
    "able",
    "ance",
    "ence",
    "ible",
    "ment",
    "ant",
    "ate",
    "ent",
    "ion",
    "ism",
    "iti",
    "ive",
    "ize",
    "ous",
    "al",
    "er",
    "ic",
)


def _is_short_syllable(word: str) -> bool:
    """Tell whether `word` ends in a short syllable (Porter2, "Define a short syllable")."""
    if word.endswith("past"):
        return True
    if len(word) == 2:
        return word[0] in _VOWELS and word[1] not in _VOWELS
    return (
        len(word) > 2
        and word[-3] not in _VOWELS
        and word[-2] in _VOWELS
        and word[-1] not in _VOWELS
        and word[-1] not in "wxY"
    )


def _regions(word: str) -> tuple[int, int]:
    """Return the positions at which R1 and R2 begin (the length of the word where a region is empty)."""
    length = len(word)
    special = _R1_PREFIXES.match(word)
    if special is not None:
        r1 = special.end()
    else:
        first = _REGION.search(word)
        r1 = first.end() if first is not None else length
    second = _REGION.search(word, r1)
    return r1, second.end() if second is not None else length


def _step_1a(word: str) -> str:
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith(("us", "ss")) or not word.endswith("s"):
        return word
    return word[:-1] if any(letter in _VOWELS for letter in word[:-2]) else word


def _step_1b(word: str, r1: int) -> str:
    for suffix in ("eedly", "eed"):
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            return root + "ee" if len(root) >= r1 and root not in _KEEP_EED else word
    for suffix in ("ingly", "edly", "ing", "ed"):
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            break
    else:
        return word
    if suffix == "ing":
        if root in _KEEP_ING:
            return word
        if len(root) == 2 and root[1] in "yY" and root[0] not in _VOWELS:
            return root[0] + "ie"
    if not any(letter in _VOWELS for letter in root):
        return word
    if root.endswith(("at", "bl", "iz")):
        return root + "e"
    if root[-2:] in _DOUBLES:
        return root if len(root) == 3 and root[0] in "aeo" else root[:-1]
    if len(root) == r1 and _is_short_syllable(root):
        return root + "e"
    return root


def _step_2(word: str, r1: int) -> str:
    for suffix, replacement in _STEP_2:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            if len(root) < r1:
                return word
            if suffix == "ogi" and not root.endswith("l"):
                return word
            if suffix == "li" and (not root or root[-1] not in _VALID_LI):
                return word
            return root + replacement
    return word


def _step_3(word: str, r1: int, r2: int) -> str:
    for suffix, replacement in _STEP_3:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            if len(root) < (r2 if suffix == "ative" else r1):
                return word
            return root + replacement
    return word


def _step_4(word: str, r2: int) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            if len(root) < r2 or (suffix == "ion" and not root.endswith(("s", "t"))):
                return word
            return root
    return word


def _step_5(word: str, r1: int, r2: int) -> str:
    root = word[:-1]
    if word.endswith("e"):
        at_r1 = len(root) >= r1 and not _is_short_syllable(root)
        return root if len(root) >= r2 or at_r1 else word
    if word.endswith("ll") and len(root) >= r2:
        return root
    return word


def stem(word: str) -> str:
    """Return the stem of one lower-case `word`; a word of one or two letters is returned unchanged.

    >>> [stem(word) for word in ("aerodynamics", "heated", "obeyed", "skies", "generously")]
    ['aerodynam', 'heat', 'obey', 'sky', 'generous']
    """
    if len(word) <= 2:
        return word
    whole = _WHOLE_WORDS.get(word)
    if whole is not None:
        return whole
    if "y" in word:
        word = _CONSONANT_Y.sub(r"\1Y", "Y" + word[1:] if word[0] == "y" else word)
    r1, r2 = _regions(word)
    word = _step_1a(word)
    word = _step_1b(word, r1)
    if len(word) > 2 and word[-1] in "yY" and word[-2] not in _VOWELS:
        word = word[:-1] + "i"
    word = _step_2(word, r1)
    word = _step_3(word, r1, r2)
    word = _step_4(word, r2)
    word = _step_5(word, r1, r2)
    return word.replace("Y", "y")
