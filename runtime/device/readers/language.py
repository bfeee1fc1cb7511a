"""Say what language a text is in: by its script where that decides, else by `py3langid` (extra `languages`)."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from types import SimpleNamespace

from flocklet.device.readers.reading import Reading

__all__ = ["LanguageDetector"]

_SAMPLE = 600
_LEAST_LETTERS = 40
_NOT_PROSE = frozenset(("code", "csv", "notebook", "spreadsheet", "packed", "mailbox"))
_LETTERS = re.compile(r"[^\W\d_]")
# Scripts that one language of this table uses, by far; Han without kana is Chinese.
_SCRIPTS = (
    ("ja", re.compile("[\u3041-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7a3]")),
    ("zh", re.compile("[\u4e00-\u9fff]")),
    ("th", re.compile("[\u0e01-\u0e5b]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("he", re.compile("[\u05d0-\u05ea]")),
    ("hy", re.compile("[\u0531-\u0587]")),
    ("ta", re.compile("[\u0b80-\u0bff]")),
)
_SHARE = 3  # a third of the letters: documents quote other scripts


class LanguageDetector:
    """Keep the detector, which takes half a second to load."""

    def __init__(self) -> None:
        self._is_missing = False
        self._is_loaded = False

    def of(self, text: str) -> str:
        """Return the language of the first 600 characters (ISO 639-1), "" where they do not tell."""
        sample = text[:_SAMPLE]
        letters = len(_LETTERS.findall(sample))
        if letters == 0:
            return ""
        for language, letter in _SCRIPTS:
            if len(letter.findall(sample)) * _SHARE >= letters:
                return language
        if letters < _LEAST_LETTERS or self._is_missing:
            return ""
        try:
            found = self._identified(sample)
        except (ImportError, MemoryError, OSError):
            self._is_missing = True
            return ""
        return found if len(found) == 2 else ""

    def _identified(self, sample: str) -> str:
        from py3langid import langid, modelio

        if not self._is_loaded:
            # It unpacks its model through a temporary file, and this process may write none.
            modelio.tempfile = SimpleNamespace(TemporaryFile=lambda suffix: io.BytesIO())
            self._is_loaded = True
        return str(langid.classify(sample)[0])

    def told(self, reading: Reading) -> Reading:
        """Return `reading` with a language, unless it says one of its own or is no prose."""
        if reading.language or reading.kind in _NOT_PROSE:
            return reading
        return replace(reading, language=self.of(reading.text))
