"""What a reader is given and what it returns: a budget, and a reading or the reason why there is none."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = [
    "MAX_CHARACTERS",
    "Budget",
    "Child",
    "MissingPackageError",
    "Part",
    "Reader",
    "Reading",
    "UnusableError",
    "clean",
    "joined",
    "one_line",
]

MAX_CHARACTERS = 4 << 20
MAX_BYTES = 256 << 20
_PACE_S = 8.0  # of CPU: a reader returns with what it has
_CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class UnusableError(Exception):
    """Say in half a line why a file is left out, and what to do about it where something can be done."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.remedy = remedy


class MissingPackageError(UnusableError):
    """Say that a format needs a package that is not installed: `package`, of the extra `extra`."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}", f"pip install '.[{extra}]'")
        self.package = package
        self.extra = extra
        self.purpose = purpose


@dataclass(frozen=True, slots=True)
class Part:
    """Say that from character `start` of the text on we are in `label` ("page 3", "slide 2", a chapter)."""

    start: int
    label: str


@dataclass(frozen=True, slots=True)
class Child:
    """Hold a file inside a file: an attachment, a member of an archive, a message of a mailbox."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Reading:
    """Hold what a reader found.

    An empty `title` stands for "none of its own". `language` is the document's own word for it (ISO 639-1), `written`
    a date as YYYY-MM-DD, `kind` what `type:` asks for, `note` what the owner should know ("encoding guessed").
    `resume` is where to go on when the reader stopped to keep its pace, 0 when it is done. A reading with children and
    neither title nor text is a container only.
    """

    title: str
    text: str
    language: str = ""
    written: str = ""
    kind: str = "text"
    parts: tuple[Part, ...] = ()
    children: tuple[Child, ...] = ()
    note: str = ""
    resume: int = 0


@dataclass(slots=True)
class Budget:
    """Count what one file may still cost: characters of text, bytes after unpacking, and CPU time."""

    characters: int = MAX_CHARACTERS
    bytes: int = MAX_BYTES
    start: int = 0  # where to go on, see `Reading.resume`
    deadline_s: float = field(default_factory=lambda: time.process_time() + _PACE_S)

    @property
    def is_late(self) -> bool:
        """Tell whether to return with what there is."""
        return time.process_time() >= self.deadline_s

    def unpacked(self, size: int) -> None:
        """Charge `size` bytes that came out of a compressed stream; raise UnusableError when there are too many."""
        self.bytes -= size
        if self.bytes < 0:
            raise UnusableError(f"unpacks to more than {MAX_BYTES >> 20} MiB")


Reader = Callable[[BinaryIO, str, Budget], Reading]


def clean(text: str) -> str:
    """Return `text` as UTF-8 can hold it: surrogates re-paired, else replaced; controls become spaces."""
    if not text.isascii() and _SURROGATE.search(text) is not None:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if text.isprintable() else _CONTROL.sub(" ", text)


def one_line(text: str) -> str:
    """Return `text` on one line, spaces collapsed, at most 200 characters."""
    return " ".join(clean(text[:4096]).split())[:200]


def joined(sections: Iterable[tuple[str, str]], budget: Budget) -> tuple[str, tuple[Part, ...]]:
    """Join (label, text) sections with newlines until the budget's characters are spent."""
    texts: list[str] = []
    parts: list[Part] = []
    at = 0
    for label, text in _within(sections, budget):
        parts.append(Part(at, one_line(label)))
        texts.append(text)
        at += len(text) + 1
    return "\n".join(texts), tuple(parts)


def _within(sections: Iterable[tuple[str, str]], budget: Budget) -> Iterator[tuple[str, str]]:
    for label, text in sections:
        kept = clean(text[: budget.characters])
        budget.characters -= len(kept) + 1
        yield label, kept
        if budget.characters <= 0 or budget.is_late:
            return
