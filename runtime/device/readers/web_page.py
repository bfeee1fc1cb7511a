"""Read HTML by its tags: what a reader came for, without navigation, headers, footers and hidden things.

If one `main` (or role=main), else the largest `article`, holds at least 200 characters and a quarter of what is left
after the dropped elements, it is the text; else everything left is. Classes are not guessed at: only a few exact names
of navigation bars are known. With `selectolax` (extra `office`) the same rule runs about ten times faster.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, BinaryIO

from flocklet.device.readers.encodings import decode
from flocklet.device.readers.reading import Budget, Reading, UnusableError, clean, one_line

__all__ = ["page_of", "read_html"]

_DROPPED = frozenset("script style template svg math noscript form button nav aside iframe object".split())
_EDGES = frozenset(("header", "footer"))
_ROLES = frozenset(("navigation", "banner", "contentinfo", "search"))
_BARS = frozenset("sidebar navbar breadcrumbs sphinxsidebar navheader navfooter related".split())
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_CLOSES_ITSELF = frozenset("p li dt dd tr td th option".split())
_INLINE = frozenset(
    "a abbr b bdi bdo cite code data del dfn em font i ins kbd label mark q s samp small span strike strong sub sup "
    "time tt u var wbr img big".split()
)
_LEAST = 200
_SHARE = 4
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?=$|[-_])")
_CHUNK = 64 << 10


def read_html(source: BinaryIO, name: str, budget: Budget) -> Reading:
    """Read an HTML page."""
    data = source.read(4 * budget.characters)
    named = _CHARSET.search(data[:2048])
    text, note = decode(data, named.group(1).decode("ascii") if named else "")
    return page_of(text[: 2 * budget.characters], budget, note)


def page_of(text: str, budget: Budget, note: str = "") -> Reading:
    """Return what an HTML page says; UnusableError when its declarations are beyond repair."""
    try:
        found = _by_selectolax(text)
    except ImportError:
        found = _by_parser(text, budget)
    body = clean(found.text)
    lines = (" ".join(line.split()) for line in body.split("\n"))
    kept = "\n".join(line for line in lines if line)[: budget.characters]
    budget.characters -= len(kept)
    language = _LANGUAGE.match(found.language)
    title = one_line(found.title) or one_line(found.heading)
    return Reading(title, kept, language.group().lower() if language else "", kind="html", note=note)


@dataclass(slots=True)
class _Found:
    text: str = ""
    title: str = ""
    heading: str = ""
    language: str = ""


def _is_dropped(tag: str, attributes: Mapping[str, str | None], is_inside_main: bool) -> bool:
    if tag in _DROPPED or (tag in _EDGES and not is_inside_main):
        return True
    if not attributes:
        return False
    if "hidden" in attributes or attributes.get("role") in _ROLES:
        return True
    return attributes.get("id") in _BARS or not _BARS.isdisjoint((attributes.get("class") or "").split())


class _Page(HTMLParser):
    """Collect text pieces, and where in them each main and article lies."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found = _Found()
        self.pieces: list[str] = []
        self.mains: list[list[int]] = []  # [first piece, one past the last]
        self.articles: list[list[int]] = []
        self._stack: list[tuple[str, bool, list[int] | None]] = []  # tag, is dropped, its span
        self._open: dict[str, int] = {}
        self._dropped = 0
        self._inside = 0
        self._has_heading = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _INLINE:
            self.pieces.append("\n")
        if tag in _VOID:
            return
        if tag in _CLOSES_ITSELF and self._stack and self._stack[-1][0] == tag:
            self._pop()
        attributes = dict(attrs)
        if tag == "html":
            self.found.language = self.found.language or attributes.get("lang") or ""
        span: list[int] | None = None
        if not self._dropped and (tag in ("main", "article") or attributes.get("role") == "main"):
            span = [len(self.pieces), -1]
            (self.articles if tag == "article" else self.mains).append(span)
        is_dropped = span is None and _is_dropped(tag, attributes, self._inside > 0)
        self._stack.append((tag, is_dropped, span))
        self._open[tag] = self._open.get(tag, 0) + 1
        self._dropped += is_dropped
        self._inside += span is not None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _INLINE:
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _INLINE:
            self.pieces.append("\n")
        if self._open.get(tag, 0):
            while self._pop() != tag:
                pass

    def _pop(self) -> str:
        tag, is_dropped, span = self._stack.pop()
        self._open[tag] -= 1
        self._dropped -= is_dropped
        if span is not None:
            span[1] = len(self.pieces)
            self._inside -= 1
        if tag == "h1" and self.found.heading.strip():
            self._has_heading = True
        return tag

    def handle_data(self, data: str) -> None:
        if self._open.get("title") and not self._dropped:
            self.found.title += data[:1000]
            return
        if self._dropped:
            return
        if self._open.get("h1") and not self._has_heading:
            self.found.heading += data[:1000]
        self.pieces.append(data)

    def finish(self) -> _Found:
        while self._stack:
            self._pop()
        sizes = [0]
        for piece in self.pieces:
            sizes.append(sizes[-1] + len(piece.strip()))

        def size(span: list[int]) -> int:
            return sizes[span[1]] - sizes[span[0]]

        for spans in (self.mains[:1], sorted(self.articles, key=size)[-1:]):
            for first, last in spans:
                if size([first, last]) >= _LEAST and size([first, last]) * _SHARE >= sizes[-1]:
                    self.found.text = "".join(self.pieces[first:last])
                    return self.found
        self.found.text = "".join(self.pieces)
        return self.found


