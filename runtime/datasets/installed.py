"""Read data sets from where they are installed; fetch the one that a package carries. Nothing is vendored.

`load_collection` reads judged search collections in the BEIR layout; `fetch_movielens` gets MovieLens 100K
out of a package that carries it, checks every byte against known checksums and keeps the package in a
cache.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flocklet.datasets.beir import Collection, Qrels, parse_corpus, parse_qrels, parse_queries
from flocklet.errors import LinkError, StoreError, UsageError, VerificationError
from flocklet.events.item import Document

__all__ = [
    "KNOWN",
    "Film",
    "KnownDataset",
    "MovieLens",
    "fetch_movielens",
    "load_collection",
    "load_qrels",
    "parse_movielens",
]


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """Describe a data set that flocklet can read: what it is, where it comes from, licence, SHA-256 of the
    package.
    """

    name: str
    what: str
    where: str
    licence: str
    sha256: str
    used_by: str


_RECBOLE = "recbole==1.2.1"
_RECBOLE_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_MOVIELENS_SHA256 = {
    "recbole/dataset_example/ml-100k/ml-100k.inter": (
        "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
    ),
    "recbole/dataset_example/ml-100k/ml-100k.item": (
        "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"
    ),
    "recbole/dataset_example/ml-100k/ml-100k.user": (
        "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"
    ),
}
_MOVIELENS_MAX_BYTES = 8 << 20

KNOWN = (
    KnownDataset(
        name="movielens-100k",
        what="100,000 ratings of 1,682 films by 943 people, with times, titles, years and genres",
        where=f"carried by the package {_RECBOLE}; 'flocklet demo' fetches it once (2.1 MB)",
        licence="package: MIT; the data: GroupLens terms, for research, not to be passed on",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        used_by="flocklet demo",
    ),
    KnownDataset(
        name="open-bandit-sample",
        what="6 logs of 10,000 impressions of a fashion shop with positions and propensities",
        where="carried by the package obp==0.4.1 (installed without its dependencies)",
        licence="package: Apache-2.0; the data: CC BY 4.0",
        sha256="87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208",
        used_by="checks of the propensity estimator",
    ),
    KnownDataset(
        name="cranfield, med, adi",
        what="judged search collections of 1,400 / 1,033 / 82 documents",
        where="the Glasgow test collections; bring your own copy in the BEIR layout (--data DIR)",
        licence="none stated; freely distributed for research",
        sha256="",
        used_by="benchmarks/search.py",
    ),
)


@dataclass(frozen=True, slots=True)
class Film:
    """Hold one film of MovieLens: its `number` there (1..1682), title, year ("" where unknown) and genres."""

    number: int
    title: str
    year: str
    genres: tuple[str, ...]

    @property
    def document(self) -> Document:
        """Return the film as a searchable document: title; year and genres as text."""
        return Document.of(
            f"movielens-100k/{self.number}", self.title, " ".join((self.year, *self.genres)).strip()
        )


@dataclass(frozen=True, slots=True)
class MovieLens:
    """Hold the ratings in order of time (ties in order of the file) and the films by number.

    users `(n,) int32` (1..943), films `(n,) int32` (numbers), ratings `(n,) float32` (1..5), times `(n,)
    int64` (Unix seconds).
    """

    users: NDArray[np.int32]
    films: NDArray[np.int32]
    ratings: NDArray[np.float32]
    times: NDArray[np.int64]
    film: dict[int, Film]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {(error.strerror or str(error)).lower()}",
            remedy="a collection (BEIR layout) holds corpus.jsonl, queries.jsonl and qrels/test.tsv",
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", remedy="convert it to UTF-8") from error


def load_qrels(path: Path) -> Qrels:
    """Read relevance judgements, BEIR or TREC form. Raises UsageError."""
    return parse_qrels(_lines(path), source=str(path))


def load_collection(folder: Path, *, split: str = "test", qrels: Path | None = None) -> Collection:
    """Read the BEIR folder `folder`: corpus.jsonl, queries.jsonl and qrels/`split`.tsv, or `qrels` instead.

    Raises UsageError that names the file and line when something is missing or malformed.
    """
    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    documents = list(parse_corpus(_lines(corpus), source=str(corpus)))
    judged = load_qrels(qrels or folder / "qrels" / f"{split}.tsv")
    return Collection(
        folder.resolve().name, documents, parse_queries(_lines(queries), source=str(queries)), judged
    )


def parse_movielens(ratings: str, films: str) -> MovieLens:
    """Parse the tab-separated files `ml-100k.inter` and `ml-100k.item` with their typed headers."""
    rows = [line.split("\t") for line in ratings.splitlines()[1:] if line]
    table = np.array(rows, np.float64).reshape(len(rows), 4)
    table = table[np.argsort(table[:, 3], kind="stable")]
    catalogue = {}
    for line in films.splitlines()[1:]:
        number, title, year, genres = line.split("\t")
        film = Film(int(number), title, year if year.isdigit() else "", tuple(genres.split()))
        catalogue[film.number] = film
    return MovieLens(
        table[:, 0].astype(np.int32),
        table[:, 1].astype(np.int32),
        table[:, 2].astype(np.float32),
        table[:, 3].astype(np.int64),
        catalogue,
    )


def _download(requirement: str, file_name: str, cache: Path, pip: Sequence[str]) -> None:
    """Let pip fetch the wheel `file_name` into `cache`; it appears there whole or not at all."""
    remedy = f"connect to the network once, or put {file_name} into {cache}; see 'flocklet data'"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "--quiet", "--no-input"]
            command += ["--disable-pip-version-check", "--retries", "1", "--dest", folder, requirement]
            done = subprocess.run(  # noqa: S603 - our own interpreter and a fixed requirement
                command, capture_output=True, text=True, timeout=180, check=False
            )
            if done.returncode or not (Path(folder) / file_name).is_file():
                lines = [line for line in done.stderr.splitlines() if line.strip()] or ["pip gave no reason"]
                reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
                raise LinkError(f"{requirement} could not be fetched: {reason[:200]}", remedy=remedy)
            (Path(folder) / file_name).replace(cache / file_name)
    except subprocess.TimeoutExpired as error:
        raise LinkError(f"{requirement} could not be fetched within 3 minutes", remedy=remedy) from error
    except OSError as error:
        raise StoreError(f"{cache} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _members(wheel: Path, checksums: dict[str, str]) -> list[str]:
    """Return the texts of the members of `wheel` that `checksums` names, each proven. Raises
    VerificationError.
    """
    remedy = f"delete {wheel}; it is fetched again"
    texts = []
    try:
        with zipfile.ZipFile(wheel) as package:
            for name, expected in checksums.items():
                if package.getinfo(name).file_size > _MOVIELENS_MAX_BYTES:
                    raise VerificationError(f"{name} in {wheel} is larger than it can be", remedy=remedy)
                data = package.read(name)
                if hashlib.sha256(data).hexdigest() != expected:
                    raise VerificationError(f"{name} in {wheel} has another checksum", remedy=remedy)
                texts.append(data.decode("utf-8"))
    except (zipfile.BadZipFile, KeyError, EOFError, NotImplementedError) as error:
        raise VerificationError(f"{wheel} is damaged or another package ({error})", remedy=remedy) from error
    except OSError as error:
        raise StoreError(f"{wheel} cannot be read: {(error.strerror or str(error)).lower()}") from error
    return texts


def fetch_movielens(cache_dir: Path, *, pip: Sequence[str] = (sys.executable, "-m", "pip")) -> MovieLens:
    """Return MovieLens 100K; the package that carries it is fetched into `cache_dir` unless it is there.

    Raises LinkError when it cannot be fetched, VerificationError when what came is not what is expected,
    StoreError when the cache cannot be used. Works offline once the cache is filled.
    """
    wheel = cache_dir / _RECBOLE_WHEEL
    if not wheel.is_file():
        _download(_RECBOLE, _RECBOLE_WHEEL, cache_dir, pip)
    ratings, films, _ = _members(wheel, _MOVIELENS_SHA256)
    return parse_movielens(ratings, films)
