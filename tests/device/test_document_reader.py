"""The owner's files: what is found, how it is named, and what is left out with which reason."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flocklet.device.document_reader import FileRead, Skipped, read_file
from flocklet.device.folders import read_documents
from flocklet.device.readers.process import ReaderProcess
from flocklet.events.item import item_id_of
from flocklet.store.documents import StoredDocument
from flocklet.wire.visible import visible
from kit.made_files import docx, pdf_of


@pytest.fixture(scope="module")
def reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as process:
        yield process


def read(reader: ReaderProcess, path: Path, content: bytes | str) -> StoredDocument:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_file(path, reader).documents[0]


def reasons(found: list[FileRead]) -> dict[str, str]:
    return {skipped.path.name: skipped.why for file in found for skipped in file.skipped}


def test_plain_text_is_named_by_its_file_and_known_by_its_words(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    document = read(reader, tmp_path / "shopping list.txt", "eggs\nmilk\n")
    assert (document.title, document.text) == ("shopping list.txt", "eggs\nmilk\n")
    assert document.key == document.path == str(tmp_path / "shopping list.txt")
    assert document.item_id == item_id_of("shopping list.txt\0eggs\nmilk\n")


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
def test_titles(reader: ReaderProcess, tmp_path: Path, name: str, content: str, title: str) -> None:
    document = read(reader, tmp_path / name, content)
    assert document.title == title
    assert "body" in document.text
    assert name in f"{document.title} {document.text}"  # found by its name as well


@pytest.mark.parametrize(
    "content", ["<![if broken]>x<p>word", "<p word", "<" * 2000 + "word", "&#xffffffff; word", ""]
)
def test_malformed_html_does_no_harm(reader: ReaderProcess, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.html").write_text(content)
    found = read_file(tmp_path / "x.html", reader)
    assert found.documents or "damaged HTML" in found.skipped[0].why


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.4\ngarbage", "damaged PDF"),
        (pdf_of([""]), "PDF without text"),
        (b"%PDF-1.4\n" + bytes(range(256)), "PDF"),
    ],
)
def test_useless_pdf(reader: ReaderProcess, tmp_path: Path, content: bytes, reason: str) -> None:
    pytest.importorskip("pypdf", reason="pypdf (extra 'pdf') is not installed")
    (tmp_path / "x.pdf").write_bytes(content)
    assert reason in read_file(tmp_path / "x.pdf", reader).skipped[0].why


def test_one_bad_file_never_stops_the_others(reader: ReaderProcess, tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(docx("words")[:100])
    (tmp_path / "b.txt").write_text("words")
    (tmp_path / "c.html").write_bytes(b"<meta charset=unicode_escape><p>tent\\ud800 \xe9")
    (tmp_path / "d.gz").write_bytes(b"\x1f\x8b broken")
    os.mkfifo(tmp_path / "e")  # reading it would wait for ever
    (tmp_path / "f").symlink_to("f")
    (tmp_path / "g.txt").write_text("words")
    found = list(read_documents([tmp_path, tmp_path / "no"], reader))
    assert [file.path.name for file in found if file.documents] == ["b.txt", "c.html", "g.txt"]
    why = reasons(found)
    assert why["a.docx"] == "damaged zip file"
    assert why["d.gz"] == "damaged compressed file"
    assert why["e"] == "not a regular file"
    assert "symbolic links" in why["f"]
    assert why["no"] == "no such file or directory"
    assert str(Skipped(tmp_path, "why", "what to do", "inside")) == f"{tmp_path}!inside: why; what to do"


@pytest.mark.skipif(os.getuid() == 0, reason="modes do not stop root")
def test_a_file_that_may_not_be_read_is_named(reader: ReaderProcess, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("words")
    (tmp_path / "b.txt").chmod(0)
    assert read_file(tmp_path / "b.txt", reader).skipped[0].why == "permission denied"


def test_a_walk_leaves_out_hidden_heavy_and_linked_folders(reader: ReaderProcess, tmp_path: Path) -> None:
    for name in ("notes/a.txt", "notes/.hidden", ".git/config", "node_modules/x/index.js", "env/pyvenv.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words")
    (tmp_path / "env" / "lib.py").write_text("words")
    (tmp_path / "notes" / "back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "notes" / "same.txt").symlink_to(tmp_path / "notes" / "a.txt")
    found = list(read_documents([tmp_path, tmp_path / "notes" / "a.txt"], reader))
    assert [d.key for file in found for d in file.documents] == [str(tmp_path / "notes" / "a.txt")]
    assert reasons(found) == {"back": "a link to a folder is not followed"}
    named = list(read_documents([tmp_path / "notes" / ".hidden"], reader))
    assert named[0].documents


def test_a_link_that_leads_out_is_followed_only_when_it_is_named(
    reader: ReaderProcess, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (inside / "real.txt").write_text("words")
    (inside / "link.txt").symlink_to(outside / "secret.txt")
    found = list(read_documents([inside], reader))
    assert [file.path.name for file in found if file.documents] == ["real.txt"]
    assert reasons(found) == {"link.txt": "a link that leads out of the folder is not followed"}
    (named,) = read_documents([inside / "link.txt"], reader)
    assert named.documents[0].text == "secret"


def test_names_that_are_no_text_are_shown_escaped(reader: ReaderProcess, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n\x1b[31m.txt"))
    document = read(reader, path, "words")
    assert document.key == f"{tmp_path}/caf\\xe9\\x0a\\x1b[31m.txt"
    assert document.path is not None
    assert os.fsencode(document.path).endswith(b"caf\xe9\n\x1b[31m.txt")
    assert visible("a\u202eb\x9b\u2066") == "a\\u202eb\\x9b\\u2066"
    assert visible("Grüße, 東京") == "Grüße, 東京"


def test_what_lies_inside_a_file_is_a_document_of_its_own(reader: ReaderProcess, tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(
        b"From a Fri May 31 10:00:00 2024\nSubject: first\n\none\n\n"
        b"From b Fri May 31 10:00:00 2024\nSubject: second\n\ntwo\n"
    )
    found = read_file(tmp_path / "box", reader)
    assert [(d.title, d.member, d.key) for d in found.documents] == [
        ("first", "1.eml", f"{tmp_path}/box!1.eml"),
        ("second", "2.eml", f"{tmp_path}/box!2.eml"),
    ]
    assert {d.path for d in found.documents} == {str(tmp_path / "box")}


def test_an_empty_file_is_a_document(reader: ReaderProcess, tmp_path: Path) -> None:
    assert read(reader, tmp_path / "empty.txt", "").text == ""


def test_a_missing_extra_is_one_line_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flocklet.device.readers.portable import read_pdf
    from flocklet.device.readers.reading import Budget, MissingPackageError

    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "x.pdf").write_bytes(pdf_of(["words"]))
    with (tmp_path / "x.pdf").open("rb") as source, pytest.raises(MissingPackageError) as caught:
        read_pdf(source, "x.pdf", Budget())
    assert caught.value.remedy == "pip install '.[pdf]'"
