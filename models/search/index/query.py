"""Read what people type: words, "phrases", prefix*, -not, and fields (title: path: type: lang: before: after: in:).

    query = item*       item = ["-"] ( phrase | field ":" value | word ["*"] )

Anything that does not fit is plain words: an unknown field ("std::vec", "http://x"), a quote left open. Never an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta

__all__ = ["FIELDS", "Field", "Query", "parse_query"]

FIELDS = ("title", "path", "type", "lang", "before", "after", "in")
_QUOTES = str.maketrans("“”„‟«»", '""""""')
_ITEM = re.compile(
    r'(?P<not>-?)(?:"(?P<phrase>[^"]+)"|(?P<field>[A-Za-z]+):(?:"(?P<quoted>[^"]+)"|(?P<value>[^\s"]+))|(?P<word>[^\s"]+))'
)
_DAY = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?")
_AGO = re.compile(r"(\d{1,4})([dwmy])")
_DAYS = {"d": 1, "w": 7, "m": 30, "y": 365}


@dataclass(frozen=True, slots=True)
class Field:
    """Ask that `name` holds `value`, or that it does not; dates are YYYY-MM-DD."""

    name: str
    value: str
    is_excluded: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Hold a query in its parts: `words` score, the rest decides what may be found (prefixes and phrases score too)."""

    text: str
    words: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    excluded_phrases: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Tell whether there is nothing but words."""
        return not (self.phrases or self.prefixes or self.excluded or self.excluded_phrases or self.fields)

    @property
    def scored(self) -> str:
        """The text that scores: words and phrases in order of kind."""
        return " ".join((*self.words, *self.phrases))


def parse_query(text: str, today: date) -> Query:
    """Return the parts of `text`; `today` is what "7d" counts back from."""
    lists: dict[str, list[str]] = {
        name: [] for name in ("words", "phrases", "prefixes", "excluded", "excluded_phrases")
    }
    fields: list[Field] = []
    for match in _ITEM.finditer(text.translate(_QUOTES)):
        is_excluded = bool(match["not"])
        if match["phrase"] is not None:
            lists["excluded_phrases" if is_excluded else "phrases"].append(match["phrase"])
            continue
        if match["field"] is not None:
            field = _field(match["field"].lower(), match["quoted"] or match["value"], is_excluded, today)
            if field is not None:
                fields.append(field)
                continue
        word = match["word"] or match.group().lstrip("-")
        if is_excluded and word.strip("-"):
            lists["excluded"].append(word)
        elif word.endswith("*") and len(word.rstrip("*")) >= 2:
            lists["prefixes"].append(word.rstrip("*"))
        else:
            lists["words"].append(word)
    parts = {name: tuple(values) for name, values in lists.items()}
    return Query(text, fields=tuple(fields), **parts)


def _field(name: str, value: str, is_excluded: bool, today: date) -> Field | None:
    if name not in FIELDS:
        return None
    if name not in ("before", "after"):
        return Field(name, value, is_excluded)
    day = _date(value, today)
    return None if day is None else Field(name, day, is_excluded)


def _date(value: str, today: date) -> str | None:
    """Return the first day that `value` means as YYYY-MM-DD: a year, a month, a day, or so long ago."""
    ago = _AGO.fullmatch(value)
    if ago is not None:
        try:
            return (today - timedelta(days=int(ago[1]) * _DAYS[ago[2]])).isoformat()
        except OverflowError:
            return None
    day = _DAY.fullmatch(value)
    if day is None:
        return None
    try:
        return date(int(day[1]), int(day[2] or 1), int(day[3] or 1)).isoformat()
    except ValueError:
        return None
