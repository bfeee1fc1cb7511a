"""The commands of the documentation run: literally, in the order of their page, from an empty folder.

What cannot run here stands in `INSTEAD` with the nearest form that can, or in `NOT_HERE` with the reason. `flocklet up`
runs beside the lines that follow it, on loopback alone, and is stopped at the end of its page.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PAGES = [
    page for page in PAGES if not page.name.startswith("add-")
]  # test_additions runs those, in a copy of the source
SHELL = ("", "sh", "bash", "shell", "console")
PROGRAMS = ("flocklet", "echo", "printf", "make", "pip", "python", "python3", "sudo", "mkdir", "ln", "rm", "systemctl",
            "ufw", "firewall-cmd", "git", "docker", "wsl", "journalctl")  # fmt: skip

# the start of a line -> why it does not run in a test
NOT_HERE = {
    "make demo": "tests/demo plays it; the target itself installs",
    "make test": "this is it",
    "sudo": "needs root and changes the machine",
    "ufw": "changes the firewall of the machine",
    "firewall-cmd": "changes the firewall of the machine",
    "systemctl": "needs the systemd of a user who is logged in",
    "python3 -m venv": "downloads; benchmarks/pi_smoke.py runs it",
    "mkdir -p ~/.local/bin": "links what the line before installed",
    "python benchmarks/": "takes minutes to hours; tests/benchmarks runs their parts",
}
# (page, line) -> (what runs instead, why)
INSTEAD = {
    ("docs/discovery.md", "flocklet up --peer 192.168.1.20:4710"):
        ("flocklet up --peer 127.0.0.1:4710", "no test leaves this machine"),
    ("docs/raspberry-pi.md", "flocklet up --peer 192.168.1.20:4710"):
        ("flocklet up --peer 127.0.0.1:4710", "no test leaves this machine"),
    ("docs/flight-training.md", "flocklet fly train --task track --out tracker.onnx"):
        ("flocklet fly train --task track --updates 30 --out tracker.onnx", "half a minute"),
    ("docs/flight-training.md", "flocklet fly train --task track --vehicle any --out anything.onnx"):
        ("flocklet fly train --task track --vehicle any --updates 30 --out anything.onnx", "two minutes"),
    ("docs/flight.md", "flocklet fly train --task track --vehicle any --out any.onnx"):
        ("flocklet fly train --task track --vehicle any --updates 30 --out any.onnx", "two minutes"),
    ("docs/flight.md", "flocklet fly train --algorithm td3 --out td3.onnx"):
        ("flocklet fly train --algorithm td3 --steps 31000 --out td3.onnx", "a minute"),
}  # fmt: skip
# the start of a line -> what its reader types
TYPED = {"flocklet learn prefer tea": "1\n2\n=\n" * 10}
# the start of a line -> exit codes that are an honest answer too
MAY_END_WITH = {
    "flocklet doctor": (3,),  # this machine has no network
    "flocklet fly eval policy.onnx --raptor": (7,),  # the extra 'sim' is not installed
}


def shell_blocks(text: str) -> Iterator[list[str]]:
    """Yield the lines of every shell block: fenced ones, and runs of indented lines."""
    fence, language = "", ""
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        opening = re.match(r"(```+|~~~+)\s*([\w-]*)", line)
        if fence and line.rstrip() == fence:
            if language in SHELL:
                yield lines
            fence, lines = "", []
        elif fence:
            lines.append(line)
        elif opening:
            fence, language, lines = opening[1], opening[2], []
        elif line.startswith("    ") and line.strip():
            lines.append(line.strip())
        elif lines:
            yield lines
            lines = []


def commands(text: str) -> list[list[str]]:
    """Return the command lines of a page, block by block: in a block with prompts only what follows one."""
    found = []
    for lines in shell_blocks(text):
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        bare = [re.sub(r"\s+# .*$", "", line).strip() for line in lines]
        found.append([line for line in bare if re.match(rf"({'|'.join(PROGRAMS)})\b", line)])
    return [block for block in found if block]


class Reader:
    """Somebody who types a page's commands into a shell, on two devices."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder, self.code = page, folder, ""
        self.peers: list[subprocess.Popen[str]] = []
        (folder / "empty").mkdir()
        (folder / "user").mkdir()
        cache = os.environ.get("FLOCKLET_CACHE") or str(Path.home() / ".cache" / "flocklet")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLOCKLET_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder / "user"),
            "FLOCKLET_CACHE": cache,  # what is compiled once is compiled
            "FLOCKLET_INTERFACE": "127.0.0.1",
            "OPENBLAS_NUM_THREADS": "1",
        }

    def of_device(self, number: int) -> dict[str, str]:
        return {**self.environ, "FLOCKLET_HOME": str(self.folder / f"device{number}")}

    def run(self, line: str, device: int) -> None:
        """Run one line as it stands; fail with what it printed."""
        said = f"{self.page}: {line}"
        if line.startswith("flocklet up"):
            self.start(line, device, said)
            return
        typed = next((text for start, text in TYPED.items() if line.startswith(start)), "")
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder / "empty", env=self.of_device(device), capture_output=True, text=True,
            check=False, timeout=400, input=typed,
        )  # fmt: skip
        allowed = {
            0,
            *(code for start, codes in MAY_END_WITH.items() if line.startswith(start) for code in codes),
        }
        assert done.returncode in allowed, (
            f"{said}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        assert "Traceback" not in done.stderr, f"{said}\n{done.stderr}"
        if line.startswith("flocklet invite"):
            self.code = done.stdout.strip().splitlines()[0]

    def start(self, line: str, device: int, said: str) -> None:
        self.stop(device)
        peer = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.folder / "empty", env=self.of_device(device),
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.peers.append(peer)
        peer.device = device  # type: ignore[attr-defined]
        assert peer.stdout is not None
        assert "Ctrl-C stops" in peer.stdout.readline(), said

    def stop(self, device: int | None = None) -> None:
        """Press Ctrl-C where a peer runs; every one must end well."""
        for peer in [one for one in self.peers if device in (None, one.device)]:  # type: ignore[attr-defined]
            self.peers.remove(peer)
            peer.send_signal(signal.SIGINT)
            out, _ = peer.communicate(timeout=15)
            assert peer.returncode == 0, out

    def kill(self) -> None:
        for peer in self.peers:
            peer.kill()
            peer.communicate()


def given(page: str, reader: Reader) -> None:
    """Lay down what the page says its reader has."""
    user, here = reader.folder / "user", reader.folder / "empty"
    for folder in ("notes", "papers"):
        (user / folder).mkdir()
        (user / folder / "tent.md").write_text(
            f"# Tents in {folder}\n\nDrive the tent pegs in at an angle.\n"
        )
    if page == "docs/recommendation.md":
        rows = [f"{who},{film},{stars}" for who in ("anna", "ben")
                for film, stars in (("Rififi", 5), ("Touch of Evil", 4), ("The Third Man", 5))]  # fmt: skip
        (here / "ratings.csv").write_text("\n".join(rows) + "\n")
    if page in ("docs/flight.md", "docs/flight-training.md"):
        text = (ROOT / "docs/flight.md").read_text()
        (here / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    if page == "docs/ranking.md":
        folder = here / "DIR"
        (folder / "qrels").mkdir(parents=True)
        words = ["tent", "peg", "soup", "knot", "river", "boat"]
        rows = [
            {"_id": f"d{n}", "title": w, "text": f"{w} {words[n - 1]} and more of {w}"}
            for n, w in enumerate(words)
        ]
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
        asked = [{"_id": f"q{n}", "text": w} for n, w in enumerate(words)]
        (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, asked)))
        judged = "\n".join(f"q{n}\td{n}\t1" for n in range(len(words)))
        (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}\n")


