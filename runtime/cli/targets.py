"""Files that a verb will write when its work is done: find out before the work whether that can be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flocklet.errors import UsageError

__all__ = ["check_target"]


def check_target(path: Path | None, suffixes: Sequence[str] = ()) -> None:
    """Raise UsageError if `path` cannot be written or does not end in one of `suffixes`; None is nothing to write."""
    if path is None:
        return
    if suffixes and path.suffix.lower() not in suffixes:
        raise UsageError(f"'{path}' must end in {' or '.join(suffixes)}")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", remedy="make it first")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"'{path}' cannot be written", remedy="choose another place")
