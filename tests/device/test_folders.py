"""Followed folders: what is looked at again, what is left out, what an unchanged file costs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flocklet.__main__ import main
from flocklet.clock import SystemClock
from flocklet.device import folders
from flocklet.device.commands import perform
from flocklet.device.device import Device
from flocklet.device.ignored import Rules
from flocklet.device.membership import create_membership
from flocklet.store.home import Home


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    home = Home(tmp_path / "home")
    home.ensure()
    with Device(home, create_membership(home), SystemClock()) as device:
        yield device


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    for name in ("a.txt", "sub/b.txt", "sub/c.log", "build/d.txt", ".secret/e.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"words of {name}")
        os.utime(folder / name, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    return folder


def add(device: Device, *paths: Path, **options: object) -> dict[str, int]:
    answer = perform(device, "add", {"paths": [os.fsencode(path) for path in paths], **options})
    return {name: answer[name] for name in ("added", "unchanged", "gone", "documents")}


def test_unchanged_files_are_not_opened(device: Device, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert add(device, notes) == {"added": 4, "unchanged": 0, "gone": 0, "documents": 4}
    opened: list[str] = []
    real = folders.read_file
    monkeypatch.setattr(folders, "_digest", lambda path: opened.append(path) or b"")
    monkeypatch.setattr(
        folders,
        "read_file",
        lambda path, *rest, **more: opened.append(str(path)) or real(path, *rest, **more),
    )
    assert add(device, notes) == {"added": 0, "unchanged": 4, "gone": 0, "documents": 4}
    assert opened == []
    (notes / "a.txt").write_text("new words")
    assert add(device, notes) == {"added": 1, "unchanged": 3, "gone": 0, "documents": 4}
    assert set(opened) == {str(notes / "a.txt")}
    assert add(device, notes, again=True)["unchanged"] == 4
    assert len(opened) > 4


def test_a_touched_file_is_hashed_and_not_read(
    device: Device, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(device, notes)
    (notes / "a.txt").touch()
    monkeypatch.setattr(folders, "read_file", None)  # reading it would fail
    assert add(device, notes) == {"added": 0, "unchanged": 4, "gone": 0, "documents": 4}


def test_removed_moved_and_ignored_files_go(device: Device, notes: Path) -> None:
    add(device, notes)
    (notes / "a.txt").unlink()
    (notes / "sub" / "b.txt").rename(notes / "sub" / "moved.txt")
    (notes / ".gitignore").write_text("*.log\n/build/\n")
    answer = add(device, notes)
    assert (answer["gone"], answer["documents"]) == (4, 1)
    assert [path for _, path in device.store.paths_below(str(notes))] == [str(notes / "sub" / "moved.txt")]
    (notes / ".gitignore").unlink()
    assert add(device, notes)["documents"] == 3
    assert add(device, notes, hidden=True)["documents"] == 4


def test_folders_are_remembered_refreshed_excluded_and_removed(device: Device, notes: Path) -> None:
    add(device, notes)
    (row,) = perform(device, "folders", {"action": "list"})["folders"]
    assert (row["path"], row["documents"]) == (str(notes), 4)
    (notes / "new.txt").write_text("a quagga")
    assert perform(device, "folders", {"action": "refresh"})["added"] == 1
    assert device.search("quagga").found
    answer = perform(
        device, "folders", {"action": "exclude", "paths": [os.fsencode(notes)], "exclude": ["sub/", "n*.txt"]}
    )
    assert (answer["gone"], answer["documents"]) == (3, 2)
    assert perform(device, "remove", {"paths": [os.fsencode(notes)]})["documents"] == 0
    assert perform(device, "folders", {"action": "list"})["folders"] == []
    assert add(device, notes)["added"] == 5  # nothing of the old rows stays


def test_what_was_left_out_is_named_again_and_not_read_again(
    device: Device, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (notes / "x.docx").write_bytes(b"PK\x03\x04 cut")
    os.utime(notes / "x.docx", ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    first = perform(device, "add", {"paths": [os.fsencode(notes)]})["skipped"]
    monkeypatch.setattr(folders, "read_file", None)
    assert perform(device, "add", {"paths": [os.fsencode(notes)]})["skipped"] == first != []
    monkeypatch.undo()
    monkeypatch.setattr(folders, "READERS", 2)  # newer readers try it again
    read: list[Path] = []
    real = folders.read_file
    monkeypatch.setattr(
        folders, "read_file", lambda path, *rest, **more: read.append(path) or real(path, *rest, **more)
    )
    perform(device, "add", {"paths": [os.fsencode(notes)]})
    assert read == [notes / "x.docx"]


@pytest.mark.parametrize(
    ("lines", "left_out", "kept"),
    [
        (["*.log"], ["a.log", "x/y/a.log"], ["a.logs"]),
        (["/build"], ["build"], ["x/build"]),
        (["doc/*.txt"], ["doc/a.txt"], ["doc/x/a.txt", "x/doc/a.txt"]),
        (["**/tmp"], ["tmp", "a/b/tmp"], ["tmps"]),
        (["a/**/b"], ["a/b", "a/x/y/b"], ["a/c"]),
        (["*.txt", "!keep.txt"], ["a.txt"], ["keep.txt", "x/keep.txt"]),
        (["# note", "", "a[0-9]?"], ["a1x"], ["ab1", "# note"]),
        ([r"\#x", r"\!y"], ["#x", "!y"], ["x"]),
    ],
)
def test_rules_are_those_of_git(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    rules = Rules().with_lines(lines, "/r")
    assert [rules.leave_out(f"/r/{path}", is_folder=False) for path in left_out] == [True] * len(left_out)
    assert [rules.leave_out(f"/r/{path}", is_folder=False) for path in kept] == [False] * len(kept)


def test_a_rule_for_folders_leaves_files_alone() -> None:
    rules = Rules().with_lines(["x/"], "/r")
    assert rules.leave_out("/r/x", is_folder=True)
    assert not rules.leave_out("/r/x", is_folder=False)


def test_the_verbs(tmp_path: Path, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Callable[..., int] = lambda *words: main(["--home", str(tmp_path / "h"), *map(str, words)])  # noqa: E731
    assert run("add", notes, "--exclude", "*.log") == 0
    capsys.readouterr()
    assert run("folders", "list", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["folders"]
    assert (row["documents"], row["exclude"]) == (3, ["*.log"])
    assert run("folders", "refresh") == 0
    assert "0 new or changed, 3 unchanged" in capsys.readouterr().out
    assert run("folders", "exclude", tmp_path / "other", "x") == 2
