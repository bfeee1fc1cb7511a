"""The owner's files: what is read out of each kind, and what is left out with which reason."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from flocklet.device import document_reader as documents
from flocklet.device.document_reader import Skipped, read_document, read_documents
from flocklet.errors import FlockletError, MissingExtra
from flocklet.events.item import Document, item_id_of


def pdf_with(text: str, title: str = "") -> bytes:
    """Return the bytes of a one-page PDF that says `text`."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Title (%s) >>" % title.encode(),
    ]
    data = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"trailer\n<< /Size %d /Root 1 0 R /Info 6 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        len(objects) + 1,
        table,
    )
    return data


def read(path: Path, content: bytes | str) -> Document:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path)


def test_plain_text_is_named_by_its_file_and_keyed_by_its_path(tmp_path: Path) -> None:
    document = read(tmp_path / "shopping list.txt", "eggs\nmilk\n")
    assert (document.title, document.text) == ("shopping list.txt", "eggs\nmilk\n")
    assert document.key == str(tmp_path / "shopping list.txt")
    assert document.item_id == item_id_of(document.key)


@pytest.mark.parametrize(
    ("name", "content", "title"),
    [
        ("a.md", "intro\n\n# The Title #\n\nbody", "The Title"),
        ("b.md", '---\ntitle: "Front matter"\n---\nbody', "Front matter"),
        ("c.md", "no heading, only body", "c.md"),
        ("d.rst", "=====\nGuide\n=====\n\nbody", "Guide"),
        ("e.rst", "Guide\n~~~~~\n\nbody", "Guide"),
        ("f.html", "<html><title> A \n page </title><body>body</body>", "A page"),
        ("g.html", "<h1>Big <i>one</i></h1><p>body", "Big one"),
        ("h.py", "# not a title\nbody = 1", "h.py"),
        ("README", "# body", "README"),
    ],
)
def test_titles(tmp_path: Path, name: str, content: str, title: str) -> None:
    document = read(tmp_path / name, content)
    assert document.title == title
    assert "body" in document.text
    assert name in f"{document.title} {document.text}"  # found by its name as well


def test_html_keeps_what_a_reader_sees(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><head><title>T</title><style>.hidden{}</style>
    <script>var secret = "<p>";</script></head>
    <p>one<p>t<b>w</b>o &amp; &eacute;t&#233;<ul><li>three<li>four</ul>
    <template>ghost</template><svg><text>shape</text></svg>
    <!-- comment --><p>five"""
    document = read(tmp_path / "x.html", page)
    assert document.text.splitlines()[:-1] == ["one", "two & été", "three", "four", "five"]


@pytest.mark.parametrize(
    "content", ["<![if broken]>x<p>word", "<p word", "<" * 2000 + "word", "&#xffffffff; word", ""]
)
def test_malformed_html_does_no_harm(tmp_path: Path, content: str) -> None:
    try:
        assert read(tmp_path / "x.html", content).title == "x.html"
    except FlockletError as error:
        assert "damaged HTML" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        "Größe".encode(),
        b"\xef\xbb\xbf" + "Größe".encode(),
        "Größe".encode("utf-16"),
        "\ufeffGröße".encode("utf-16-be"),
        "Größe".encode("cp1252"),
        "Größe \x81".encode("latin-1"),
    ],
)
def test_encodings(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "x.txt", content).text.startswith("Größe")


def test_a_page_names_its_charset(tmp_path: Path) -> None:
    content = '<meta charset="koi8-r"><p>поиск'.encode("koi8-r")
    assert "поиск" in read(tmp_path / "x.html", content).text
    assert "fl" in read(tmp_path / "y.html", b'<meta charset="no-such-thing"><p>fl\xfc').text


def test_pdf_text_and_title(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="pypdf (extra 'pdf') is not installed")
    document = read(tmp_path / "paper.pdf", pdf_with("turbulent flow", "On Flow"))
    assert document.title == "On Flow"
    assert "turbulent flow" in document.text
    assert read(tmp_path / "untitled.bin", pdf_with("hidden kind")).text.strip() == "hidden kind"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4\ngarbage", "damaged PDF"),
        (pdf_with(""), "PDF without text"),
        (b"%PDF-1.4\n" + os.urandom(3000), "PDF"),
    ],
)
def test_useless_pdf(tmp_path: Path, content: bytes, reason: str) -> None:
    pytest.importorskip("pypdf", reason="pypdf (extra 'pdf') is not installed")
    with pytest.raises(FlockletError, match=reason):
        read(tmp_path / "x.pdf", content)


def test_without_pypdf_the_remedy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "x.pdf").write_bytes(pdf_with("words"))
    (tmp_path / "y.txt").write_text("words")
    with pytest.raises(MissingExtra) as caught:
        read_document(tmp_path / "x.pdf")
    assert caught.value.remedy == "pip install '.[pdf]'"
    skipped, read_one = read_documents([tmp_path])
    assert isinstance(skipped, Skipped)
    assert skipped.remedy == "pip install '.[pdf]'"
    assert isinstance(read_one, Document)


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x7fELF\2\1\1\0", bytes(range(1, 32)) * 50]
)
def test_binary_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FlockletError, match=r"photo\.txt: binary file"):
        read(tmp_path / "photo.txt", content)


def test_large_missing_and_special_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "big.txt").write_bytes(b"a" * ((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    (tmp_path / "loop").symlink_to("loop")
    found = {
        item.path.name: item.why
        for item in read_documents([tmp_path, tmp_path / "no"])
        if isinstance(item, Skipped)
    }
    assert found["big.txt"] == "larger than 1 MiB"
    assert found["pipe"] == "not a regular file"
    assert found["no"] == "no such file or directory"
    assert "symbolic links" in found["loop"]
    assert str(Skipped(tmp_path, "why", "what to do")) == f"{tmp_path}: why; what to do"


def test_an_unreadable_file_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    real_open = Path.open

    def guarded(self: Path, *args: object, **keywords: object) -> object:
        if self.name == "b.txt":  # chmod does not stop root, who may run the tests
            raise PermissionError(13, "Permission denied")
        return real_open(self, *args, **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", guarded)
    one, two, three = read_documents([tmp_path])
    assert isinstance(one, Document)
    assert isinstance(two, Skipped)
    assert two.why == "permission denied"
    assert isinstance(three, Document)


def test_a_walk_leaves_out_hidden_heavy_and_linked_folders(tmp_path: Path) -> None:
    for name in ("notes/a.txt", "notes/.hidden", ".git/config", "node_modules/x/index.js", "env/pyvenv.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "env" / "lib.py").write_text("words")
    (tmp_path / "notes" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "notes" / "same.txt").symlink_to(tmp_path / "notes" / "a.txt")
    found = list(read_documents([tmp_path, tmp_path / "notes" / "a.txt"]))
    assert [item.key for item in found if isinstance(item, Document)] == [str(tmp_path / "notes" / "a.txt")]
    assert [(item.path.name, item.why) for item in found if isinstance(item, Skipped)] == [
        ("back", "a link to a folder is not followed")
    ]
    named = list(read_documents([tmp_path / "notes" / ".hidden"]))
    assert isinstance(named[0], Document)


def test_a_name_that_is_not_utf8_can_still_be_stored(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    document = read(path, "words")
    assert document.key.encode().endswith(rb"caf\xe9.txt")


def test_an_empty_file_is_a_document(tmp_path: Path) -> None:
    assert read(tmp_path / "empty.txt", "").text == ""
