"""Every example runs as its first lines say and prints a measured result."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_every_example_is_one_short_file() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 120, path.name
        assert path.read_text().startswith('"""'), path.name


@pytest.mark.timeout(120)
def test_two_peers() -> None:
    out = run("two_peers")
    before, after = (int(found) for found in re.findall(r"on the pi: (\d) before, (\d) after", out)[0])
    assert after < before, "a click on the laptop lifts the note on the pi"


@pytest.mark.timeout(120)
def test_search_my_notes(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"note{number}.md").write_text(
            f"# Trip {number % 3} and river {number}\n\nA river trip by boat.\n"
        )
    out = run("search_my_notes", str(tmp_path))
    assert "12 documents indexed" in out
    before, after = (float(found) for found in re.findall(r"mean reciprocal rank: ([0-9.]+)", out))
    assert after == 1.0
    assert before <= after


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_flock_of_readers() -> None:
    out = run("flock_of_readers", "3")
    alone, together = (
        float(found) for found in re.findall(r"nDCG@10 alone ([0-9.]+), after gossip ([0-9.]+)", out)[0]
    )
    assert together > alone


@pytest.mark.timeout(60)
def test_start_from_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = run("start_from_logs")
    author, reached = (
        float(found) for found in re.findall(r"returned ([0-9.]+), the policy returns ([0-9.]+)", out)[0]
    )
    assert reached > author + 0.3
    assert "neighbour.csv helped in 0 of" in out
    assert (tmp_path / "neighbour.csv").exists()


@pytest.mark.timeout(60)
def test_tree_for_a_micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    out = run("tree_for_a_micro")
    returned, size = re.findall(r"returns ([0-9.]+): (\d+) bytes", out)[0]
    assert float(returned) >= 17
    assert int(size) <= 4096
    assert (tmp_path / "job" / "job.c").exists()