def reason_not_here(line: str) -> str | None:
    return next((why for start, why in NOT_HERE.items() if line.startswith(start)), None)


def names(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", [page for page in PAGES if commands(page.read_text())], ids=names)
def test_the_commands_of_a_page_run(path: Path, tmp_path: Path) -> None:
    page = names(path)
    reader = Reader(page, tmp_path)
    given(page, reader)
    other = ""
    try:
        for block in commands(path.read_text()):
            device = 1
            for written in block:
                line, _ = INSTEAD.get((page, written), (written, ""))
                if reason_not_here(line) is not None:
                    continue
                if line.startswith("pip install"):
                    check_extras(line)
                    continue
                if line == "flocklet join CODE":  # "on the second device"
                    device = 2
                    line = f"flocklet join {reader.code}"
                if "7KXQ2MD-..." in line:
                    if not other:
                        reader.run("flocklet init", 2)
                        other = subprocess.run(
                            ["flocklet", "id"], env=reader.of_device(2), capture_output=True, text=True, check=True
                        ).stdout.strip()  # fmt: skip
                    line = line.replace("7KXQ2MD-...", other)
                # "python examples/..." is typed in the checkout; the page's own files lie in the empty folder all the same
                reader.run(line.replace("python examples/", f"python {ROOT}/examples/"), device)
        reader.stop()
    finally:
        reader.kill()


def check_extras(line: str) -> None:
    """`pip install '.[x]'` downloads; what can be wrong in it is the name of the extra."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = re.fullmatch(r"pip install '\.\[([\w,-]+)\]'", line)
    assert found, f"{line}: the package is on no index, so install it from the checkout: pip install '.[x]'"
    assert set(found[1].split(",")) <= set(extras)


def test_every_exception_is_about_a_line_that_is_there() -> None:
    """An exception that outlives its line would hide the next one like it."""
    lines = [(names(page), line) for page in PAGES for block in commands(page.read_text()) for line in block]
    assert set(INSTEAD) <= set(lines)
    for start in [*NOT_HERE, *MAY_END_WITH, *TYPED]:
        assert any(line.startswith(start) for _, line in lines), start


def test_no_flocklet_command_is_left_out_for_good() -> None:
    assert not any(start.startswith("flocklet") for start in NOT_HERE)


def test_pages_hold_commands_and_a_wrong_one_fails(tmp_path: Path) -> None:
    """The control: a page whose command cannot work, and one that works only with a file that nobody made."""
    assert sum(len(block) for page in PAGES for block in commands(page.read_text())) > 50
    text = "Text\n\n    flocklet id     # comment\n\n```\n$ flocklet status\nno command\n```\n```python\nflocklet id\n```\n"
    assert commands(text) == [["flocklet id"], ["flocklet status"]]
    reader = Reader("page.md", tmp_path)
    for line in ("flocklet serch tent", "flocklet add ~/nothing-here", "flocklet fly eval policy.onnx"):
        with pytest.raises(AssertionError, match=re.escape(line)):
            reader.run(line, 1)
