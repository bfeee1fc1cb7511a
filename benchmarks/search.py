"""Compare flocklet's text index with bm25s, tantivy and SQLite FTS5 on judged collections.

    python benchmarks/search.py --data DIR [--collections cranfield med adi] [--copies 20] [--json FILE]

DIR holds one folder per collection in the BEIR layout (corpus.jsonl, queries.jsonl, qrels/test.tsv). The
latency part uses the first collection, replicated `--copies` times with distinct ids. Engines are asked in
alternating passes in one process; build time and resident memory come from a fresh child process each.
Latency includes the engine's own analysis of the query. An engine that is not installed is a row that says
so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flocklet.datasets.beir import Collection
from flocklet.datasets.installed import load_collection
from flocklet.events.item import Document
from flocklet.models.search.evaluation.metrics import (
    average_precision,
    bootstrap_interval,
    mrr,
    ndcg_at,
    recall_at,
)
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.text import STOP_WORDS

_WORD = re.compile(r"[a-z0-9]+")


class Engine(Protocol):
    """What is compared: `top` returns places in the list of documents, best first."""

    def __init__(self, documents: Sequence[Document]) -> None: ...
    def top(self, query: str, k: int) -> Sequence[int]:
        """Return the places of the best `k` documents."""

    def size_bytes(self) -> int:
        """Return the bytes that the index takes when it is stored."""


class Ours:
    """Our own index."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.index = Index()
        self.index.add_many(documents)
        self.places = {document.item_id: place for place, document in enumerate(documents)}

    def top(self, query: str, k: int) -> Sequence[int]:
        """Search; see Engine."""
        ids, _ = self.index.candidates(query, k)
        return [self.places[item_id] for item_id in ids.tolist()]

    def size_bytes(self) -> int:
        """Return the size; see Engine."""
        return sum(values.nbytes for values in self.index.to_arrays().values())


class Bm25s:
    """bm25s: precomputed scores in a sparse matrix (Python, NumPy)."""

    def __init__(self, documents: Sequence[Document]) -> None:
        import bm25s
        import Stemmer

        self.bm25s, self.stemmer = bm25s, Stemmer.Stemmer("english")
        self.count = len(documents)
        self.index = bm25s.BM25(k1=1.2, b=0.75)
        self.index.index(self._tokens([f"{d.title} {d.text}" for d in documents]), show_progress=False)

    def _tokens(self, texts: list[str]) -> Any:
        return self.bm25s.tokenize(texts, stopwords="en", stemmer=self.stemmer, show_progress=False)

    def top(self, query: str, k: int) -> Sequence[int]:
        """Search; see Engine."""
        k = min(k, self.count)  # bm25s refuses to be asked for more
        documents, scores = self.index.retrieve(self._tokens([query]), k=k, show_progress=False)
        return [int(place) for place, score in zip(documents[0], scores[0], strict=True) if score > 0]

    def size_bytes(self) -> int:
        """Return the size; see Engine."""
        with tempfile.TemporaryDirectory() as folder:
            self.index.save(folder)
            return _folder_bytes(Path(folder))


class Tantivy:
    """tantivy: a search library in Rust."""

    def __init__(self, documents: Sequence[Document]) -> None:
        import tantivy

        self.tantivy = tantivy
        self.folder = tempfile.TemporaryDirectory()
        builder = tantivy.SchemaBuilder()
        builder.add_integer_field("place", stored=True)
        builder.add_text_field("body", tokenizer_name="en_stem")
        self.index = tantivy.Index(builder.build(), path=self.folder.name)
        writer = self.index.writer(num_threads=1)
        for place, document in enumerate(documents):
            writer.add_document(tantivy.Document(place=place, body=f"{document.title} {document.text}"))
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()
        self.searcher = self.index.searcher()

    def top(self, query: str, k: int) -> Sequence[int]:
        """Search; see Engine."""
        wanted = " ".join(word for word in _WORD.findall(query.lower()) if word not in STOP_WORDS)
        hits = self.searcher.search(self.index.parse_query(wanted, ["body"]), k, count=False).hits
        return [self.searcher.doc(address)["place"][0] for _, address in hits]

    def size_bytes(self) -> int:
        """Return the size; see Engine."""
        return _folder_bytes(Path(self.folder.name))