def _by_parser(text: str, budget: Budget) -> _Found:
    page = _Page()
    try:
        for at in range(0, len(text), _CHUNK):
            page.feed(text[at : at + _CHUNK])
            if budget.is_late:
                break
        page.close()
    except (AssertionError, ValueError) as error:  # html.parser gives up on some malformed declarations
        raise UnusableError(f"damaged HTML ({one_line(str(error))})") from error
    return page.finish()


_SELECT_DROPPED = ",".join(
    [*sorted(_DROPPED), "[hidden]", *(f"[role={role}]" for role in sorted(_ROLES))]
    + [f"#{name},.{name}" for name in sorted(_BARS)]
)
_TAG = re.compile(
    r"<!--.*?-->|<!\[CDATA\[|<(/?)([a-zA-Z][^\s/>]*)(?:\"[^\"]*\"|'[^']*'|[^>\"'])*>", re.DOTALL
)


def _plain(markup: str) -> str:
    """Return the text of well-formed serialised markup, a newline for each tag of a block."""
    return html.unescape(_TAG.sub(lambda m: "" if (m.group(2) or "").lower() in _INLINE else "\n", markup))


def _by_selectolax(text: str) -> _Found:
    from selectolax.lexbor import LexborHTMLParser

    tree: Any = LexborHTMLParser(text)
    found = _Found()
    if tree.root is not None:
        found.language = tree.root.attributes.get("lang") or ""
    title = tree.css_first("title")
    found.title = title.text() if title is not None else ""
    heading = tree.css_first("h1")
    found.heading = heading.text() if heading is not None else ""
    body = tree.body
    if body is None:
        return found
    inside = "main,[role=main],article"
    for node in body.css(_SELECT_DROPPED):
        if not node.css_matches(inside):
            node.decompose()
    for node in body.css("header,footer"):
        parent = node.parent
        while parent is not None and not (
            parent.tag in ("main", "article") or parent.attributes.get("role") == "main"
        ):
            parent = parent.parent
        if parent is None:
            node.decompose()
    left = len(body.text(strip=True))
    articles = sorted(body.css("article"), key=lambda node: len(node.text(strip=True)))
    main = body.css_first("main,[role=main]")
    for node in [main] if main is not None else articles[-1:]:
        size = len(node.text(strip=True))
        if size >= _LEAST and size * _SHARE >= left:
            found.text = _plain(node.html or "")
            return found
    if (
        main is not None
        and articles
        and len(articles[-1].text(strip=True)) * _SHARE >= max(left, _LEAST * _SHARE)
    ):
        found.text = _plain(articles[-1].html or "")
        return found
    found.text = _plain(body.html or "")
    return found
