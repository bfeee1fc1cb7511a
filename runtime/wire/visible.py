"""Show text by strangers so that it cannot command a terminal, reorder a line or break an encoder."""

from __future__ import annotations

import os
import re

__all__ = ["visible"]

# C0, DEL and C1 controls, surrogates (bytes that are no UTF-8), bidirectional controls (Unicode UAX 9, section 2).
_HIDDEN = re.compile(
    "[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str | bytes) -> str:
    r"""Return `text` with controls, bidirectional controls and undecodable bytes as escapes (`\x1b`, `\u202e`, `\xff`).

    >>> visible(b"caf\xe9\n")
    'caf\\xe9\\x0a'
    """
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return text if text.isprintable() else _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate escape stands for one byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
