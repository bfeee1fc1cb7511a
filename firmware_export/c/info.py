"""Write what an export tells about itself as a C string: whatever stands in it, it stays a string.

The text is JSON of printable ASCII. Backslashes, quotes and question marks are escaped (`??/` is a backslash to a C99
compiler), and no escape is cut by the end of a line. C99 promises strings of 4,095 characters: longer ones become lists.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["clean_name", "info_text", "literal"]

_LONGEST = 4000
_WIDTH = 96


def clean_name(name: str) -> str:
    """Return a name of a file's author for generated files: letters, digits and `_.:/-`, at most 64 of them."""
    return re.sub(r"[^A-Za-z0-9_.:/-]", "_", name)[:64]


def info_text(info: dict[str, Any]) -> str:
    """Return the JSON that NAME_info() gives."""
    return json.dumps(info, sort_keys=True, separators=(",", ":")).replace("\x7f", "\\u007f")


def literal(text: str) -> str:
    """Return printable ASCII text as the initialiser of a C array of char, indented by four."""
    if len(text) > _LONGEST:
        codes = [str(ord(letter)) for letter in text] + ["0"]
        rows = [", ".join(codes[i : i + 24]) for i in range(0, len(codes), 24)]
        return "    {" + ",\n     ".join(rows) + "}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("?", "\\?")
    chunks = _whole_escapes([escaped[i : i + _WIDTH] for i in range(0, len(escaped), _WIDTH)])
    return "\n".join(f'    "{chunk}"' for chunk in chunks)


def _whole_escapes(chunks: list[str]) -> list[str]:
    """Move a backslash that a cut left behind to the next chunk."""
    out, carry = [], ""
    for chunk in chunks:
        current = carry + chunk
        tail = len(current) - len(current.rstrip("\\"))
        carry = "\\" if tail % 2 else ""
        out.append(current[: len(current) - len(carry)])
    return [*out, carry] if carry else out
