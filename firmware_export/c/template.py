"""Read the templates of the generated C (`templates/*.c.in`, `*.h.in`) and fill their marks.

A mark is a word in capitals between two at signs. @N@ is the name of the export: parts are filled first and keep it,
`named` fills it in the whole file. Neither lets an unfilled mark through, and what is filled in is not looked at
again.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

from flocklet.errors import ExportError

__all__ = ["fill", "named"]

_MARK = re.compile(r"@([A-Z][A-Z0-9_]*)@")


@functools.cache
def _read(file: str) -> str:
    return (files("flocklet.firmware_export.c") / "templates" / file).read_text("utf-8")


def _filled(text: str, marks: dict[str, str], what: str) -> str:
    found = set(_MARK.findall(text))
    missing, unknown = sorted(found - set(marks)), sorted(set(marks) - found - {"N"})
    if missing or unknown:
        why = f"the mark @{missing[0]}@ is not filled" if missing else f"there is no mark @{unknown[0]}@"
        raise ExportError(f"{what}: {why}", remedy="this is a fault of flocklet; please report it")
    return _MARK.sub(lambda mark: marks[mark.group(1)], text)


def fill(file: str, /, **marks: str) -> str:
    """Return a template with every mark but @N@ filled; raise `ExportError` for a mark too few or too many."""
    return _filled(_read(file), {"N": "@N@", **marks}, file)


def named(text: str, name: str, **last: str) -> str:
    """Return generated text with the name of the export in place of @N@; raise `ExportError` for any other mark.

    last: marks for text of the owner's, which comes in at the very end.
    """
    return _filled(text, {"N": name, **last}, f"the generated text of '{name}'")
