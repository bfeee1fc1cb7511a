"""Lay an index out as flat arrays for the store, and check such arrays when they come back.

name         shape, type                     what
format       (1,) int64                      FORMAT: version of this layout and of the text pipeline
parameters   (2,) float64                    k1, b
ids          (documents,) uint64             item id by document number
lengths      (documents,) int32              terms in the document
languages    (documents,) uint8              place of the document's language in `names`
names        (bytes,) uint8                  languages in ASCII, parted by spaces; then the version of their stemmers
terms        (bytes,) uint8                  all terms in UTF-8, one after the other, by row
term_ends    (rows,) int64                   where each term ends in `terms`
words        (bytes,) uint8                  words as they are written, like `terms`
word_ends    (words,) int64                  where each word ends in `words`
word_rows    (words,) int32                  the row of its term
starts       (rows + 1,) int64               posting list of row r: starts[r] to starts[r + 1]
docs         (postings,) int32               document numbers, ascending within a list
frequencies  (postings,) uint8/16/32         occurrences of the term in that document
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["FORMAT", "check_arrays", "pack_terms", "unpack_terms"]

FORMAT = 3

_TYPES = {
    "format": "i8",
    "parameters": "f8",
    "ids": "u8",
    "lengths": "i4",
    "languages": "u1",
    "names": "u1",
    "terms": "u1",
    "term_ends": "i8",
    "words": "u1",
    "word_ends": "i8",
    "word_rows": "i4",
    "starts": "i8",
    "docs": "i4",
}


def pack_terms(terms: Iterable[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return `terms` as (bytes, ends)."""
    blobs = [term.encode() for term in terms]
    return np.frombuffer(b"".join(blobs), np.uint8), np.cumsum([len(blob) for blob in blobs], dtype=np.int64)


def unpack_terms(terms: NDArray[np.uint8], ends: NDArray[np.int64]) -> dict[str, int]:
    """Return the row of each term; raises ValueError when one is not UTF-8 or appears twice."""
    blob = terms.tobytes()
    bounds = [0, *ends.tolist()]
    rows = {blob[bounds[row] : bounds[row + 1]].decode(): row for row in range(len(ends))}
    if len(rows) != len(ends):
        raise ValueError("a term appears twice")
    return rows


def check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError (or KeyError) unless `arrays` can be used without reading outside of any of them."""
    for name, kind in _TYPES.items():
        if arrays[name].dtype != np.dtype(kind) or arrays[name].ndim != 1:
            raise ValueError(f"'{name}' is not a flat array of type {kind}")
    if arrays["format"].tolist() != [FORMAT]:
        raise ValueError(f"format {arrays['format'].tolist()}, this version reads {FORMAT}")
    k1, b = arrays["parameters"].tolist()
    if not (0 <= k1 < 1e6 and 0 <= b <= 1):
        raise ValueError("BM25 parameters out of range")
    starts, docs, frequencies = arrays["starts"], arrays["docs"], arrays["frequencies"]
    if frequencies.dtype.kind != "u" or frequencies.shape != docs.shape:
        raise ValueError("frequencies do not fit the postings")
    names = arrays["names"].tobytes().decode("ascii").split(" ")
    if (
        len(arrays["languages"]) != len(arrays["ids"])
        or int(arrays["languages"].max(initial=0)) >= len(names) - 1
    ):
        raise ValueError("languages do not fit the documents")
    rows = arrays["word_rows"]
    if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(arrays["term_ends"])):
        raise ValueError("a word without a term")
    if len(starts) != len(arrays["term_ends"]) + 1 or len(arrays["lengths"]) != len(arrays["ids"]):
        raise ValueError("term or document arrays of different lengths")
    for name, bounds, end in (
        ("starts", starts, len(docs)),
        ("word_ends", np.concatenate(([0], arrays["word_ends"])), len(arrays["words"])),
        ("term_ends", np.concatenate(([0], arrays["term_ends"])), len(arrays["terms"])),
    ):
        if bounds[0] != 0 or bounds[-1] != end or np.any(bounds[1:] < bounds[:-1]):
            raise ValueError(f"'{name}' does not divide what it should")
    if len(docs) and (int(docs.min()) < 0 or int(docs.max()) >= len(arrays["ids"])):
        raise ValueError("a posting names a document that is not there")
    if len(arrays["lengths"]) and int(arrays["lengths"].min()) < 0:
        raise ValueError("a document of negative length")
    ascending = docs[1:] > docs[:-1]
    ascending[starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < len(docs))] - 1] = True
    if not ascending.all():
        raise ValueError("a posting list is not in ascending order")
