"""The record of what concerned security: joins, removals, refusals, bans, clocks, clones. Append-only, a line each.

One JSON object a line: {"at_s", "kind", "who", "what"}. The file is 0600; when it is over half a megabyte it becomes
`security.log.1`, which replaces the one before, so that a flood of refusals costs a megabyte at most. The same line again
within ten minutes is counted, not written.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["SecurityEvent", "SecurityLog"]

_MAX_BYTES = 512 * 1024
_MAX_TEXT = 300
_AGAIN_S = 600.0
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """One line: `at_s` seconds since 1970 by this device's clock, `kind` a word, `who` a short id or "", `what` a line."""

    at_s: float
    kind: str
    who: str
    what: str


class SecurityLog:
    """Append to and read the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recent: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def append(self, event: SecurityEvent) -> bool:
        """Write a line unless it repeats a recent one; return whether it was written. Never raises for a full disk."""
        kind, who, what = (_clean(text) for text in (event.kind, event.who, event.what))
        key = (kind, who, what)
        if abs(event.at_s - self._recent.get(key, float("-inf"))) < _AGAIN_S:
            return False
        self._recent[key] = event.at_s
        self._recent.move_to_end(key)
        while len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)
        line = json.dumps(asdict(SecurityEvent(event.at_s, kind, who, what))).encode() + b"\n"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            try:
                is_full = os.fstat(descriptor).st_size + len(line) > _MAX_BYTES
                os.write(descriptor, line)
            finally:
                os.close(descriptor)
            if is_full:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
        except OSError:
            return False
        return True

    def read(self) -> Iterator[SecurityEvent]:
        """Yield what is kept, oldest first; a line that a crash cut off is left out."""
        for path in (self._path.with_name(self._path.name + ".1"), self._path):
            try:
                lines = path.read_bytes().splitlines()
            except OSError:
                continue
            for line in lines:
                try:
                    yield SecurityEvent(**json.loads(line))
                except (ValueError, TypeError):
                    continue


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:_MAX_TEXT]
