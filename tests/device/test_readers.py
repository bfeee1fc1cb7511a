"""Formats: what every reader takes out of its files, and what damaged or hostile ones come to."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.device.readers import reading as readings
from flocklet.device.readers.encodings import GUESSED, decode, web_encoding
from flocklet.device.readers.reading import Budget, Reading, UnusableError, clean
from flocklet.device.readers.registry import Member, Readers, Refusal
from flocklet.device.readers.tables import delimiter_of
from kit.made_files import docx, epub, opendocument, pdf_of, pptx, xlsx, zipped


def answers(data: bytes | str, name: str, **budget: float) -> list[Any]:
    raw = data.encode() if isinstance(data, str) else data
    return list(Readers().read(io.BytesIO(raw), name, Budget(**budget)))  # type: ignore[arg-type]


def one(data: bytes | str, name: str) -> Reading:
    (found,) = answers(data, name)
    assert isinstance(found, Member)
    return found.reading


def members(data: bytes | str, name: str) -> dict[str, str]:
    return {m.path: m.reading.text for m in answers(data, name) if isinstance(m, Member)}


def why(data: bytes | str, name: str) -> str:
    with pytest.raises(UnusableError) as caught:
        answers(data, name)
    return str(caught.value)


def message() -> bytes:
    mail = EmailMessage()
    mail["Subject"] = "Grüße vom See"
    mail["From"], mail["To"], mail["Date"] = "a@b.ch", "c@d.ch", "Fri, 31 May 2024 10:00:00 +0200"
    mail.set_content("the plain words")
    mail.add_alternative("<p>the rich words", subtype="html")
    mail.add_attachment(
        docx("attached words", "Annex"), maintype="application", subtype="x", filename="annex.docx"
    )
    return mail.as_bytes()


def test_office_formats() -> None:
    found = one(docx("tent pegs", "Camping"), "x.docx")
    assert (found.title, found.language, found.written, found.kind) == ("Camping", "de", "2024-05-31", "docx")
    assert "tent pegs\tend" in found.text
    assert "a footnote" in found.text
    assert "deleted" not in found.text
    slides = one(pptx(["first words", "second words"], "the note"), "x.pptx")
    assert [part.label for part in slides.parts] == ["slide 1", "slide 2"]
    assert slides.text[slides.parts[1].start :].startswith("second")
    assert "the note" in slides.text[: slides.parts[1].start]
    sheet = one(xlsx(), "x.xlsx").text.split()
    assert sheet == ["Ledger", "shared", "inline", "4.5", "2024-05-31"]
    for kind, expected in (("text", "odt"), ("spreadsheet", "spreadsheet"), ("presentation", "slides")):
        opened = one(opendocument("open words", kind), "x.bin")
        assert (opened.title, opened.written, opened.kind) == ("Open", "2023-01-02", expected)
        assert "open words   x" in opened.text
    book = one(epub(["<p>one", "<nav>menu</nav><p>two"], "Book"), "x.epub")
    assert (book.title, book.language, book.text) == ("Book", "fr", "one\ntwo")
    assert [part.label for part in book.parts] == ["Chapter 0", "Chapter 1"]


def test_a_format_is_known_by_its_bytes_not_by_its_name() -> None:
    assert one(docx("words"), "renamed.zip.bin").kind == "docx"
    assert one("<!doctype html><p>words", "page.txt").kind == "html"
    pytest.importorskip("striprtf", reason="striprtf (extra 'office') is not installed")
    assert one(rb"{\rtf1\ansi\ansicpg1252 Gr\'fc\u223?e}", "letter.doc").text == "Grüße"


def test_mail_with_its_attachments_and_mailboxes() -> None:
    found = answers(message(), "x.eml")
    first, attached = found
    assert isinstance(first, Member)
    assert isinstance(attached, Member)
    assert (first.reading.title, first.reading.written) == ("Grüße vom See", "2024-05-31")
    assert "the plain words" in first.reading.text
    assert "rich" not in first.reading.text
    assert attached.path == "annex.docx"
    assert "attached words" in attached.reading.text
    box = (
        b"From a@b Fri May 31 10:00:00 2024\n"
        + message()
        + b"\n\nFrom c Fri May 31 10:00:00 2024\nSubject: two\n\n>From us\n"
    )
    inside = members(box, "inbox")
    assert list(inside) == ["1.eml", "1.eml!annex.docx", "2.eml"]
    assert inside["2.eml"].endswith("From us\n")


def test_notebooks_manuals_tables_markdown_and_code() -> None:
    cells = '{"cells": [{"cell_type": "markdown", "source": ["# Notes\\n", "words"]},'
    cells += '{"cell_type": "code", "source": "x = 1",'
    cells += (
        '"outputs": [{"text": ["shown"]}, {"data": {"image/png": "iVBORw0KGgo", "text/plain": "plain"}}]}]}'
    )
    book = one(cells, "x.ipynb")
    assert (book.title, [part.label for part in book.parts]) == ("Notes", ["cell 1", "cell 2"])
    assert "shown" in book.text
    assert "plain" in book.text
    assert "iVBOR" not in book.text
    page = one(
        '.\\" a comment\n.TH FROB 1\n.SH NAME\nfrob \\- turn \\fBthings\\fP\n.SH USE\n.B frob\n.sp\ntext\n',
        "frob.1",
    )
    assert (page.title, page.kind) == ("FROB 1: frob - turn things", "man")
    assert "comment" not in page.text
    assert one("frob 1.2", "notes.1").kind == "text"
    assert one("city;people\nBern;1,5\nGenf;2\n", "x.csv").text.splitlines() == [
        "city people",
        "city: Bern  people: 1,5",
        "city: Genf  people: 2",
    ]
    assert [
        delimiter_of(text) for text in ("a,b\n1,2", "a;b\n1,5;2,5", "a\tb\nc\td", "a|b|c\nd|e|f", "word")
    ] == [",", ";", "\t", "|", ","]
    notes = one("---\ntitle: The T\ntags: [alps, hut]\ndate: 2024-01-02\nlang: de\n---\nbody", "x.md")
    assert (notes.title, notes.written, notes.language) == ("The T", "2024-01-02", "de")
    assert notes.text.startswith("body")
    assert "alps, hut" in notes.text
    assert "HashMap hashmap" not in one("no symbols", "x.py").text
    assert one("class HashMap:\n    def put_all(self): ...\n", "x.py").text.split("\n\n")[1].split() == [
        "HashMap",
        "Hash",
        "Map",
        "putall",
        "put",
        "all",
    ]
    assert "Mesh" in one("struct PeerMesh { int x; };", "x.c").text


def test_compressed_files_and_archives() -> None:
    raw = b"packed words"
    assert members(gzip.compress(b"<title>T</title><p>page words"), "x.html.gz") == {"x.html": "page words"}
    assert members(bz2.compress(raw), "x.txt.bz2") == {"x.txt": "packed words"}
    assert members(lzma.compress(raw), "x.txt.xz") == {"x.txt": "packed words"}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(__file__, "inside.py")
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert list(members(gzip.compress(out.getvalue()), "x.tgz")) == ["x.tar!inside.py"]
    assert members(zipped({"a/b.txt": "zip words"}), "x.zip") == {"a/b.txt": "zip words"}
    assert [a for a in answers(gzip.compress(gzip.compress(raw)), "x.gz.gz") if isinstance(a, Refusal)]
    zstd = pytest.importorskip("backports.zstd", reason="backports.zstd (extra 'zstd') is not installed")
    assert members(zstd.compress(raw), "x.txt.zst") == {"x.txt": "packed words"}


def test_pdf_by_pages_and_half_a_surrogate() -> None:
    pytest.importorskip("pypdf", reason="pypdf (extra 'pdf') is not installed")
    found = one(pdf_of(["page one", "page two"], "On Flow"), "x.bin")
    assert (found.title, [part.label for part in found.parts]) == ("On Flow", ["page 1", "page 2"])
    assert found.text[found.parts[1].start :].strip() == "page two"
    half = b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap 1 begincodespacerange <00> <FF> endcodespacerange "
    half += b"1 beginbfchar <41> <D835> endbfchar endcmap end end"
    text = one(pdf_of(["A"], to_unicode=half), "x.pdf").text
    text.encode()
    assert text.strip() == "\ufffd"
    resumed = answers(pdf_of(["one", "two", "three"]), "x.pdf", deadline_s=0.0)
    assert [a.reading.resume for a in resumed if isinstance(a, Member)] == [1]
    assert resumed[-1] == 1


HOSTILE = {
    "many.zip": lambda: zipped({f"{at}": b"" for at in range(5001)}),
    "bomb.docx": lambda: zipped({"word/document.xml": b" " * (32 << 20)}),
    "laugh.docx": lambda: docx("x", before='<!DOCTYPE x [<!ENTITY a "aaaa">]>'),
    "deep.docx": lambda: zipped({"word/document.xml": b"<a>" * 600 + b"</a>" * 600}),
    "cut.docx": lambda: docx("words")[:200],
    "laugh.epub": lambda: epub(["x"], "B", before='<!DOCTYPE x [<!ENTITY a "aaaa">]>'),
    "locked.docx": lambda: b"\xd0\xcf\x11\xe0" + bytes(600),
    "old.doc": lambda: b"\xd0\xcf\x11\xe0" + bytes(600),
    "photo.txt": lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "noise.txt": lambda: bytes(range(1, 32)) * 50,
    "cut.gz": lambda: gzip.compress(os.urandom(5000))[:3000],
    "bomb.gz": lambda: gzip.compress(bytes(80 << 20)),
    "book.ipynb": lambda: b'{"cells": 3}',
    "big.txt": lambda: b"a" * ((8 << 20) + 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_read_is_named(name: str) -> None:
    reason = why(HOSTILE[name](), name)
    assert reason
    assert "Error" not in reason


def test_members_that_overlap_or_lie_are_refused() -> None:
    data = bytearray(docx("words"))
    first = data.rindex(b"PK\x01\x02")
    data[first + 42 : first + 46] = bytes(4)  # the last entry points at the first one's bytes
    assert "overlap" in why(bytes(data), "x.docx")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (3 << 20))
    lying = bytearray(out.getvalue())
    entry = lying.rindex(b"PK\x01\x02")
    lying[entry + 24 : entry + 28] = (100).to_bytes(4, "little")  # says that it unpacks to 100 bytes
    assert why(bytes(lying), "x.docx")


def test_a_page_keeps_its_main_part_only() -> None:
    words = "the words that people came for " * 12
    page = "<html lang=de-AT><title>T</title><body><header>top</header><nav>menu</nav><div class=sidebar>side</div>"
    page += (
        f"<main><header>intro</header><p>{words}</p><p hidden>ghost</p></main><p>around<footer>foot</footer>"
    )
    found = one(page, "x.html")
    assert found.text == f"intro\n{words.strip()}"
    assert found.language == "de"
    short = one("<nav>menu</nav><main>tiny</main><p>" + words, "x.html").text
    assert short.startswith("tiny")
    assert words.strip() in short
    assert one("<article>" + words + "</article><article>small</article>", "x.html").text == words.strip()
    assert "body-content" in one("<div class='not-a-sidebar'>body-content</div>", "x.html").text


def test_both_readers_of_html_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("selectolax", reason="selectolax (extra 'office') is not installed")
    from flocklet.device.readers import web_page

    words = "some <b>bold</b>ed <i>words</i> &amp; more " * 10
    pages = [
        f"<title>A</title><main><h1>Head</h1><p>{words}</main><footer>f</footer>",
        f"<h1>Head</h1><nav><ul><li>a<li>b</ul></nav><article><p>{words}<ul><li>x<li>y</ul></article>",
        "<p>one<p>t<b>w</b>o<table><tr><td>c<td>d</table><pre>a\nb</pre><script>x()</script>",
    ]
    for page in pages:
        fast = web_page._by_selectolax(page)
        own = web_page._by_parser(page, Budget())
        assert fast.text.split() == own.text.split()
        assert (fast.title, fast.heading) == (own.title, own.heading)


def test_encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert decode("Größe".encode(encoding)) == ("Größe", "")
    russian = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 4
    assert decode(russian.encode("koi8-r"), "koi8-r") == (russian, "")
    assert web_encoding("unicode_escape") is web_encoding("rot13") is web_encoding("no-such") is None
    assert web_encoding("latin1") == "cp1252"
    pytest.importorskip("chardet", reason="chardet (extra 'office') is not installed")
    assert decode(russian.encode("koi8-r")) == (russian, "")
    assert decode(russian.encode("cp1251")) == (russian, "")
    monkeypatch.setitem(
        __import__("sys").modules, "chardet", None
    )  # the control: without it, a guess that says so
    text, note = decode(russian.encode("koi8-r"))
    assert (text == russian, note) == (False, GUESSED)
    assert decode("Größe".encode("cp1252")) == ("Größe", GUESSED)


def test_text_is_clean_at_every_door() -> None:
    assert clean("a\ud835\udd4ab\ud800c\0\x1b[31m\x85d\r\ne\t") == "a\U0001d54ab\ufffdc  [31m d\ne\t"
    page = one(b"<meta charset=unicode_escape><p>tent\\ud800 \xe9", "x.html")
    page.text.encode()
    assert "tent" in page.text


@pytest.mark.parametrize(
    "name", ["x.docx", "x.eml", "x.ipynb", "x.1", "x.csv", "x.md", "x.html", "x.gz", "x.tar", "x.py", "x"]
)
@settings(max_examples=20, deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    heads = {
        "x.docx": b"PK\x03\x04",
        "x.gz": b"\x1f\x8b\x08",
        "x.eml": b"From: a\nTo: b\nContent-Type: ",
        "x.1": b".TH ",
    }
    try:
        for answer in answers(heads.get(name, b"") + data, name):
            if isinstance(answer, Member):
                answer.reading.text.encode()
    except UnusableError as error:
        assert str(error)


class _Point:
    """An entry point that a package might bring."""

    name, value = "fb2", "kit:reader"

    @staticmethod
    def load() -> readings.Reader:
        def read(source: object, name: str, budget: Budget) -> Reading:
            if name.startswith("bad"):
                raise KeyError("x")
            return Reading("From a package", "words", kind="fb2")

        return read


def test_a_package_adds_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    from flocklet.device.readers import registry

    assert one("<fiction>", "book.fb2").title == ""  # the control: without the package it is text
    monkeypatch.setattr(registry, "entry_points", lambda group: [_Point()])
    assert one("<fiction>", "book.fb2").title == "From a package"
    assert "KeyError" in why("<fiction>", "bad.fb2")
    assert one("words", "x.txt").kind == "text"


def test_the_language_is_the_document_s_own_word_or_detected() -> None:
    from flocklet.device.readers.language import LanguageDetector

    detector = LanguageDetector()
    assert (
        detector.told(Reading("", "Die Bücher liegen im Zelt auf der Wiese am See.", "fr")).language == "fr"
    )
    assert [
        detector.of(text)
        for text in ("これは全文検索です", "搜索引擎技术", "한국어 검색", "ภาษาไทยง่าย", "12 34")
    ] == ["ja", "zh", "ko", "th", ""]
    assert (
        detector.told(Reading("", "def books(): return the_tents_on_the_lake_shore", kind="code")).language
        == ""
    )
    pytest.importorskip("py3langid", reason="py3langid (extra 'languages') is not installed")
    assert detector.of("Die Bücher liegen im Zelt auf der Wiese am See, und niemand liest sie.") == "de"
    assert detector.of("Книги лежат в палатке на берегу озера, и никто их не читает.") == "ru"
    assert detector.of("The books are in the tent by the lake and nobody reads them.") == "en"
    assert detector.of("too short") == ""
