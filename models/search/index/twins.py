"""Tell documents that say the same: nearly equal texts, and one page in several languages."""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["TWIN", "are_translations", "resemblance", "shingles"]

TWIN = 0.6
"""Resemblance (Broder 1997) from which two documents are shown as one."""
_MAX_CHARACTERS = 100_000
_TAG = re.compile(r"(?:(?<=[/._-])|^)([a-z]{2,3}(?:[-_][A-Za-z]{2,4})?)(?=[/.]|$)")
_RATIO = 3
_LEAST_RUNS = 16  # of shorter texts, different ones share most of their words


def shingles(text: str) -> NDArray[np.uint64]:
    """Return the distinct runs of three words of `text` as hashes, ascending; a shorter text is one run."""
    words = text[:_MAX_CHARACTERS].lower().split()
    if not words:
        return np.zeros(0, np.uint64)
    codes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    if len(codes) < 3:
        return np.unique(codes)
    mixed = codes[:-2] * np.uint64(0x9E3779B97F4A7C15) + codes[1:-1]
    return np.unique(mixed * np.uint64(0xC2B2AE3D27D4EB4F) + codes[2:])


def resemblance(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Return the share of runs that two documents have in common (Jaccard), 0 where one is too short to tell."""
    if min(len(one), len(other)) < _LEAST_RUNS or min(len(one), len(other)) < TWIN * max(
        len(one), len(other)
    ):
        return 0.0
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def are_translations(paths: tuple[str, str], languages: tuple[str, str], sizes: tuple[int, int]) -> bool:
    """Tell whether two files are one page in two languages: equal paths but for a language's tag, sizes within 1 : 3."""
    if languages[0] == languages[1] or not all(languages) or max(sizes) > _RATIO * min(sizes):
        return False
    return _untagged(paths[0], languages[0]) == _untagged(paths[1], languages[1]) != ""


def _untagged(path: str, language: str) -> str:
    """Return `path` without the last tag of `language` in it; without such a tag the path itself."""
    for match in reversed(list(_TAG.finditer(path))):
        if match.group(1).lower().startswith(language):
            return path[: match.start(1)].rstrip("._-") + path[match.end(1) :]
    return path
