"""Break the lines that protect an owner, one by one, and see that a test notices: `python tests/mutants.py [WORD]`.

The list is `tests/mutants.tsv`: file, exact line (without its indentation), replacement, tests. Each row is tried on a
copy of the tree. A row fails if its line stands not once in the file, if its tests pass all the same (a survivor), or if
they cannot run. Before the first row all tests of the list must pass on the unbroken copy.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 240
PASSED, FAILED = 0, 1  # exit statuses of pytest


@dataclass(frozen=True)
class Mutant:
    """One line, what to put in its place, and the tests that must notice."""

    file: str
    line: str
    replacement: str
    tests: tuple[str, ...]


def read(path: Path = ROOT / "tests" / "mutants.tsv") -> list[Mutant]:
    """Return the list."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))
    return [Mutant(r["file"], r["line"], r["replacement"], tuple(r["tests"].split())) for r in rows]


def broken(source: str, mutant: Mutant) -> str:
    """Return the source with the line replaced; raise ValueError if it does not stand there exactly once."""
    lines = source.split("\n")
    places = [at for at, line in enumerate(lines) if line.strip() == mutant.line]
    if len(places) != 1:
        raise ValueError(f"the line stands {len(places)} times in {mutant.file}: {mutant.line}")
    old = lines[places[0]]
    lines[places[0]] = old[: len(old) - len(old.lstrip())] + mutant.replacement
    return "\n".join(lines)


class Copy:
    """A copy of the tree in a folder, with a folder `lib` in which the package lies as it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lib = folder, folder / "lib"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                for target in (folder / name, self._installed(name)):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(ROOT / name, target)

    def _installed(self, name: str) -> Path:
        places = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
        top, _, rest = name.partition("/")
        package = next((p for p, place in places.items() if place == top), None)
        return self.folder / name if package is None else self.lib / package.replace(".", "/") / rest

    def test(self, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Run tests on the copy, to the first failure."""
        command = [
            sys.executable,
            "-B",
            "-m",
            "pytest",
            "-qx",
            "-p",
            "no:cacheprovider",
            "-m",
            "not gpu",
            *tests,
        ]
        given = {**os.environ, "PYTHONPATH": str(self.lib), "OPENBLAS_NUM_THREADS": "1"}
        return subprocess.run(
            command,
            cwd=self.folder,
            env=given,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def survives(self, mutant: Mutant) -> str:
        """Return why a mutant counts as alive, or nothing."""
        place = self._installed(mutant.file)
        source = place.read_text()
        try:
            place.write_text(broken(source, mutant))
            done = self.test(mutant.tests)
        except ValueError as error:
            return str(error)
        except subprocess.TimeoutExpired:
            return ""  # what never ends is noticed
        finally:
            place.write_text(source)
        if done.returncode == FAILED:
            return ""
        return (
            "survived"
            if done.returncode == PASSED
            else f"pytest ended with {done.returncode}: {done.stdout[-300:]}"
        )


def main(words: list[str]) -> int:
    """Try every row whose file, line or tests hold one of the words; return how many are alive, 100 at most."""
    chosen = [m for m in read() if not words or any(w in f"{m.file} {m.line} {m.tests}" for w in words)]
    alive = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        done = copy.test(tuple(sorted({test for mutant in chosen for test in mutant.tests})))
        if done.returncode != PASSED:
            print(done.stdout[-2000:], "\nthe tests fail before anything is broken", sep="")
            return 100
        for mutant in chosen:
            why = copy.survives(mutant)
            alive += bool(why)
            print(f"{'ALIVE ' if why else 'caught'}  {mutant.file}: {mutant.line}  {why}", flush=True)
    print(f"{len(chosen)} mutants, {alive} alive")
    return min(alive, 100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
