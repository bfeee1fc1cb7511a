"""Search as people ask: fields, phrases, pages, twins, what is shown and where it leads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flocklet.clock import SystemClock
from flocklet.device.device import Device
from flocklet.device.membership import create_membership
from flocklet.errors import UsageError
from flocklet.store.documents import StoredDocument
from flocklet.store.home import Home

WORDS = [f"w{n}" for n in range(40)]


def document(number: int, title: str, text: str, path: str, **about: str) -> StoredDocument:
    return StoredDocument(number, path, title, text, path, **about)  # type: ignore[arg-type]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    home = Home(tmp_path / "home")
    home.ensure()
    with Device(home, create_membership(home), SystemClock()) as device:
        device.library.add(
            [
                document(
                    1,
                    "Camping",
                    "The tent pegs hold the guy line.",
                    "/n/camp.txt",
                    kind="text",
                    written="2024-05-01",
                ),
                document(
                    2,
                    "Knots",
                    "A line for the guy of a tent, and pegs.",
                    "/n/sub/knots.pdf",
                    kind="pdf",
                    written="2020-01-01",
                ),
                document(
                    3, "Zelte", "Die Zelte stehen. The tent.", "/m/zelt.md", kind="markdown", language="de"
                ),
                *(document(10 + n, f"Page {n}", f"filler number {n}", f"/f/{n}.txt") for n in range(30)),
            ]
        )
        yield device


def ids(device: Device, query: str, **options: int) -> list[int]:
    return [hit.item_id for hit in device.search(query, **options).found]  # type: ignore[arg-type]


def test_fields_filter_and_phrases_are_verified(device: Device) -> None:
    assert sorted(ids(device, "tent")) == [1, 2, 3]
    assert ids(device, '"guy line"') == [1]
    assert ids(device, 'tent -"guy line"') == [2, 3] or ids(device, 'tent -"guy line"') == [3, 2]
    assert ids(device, "tent type:pdf") == [2]
    assert ids(device, "tent type:md") == [3]
    assert ids(device, "tent lang:de") == [3]
    assert ids(device, "tent title:knot") == [2]
    assert sorted(ids(device, "tent in:/n")) == [1, 2]
    assert ids(device, "tent path:sub") == [2]
    assert ids(device, "tent in:/n after:2024") == [1]
    assert ids(device, "tent before:2021") == [2]
    assert sorted(ids(device, "tent -lang:de")) == [1, 2]
    assert ids(device, "in:/n") == [1, 2]  # no word: the newest first
    assert ids(device, "zzz") == []
    with pytest.raises(UsageError, match="not wanted"):
        device.search("-tent")


def test_pages_and_totals_go_on_where_the_last_one_ended(device: Device) -> None:
    every = ids(device, "filler", limit=100)
    assert len(every) == 30
    pages = [device.search("filler", limit=8, page=page) for page in (1, 2, 3, 4, 5)]
    assert [hit.item_id for page in pages for hit in page.found] == every
    assert [hit.rank for hit in pages[1].found] == list(range(9, 17))
    assert {page.total for page in pages} == {30}
    entry = device.click(pages[2].query_id, 20)
    assert entry.item == every[19]
    assert entry.shown == (*every[:9], every[19])  # an entry holds ten


def test_a_typing_error_is_said_and_searched_for(device: Device) -> None:
    answer = device.search("filer nubmer")
    assert answer.corrected == (("filer", ("filler",)), ("nubmer", ("number",)))
    assert answer.found
    assert device.search("filler").corrected == ()


def test_what_says_the_same_is_shown_once(device: Device) -> None:
    text = " ".join(WORDS)
    device.library.add(
        [
            document(100, "One", text, "/x/one.txt"),
            document(101, "Copy", text + " more", "/x/copy.txt"),
            document(102, "Other", " ".join(reversed(WORDS)), "/x/other.txt"),
            document(103, "Seite", "w1 ist eine Seite", "/d/de/page.html", language="de"),
            document(104, "Page", "w1 is one page ", "/d/en/page.html", language="en"),
        ]
    )
    folded = device.search("w1")
    assert {hit.item_id: len(hit.twins) for hit in folded.found if hit.twins} in (
        {100: 1, 103: 1},
        {101: 1, 104: 1},
        {100: 1, 104: 1},
        {101: 1, 103: 1},
    )
    assert len(folded.found) == 3
    assert len(device.search("w1", is_folded=False).found) == 5
    assert folded.total == 5


def test_nothing_of_a_private_search_is_kept(device: Device) -> None:
    device.search("tent")
    before = device.store.count("events")
    answer = device.search("tent pegs", is_private=True)
    assert (answer.query_id, [hit.item_id for hit in answer.found]) == (0, ids(device, "tent pegs"))
    assert device.store.count("events") == before + 1  # the control: the same search, not private, is kept
    with pytest.raises(UsageError, match="no query 0"):
        device.click(0, 1)


def test_a_hit_says_where_its_passage_stands(device: Device) -> None:
    device.library.add(
        [
            StoredDocument(
                200,
                "k",
                "Book",
                "first page\nzebra here",
                "/b.pdf",
                kind="pdf",
                parts=((0, "page 1"), (11, "page 2")),
            ),
            document(201, "Lines", "one\ntwo\nokapi", "/l.txt", kind="text"),
        ]
    )
    (book,) = device.search("zebra").found
    assert [book.snippet[a:b] for a, b in book.spans] == ["zebra"]
    assert device.search("okapi").found[0].spans
    assert book.part in ("page 1", "page 2")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    from flocklet.__main__ import main

    return lambda *words: main(["--home", str(tmp_path / "h"), *map(str, words)])


def test_the_verbs(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("one\nthe tent pegs\n")
    assert run("add", notes) == 0
    capsys.readouterr()
    assert run("search", "tent", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["total"], answer["page"]) == (1, 1)
    assert isinstance(answer["found"][0]["item_id"], str)
    assert run("open", "1", "--print") == 0
    assert capsys.readouterr().out.strip() == str(notes / "a.txt")
    assert run("open", "7", "--print") == 2
    assert run("search", "tetn") == 0
    assert "searched for tent too" in capsys.readouterr().out
    assert run("search", "tent", "--page", "0") == 2
