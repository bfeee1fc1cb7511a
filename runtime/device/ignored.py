"""Read .gitignore files (gitignore(5)): which entries of a folder are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["NAMES", "Rules"]

NAMES = (".gitignore", ".flockletignore")
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Rules:
    """Hold rules in the order in which they were read, those of outer folders first; the last one that fits decides."""

    rows: tuple[
        tuple[int, re.Pattern[str], bool, bool], ...
    ] = ()  # length of the base, pattern, is negated, only folders

    def with_lines(self, lines: Iterable[str], base: str) -> Rules:
        """Return these rules and those of `lines`, which count for what lies below the folder `base`."""
        added = []
        for line in lines:
            row = _rule(line)
            if row is not None:
                added.append((len(base.rstrip("/")) + 1, *row))
        return Rules(self.rows + tuple(added)) if added else self

    def with_file(self, path: str, base: str) -> Rules:
        """Return these rules and those of the file `path`; one that cannot be read has none."""
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123 - a path per folder
                return self.with_lines(file.read(_MAX_BYTES).splitlines(), base)
        except OSError:
            return self

    def leave_out(self, path: str, *, is_folder: bool) -> bool:
        """Tell whether the entry `path` is left out."""
        for start, pattern, is_negated, only_folders in reversed(self.rows):
            if (is_folder or not only_folders) and pattern.fullmatch(path, start):
                return not is_negated
        return False


def _rule(line: str) -> tuple[re.Pattern[str], bool, bool] | None:
    """Return (pattern, is negated, only folders) of one line, None for comments and blank lines."""
    line = line if line.endswith("\\ ") else line.rstrip()
    if not line or line.startswith("#"):
        return None
    is_negated = line.startswith("!")
    line = line[1:] if is_negated else line
    only_folders = line.endswith("/")
    line = line.rstrip("/")
    is_anchored = "/" in line
    line = line.lstrip("/")
    if not line:
        return None
    out = [] if is_anchored else ["(?:.*/)?"]
    at = 0
    while at < len(line):
        if line.startswith("**/", at):
            out.append("(?:.*/)?")
            at += 3
        elif line.startswith("**", at):
            out.append(".*")
            at += 2
        elif line[at] == "*":
            out.append("[^/]*")
            at += 1
        elif line[at] == "?":
            out.append("[^/]")
            at += 1
        elif line[at] == "[" and (end := line.find("]", at + 2)) > 0:
            inside = line[at + 1 : end].replace("\\", "\\\\")
            out.append(f"[{'^' + inside[1:] if inside.startswith('!') else inside}]")
            at = end + 1
        else:
            at += line[at] == "\\" and at + 1 < len(line)
            out.append(re.escape(line[at]))
            at += 1
    try:
        return re.compile("".join(out), re.DOTALL), is_negated, only_folders
    except re.error:
        return None
