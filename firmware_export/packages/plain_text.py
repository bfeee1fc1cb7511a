"""Put words of the owner's into a Markdown page so that they stay words."""

from __future__ import annotations

__all__ = ["plain_text"]

_SPELT = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "`": "'", "[": "(", "]": ")", "|": "/", "\\": "/"}


def plain_text(text: str) -> str:
    """Return text on one line of at most 200 characters without markup: no links, no HTML, no code."""
    visible = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(_SPELT.get(letter, letter) for letter in " ".join(visible.split())[:200])
