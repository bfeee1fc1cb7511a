"""Read judged search collections: the BEIR layout and TREC relevance judgements, from lines of text.

BEIR: `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`), `qrels/test.tsv` (tab-
separated with a header `query-id corpus-id score`). TREC qrels: `query 0 document gain`, separated by white
space. Files are opened in `flocklet.datasets.installed`; here everything is pure. Malformed lines raise UsageError
with the number of the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flocklet.errors import UsageError
from flocklet.events.item import Document

__all__ = ["Collection", "Qrels", "parse_corpus", "parse_qrels", "parse_queries"]

Qrels = dict[str, dict[str, int]]  # query id -> document key -> gain (0 = judged and not relevant)


@dataclass(frozen=True, slots=True)
class Collection:
    """Hold a judged collection: documents, queries by id, and the gain of each judged document per query."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    qrels: Qrels = field(default_factory=dict)

    def judged_queries(self) -> Iterator[tuple[str, str, dict[int, int]]]:
        """Yield (query id, text, gain by item id) of every query with at least one relevant document, in
        order.
        """
        item_ids = {document.key: document.item_id for document in self.documents}
        for query_id, text in self.queries.items():
            gains = {
                item_ids[key]: gain for key, gain in self.qrels.get(query_id, {}).items() if key in item_ids
            }
            if any(gain > 0 for gain in gains.values()):
                yield query_id, text, gains


def _records(lines: Iterable[str], source: str) -> Iterator[tuple[str, str, str]]:
    """Yield (_id, title, text) of each line of JSON; absent fields are empty."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UsageError(
                f"{source}, line {number}: not JSON ({error})",
                remedy="expected one JSON object per line (BEIR layout)",
            ) from error
        if not isinstance(record, dict) or "_id" not in record:
            raise UsageError(
                f"{source}, line {number}: no field '_id'",
                remedy="expected the BEIR layout: _id, title, text",
            )
        yield str(record["_id"]), str(record.get("title") or ""), str(record.get("text") or "")


def parse_corpus(lines: Iterable[str], *, source: str = "corpus.jsonl") -> Iterator[Document]:
    """Yield the documents of a BEIR corpus; `source` names it in errors."""
    for key, title, text in _records(lines, source):
        yield Document.of(key, title, text)


def parse_queries(lines: Iterable[str], *, source: str = "queries.jsonl") -> dict[str, str]:
    """Return the text of each query of a BEIR query file by its id, in the order of the file."""
    return {query_id: text for query_id, _, text in _records(lines, source)}


def parse_qrels(lines: Iterable[str], *, source: str = "qrels") -> Qrels:
    """Return the judgements of a BEIR (3 columns, with header) or TREC (4 columns) file; negative gains
    become 0.
    """
    result: Qrels = {}
    for number, line in enumerate(lines, 1):
        columns = line.split("\t") if "\t" in line else line.split()
        columns = [column.strip() for column in columns if column.strip()]
        if not columns or (number == 1 and not columns[-1].lstrip("-").isdigit()):
            continue
        if len(columns) not in (3, 4):
            raise UsageError(
                f"{source}, line {number}: {len(columns)} columns",
                remedy="expected 'query document gain' (BEIR) or 'query 0 document gain' (TREC)",
            )
        try:
            gain = int(columns[-1])
        except ValueError as error:
            raise UsageError(
                f"{source}, line {number}: the gain '{columns[-1]}' is not a whole number",
                remedy="gains are whole numbers, 0 for not relevant",
            ) from error
        result.setdefault(columns[0], {})[columns[-2]] = max(gain, 0)
    return result
