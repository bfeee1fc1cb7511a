"""Read PDF by pages through pypdf (extra `pdf`), and RTF through striprtf (extra `office`)."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from flocklet.device.readers.reading import (
    Budget,
    MissingPackageError,
    Part,
    Reading,
    UnusableError,
    clean,
    one_line,
)

__all__ = ["read_pdf", "read_rtf"]

_RTF_TITLE = re.compile(r"\{\\title ([^{}\\]{1,200})\}")


def read_pdf(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read pages from `budget.start` on, as many as the pace allows; the reading says where to go on."""
    try:
        from pypdf import PdfReader
    except ImportError as error:
        raise MissingPackageError("pypdf", "pdf", "reading PDF files") from error
    texts: list[str] = []
    parts: list[Part] = []
    resume = at = 0
    note = ""
    try:
        reader = PdfReader(source)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnusableError("PDF protected by a password")
        for number in range(budget.start, len(reader.pages)):
            if texts and (budget.is_late or budget.characters <= 0):
                resume = number if budget.characters > 0 else 0
                break
            try:
                text = clean(reader.pages[number].extract_text()[: budget.characters])
            except RecursionError:
                note, text = f"page {number + 1} could not be read", ""
            budget.characters -= len(text)
            parts.append(Part(at, f"page {number + 1}"))
            texts.append(text)
            at += len(text) + 1
        title = one_line(str((reader.metadata and reader.metadata.title) or ""))
    except (UnusableError, MemoryError):
        raise
    except ImportError as error:
        raise UnusableError("PDF encrypted in a way that needs the package 'cryptography'") from error
    except Exception as error:  # pypdf raises many kinds on damaged files
        raise UnusableError(f"damaged PDF ({one_line(str(error)) or type(error).__name__})") from error
    body = "\n".join(texts)
    if not body.strip() and not resume and not budget.start:
        raise UnusableError("PDF without text (a scan)")
    return Reading(title, body, kind="pdf", parts=tuple(parts), note=note, resume=resume)


def read_rtf(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read rich text."""
    try:
        from striprtf import striprtf
    except ImportError as error:
        raise MissingPackageError("striprtf", "office", "reading RTF files") from error
    data = source.read(4 * budget.characters)
    markup = data.decode("latin-1")
    convert: Any = striprtf.rtf_to_text
    try:
        text = str(convert(markup, errors="replace"))
    except (ValueError, LookupError, IndexError, KeyError, TypeError) as error:
        raise UnusableError(f"damaged RTF ({type(error).__name__})") from error
    title = _RTF_TITLE.search(markup[:65536])
    return Reading(one_line(title.group(1)) if title else "", clean(text[: budget.characters]), kind="rtf")
