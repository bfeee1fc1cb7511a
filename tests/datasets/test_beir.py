"""Judged collections: BEIR and TREC forms, malformed lines named, figures where the data is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flocklet.datasets.beir import parse_corpus, parse_qrels, parse_queries
from flocklet.datasets.installed import load_collection, load_qrels
from flocklet.errors import UsageError
from flocklet.models.search.evaluation.metrics import ndcg_at
from flocklet.models.search.index.index import Index

CORPUS = (
    '{"_id": "1", "title": "wings", "text": "wings and flow"}\n\n{"_id": 2, "title": null, "text": "heat"}\n'
)
QUERIES = '{"_id": "q2", "text": "flow"}\n{"_id": "q1", "text": "heat"}\n{"_id": "q3", "text": "unjudged"}\n'
QRELS = "query-id\tcorpus-id\tscore\nq2\t1\t3\nq1\t2\t1\nq1\t1\t0\nq3\t1\t0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    (tmp_path / "queries.jsonl").write_text(QUERIES)
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def test_a_beir_folder_is_read(folder: Path) -> None:
    collection = load_collection(folder)
    one, two = collection.documents
    assert (one.key, one.title, one.text) == ("1", "wings", "wings and flow")
    assert (two.key, two.title, two.text) == ("2", "", "heat")
    assert list(collection.queries) == ["q2", "q1", "q3"]
    assert collection.qrels["q1"] == {"2": 1, "1": 0}
    judged = list(collection.judged_queries())
    assert judged == [("q2", "flow", {one.item_id: 3}), ("q1", "heat", {two.item_id: 1, one.item_id: 0})]


def test_trec_judgements_are_read(folder: Path) -> None:
    path = folder / "trec.txt"
    path.write_text("q1 0 1 2\nq1 0 2 -1\n\nq2\t0\t2\t1\n")
    assert load_qrels(path) == {"q1": {"1": 2, "2": 0}, "q2": {"2": 1}}
    assert load_collection(folder, qrels=path).qrels["q1"] == {"1": 2, "2": 0}


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_corpus, '{"_id": "1"}\nnot json\n', "line 2: not JSON"),
        (parse_corpus, '{"id": "1"}\n', "line 1: no field '_id'"),
        (parse_queries, "[1]\n", "line 1: no field '_id'"),
        (parse_qrels, "q\td\t1\nq\td\n", "line 2: 2 columns"),
        (parse_qrels, "q 0 d 1\nq 0 d high\n", "line 2: the gain 'high'"),
    ],
)
def test_a_malformed_line_is_named(parse: object, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        list(parse(text.splitlines()))  # type: ignore[operator]
    assert caught.value.remedy


def test_a_missing_or_foreign_file_is_named(folder: Path) -> None:
    (folder / "queries.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_collection(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(UsageError, match=r"queries\.jsonl cannot be read: no such file"):
        load_collection(folder)


@pytest.mark.parametrize(("name", "reference"), [("cranfield", 0.541), ("med", 0.692), ("adi", 0.488)])
def test_plain_bm25_reaches_the_reference_figure(data_folder: Path, name: str, reference: float) -> None:
    if not (data_folder / name).is_dir():
        pytest.skip(f"the folder that FLOCKLET_DATA names holds no collection '{name}'")
    collection = load_collection(data_folder / name)
    index = Index()
    index.add_many(collection.documents)
    figures = [
        ndcg_at(index.candidates(text, 10)[0], gains) for _, text, gains in collection.judged_queries()
    ]
    assert np.mean(figures) == pytest.approx(reference, abs=0.0015)
