"""The ranking on a device, and `flocklet bench search` on collections of every kind."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.clock import SystemClock
from flocklet.device.commands import perform
from flocklet.device.device import Device
from flocklet.device.membership import create_membership
from flocklet.errors import UsageError
from flocklet.events.click import ClickEntry
from flocklet.events.item import Document
from flocklet.store.home import Home

TEXTS = [
    f"tent pegs {'tent ' * n} camp {word}"
    for n, word in enumerate(["red", "blue", "green", "black", "white", "grey"])
]


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    home = Home(tmp_path / "home")
    home.ensure()
    with Device(home, create_membership(home), SystemClock()) as device:
        device.add_documents([(Document.of(f"d{n}", "", text), None) for n, text in enumerate(TEXTS)])
        yield device


def shown(device: Device, query: str = "tent pegs", **options: object) -> list[int]:
    return [hit.item_id for hit in device.search(query, **options).found]  # type: ignore[arg-type]


def test_without_clicks_every_model_shows_the_order_of_the_text(device: Device) -> None:
    text = device.index.candidates("tent pegs", 10)[0].tolist()
    for model in ("posterior", "grank", "bm25"):
        assert shown(device, model=model) == text
    with pytest.raises(UsageError, match="magic"):
        device.search("tent pegs", model="magic")


def test_a_click_lifts_what_was_clicked_and_bm25_stays(device: Device) -> None:
    before = device.search("tent pegs")
    chosen = before.found[4]
    device.click(before.query_id, 5)
    assert shown(device)[0] == chosen.item_id
    assert shown(device, model="grank")[0] == chosen.item_id
    assert shown(device, model="bm25")[0] == before.found[0].item_id
    assert shown(device, "camp grey") == device.index.candidates("camp grey", 10)[0].tolist()


def test_the_ranking_survives_a_restart(device: Device) -> None:
    device.click(device.search("tent pegs").query_id, 5)
    (ids,) = device.rank([("me", "tent pegs")], limit=6)
    device.save_index()
    with Device(device.home, device.membership, SystemClock()) as again:
        assert next(iter(again.rank([("me", "tent pegs")], limit=6))).tolist() == ids.tolist()


def test_an_explanation_names_text_own_clicks_and_peers(device: Device) -> None:
    results = device.search("tent pegs")
    device.click(results.query_id, 3)
    for person in range(2):
        entry = ClickEntry(bytes([person]) * 16, 1, "tent pegs", (results.found[2].item_id,), 0, 0)
        device.ranker.learn(entry)
    best = device.search("tent pegs", is_explained=True).found[0]
    assert best.why is not None
    assert sum(best.why["text"].values()) == pytest.approx(best.text_score, abs=1e-2)
    assert best.why["own"]["clicks"] == 2.0  # the own ones count twice
    assert best.why["peers"]["identities"] == 2
    assert [row["trust"] for row in best.why["peers"]["trust"]] == [1.0, 1.0]
    assert device.search("tent pegs").found[0].why is None


def test_trust_of_the_person_weighs_peers(device: Device) -> None:
    results = device.search("tent pegs")
    attacked, liked = results.found[5].item_id, results.found[4].item_id
    friend, stranger = b"f" * 16, b"s" * 16
    device.taste.trust(device.identity_of("me"), friend, 1.0)
    for number in range(3):
        device.ranker.learn(ClickEntry(stranger[:-1] + bytes([number]), 1, "tent pegs", (attacked,), 0, 0))
    device.ranker.learn(ClickEntry(friend, 1, "tent pegs", (liked,), 0, 0))
    (ids,) = device.rank([("me", "tent pegs")], limit=6)
    assert ids.tolist().index(liked) < ids.tolist().index(attacked)


def test_what_the_device_teaches_itself_does_not_depend_on_who_searched_last(device: Device) -> None:
    shown_ids = [hit.item_id for hit in device.search("tent pegs").found]
    for number in range(3):
        entry = ClickEntry(bytes([number + 1]) * 16, 1, "tent pegs", tuple(shown_ids), number, 0)
        device.ranker.learn(entry)
    device.add_people({"guest": b"g" * 32})
    before = device.ranker.rates()
    assert len(before["tent pegs"]) == 3
    guest = device.identity_of("guest").origin
    device.ranker.rank(device.index, "tent pegs", guest, trust=lambda origin: 0.0)
    assert device.ranker.rates() == before, "the guest's distrust is the guest's"
    device.ranker.explain(device.index, "tent pegs", shown_ids, b"x" * 16, trust=lambda origin: 0.0)
    assert device.ranker.rates() == before
    device.taste.trust(device.identity_of("me"), bytes([1]) * 16, 1.0)
    weighed = device.ranker.rates()["tent pegs"]
    assert weighed[shown_ids[0]] > max(weighed.get(item, 0.0) for item in shown_ids[1:3]), (
        "the owner's counts"
    )


def test_clicks_on_what_does_not_match_stay_below_what_does(device: Device) -> None:
    odd = Document.of("odd", "", "nothing of the kind")
    device.add_documents([(odd, None)])
    for number in range(50):
        device.ranker.learn(ClickEntry(number.to_bytes(16, "big"), 1, "tent pegs", (odd.item_id,), 0, 0))
    assert shown(device)[-1] == odd.item_id


def test_teaching_waits_for_enough_clicks_and_is_kept(device: Device) -> None:
    assert not device.teach()
    for number in range(12):
        query = f"tent {'pegs ' * number}camp"
        results = device.search(query)
        device.click(results.query_id, 1)
    assert device.teach()
    assert device.ranker.reranker is not None
    assert not device.teach()  # nothing new
    assert shown(device)


def test_requests_pass_model_and_explanation_on(device: Device) -> None:
    values = {"query": "tent pegs", "person": "me", "limit": 3, "model": "bm25", "explain": True}
    answer = perform(device, "search", values)
    assert len(answer["found"]) == 3
    assert answer["found"][0]["why"]["text"]
    rows = {"queries": [("me", "tent pegs")], "limit": 2, "own_only": True, "model": "grank"}
    assert len(perform(device, "rank", rows)[0]) == 16


def test_search_explains_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for number, text in enumerate(TEXTS):
        (notes / f"n{number}.txt").write_text(text)
    home = ["--home", str(tmp_path / "home")]
    assert main([*home, "add", str(notes)]) == 0
    capsys.readouterr()
    assert main([*home, "search", "--explain", "tent", "pegs"]) == 0
    said = capsys.readouterr().out
    assert "text " in said and "click rate" in said and "tent" in said
    assert main([*home, "--json", "search", "--explain", "--model", "grank", "tent"]) == 0
    assert json.loads(capsys.readouterr().out)["found"][0]["why"]["text"]


def collection(folder: Path, documents: int, queries: int, *, gain: int = 1, absent: bool = False) -> Path:
    rng = np.random.default_rng(1)
    words = [f"w{n}" for n in range(60)]
    (folder / "qrels").mkdir(parents=True)
    texts = [" ".join(rng.choice(words, int(rng.integers(0, 30))).tolist()) for _ in range(documents)]
    rows = [json.dumps({"_id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    asked = [" ".join(rng.choice(words, 3).tolist()) for _ in range(queries)]
    lines = [json.dumps({"_id": f"q{n}", "text": text}) for n, text in enumerate(asked)]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    qrels = ["query-id\tcorpus-id\tscore"]
    for n in range(queries):
        qrels += [f"q{n}\td{int(rng.integers(documents))}\t{gain}" for _ in range(3)]
        qrels += [f"q{n}\tnowhere\t{gain}"] * absent
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return folder


@pytest.mark.parametrize(
    ("documents", "queries", "gain", "absent"),
    [(40, 1, 1, False), (3, 2, 1, True), (60, 12, 3, True), (1, 3, 1, False)],
)
def test_bench_search_on_odd_collections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], documents: int, queries: int, gain: int, absent: bool
) -> None:
    folder = collection(tmp_path / "odd", documents, queries, gain=gain, absent=absent)
    assert main(["bench", "search", str(folder), "--json", "--impressions", "60"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["collection"] == "odd"
    assert report["documents"] == documents
    assert report["queries"] == queries
    assert set(report["methods"]) == {"bm25", "rerank_cv", "clicks_nav", "clicks_info", "clicks_pbm"}
    for figures in report["methods"].values():
        assert set(figures) == {"ndcg@10", "mrr", "map", "recall@100", "p_vs_bm25"}
        assert all(0 <= value <= 1 for value in figures.values())
    assert report["methods"]["rerank_cv"]["ndcg@10"] >= report["methods"]["bm25"]["ndcg@10"]
    assert report["latency_us"] > 0
    assert report["index_bytes"] > 0


def test_bench_search_repeats_with_its_seed_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = collection(tmp_path / "c", 30, 5)
    picture = tmp_path / "out.png"
    reports = []
    for arguments in (["--plot", str(picture)], ["--plot", str(tmp_path / "out.svg")]):
        assert (
            main(["bench", "search", str(folder), "--json", "--impressions", "80", "--seed", "3", *arguments])
            == 0
        )
        reports.append(json.loads(capsys.readouterr().out)["methods"])
    assert reports[0] == reports[1]
    data = picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (900, 540)
    assert (tmp_path / "out.svg").read_text().count("clicks_nav") == 1


def test_bench_search_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "search", str(tmp_path / "nowhere")]) == 2
    folder = collection(tmp_path / "none", 5, 2, gain=0)
    assert main(["bench", "search", str(folder)]) == 2
    assert "no query with a relevant document" in capsys.readouterr().err
    good = collection(tmp_path / "good", 5, 2)
    assert main(["bench", "search", str(good), "--plot", str(tmp_path / "x.jpg")]) == 2
    assert main(["bench", "search", str(good), "--impressions", "0"]) == 2
