"""The owner's documents: what a file's documents become in store and index, and in which language."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flocklet.clock import SystemClock
from flocklet.device.corpus import Library
from flocklet.store.documents import StoredDocument
from flocklet.store.home import Home
from flocklet.store.store import Store


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    home = Home(tmp_path / "home")
    home.ensure()
    with Store(home.database) as store:
        yield Library(home, store, SystemClock())


def document(
    number: int, text: str, language: str = "", path: str | None = None, member: str = ""
) -> StoredDocument:
    return StoredDocument(number, f"k{number}", "", text, path, member, language)


def test_a_language_gets_its_analyser_with_its_fifth_document(library: Library) -> None:
    library.add([document(n, f"english words {n}", "en") for n in range(10)])
    library.add([document(20 + n, "die Häuser am See", "de") for n in range(4)])
    assert library.index.languages == ("en",)
    assert len(library.index.candidates("Haus", 9)[0]) == 0
    library.add([document(24, "viele Bücher", "de")])
    assert library.index.languages == ("en", "de")
    assert library.index.candidates("Haus", 9)[0].tolist() == [20, 21, 22, 23]  # the four are analysed anew
    library.add([document(30, "Häuser")])  # no word of its own: like most documents here
    assert library.index.languages == ("en", "de")


def test_what_is_no_longer_in_a_file_is_taken_out(library: Library) -> None:
    box = [document(n, f"message {n}", path="/box", member=f"{n}.eml") for n in range(3)]
    assert library.add(box) == 3
    assert library.add(box) == 0
    assert library.add(box[:2]) == 0
    assert library.index.ids.tolist() == [0, 1]
    assert library.add([document(9, "anew", path="/box")]) == 1
    assert library.index.ids.tolist() == [9]
