"""Read files of ratings: user,item[,rating[,timestamp]], one a line, whatever the scale.

What parts the fields (comma, semicolon, tab) is what gives most lines the same number of fields; where that is not a
comma, a rating may have a decimal comma.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flocklet.errors import UsageError

__all__ = ["Rating", "is_name", "read_ratings"]

_MAX_BYTES = 256 << 20
_MAX_SCALE = 1_000.0
_TOP_STARS = 5.0
_CLOCK_IS_SET_S = 1_700_000_000  # a device without a battery-backed clock cannot tell what lies ahead
_DAY_S = 86_400
_SAMPLE_LINES = 50


class Rating(NamedTuple):
    """Say that `user` gave `item` 0 to 5 `stars` at `at_s`, seconds since 1970 (0 where not known)."""

    user: str
    item: str
    stars: float
    at_s: int


def read_ratings(path: Path, scale: float, *, now_s: float) -> list[Rating]:
    """Return the ratings of a UTF-8 file whose best rating is `scale`; fields part at commas, tabs or semicolons.

    A header is skipped. A file of two columns says what was liked: 5 stars each. Rows without a time have time 0.

    Raises:
        UsageError: the file is none of that; the line is named, and nothing was taken.
        OSError: it cannot be read.
    """
    if not 0 < scale <= _MAX_SCALE:
        raise UsageError(f"--scale is {scale:g}", remedy="give the best rating that the file uses, such as 5")
    if path.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{path} is larger than 256 MiB", remedy="cut it into parts")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", remedy="convert it to UTF-8") from error
    rows = list(_parse(path, text, scale, now_s))
    if not rows:
        raise UsageError(f"{path} holds no rating", remedy="give user,item,rating,timestamp, one a line")
    return rows


def is_name(text: str, most: int) -> bool:
    """Return whether `text` names somebody or something: 1 to `most` characters, no control character."""
    return 0 < len(text.strip()) <= len(text) <= most and not {unicodedata.category(c) for c in text} & {
        "Cc",
        "Cs",
    }


def _parse(path: Path, text: str, scale: float, now_s: float) -> Iterator[Rating]:
    delimiter = _delimiter_of(text)
    latest_s = now_s + _DAY_S if now_s > _CLOCK_IS_SET_S else 2.0**32 - 2
    fields = 0
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    while True:
        where = f"line {reader.line_num + 1} of {path}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise UsageError(
                f"{where} is not CSV ({error})", remedy="is a quotation mark left open?"
            ) from error
        if row is None:
            return
        if not row or (not fields and _is_header(row, delimiter)):
            fields = len(row)
            continue
        fields = fields or len(row)
        if len(row) not in (2, 3, 4) or (len(row) == 2) != (fields == 2):
            raise UsageError(
                f"{where} has {len(row)} fields", remedy="give user,item,rating,timestamp (UTF-8)"
            )
        user, item = row[0].strip(), row[1].strip()
        if not is_name(user, 64) or not is_name(item, 512):
            raise UsageError(f"{where} has an empty, too long or unprintable name")
        stars = _number(row[2], where, delimiter) if len(row) > 2 else scale
        at_s = _number(row[3], where) if len(row) == 4 and row[3].strip() else 0.0
        if not 0 <= stars <= scale:
            raise UsageError(
                f"{where} has the rating {row[2].strip()}", remedy=f"0 to {scale:g}; --scale sets the best"
            )
        if not 0 <= at_s <= latest_s:
            raise UsageError(
                f"{where} has the time {row[3].strip()}", remedy="seconds since 1970, not ahead of the clock"
            )
        yield Rating(user, item, stars / scale * _TOP_STARS, int(at_s))


def _delimiter_of(text: str) -> str:
    """Return what parts the most of the first lines into an equal number of 2 to 4 fields; at a tie, the rarer mark wins."""
    lines = [line for line in text.split("\n", _SAMPLE_LINES)[:_SAMPLE_LINES] if line.strip()]
    best, most = ",", (0.0, 0)
    for place, mark in enumerate(",;\t"):
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=mark)]
        except csv.Error:
            continue
        fitting = [width for width in widths if 2 <= width <= 4]
        common = max(set(fitting), key=fitting.count) if fitting else 0
        share = fitting.count(common) / len(lines) if common else 0.0
        if (share, place) > most and share > 0:
            best, most = mark, (share, place)
    return best


def _is_header(row: list[str], delimiter: str) -> bool:
    if len(row) == 2:
        return {row[0].strip().lower(), row[1].strip().lower()} <= {"user", "item", "user_id", "item_id"}
    if len(row) not in (3, 4):
        return False
    try:
        float(_point(row[2], delimiter))
    except ValueError:
        return True
    return False


def _point(text: str, delimiter: str) -> str:
    """Return a number with a decimal point."""
    return text if delimiter == "," else text.replace(",", ".", 1)


def _number(text: str, where: str, delimiter: str = ",") -> float:
    try:
        value = float(_point(text, delimiter))
    except ValueError:
        value = float("nan")
    if value != value or abs(value) == float("inf"):
        raise UsageError(
            f"{where} has a rating or time that is not a number", remedy="a time is in seconds since 1970"
        )
    return value
