"""What asking costs and finds: typing errors, and passages.

    python benchmarks/asking.py --data DIR [--collections cranfield med]

Typing errors: 500 made ones (delete, insert, replace, swap; two in half of the words of 8 letters or more) of indexed
words of 4 to 24 letters that at most ten documents have, as one-word queries; right is a document with the word among the
first ten. The control is the same query without correction. Queries of the collection without unknown words must not change.
Passages: those of the first three results of every query of the collection; the control is the beginning of the text.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import time
from datetime import date
from pathlib import Path

import numpy as np

from flocklet.events.item import Document
from flocklet.models.search.index.asking import ask, place_in
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.passage import passage_of
from flocklet.models.search.index.query import parse_query
from flocklet.models.search.index.spelling import Speller

TODAY = date(2024, 1, 1)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def mistyped(word: str, rng: random.Random) -> str:
    """Return `word` with one typing error, two in half of the long ones."""
    for _ in range(1 + (len(word) >= 8 and rng.random() < 0.5)):
        at = rng.randrange(len(word) - 1)
        kind = rng.randrange(4)
        if kind == 0:
            word = word[:at] + word[at + 1 :]
        elif kind == 1:
            word = word[:at] + rng.choice(LETTERS) + word[at:]
        elif kind == 2:
            word = word[:at] + rng.choice(LETTERS) + word[at + 1 :]
        else:
            word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return word


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--collections", nargs="+", default=["cranfield", "med"])
    args = parser.parse_args()
    for name in args.collections:
        rows = [json.loads(line) for line in (args.data / name / "corpus.jsonl").open()]
        queries = [json.loads(line)["text"] for line in (args.data / name / "queries.jsonl").open()]
        index = Index()
        index.add_many(Document(n, "", row["title"], row["text"]) for n, row in enumerate(rows))
        surface = index.analysis.surface
        speller = Speller(surface)
        spelling = functools.partial(lambda held: held, speller)
        dfs = np.asarray(index.parts[1], np.int32)
        rng = random.Random(1)
        words = [w for w, r in surface.items() if 4 <= len(w) <= 24 and w.isascii() and 1 <= dfs[r] <= 10]
        found = control = skipped = top = 0
        cpu = []
        for word in rng.sample(words, min(500, len(words))):
            typed = mistyped(word, rng)
            right = set(index.candidates(word, 10)[0].tolist())
            if surface.get(typed, -1) == surface[word]:
                skipped += 1
                continue
            query = parse_query(typed, TODAY)
            start = time.process_time()
            asked = ask(index, query, spelling, None)
            cpu.append(time.process_time() - start)
            found += bool(right & set(index.candidates(typed, 10, asked)[0].tolist()))
            control += bool(right & set(index.candidates(typed, 10)[0].tolist()))
            near = speller.near(typed, dfs, 10)
            top += any(row == surface[word] for _, row, _ in near)
        total = min(500, len(words)) - skipped
        changed = sum(ask(index, parse_query(q, TODAY), spelling, None) is not None for q in queries)
        hit = plain = shown = 0
        spent = []
        for text in queries:
            query = parse_query(text, TODAY)
            place, rarity = place_in(index, None, query, "")
            for item in index.candidates(text, 3)[0].tolist():
                body = rows[item]["text"]
                start = time.process_time()
                hit += bool(passage_of(body, place, rarity).spans)
                spent.append(time.process_time() - start)
                plain += any(place(word) >= 0 for word in body.split()[:28])
                shown += 1
        print(
            f"{name}: {len(surface)} words, table {speller.size_bytes / 1e6:.2f} MB; typing errors {total}: word among ten "
            f"{top / total:.3f}, document in the first ten {found / total:.3f} (control {control / total:.3f}), "
            f"{1e3 * float(np.median(cpu)):.2f} ms CPU median; queries with a correction {changed} of {len(queries)}; "
            f"passages with a word of the query {hit / shown:.3f} (beginning of the text {plain / shown:.3f}), "
            f"{1e3 * float(np.median(spent)):.2f} ms CPU median"
        )


if __name__ == "__main__":
    main()
