"""The pages that say which files a change takes: in a copy of the source, exactly what they say is done, and it works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "add-a-document-type.md": "\n    Drive the tent pegs",
    "add-an-aggregator.md": "accuracy",
    "add-a-vehicle.md": "crazyflie-flow",
    "add-a-microcontroller.md": "cortex-m3",
    "add-a-learning-algorithm.md": "pole.onnx",
}
FOLDERS = {"runtime": ".", "models": "models", "discovery": "discovery", "firmware_export": "firmware_export"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def blocks(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (file named last before the block, language, lines) of every fenced block."""
    at = 0
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        files = re.findall(
            r"`((?:runtime|models|firmware_export|discovery)/[\w/]+\.py)`", text[at : found.start()]
        )
        at = found.end()
        yield (files[-1] if files else ""), found[1], found[2]


def place(package: Path, name: str) -> Path:
    """Return where a file of the checkout lies in the copied package."""
    room, _, rest = name.partition("/")
    return package / FOLDERS[room] / rest


def apply(path: Path, diff: str) -> None:
    """Replace each run of - lines by the + lines after it; the - lines must stand there exactly once."""
    text = path.read_text()
    for old, new in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", diff, re.MULTILINE):
        before, after = ("\n".join(line[1:] for line in part.splitlines()) for part in (old, new))
        assert text.count(before) == 1, f"{path.name} has {before!r} {text.count(before)} times"
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the source, laid out as it is installed, in an environment of its own (readers ignore PYTHONPATH)."""
    package = tmp_path / "source" / "flocklet"
    for folder, below in FOLDERS.items():
        shutil.copytree(
            ROOT / folder, package / below, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    venv.create(tmp_path / "venv", symlinks=True)
    (folder,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (folder / "copy.pth").write_text(f"{package.parent}\n{sysconfig.get_path('purelib')}\n")
    return package


def commands(text: str) -> list[str]:
    return [line for _, language, lines in blocks(text) if language == "sh" for line in lines.splitlines()]


def run(line: str, package: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page with the copied source, in an empty folder."""
    empty = package.parent.parent / "empty"
    empty.mkdir(exist_ok=True)
    line = re.sub(r"^flocklet\b", f"{empty.parent}/venv/bin/python -m flocklet", line)
    environ = {
        **os.environ,
        "FLOCKLET_HOME": str(empty.parent / "home"),
        "FLOCKLET_CACHE": os.environ.get("FLOCKLET_CACHE") or str(Path.home() / ".cache" / "flocklet"),
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", "-c", line], cwd=empty, env=environ, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_files_of_a_page_suffice(name: str, package: Path) -> None:
    text = (ROOT / "docs" / name).read_text()
    lines = commands(text)
    for line in lines:  # the control: without the change the last command fails, or does not show what is new
        before = run(line, package)
    assert before.returncode != 0 or PAGES[name] not in before.stdout, "the page adds what is there already"
    shutil.rmtree(package.parent.parent / "empty")
    shutil.rmtree(package.parent.parent / "home", ignore_errors=True)
    for file, language, body in blocks(text):
        if language == "python":
            assert not place(package, file).exists(), f"{file} is there already"
            place(package, file).write_text(body)
        elif language == "diff":
            apply(place(package, file), body)
    for line in lines:
        done = run(line, package)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert PAGES[name] in done.stdout, done.stdout


def test_every_page_that_adds_is_tested() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("add-*.md")}
    assert pages == {*PAGES, "add-an-event.md"}, (
        "tests/events/test_add_an_event.py does the page about events"
    )