class Fts5:
    """SQLite's full-text search."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "fts.db"
        self.db = sqlite3.connect(self.path)
        self.db.execute("CREATE VIRTUAL TABLE d USING fts5(body, tokenize='porter unicode61')")
        rows = ((place, f"{d.title} {d.text}") for place, d in enumerate(documents))
        self.db.executemany("INSERT INTO d(rowid, body) VALUES (?, ?)", rows)
        self.db.execute("INSERT INTO d(d) VALUES ('optimize')")
        self.db.commit()

    def top(self, query: str, k: int) -> Sequence[int]:
        """Search; see Engine."""
        wanted = " OR ".join(f'"{word}"' for word in _WORD.findall(query.lower()) if word not in STOP_WORDS)
        rows = self.db.execute("SELECT rowid FROM d WHERE d MATCH ? ORDER BY rank LIMIT ?", (wanted, k))
        return [row[0] for row in rows]

    def size_bytes(self) -> int:
        """Return the size; see Engine."""
        return self.path.stat().st_size


ENGINES: dict[str, tuple[type[Engine], tuple[str, ...]]] = {
    "flocklet": (Ours, ()),
    "bm25s": (Bm25s, ("bm25s", "Stemmer")),
    "tantivy": (Tantivy, ("tantivy",)),
    "fts5": (Fts5, ()),
}


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _missing(name: str) -> str:
    return ", ".join(m for m in ENGINES[name][1] if importlib.util.find_spec(m) is None)


def replicate(collection: Collection, copies: int) -> list[Document]:
    return [Document.of(f"{c}/{d.key}", d.title, d.text) for c in range(copies) for d in collection.documents]


def build_alone(name: str, data: Path, collection: str, copies: int) -> dict[str, float]:
    """Build in this process (a fresh child); return seconds and the resident memory that the engine added."""
    documents = replicate(load_collection(data / collection), copies)
    before = _rss_bytes()
    start = time.perf_counter()
    engine = ENGINES[name][0](documents)
    seconds = time.perf_counter() - start
    engine.top("a first query", 10)
    return {"build_s": seconds, "rss_mb": (_rss_bytes() - before) / 1e6, "file_mb": engine.size_bytes() / 1e6}


def quality(collection: Collection, engine: Engine) -> dict[str, Any]:
    figures: dict[str, list[float]] = {"ndcg@10": [], "map": [], "mrr": [], "recall@100": []}
    for _, text, gains in collection.judged_queries():
        ranking = [collection.documents[place].item_id for place in engine.top(text, 100)]
        figures["ndcg@10"].append(ndcg_at(ranking, gains))
        figures["map"].append(average_precision(ranking, gains))
        figures["mrr"].append(mrr(ranking, gains))
        figures["recall@100"].append(recall_at(ranking, gains))
    low, high = bootstrap_interval(figures["ndcg@10"], np.random.default_rng(0))
    return {name: float(np.mean(values)) for name, values in figures.items()} | {"ndcg_interval": [low, high]}


def latency(engines: dict[str, Engine], queries: list[str], passes: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for turn in range(passes + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            top = engines[name].top
            for query in queries:
                start = time.perf_counter()
                top(query, 10)
                if turn:  # the first pass warms caches
                    times[name].append((time.perf_counter() - start) * 1e6)
    return {
        name: {"median_us": float(np.median(values)), "p95_us": float(np.percentile(values, 95))}
        for name, values in times.items()
    }


def changes(documents: Sequence[Document], queries: list[str]) -> dict[str, float]:
    """Time single additions, replacements, removals and a query right after one, on the big index."""
    index = Index()
    index.add_many(documents)
    figures: dict[str, list[float]] = {}

    def timed(name: str, action: Any) -> None:
        start = time.perf_counter()
        action()
        figures.setdefault(name, []).append((time.perf_counter() - start) * 1e3)

    for number, document in enumerate(documents[:200]):
        timed("add", lambda n=number, d=document: index.add(n, d.title, d.text))
        timed("query_after_add", lambda n=number: index.candidates(queries[n % len(queries)], 10))
    for document in documents[:50]:  # documents of the base: their terms are found by a scan
        timed("remove", lambda d=document: index.remove(d.item_id))
    for document in documents[50:100]:
        timed("replace", lambda d=document: index.add(d.item_id, d.title, d.text))
    timed("compact", index.compact)
    arrays = index.to_arrays()
    timed("load", lambda: Index.from_arrays(arrays))
    worst = {f"{name}_max_ms": max(values) for name, values in figures.items() if len(values) > 1}
    return {f"{name}_ms": float(np.median(values)) for name, values in figures.items()} | worst


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder per collection")
    parser.add_argument("--collections", nargs="+", default=["cranfield", "med", "adi"])
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--build-one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if (
        "OMP_NUM_THREADS" not in os.environ
    ):  # libraries read it when they are loaded: start again with one thread
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})
    first = args.collections[0]
    if args.build_one:
        print(json.dumps(build_alone(args.build_one, args.data, first, args.copies)))
        return 0

    missing = {name: _missing(name) for name in args.engines}
    usable = [name for name in args.engines if not missing[name]]
    report: dict[str, Any] = {"missing": {name: text for name, text in missing.items() if text}}
    report["quality"] = {}
    for name in args.collections:
        collection = load_collection(args.data / name)
        report["quality"][name] = {
            engine: quality(collection, ENGINES[engine][0](collection.documents)) for engine in usable
        }
    report["build"] = {}
    for name in usable:
        command = [sys.executable, __file__, "--data", str(args.data), "--collections", first]
        command += ["--copies", str(args.copies), "--build-one", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        report["build"][name] = json.loads(done.stdout)
    collection = load_collection(args.data / first)
    documents = replicate(collection, args.copies)
    queries = list(collection.queries.values())
    engines = {name: ENGINES[name][0](documents) for name in usable}
    report["documents"] = len(documents)
    report["latency"] = latency(engines, queries, args.passes)
    report["changes"] = changes(documents, queries)

    print(
        f"{len(documents)} documents ({first} x {args.copies}), {len(queries)} queries x {args.passes} passes"
    )
    print(f"{'engine':10}{'median us':>11}{'p95 us':>9}{'build s':>9}{'RSS MB':>8}{'file MB':>9}", end="")
    print("".join(f"{name + ' nDCG@10':>20}" for name in args.collections))
    for name in args.engines:
        if missing[name]:
            print(f"{name:10} not installed: pip install {missing[name]}")
            continue
        timing, build = report["latency"][name], report["build"][name]
        print(f"{name:10}{timing['median_us']:11.0f}{timing['p95_us']:9.0f}{build['build_s']:9.2f}", end="")
        print(f"{build['rss_mb']:8.1f}{build['file_mb']:9.1f}", end="")
        print("".join(f"{report['quality'][c][name]['ndcg@10']:20.3f}" for c in args.collections))
    others = [report["latency"][name]["median_us"] for name in ("bm25s", "tantivy") if name in usable]
    if others and "flocklet" in usable:
        ratio = report["latency"]["flocklet"]["median_us"] / min(others)
        print(f"flocklet / best of bm25s and tantivy: {ratio:.2f}")
        report["ratio_to_best"] = ratio
    if {"flocklet", "fts5"} <= set(usable):
        ratio = report["latency"]["fts5"]["median_us"] / report["latency"]["flocklet"]["median_us"]
        print(f"fts5 / flocklet: {ratio:.0f}")
        report["ratio_to_fts5"] = ratio
    print("changes: " + ", ".join(f"{name[:-3]} {value:.2f} ms" for name, value in report["changes"].items()))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
