"""What became of items: skipped kinds fall, finished ones rise, liking holds them, and it stays on the device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flocklet.cli import main
from flocklet.device.ratings_file import Rating, read_ratings
from flocklet.errors import UsageError
from flocklet.models.recommend.feedback import FeedbackSettings, Played, rerank
from flocklet.store.store import Store

NOW = 1_800_000_000.0
Run = Callable[..., int]


def kinds(count: int = 20, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return liking and vectors of candidates of two kinds in turn."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((count, 4))
    vectors[np.arange(count), np.arange(count) % 2] = 1.0
    return np.linspace(2.0, 1.5, count), vectors + rng.normal(0, 0.05, vectors.shape)


def share_first(order: np.ndarray) -> float:
    """Share of kind 0 among the first five."""
    return float(np.mean(order[:5] % 2 == 0))


def test_without_records_the_order_stays() -> None:
    liking, vectors = kinds()
    liking[3] = liking[4]
    assert rerank(liking, vectors, [], np.zeros((0, 4))).tolist() == list(range(20))
    unknown = [Played(1)]
    assert rerank(liking, vectors, unknown, vectors[:1]).tolist() == list(range(20))


def test_a_kind_that_is_skipped_falls_and_one_that_is_finished_rises() -> None:
    liking, vectors = kinds()
    assert share_first(rerank(liking, vectors, [], vectors[:0])) == 0.6
    skipped = [Played(n, is_finished=False) for n in range(3)]
    assert share_first(rerank(liking, vectors, skipped, np.repeat(vectors[:1], 3, axis=0))) == 0.0
    finished = [Played(n, is_finished=True) for n in range(3)]
    assert share_first(rerank(liking, vectors, finished, np.repeat(vectors[:1], 3, axis=0))) == 1.0


def test_dwell_decides_and_the_auxiliaries_hold_it() -> None:
    """Kind 0 is stayed with long but skipped; how far dwell may go is the constraint's to say."""
    liking, vectors = kinds()
    played = [Played(n, is_finished=n % 2 == 1, dwell_s=600.0 if n % 2 == 0 else 20.0) for n in range(8)]
    free = rerank(liking, vectors, played, vectors[:8], FeedbackSettings(liking=0.01, finishing=0.0))
    held = rerank(liking, vectors, played, vectors[:8], FeedbackSettings(liking=0.01, finishing=10.0))
    assert share_first(free) == 1.0  # the control: dwell alone
    assert share_first(held) == 0.0
    close = rerank(liking, vectors, played, vectors[:8], FeedbackSettings(liking=1e6, finishing=0.0))
    assert close.tolist() == list(range(20))


def test_what_somebody_played_is_kept_and_taken_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    me, other = bytes(16), bytes([1]) * 16
    store.add_played(me, 2**64 - 1, None, 60.0, 1.0)
    store.add_played(me, 2**64 - 1, True, None, 2.0)  # what is None stays as it was
    store.add_played(other, 5, False, None, 3.0)
    assert store.played(me) == [(2**64 - 1, True, 60.0)]
    store.remove_played(me, 2**64 - 1)
    assert store.played(me) == []
    assert store.played(other) == [(5, False, None)]
    store.close()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> int:
        capsys.readouterr()
        return main(["--home", str(tmp_path / "home"), *map(str, words)])

    return call


def test_skips_change_what_is_recommended_and_nobody_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    lines = []
    for person in range(40):
        for kind in (person % 2, 2):  # half like kind 0, half kind 1, all like some of kind 2
            lines += [f"p{person},kind{kind}-{film},5,9" for film in rng.choice(10, 6, replace=False)]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(lines))
    run("import", path)
    for film in range(4):
        run("rate", f"kind2-{film}", 5)

    def found() -> list[str]:
        assert run("recommend", "-n", 6, "--json") == 0
        return [row["name"] for row in json.loads(capsys.readouterr().out)["found"]]

    before = found()
    wanted = before[0]
    assert run("rate", wanted, "--skipped", "--json") == 0
    assert json.loads(capsys.readouterr().out)["is_finished"] is False
    kind = wanted.split("-")[0]
    for film in [name for name in before if name.startswith(kind)][1:3]:
        run("rate", film, "--skipped", "--dwell", 3)
    after = found()
    assert wanted not in after  # skipped once, not shown again
    assert sum(n.startswith(kind) for n in after) <= sum(n.startswith(kind) for n in before)
    assert run("status", "--json") == 0
    edges = json.loads(capsys.readouterr().out)["edges"]
    assert edges == len(lines) + 4 + 41  # ratings, and that the device vouches for 41 people: no skip
    run("rate", wanted, 0)
    assert wanted in found()


def test_a_rating_needs_something_to_say(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ("rate", "x"),
        ("rate", "x", "--dwell", -1),
        ("rate", "x", "--dwell", "nan"),
        ("rate", "a\nb", 3),
    ):
        assert run(*words) == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "scale", "rows"),
    [
        ("a,f\nb,g\n", 5.0, [("a", "f", 5.0, 0), ("b", "g", 5.0, 0)]),  # two columns: liked
        ("user_id,item_id\na,f\n", 5.0, [("a", "f", 5.0, 0)]),
        ("a;f;8;12.5\r\n", 10.0, [("a", "f", 4.0, 12)]),
        ("a\tfilm, the\t1\n", 1.0, [("a", "film, the", 5.0, 0)]),
        ('\ufeffuser,item,rating\n"ann, b","日本語 🎬",3,\n', 5.0, [("ann, b", "日本語 🎬", 3.0, 0)]),
        ("u1;i1;4,5\nu1;i2;3,0\n", 5.0, [("u1", "i1", 4.5, 0), ("u1", "i2", 3.0, 0)]),
        ("user;item;rating\nu;a, b;4,5\nu;c;5\n", 5.0, [("u", "a, b", 4.5, 0), ("u", "c", 5.0, 0)]),
        ("u\ti;j\t2,5\t9\n", 5.0, [("u", "i;j", 2.5, 9)]),
        ("u;v,i,4.5\nw,j,3\n", 5.0, [("u;v", "i", 4.5, 0), ("w", "j", 3.0, 0)]),
    ],
)
def test_ratings_of_many_shapes_are_read(
    tmp_path: Path, text: str, scale: float, rows: list[tuple[str, str, float, int]]
) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_ratings(path, scale, now_s=NOW) == [Rating(*row) for row in rows]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no rating"),
        ("user,item,rating,timestamp\n", "holds no rating"),
        ("a,f,1e999,1\n", "not a number"),
        ("a,f,5,2020-01-01\n", "not a number"),
        ("a,f\0,5,1\n", "unprintable"),
        ('"a\nb",f,5,1\n', "unprintable"),
        ("a," + "x" * 200_000 + ",5,1\n", "not CSV"),
        ("a,f,5,1\nb,g\n", "2 fields"),
        ("a,f\nb,g,5\n", "3 fields"),
        (f"a,f,5,{int(NOW) + 10**6}\n", "ahead of the clock"),
    ],
)
def test_a_wrong_file_of_ratings_is_named(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(UsageError) as caught:
        read_ratings(path, 5.0, now_s=NOW)
    assert what in f"{caught.value} {caught.value.remedy}"
