"""Read text: plain, Markdown with front matter, reStructuredText, source code with its symbols, manual pages."""

from __future__ import annotations

import ast
import re
from typing import BinaryIO

from flocklet.device.readers.encodings import decode
from flocklet.device.readers.reading import Budget, Reading, one_line

__all__ = ["read_code", "read_manual", "read_markdown", "read_plain", "read_rst"]

_HEAD = 8192
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"^([A-Za-z_-]{1,20})[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_RST_TITLE = re.compile(r"(?:^|\n)([^\n]*\S[^\n]*)\n(=|-|~|\^|\*|#|\+|\")\2{2,}[ \t]*(?:\n|$)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?=$|[-_])")
# What names something in most languages: def, function, class, struct ... and the name after it.
_SYMBOL = re.compile(
    r"\b(?:def|func|fn|function|class|struct|enum|trait|interface|module|namespace|type|impl|union|record|object|"
    r"protocol|macro_rules!|sub|procedure|static|void|int|char|bool|float|double|auto)\s+\*?([A-Za-z_]\w{2,80})"
)
_PIECES = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_MAX_SYMBOLS = 2000


def _text(source: BinaryIO, budget: Budget) -> tuple[str, str]:
    text, note = decode(source.read(4 * budget.characters))
    return text[: budget.characters], note


def read_plain(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read any text."""
    text, note = _text(source, budget)
    return Reading("", text, note=note)


def read_markdown(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read Markdown; the front matter gives title, tags, date and language and is left out of the text."""
    text, note = _text(source, budget)
    front = _FRONT.match(text[: 4 * _HEAD])
    fields = {}
    if front is not None:
        fields = {key.lower(): value.strip("\"'") for key, value in _FIELD.findall(front.group(1))}
        tags = re.findall(r"[^\s,\[\]\"'-][^,\[\]\"'\n]*", fields.get("tags", ""))
        tags += re.findall(r"^[ \t]*-[ \t]+(.+?)[ \t]*$", front.group(1), re.MULTILINE)
        text = text[front.end() :] + ("\n" + ", ".join(tags) if tags else "")
    heading = _HEADING.search(text[:_HEAD])
    title = fields.get("title", "") or (heading.group(1) if heading else "")
    written = _DATE.match(fields.get("date", ""))
    language = _LANGUAGE.match(fields.get("lang", "") or fields.get("language", ""))
    return Reading(
        one_line(title),
        text,
        language.group().lower() if language else "",
        written.group() if written else "",
        "markdown",
        note=note,
    )


def read_rst(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read reStructuredText; its first underlined heading is the title."""
    text, note = _text(source, budget)
    found = _RST_TITLE.search(text[:_HEAD])
    return Reading(one_line(found.group(1)) if found else "", text, kind="rst", note=note)


def read_code(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read source code; the words inside of its symbols ("HashMap": hash map) are added at the end."""
    text, note = _text(source, budget)
    symbols: list[str] = []
    if name.lower().endswith((".py", ".pyi")):
        symbols = _python_symbols(text)
    symbols = symbols or [match.group(1) for match in _SYMBOL.finditer(text)]
    words: dict[str, None] = {}
    for symbol in dict.fromkeys(symbols[:_MAX_SYMBOLS]):
        pieces = _PIECES.findall(symbol)
        if len(pieces) > 1:
            words |= dict.fromkeys((symbol.replace("_", ""), *pieces))
    if words:
        text = f"{text.rstrip()}\n\n{' '.join(words)}\n"
    return Reading("", text, kind="code", note=note)


def _python_symbols(text: str) -> list[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds)]


_ROFF_ESCAPE = re.compile(
    r"\\(?:f(?:\[[^\]]*\]|\(..|.)|s[+-]?\d{1,2}|\*(?:\[[^\]]*\]|\(..|.)|([(\[])([^\]]{2})(?(1)\]?)|(.))"
)
_ROFF_GLYPHS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "em": "—", "en": "–", "hy": "-", "bu": "•",
    "co": "©", "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "mu": "×", "<=": "≤", ">=": "≥", "->": "→", "Fo": "«",
    "Fc": "»", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü", ":A": "Ä", ":O": "Ö", ":U": "Ü", "'e": "é", "`e": "è",
}  # fmt: skip
_ROFF_SIMPLE = {"-": "-", "e": "\\", " ": " ", "~": " ", "'": "'", "`": "`", ".": "."}
_ROFF_KEPT = frozenset(
    "SH SS TP B I R BR RB BI IB IR RI SM SB IP Nm Nd Sh Ss Fl Ar Cm Op Pa Xr Sy Em Li Ql Dq Sq It Ev".split()
)


def _unescaped(line: str) -> str:
    def glyph(match: re.Match[str]) -> str:
        if match.group(2) is not None:
            return _ROFF_GLYPHS.get(match.group(2), "")
        return _ROFF_SIMPLE.get(match.group(3), "") if match.group(3) is not None else ""

    return _ROFF_ESCAPE.sub(glyph, line)


def read_manual(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read a manual page (man, mdoc): no requests, arguments of headings and fonts kept; the NAME line first."""
    text, note = _text(source, budget)
    lines: list[str] = []
    title = ""
    name_line: list[str] = []
    section = ""
    for line in text.splitlines():
        if line.startswith((".", "'")):
            request, _, rest = line[1:].strip().partition(" ")
            if request.startswith('\\"') or (request not in _ROFF_KEPT and request not in ("TH", "Dt")):
                continue
            rest = _unescaped(rest.replace('"', " ")).strip()
            if request in ("TH", "Dt"):
                title = title or " ".join(rest.split()[:2])
                continue
            if request in ("SH", "Sh"):
                section = rest.upper()
            shown = f"- {rest}" if request == "Nd" else rest
        else:
            shown = _unescaped(line)
        if shown.strip():
            lines.append(shown)
            if section.startswith("NAME") and shown.upper() != section:
                name_line.append(shown)
    subject = one_line(" ".join(name_line))
    if title and subject:
        title = f"{title}: {subject}"
    return Reading(one_line(title or subject), "\n".join(lines), kind="man", note=note)
